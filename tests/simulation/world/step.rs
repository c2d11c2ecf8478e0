//! One step after another: what clients want, what the network and the disk do to it, and time.

use leveret::storage::DiskFault;

use super::{World, send};
use crate::client::{Life, Role};
use crate::operation::Operation;

impl World {
    /// One step of the world; whether the server lives on.
    pub(super) fn step(&mut self) -> bool {
        self.steps += 1;
        self.pass_time();
        match self.random.weighted(&[40, 34, 18, 9, 9, 9, 12, 3, 1]) {
            0 => self.want(),
            1 => self.hand_in(),
            2 => self.end_turn(),
            3 => self.run_flush(),
            4 => self.run_keeper(),
            5 => self.answer(),
            6 => self.write_out(),
            7 => self.come_and_go(),
            _ => self.disturb(),
        }
        if self.steps.is_multiple_of(64) {
            self.recount();
        }
        self.is_alive()
    }

    pub(super) fn is_alive(&mut self) -> bool {
        let Some(error) = self.engine.fatal() else {
            return !self.is_over;
        };
        let line = error.to_string();
        self.note(|| format!("the server gives up: {line}"));
        assert!(
            self.is_disk_failing,
            "the server gave up on a disk that was full at worst: {line}"
        );
        self.model.counts.add("ended by a failed disk");
        false
    }

    fn pass_time(&mut self) {
        let us = if self.random.one_in(400) {
            self.random.between(100_000, 1_500_000)
        } else if self.random.one_in(30) {
            self.random.between(500, 20_000)
        } else {
            self.random.below(60)
        } as u64;
        self.advance(us);
    }

    pub(super) fn advance(&mut self, us: u64) {
        self.now.monotonic_us += us;
        self.now.wall_ms += us / 1000;
        if self.random.one_in(5000) {
            // Clocks on walls are set.
            self.now.wall_ms = self.now.wall_ms.saturating_sub(3_600_000);
            self.model.counts.add("wall clock set back");
        }
        for peer in &mut self.peers {
            let half_us = u64::from(peer.client.heartbeat_s) * 500_000;
            let silent_us = self.now.monotonic_us - peer.heard_us.max(peer.beaten_us);
            if half_us > 0 && silent_us >= half_us && peer.client.life == Life::Open {
                peer.beaten_us = self.now.monotonic_us;
                send(peer, 0, Operation::Heartbeat);
            }
        }
    }

    /// A client wants something.
    fn want(&mut self) {
        if self.peers.is_empty() {
            return self.connect();
        }
        let at = self.random.below(self.peers.len());
        let peer = &mut self.peers[at];
        // The network takes only so much in advance.
        if peer.octets_in.len() > 256 << 10 || peer.pending.len() > 60 {
            return;
        }
        for (channel, operation) in peer.client.due() {
            send(peer, channel, operation);
        }
        if peer.client.is_hostile {
            return;
        }
        for _ in 0..self.random.between(1, 6) {
            if let Some((channel, operation)) = peer.client.next(&mut self.shared, &mut self.random)
            {
                send(peer, channel, operation);
            }
        }
    }

    fn connect(&mut self) {
        let role = *self.random.pick(&[
            Role::Publisher,
            Role::Publisher,
            Role::Consumer,
            Role::Consumer,
            Role::Operator,
            Role::Everything,
        ]);
        self.connect_as(role);
    }

    fn come_and_go(&mut self) {
        match self.random.below(12) {
            0 if !self.peers.is_empty() => {
                let at = self.random.below(self.peers.len());
                self.model.counts.add("connections cut");
                self.drop_peer(at);
            }
            1 | 2 if !self.peers.is_empty() => {
                let at = self.random.below(self.peers.len());
                let peer = &mut self.peers[at];
                peer.is_slow = !peer.is_slow;
                self.model.counts.add("readers made slow or quick");
            }
            _ if self.peers.len() < 6 => self.connect(),
            _ => {}
        }
    }

    fn disturb(&mut self) {
        match self.random.below(12) {
            0 if self.plan.restarts > 0 => {
                self.is_disk_failing = true;
                self.fail_disk(DiskFault::Eio, "EIO");
            }
            1..=3 => self.fail_disk(DiskFault::Short, "short reads and writes"),
            4..=6 => self.fail_disk(DiskFault::Eintr, "EINTR"),
            7 | 8 if !self.is_disk_full && self.plan.restarts > 0 => {
                self.is_disk_full = true;
                let free = self.random.below(100_000) as u64;
                self.storage.set_free_octets(Some(free));
                self.note(|| format!("{free} octets left on the disk"));
                self.model.counts.add("disk full");
            }
            _ if self.is_disk_full => self.make_room(),
            _ => {}
        }
    }

    fn fail_disk(&mut self, fault: DiskFault, name: &'static str) {
        let calls = self.random.between(1, 40) as u64;
        self.storage.fail(calls, fault);
        self.note(|| format!("{name} in {calls} calls"));
        self.model.counts.add(name);
    }

    pub(super) fn make_room(&mut self) {
        self.is_disk_full = false;
        self.storage.set_free_octets(None);
        self.note(|| "room on the disk again".to_owned());
    }
}
