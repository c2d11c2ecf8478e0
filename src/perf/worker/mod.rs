//! The thread that moves messages: its own event loop over producers and consumers, which copies
//! prebuilt frames out and reads deliveries where they lie.
//!
//! A turn: poll → read the clock once → read every readable peer once → write every producer that
//! may send once → publish the counters. One read and one write a peer and turn keep the two
//! directions in step. All peers share one inbox, which so stays in the core's cache; a peer keeps
//! only the start of a frame that is not there in full.
//!
//! Readiness is edge-triggered. A read or write that moves less than it could has emptied or
//! filled the socket, so the next edge is awaited without asking once more.

mod peer;
mod reader;
mod shared;
mod tally;

use std::io::{self, ErrorKind, Read, Write};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use mio::{Interest, Poll, Token};

pub(super) use self::peer::{Peer, Role};
use self::reader::{Reader, malformed};
pub(super) use self::shared::{Plan, Shared};
use self::tally::Counts;
pub(super) use self::tally::Tally;
use super::check::{Findings, QueueCheck};
use super::client::goodbye;
use super::failure::Failure;
use super::histogram::Histogram;
use super::parser::ParseError;
use super::process;
use crate::wire::{ChannelNumber, encode};

/// Octets of acknowledgements that may wait for a peer before its deliveries are no longer read.
const OUTBOX_OCTETS_MAX: usize = 64 << 10;
/// How often late acknowledgements and heartbeats are looked after.
const TICK_US: u64 = 50_000;
/// How long the answers to `connection.close` are awaited.
const GOODBYE_US: u64 = 1_000_000;

/// A peer's flags.
const READABLE: u8 = 1;
const WRITABLE: u8 = 2;
const PRODUCER: u8 = 4;
/// Its outbox holds something.
const OUTBOX: u8 = 8;
const GONE: u8 = 16;
const SETTER: u8 = 32;

/// One thread's share of a run.
#[derive(Debug)]
pub(super) struct Worker<'a> {
    shared: &'a Shared,
    plan: &'a Plan,
    poll: Poll,
    peers: Vec<Peer>,
    flags: Vec<u8>,
    inbox: Vec<u8>,
    /// When heartbeats are due, in microseconds of the clock.
    next_beat_us: u64,
    tally: Tally,
}

/// The octets that a socket call moves; `None` when it can move none now.
fn moved(
    what: &str,
    mut call: impl FnMut() -> io::Result<usize>,
) -> Result<Option<usize>, Failure> {
    loop {
        match call() {
            Ok(octets) => return Ok(Some(octets)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Failure::socket(what, &error)),
        }
    }
}

impl<'a> Worker<'a> {
    /// A worker for `peers`.
    ///
    /// * `queues`: the checks of all queues that its consumers name.
    pub(super) fn new(
        shared: &'a Shared,
        plan: &'a Plan,
        peers: Vec<Peer>,
        queues: Vec<QueueCheck>,
        frame_max: u32,
    ) -> Result<Self, Failure> {
        let poll = Poll::new().map_err(|error| Failure::local("epoll", error))?;
        Ok(Worker {
            shared,
            plan,
            poll,
            flags: vec![0; peers.len()],
            peers,
            // A read, after the start of a method or header frame that was not there in full.
            inbox: vec![0; plan.inbox_octets + frame_max as usize + 8],
            next_beat_us: 0,
            tally: Tally {
                end_to_end_us: Histogram::new(),
                confirm_us: Histogram::new(),
                set_up_us: Histogram::new(),
                findings: Findings::default(),
                cpu_ns: 0,
                queues,
                counts: Counts::default(),
                closing: false,
            },
        })
    }

    /// Runs until told to finish; see [`Shared`].
    ///
    /// # Errors
    /// The first failure of any peer. `shared.failed` is set then.
    pub(super) fn run(mut self) -> Result<Tally, Failure> {
        let result = self.run_turns();
        let now_us = self.shared.clock.now().monotonic_us;
        self.tally.counts.flush(self.shared, now_us);
        if let Err(failure) = result {
            self.shared.failed.store(true, Relaxed);
            return Err(failure);
        }
        self.tally.findings.missing = self.tally.queues.iter().map(QueueCheck::missing).sum();
        Ok(self.tally)
    }

