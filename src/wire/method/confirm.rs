//! `confirm`: RabbitMQ's publisher confirms.

methods! {
    /// Asks for confirms of every publish on the channel.
    Select = 85 10 "confirm.select" {
        /// No answer is sent.
        no_wait: bool,
    }

    /// Confirms follow from now on.
    SelectOk = 85 11 "confirm.select-ok" {}
}
