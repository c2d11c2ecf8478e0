//! A server over the disk in memory, with clients that speak frames.

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::*;
use crate::storage::{FlushJob, KeeperJob};
use crate::wire::decoder::{Decoded, decode};

/// Helpers that keep their jobs until they are told to run them.
#[derive(Debug, Default)]
pub(super) struct Later {
    pub(super) flush: VecDeque<FlushJob<MemoryStorage>>,
    pub(super) keep: VecDeque<KeeperJob<MemoryStorage>>,
}

impl Helpers<MemoryStorage> for Later {
    fn flush(&mut self, job: FlushJob<MemoryStorage>) {
        self.flush.push_back(job);
    }
    fn keep(&mut self, job: KeeperJob<MemoryStorage>) {
        self.keep.push_back(job);
    }
}

/// A server, its disk and its clock.
pub(super) struct Server {
    pub(super) disk: MemoryStorage,
    pub(super) engine: Engine<MemoryStorage>,
    pub(super) helpers: Later,
    pub(super) now: Now,
}

pub(super) const HTTP: HttpId = HttpId(7);

impl Server {
    pub(super) fn start() -> Self {
        let (disk, now) = (MemoryStorage::new(), Now::default());
        let config = Config::default();
        let engine = Engine::open(disk.clone(), &config, now, 42).expect("an empty disk opens");
        let mut server = Server {
            disk,
            engine,
            helpers: Later::default(),
            now,
        };
        server.settle();
        server
    }

    pub(super) fn turn(&mut self) {
        let mut dead = Vec::new();
        self.engine.end_turn(self.now, &mut self.helpers, &mut dead);
        for id in dead {
            self.engine.drop_peer(self.now, id);
        }
    }

    /// Turns and helpers' work until everything is on the disk.
    pub(super) fn settle(&mut self) {
        for _ in 0..100 {
            self.now.monotonic_us += 600;
            self.turn();
            while let Some(job) = self.helpers.keep.pop_front() {
                self.engine.answer(self.now, job.run(&self.disk));
            }
            while let Some(job) = self.helpers.flush.pop_front() {
                self.engine.answer(self.now, job.run(&self.disk));
            }
            if self.engine.is_flushed() {
                self.turn();
                return;
            }
        }
        panic!("the disk has nothing more to do and something is not flushed");
    }

