//! A client that reads every queue to its end.

use super::{World, send};
use crate::client::{Life, Role};
use crate::operation::Operation;

/// How reading every queue came out.
enum Audit {
    Done,
    /// The server has ended.
    Ended,
    /// The connection was given up.
    Cut,
}

impl World {
    /// A client fetches every message of every queue, so that all is known; what it does with them
    /// is up to the seed. Whether the server lives on.
    pub(super) fn audit(&mut self, may_end: bool) -> bool {
        loop {
            match self.try_audit(may_end) {
                Audit::Done => return true,
                Audit::Ended => return false,
                // A damaged body, of which the server knows from now on.
                Audit::Cut => self.model.counts.add("audits cut off by a damaged body"),
            }
        }
    }

    fn try_audit(&mut self, may_end: bool) -> Audit {
        self.connect_as(Role::Auditor);
        self.pump_until(|world| world.peers[0].client.life == Life::Open);
        if !self.is_alive() {
            return Audit::Ended;
        }
        send(&mut self.peers[0], 1, Operation::ChannelOpen);
        let names: Vec<(String, u64)> = self
            .model
            .topology
            .queues
            .iter()
            .map(|(name, it)| (name.clone(), it.uid))
            .collect();
        for (name, uid) in names {
            loop {
                let possible = self.model.ready(uid).1;
                for _ in 0..=possible.min(200) {
                    send(
                        &mut self.peers[0],
                        1,
                        Operation::Get {
                            queue: name.clone(),
                            no_ack: false,
                        },
                    );
                }
                let rounds = if may_end && self.random.one_in(4) {
                    self.random.below(6)
                } else {
                    20_000
                };
                for _ in 0..rounds {
                    if self.peers[0].pending.is_empty() {
                        break;
                    }
                    if !self.pump_alive() {
                        return Audit::Ended;
                    }
                    if self.peers.is_empty() {
                        return Audit::Cut;
                    }
                }
                if !self.peers[0].pending.is_empty() {
                    self.model.counts.add("ended during an audit");
                    return Audit::Ended;
                }
                if self.model.ready(uid).1 == 0 {
                    break;
                }
            }
        }
        self.model.counts.add("audits");
        let last = match self.random.below(4) {
            0 => Operation::Ack {
                tag: 0,
                multiple: true,
            },
            1 => Operation::Nack {
                tag: 0,
                multiple: true,
                requeue: true,
            },
            _ => Operation::ChannelClose,
        };
        send(&mut self.peers[0], 1, last);
        send(&mut self.peers[0], 0, Operation::ConnectionClose);
        while !self.peers.is_empty() {
            if !self.pump_alive() {
                return Audit::Ended;
            }
        }
        self.shared.is_exact = true;
        self.recount();
        Audit::Done
    }

    fn pump_alive(&mut self) -> bool {
        // On a full disk there may be no segment left to note in what is delivered.
        if self.is_disk_full && self.random.one_in(20) {
            self.make_room();
        }
        self.pump();
        self.advance(600);
        self.is_alive()
    }

    pub(super) fn pump_until(&mut self, is_reached: impl Fn(&World) -> bool) {
        for _ in 0..1000 {
            if is_reached(self) {
                return;
            }
            if self.is_disk_full && self.random.one_in(20) {
                self.make_room();
            }
            self.pump();
            self.advance(600);
            if self.engine.fatal().is_some() || self.is_over {
                return;
            }
        }
        panic!("the server does not answer");
    }
}