    fn run_turns(&mut self) -> Result<(), Failure> {
        if let Some(core) = self.plan.pin {
            process::pin(core)?;
        }
        let cpu_before = process::own_thread_ns();
        self.register()?;
        let mut events = mio::Events::with_capacity(1024);
        let mut next_tick_us = 0;
        let mut now_us = self.shared.clock.now().monotonic_us;
        // What came with the last answer of the handshake is in no socket any more.
        for index in 0..self.peers.len() {
            self.parse_peer(index, 0, now_us)?;
        }
        let mut goodbye_us = None;
        loop {
            let wait = self.wait(now_us);
            match self.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() != ErrorKind::Interrupted => {
                    return Err(Failure::local("epoll", error));
                }
                _ => {}
            }
            now_us = self.shared.clock.now().monotonic_us;
            for event in &events {
                let flags = &mut self.flags[event.token().0];
                if event.is_readable() || event.is_read_closed() || event.is_error() {
                    *flags |= READABLE;
                }
                if event.is_writable() {
                    *flags |= WRITABLE;
                }
            }
            self.turn(now_us)?;
            self.tally.counts.flush(self.shared, now_us);
            if now_us >= next_tick_us {
                next_tick_us = now_us + TICK_US;
                self.tick(now_us);
            }
            match goodbye_us {
                None if self.shared.finish.load(Relaxed) => {
                    self.tally.cpu_ns = process::own_thread_ns() - cpu_before;
                    self.say_goodbye();
                    goodbye_us = Some(now_us + GOODBYE_US);
                }
                Some(limit_us) if now_us >= limit_us || self.all_gone() => return Ok(()),
                _ => {}
            }
        }
    }

    fn register(&mut self) -> Result<(), Failure> {
        for (index, peer) in self.peers.iter_mut().enumerate() {
            self.flags[index] |= match peer.role {
                Role::Producer(_) => PRODUCER,
                Role::Setter(_) => SETTER,
                Role::Consumer(_) => 0,
            };
            self.poll
                .registry()
                .register(
                    &mut peer.socket,
                    Token(index),
                    Interest::READABLE | Interest::WRITABLE,
                )
                .map_err(|error| Failure::local("epoll", error))?;
        }
        Ok(())
    }

    /// How long poll may sleep: not at all while a peer can do something.
    fn wait(&self, now_us: u64) -> Duration {
        const WAIT_MAX_US: u64 = 10_000;
        let is_busy = |flags: &u8| {
            flags & (READABLE | GONE) == READABLE
                || flags & (OUTBOX | WRITABLE) == OUTBOX | WRITABLE
        };
        if self.plan.spin || self.flags.iter().any(is_busy) {
            return Duration::ZERO;
        }
        let allowance = self.allowance();
        let mut wait_us = WAIT_MAX_US;
        for (peer, flags) in self.peers.iter().zip(&self.flags) {
            if flags & (SETTER | OUTBOX) == SETTER
                && let Role::Setter(setter) = &peer.role
                && let Some(due_us) = setter.next_due_us()
            {
                wait_us = wait_us.min(due_us.saturating_sub(now_us));
            }
            if flags & (PRODUCER | WRITABLE) == PRODUCER | WRITABLE
                && let Role::Producer(producer) = &peer.role
            {
                if !producer.pending.is_empty() {
                    return Duration::ZERO;
                }
                if self.shared.stop.load(Relaxed) || producer.room(u64::MAX, allowance) == 0 {
                    continue;
                }
                let due_us = producer.schedule.map_or(0, |s| s.due_us(producer.sent));
                wait_us = wait_us.min(due_us.saturating_sub(now_us));
            }
        }
        // Poll counts in milliseconds and rounds up: what is due earlier than that is spun for.
        if wait_us < 1_000 {
            Duration::ZERO
        } else {
            Duration::from_millis(wait_us / 1_000)
        }
    }

    /// Messages that all producers together may add to what is outstanding.
    fn allowance(&self) -> u64 {
        if self.plan.in_flight_max == 0 {
            return u64::MAX;
        }
        let published = self.shared.published.load(Relaxed) * self.plan.copies;
        let outstanding = published.saturating_sub(self.shared.delivered.load(Relaxed));
        self.plan.in_flight_max.saturating_sub(outstanding) / self.plan.copies.max(1)
    }

    fn turn(&mut self, now_us: u64) -> Result<(), Failure> {
        let stop = self.shared.stop.load(Relaxed);
        let mut allowance = self.allowance();
        for index in 0..self.peers.len() {
            let flags = self.flags[index];
            if flags & READABLE != 0 && flags & GONE == 0 {
                self.read(index, now_us)?;
            }
            if flags & SETTER != 0 && !stop && !self.tally.closing {
                self.set_up(index, now_us);
            }
            if self.flags[index] & (WRITABLE | OUTBOX) == WRITABLE | OUTBOX {
                self.write_outbox(index)?;
            }
            if self.flags[index] & (PRODUCER | WRITABLE | GONE) == PRODUCER | WRITABLE {
                let sent = self.publish(index, now_us, stop, allowance)?;
                allowance -= sent.min(allowance);
            }
        }
        Ok(())
    }

    /// Lets a setter begin its next round when that is due.
    fn set_up(&mut self, index: usize, now_us: u64) {
        let peer = &mut self.peers[index];
        if let Role::Setter(setter) = &mut peer.role
            && setter.begin(now_us, &mut peer.outbox)
        {
            self.flags[index] |= OUTBOX;
        }
    }

    fn read(&mut self, index: usize, now_us: u64) -> Result<(), Failure> {
        let peer = &mut self.peers[index];
        if peer.outbox.len() > OUTBOX_OCTETS_MAX {
            // It does not take our acknowledgements; it stays readable until it does.
            return Ok(());
        }
        let start = peer.rest.len();
        self.inbox[..start].copy_from_slice(&peer.rest);
        let room = start..start + self.plan.inbox_octets;
        let read = moved("receive", || {
            peer.socket.read(&mut self.inbox[room.clone()])
        })?;
        match read {
            Some(0) if self.tally.closing => {
                self.flags[index] |= GONE;
                return Ok(());
            }
            Some(0) => return Err(Failure::Unavailable("the broker hung up".to_owned())),
            Some(octets) if octets == self.plan.inbox_octets => {}
            _ => self.flags[index] &= !READABLE,
        }
        self.parse_peer(index, read.unwrap_or_default(), now_us)
    }

    /// Parses a peer's rest and `read` octets more, which both lie in the inbox when `read` is not
    /// 0, and the rest alone otherwise.
    #[inline]
    fn parse_peer(&mut self, index: usize, read: usize, now_us: u64) -> Result<(), Failure> {
        let peer = &mut self.peers[index];
        let filled = peer.rest.len() + read;
        if read == 0 {
            self.inbox[..filled].copy_from_slice(&peer.rest);
        }
        let mut reader = Reader {
            role: &mut peer.role,
            outbox: &mut peer.outbox,
            tally: &mut self.tally,
            plan: self.plan,
            now_us,
            gone: false,
        };
        let used = peer
            .parser
            .parse(&self.inbox[..filled], &mut reader)
            .map_err(|error| match error {
                ParseError::Wire(error) => malformed(&error),
                ParseError::Refused(failure) => failure,
            })?;
        if reader.gone {
            self.flags[index] |= GONE;
        }
        peer.rest.clear();
        peer.rest.extend_from_slice(&self.inbox[used..filled]);
        if !peer.outbox.is_empty() {
            self.flags[index] |= OUTBOX;
        }
        Ok(())
    }

    /// Writes a peer's outbox, unless a publish is half out: frames must not be torn.
    fn write_outbox(&mut self, index: usize) -> Result<(), Failure> {
        let peer = &mut self.peers[index];
        if let Role::Producer(producer) = &peer.role
            && !producer.pending.is_empty()
        {
            return Ok(());
        }
        match moved("send", || peer.socket.write(&peer.outbox)) {
            Ok(written) => {
                let written = written.unwrap_or_default();
                peer.outbox.drain(..written);
                self.flags[index] &= !if peer.outbox.is_empty() {
                    OUTBOX
                } else {
                    WRITABLE
                };
                Ok(())
            }
            // The broker may be gone before our goodbye.
            Err(_) if self.tally.closing => {
                self.flags[index] = GONE;
                Ok(())
            }
            Err(failure) => Err(failure),
        }
    }

    /// Lets a producer write once; returns how many messages it has taken.
    #[inline]
    fn publish(
        &mut self,
        index: usize,
        now_us: u64,
        stop: bool,
        allowance: u64,
    ) -> Result<u64, Failure> {
        let peer = &mut self.peers[index];
        let Role::Producer(producer) = &mut peer.role else {
            return Ok(0);
        };
        let mut taken = 0;
        if producer.pending.is_empty() {
            // An outbox that is half out must be whole first, for the same reason.
            let room = producer.room(now_us, allowance);
            if room == 0 || stop || self.flags[index] & OUTBOX != 0 {
                return Ok(0);
            }
            taken = producer.take(room, self.plan.burst_octets, now_us);
            self.tally.counts.published += taken;
        }
        let octets = producer.template.octets(producer.pending.clone());
        let length = octets.len();
        let written = moved("send", || peer.socket.write(octets))?.unwrap_or_default();
        producer.pending.start += written;
        if written < length {
            self.flags[index] &= !WRITABLE;
        }
        Ok(taken)
    }

    /// Late acknowledgements and heartbeats.
    fn tick(&mut self, now_us: u64) {
        if self.tally.closing {
            return;
        }
        let beat_us = u64::from(self.plan.heartbeat_s) * 500_000;
        let beats = beat_us != 0 && now_us >= self.next_beat_us;
        if beats {
            self.next_beat_us = now_us + beat_us;
        }
        for (peer, flags) in self.peers.iter_mut().zip(&mut self.flags) {
            if let Role::Consumer(consumer) = &mut peer.role
                && consumer.acknowledge(&mut peer.outbox)
            {
                *flags |= OUTBOX;
            }
            if beats && *flags & OUTBOX == 0 {
                encode::heartbeat(&mut peer.outbox);
                *flags |= OUTBOX;
            }
        }
    }

    /// Acknowledges the rest and closes every connection.
    fn say_goodbye(&mut self) {
        if self.plan.amqp {
            self.tick(0);
        }
        self.tally.closing = true;
        for (peer, flags) in self.peers.iter_mut().zip(&mut self.flags) {
            if self.plan.amqp {
                encode::method_frame(&mut peer.outbox, ChannelNumber::CONNECTION, &goodbye());
                *flags |= OUTBOX;
            } else {
                *flags |= GONE;
            }
        }
    }

    fn all_gone(&self) -> bool {
        self.flags.iter().all(|flags| flags & GONE != 0)
    }
}