    pub(super) fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now.monotonic_us += 1_000_000;
            self.now.wall_ms += 1000;
            self.settle();
        }
    }

    /// Opens a connection of guest's to `vhost`, on which channel 1 is open.
    pub(super) fn connect(&mut self, port: u16, vhost: &str) -> ConnectionId {
        self.connect_with(port, vhost, b"\x07productS\0\0\0\x04hare")
    }

    /// The same for a client that says `properties` of itself.
    pub(super) fn connect_with(
        &mut self,
        port: u16,
        vhost: &str,
        properties: &[u8],
    ) -> ConnectionId {
        let local = SocketAddr::from(([127, 0, 0, 1], 5672));
        let peer: SocketAddr = format!("[::ffff:127.0.0.1]:{port}")
            .parse()
            .expect("an address");
        let id = self.engine.accept(self.now, peer, local);
        self.engine.receive(self.now, id, b"AMQP\0\0\x09\x01");
        self.send(
            id,
            0,
            &connection::StartOk {
                client_properties: FieldTable::stored(properties),
                mechanism: ShortString::literal("PLAIN"),
                response: b"\0guest\0guest",
                locale: ShortString::literal("en_US"),
            },
        );
        self.send(
            id,
            0,
            &connection::TuneOk {
                channel_max: 10,
                frame_max: 8192,
                heartbeat: 0,
            },
        );
        self.send(
            id,
            0,
            &connection::Open {
                virtual_host: ShortString::truncated(vhost),
                capabilities: ShortString::EMPTY,
                insist: false,
            },
        );
        let open = channel::Open {
            out_of_band: ShortString::EMPTY,
        };
        self.send(id, 1, &open);
        self.settle();
        assert!(!self.received(id).is_empty());
        id
    }

    pub(super) fn send(&mut self, id: ConnectionId, number: u16, method: &impl MethodFields) {
        let mut octets = Vec::new();
        encode::method_frame(&mut octets, ChannelNumber(number), method);
        let received = self.engine.receive(self.now, id, &octets);
        if received.pause.is_some() {
            // What has to be on the disk first is waited for.
            self.settle();
            assert_eq!(self.engine.take_resumed(), [id]);
            self.engine
                .receive(self.now, id, &octets[received.consumed..]);
        }
    }

    pub(super) fn publish(&mut self, id: ConnectionId, routing_key: &str) {
        let octets = Self::publish_octets(routing_key);
        self.engine.receive(self.now, id, &octets);
    }

    /// A persistent message to the queue of that name, on channel 1.
    pub(super) fn publish_octets(routing_key: &str) -> Vec<u8> {
        let mut octets = Vec::new();
        let method = basic::Publish {
            ticket: 0,
            exchange: ShortString::EMPTY,
            routing_key: ShortString::truncated(routing_key),
            mandatory: false,
            immediate: false,
        };
        // delivery-mode 2
        encode::content(
            &mut octets,
            ChannelNumber(1),
            &method,
            b"\x10\0\x02",
            b"body",
            8192,
        );
        octets
    }

    /// The frames for a peer in words, written out.
    pub(super) fn received(&mut self, id: ConnectionId) -> Vec<String> {
        let octets = self.engine.octets_for(id).to_vec();
        self.engine.wrote(id, octets.len(), false);
        let (mut rest, mut frames) = (&octets[..], Vec::new());
        while let Ok(Decoded::Frame {
            payload, consumed, ..
        }) = decode(rest, 1 << 20)
        {
            rest = &rest[consumed..];
            frames.extend(Method::decode(payload).map(|method| format!("{method:?}")));
        }
        frames
    }

    /// Carries a command out; what waits for the disk is waited for, and must.
    pub(super) fn command(&mut self, command: AdminCommand<'_>) -> AdminAnswer {
        if let Some(answer) = self.engine.command(self.now, HTTP, command) {
            return answer;
        }
        assert!(self.engine.owes_answers());
        assert_eq!(self.engine.take_answers(), [], "before it is on the disk");
        self.settle();
        let answers = self.engine.take_answers();
        let [(HTTP, answer)] = &answers[..] else {
            panic!("one answer for one command: {answers:?}");
        };
        answer.clone()
    }

    pub(super) fn declare(&mut self, vhost: &str, name: &[u8], durable: bool) -> AdminAnswer {
        self.command(declaration(vhost, name, durable))
    }

    pub(super) fn vhost(&mut self, name: &str) -> AdminAnswer {
        self.command(AdminCommand::PutVhost {
            name,
            description: Some("a place"),
            tags: None,
            default_queue_type: None,
            user: Some("guest"),
        })
    }

    /// All rows of a table, walked `step` rows at a time, in words.
    pub(super) fn rows(&self, table: Table, scope: Scope<'_>, step: usize) -> Vec<String> {
        let (mut rows, mut from) = (Vec::new(), Some(Cursor::START));
        while let Some(cursor) = from {
            let before = rows.len();
            from = self.engine.rows(table, scope, cursor, step, &mut |_, row| {
                rows.push(told(&row));
            });
            assert!(rows.len() <= before + step);
        }
        rows
    }

    pub(super) fn queue_row(
        &self,
        name: &[u8],
        tell: impl Fn(&crate::admin::QueueRow<'_>) -> String,
    ) -> String {
        let mut told = String::from("none");
        self.engine.queue("/", name, &mut |row| told = tell(&row));
        told
    }
}

pub(super) fn declaration<'a>(vhost: &'a str, name: &'a [u8], durable: bool) -> AdminCommand<'a> {
    AdminCommand::DeclareQueue {
        vhost,
        name,
        durable,
        auto_delete: false,
        arguments: FieldTable::default(),
    }
}

/// A row in words.
pub(super) fn told(row: &Row<'_>) -> String {
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    match row {
        Row::Vhost(row) => format!("{} {} {}", row.name, row.description, row.messages_ready),
        Row::Queue(row) => format!("{} {} {}", row.vhost, text(row.name), row.messages_ready),
        Row::Exchange(row) => format!("{} {} {}", row.vhost, text(row.name), row.kind),
        Row::Binding(row) => format!(
            "{}->{} {}",
            text(row.source),
            text(row.destination),
            text(row.routing_key)
        ),
        Row::Connection(row) => format!(
            "{} {} {} {} {}",
            text(row.name.name),
            row.user,
            row.vhost,
            row.state,
            row.channels
        ),
        Row::Channel(row) => format!(
            "{} ({}) {} {} unacked {}",
            text(row.connection.name),
            row.number,
            row.user,
            row.vhost,
            row.messages_unacknowledged
        ),
        Row::Consumer(row) => format!(
            "{} {} {} ack {} prefetch {}",
            text(row.queue),
            text(row.consumer_tag),
            row.channel,
            row.ack_required,
            row.prefetch_count
        ),
    }
}
