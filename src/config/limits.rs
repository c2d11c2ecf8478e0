//! Every bound of the broker in one table: name, default, smallest and greatest value accepted.
//!
//! Each is set in the configuration file as `leveret.NAME`; those that RabbitMQ has a name for are
//! known by that one, too (see [`super::file`]).

use super::units;

/// One bound as it can be configured.
pub struct LimitKey {
    /// The field's name; `leveret.NAME` in the configuration file.
    pub name: &'static str,
    /// What it bounds.
    pub about: &'static str,
    /// Smallest value accepted.
    pub min: u64,
    /// Greatest value accepted.
    pub max: u64,
    set: fn(&mut Limits, u64),
}

macro_rules! limits {
    ($( $(#[doc = $about:literal])+ $name:ident: $kind:ty = $default:expr, $min:expr, $max:expr; )+) => {
        /// The bounds. Every buffer, table and wait of the broker has its field here.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Limits {
            $( $(#[doc = $about])+ pub $name: $kind, )+
        }

        impl Default for Limits {
            fn default() -> Self {
                Limits { $( $name: $default, )+ }
            }
        }

        impl Limits {
            /// All bounds, in the order in which they are declared.
            pub const KEYS: &'static [LimitKey] = &[ $( LimitKey {
                name: stringify!($name),
                about: concat!($($about),+),
                min: $min,
                max: $max,
                set: |limits, value| limits.$name = value as $kind,
            }, )+ ];
        }
    };
}

limits! {
    /// Open AMQP connections.
    connections_max: u32 = 1_000_000, 1, 4_000_000;
    /// Channels of one connection, offered in `connection.tune`.
    channel_max: u16 = 2047, 1, 65_535;
    /// Octets of one frame, offered in `connection.tune`.
    frame_max: u32 = 131_072, 4_096, 16_777_216;
    /// Octets of one frame before the connection is tuned.
    initial_frame_max: u32 = 8_192, 4_096, 131_072;
    /// Interval of heartbeats offered in `connection.tune`, in seconds; 0 is none.
    heartbeat_s: u16 = 60, 0, 65_535;
    /// From accept to `connection.open-ok`, in milliseconds.
    handshake_timeout_ms: u64 = 10_000, 100, 3_600_000;
    /// From `connection.close` to its answer or the end of the socket, in milliseconds.
    close_timeout_ms: u64 = 10_000, 100, 3_600_000;
    /// How long the answer to a refused log-in is held back, in milliseconds.
    login_refusal_delay_ms: u64 = 1_000, 0, 60_000;
    /// Octets of one message body.
    body_octets_max: u64 = 134_217_728, 1, 536_870_912;
    /// Consumers of one channel.
    consumers_per_channel_max: u32 = 65_535, 1, 1_000_000;
    /// Deliveries of one channel that wait for their ack, to consumers and by `basic.get` apart.
    unacked_per_channel_max: u32 = 2_000_000, 1_000, 100_000_000;
    /// Publishes and acks that one transaction collects.
    transaction_entries_max: u32 = 1_000_000, 1_000, 100_000_000;
    /// Octets of the messages that one transaction collects, bodies with files of their own apart.
    transaction_octets_max: u64 = 67_108_864, 1_048_576, 17_179_869_184;
    /// Virtual hosts.
    vhosts_max: u32 = 10_000, 1, 1_000_000;
    /// Queues of all virtual hosts.
    queues_max: u32 = 1_000_000, 1, 100_000_000;
    /// Exchanges of all virtual hosts.
    exchanges_max: u32 = 1_000_000, 16, 100_000_000;
    /// Bindings of all virtual hosts.
    bindings_max: u32 = 10_000_000, 1, 1_000_000_000;
    /// Users.
    users_max: u32 = 100_000, 1, 10_000_000;
    /// Octets read from one peer in one turn of the loop; a body frame that has begun is read on for
    /// up to 64 KiB more.
    inbox_octets_per_turn: usize = 16_384, 4_096, 16_777_216;
    /// Octets in a peer's outbox at which its deliveries resume.
    outbox_octets_low: usize = 65_536, 1_024, 1_073_741_824;
    /// Octets in a peer's outbox at which its deliveries stop.
    outbox_octets_high: usize = 262_144, 8_192, 1_073_741_824;
    /// Octets in a peer's outbox beyond which no command of it is taken.
    outbox_octets_max: usize = 1_048_576, 16_384, 1_073_741_824;
    /// Messages or entries that long work (purge, requeue, listing) handles in one slice.
    slice_entries_max: usize = 4_096, 16, 1_000_000;
    /// Octets that were appended to the durable log and are not on stable storage yet.
    tail_octets_max: u64 = 16_777_216, 1_048_576, 1_073_741_824;
    /// Octets of transient messages in memory before blocks go to disk.
    arena_octets_max: u64 = 4_194_304, 524_288, 1_099_511_627_776;
    /// Octets of the smallest segment file.
    segment_octets_min: u64 = 1_048_576, 262_144, 1_073_741_824;
    /// Octets of the greatest segment file.
    segment_octets_max: u64 = 67_108_864, 1_048_576, 1_073_741_824;
    /// Segments' worth of files beyond twice what lives in them from which on segments are rewritten.
    segment_slack: u64 = 4, 0, 1_000;
    /// How often segments are looked for that are worth rewriting, in milliseconds; a full one waits four times as long for its index.
    segment_look_ms: u64 = 250, 0, 60_000;
    /// Octets of the disk that stay free: with less publishers are stopped.
    disk_free_octets_min: u64 = 50_000_000, 0, 1_125_899_906_842_624;
    /// Octets of a body from which on it lies in a file of its own.
    large_body_octets_min: u64 = 1_048_576, 16_384, 16_777_216;
    /// How long a clean stop may take to write its checkpoint, in milliseconds.
    stop_timeout_ms: u64 = 800, 0, 600_000;
    /// Open HTTP connections, the control socket's included.
    http_connections_max: u32 = 512, 8, 100_000;
    /// Octets of the head of an HTTP request.
    http_head_octets_max: usize = 16_384, 1_024, 1_048_576;
    /// Octets of the body of an HTTP request.
    http_body_octets_max: usize = 10_000_000, 1_024, 1_073_741_824;
    /// From the first octet of an HTTP request to its last, in milliseconds.
    http_timeout_ms: u64 = 30_000, 100, 3_600_000;
    /// Octets of an HTTP answer that are rendered ahead of what the socket takes.
    http_outbox_octets_max: usize = 262_144, 16_384, 1_073_741_824;
}

