//! `tx`: transactions over publishes and acknowledgements of one channel (spec 1.9).

methods! {
    /// Makes the channel transactional.
    Select = 90 10 "tx.select" {}

    /// The channel is transactional.
    SelectOk = 90 11 "tx.select-ok" {}

    /// Makes what happened since the last commit effective.
    Commit = 90 20 "tx.commit" {}

    /// It is effective.
    CommitOk = 90 21 "tx.commit-ok" {}

    /// Undoes what happened since the last commit.
    Rollback = 90 30 "tx.rollback" {}

    /// It is undone.
    RollbackOk = 90 31 "tx.rollback-ok" {}
}