impl Limits {
    /// Sets the bound `name` from its text; units such as `64KiB` are understood for octets.
    ///
    /// Returns `None` for a name that is no bound, and what is wrong with the value otherwise.
    pub fn set(&mut self, name: &str, value: &str) -> Option<Result<(), String>> {
        let key = Limits::KEYS.iter().find(|key| key.name == name)?;
        Some(units::octets(value).and_then(|number| {
            if (key.min..=key.max).contains(&number) {
                (key.set)(self, number);
                Ok(())
            } else {
                Err(format!("must be from {} to {}", key.min, key.max))
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_within_its_own_bounds_and_every_bound_can_be_set() {
        let default = Limits::default();
        for key in Limits::KEYS {
            let mut limits = default.clone();
            for edge in [key.min, key.max] {
                assert_eq!(
                    limits.set(key.name, &edge.to_string()),
                    Some(Ok(())),
                    "{}",
                    key.name
                );
            }
            assert_ne!(limits, default, "{} has an effect", key.name);
            assert!(
                limits
                    .set(key.name, &(key.max + 1).to_string())
                    .is_some_and(|r| r.is_err())
            );
            assert!(!key.about.is_empty());
        }
        assert_eq!(Limits::default().set("no_such_bound", "1"), None);
    }

    #[test]
    fn the_defaults_are_accepted_as_values() {
        // Debug prints `Limits { name: value, … }`, which is what this test reads back.
        let text = format!("{:?}", Limits::default());
        let inner = text.trim_start_matches("Limits { ").trim_end_matches(" }");
        let mut count = 0;
        for pair in inner.split(", ") {
            let (name, value) = pair.split_once(": ").expect("a field and its value");
            assert_eq!(Limits::default().set(name, value), Some(Ok(())), "{name}");
            count += 1;
        }
        assert_eq!(count, Limits::KEYS.len());
    }

    #[test]
    fn the_operators_page_tells_every_bound() {
        let page = include_str!("../../docs/operations.md");
        for key in Limits::KEYS {
            let row = format!("| `leveret.{}` |{} |", key.name, key.about);
            assert!(page.contains(&row), "docs/operations.md lacks {row}");
        }
    }
}
