//! What the router knows of a connection: who it is, where its octets go, what belongs to it.

use super::channel::ChannelKey;
use super::consumer::ConsumerKey;
use super::queue::QueueKey;
use super::record::Pairs;
use super::{Broker, Sink};
use crate::auth::UserId;

/// Names an open connection to the router. The generation keeps a late reference from reaching
/// the next holder of the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey {
    /// Index into the broker's sessions.
    pub slot: u32,
    /// Tells the holders of one slot apart.
    pub generation: u32,
}

/// Where the octets for one connection go; an index the sink understands.
pub type OutboxKey = u32;

/// An open connection, as the router sees it.
#[derive(Debug)]
pub struct Session {
    /// See [`SessionKey`].
    pub generation: u32,
    /// Where its octets go.
    pub outbox: OutboxKey,
    /// The user that logged in.
    pub user: UserId,
    /// Its name.
    pub user_name: Box<str>,
    /// Index of its virtual host.
    pub vhost: u32,
    /// The client understands a `basic.cancel` from the server.
    pub consumer_cancel_notify: bool,
    /// Greatest frame that may be sent to it, in octets; 0 is no limit.
    pub frame_max: u32,
    /// Exclusive queues, deleted when it goes.
    pub exclusive_queues: Vec<QueueKey>,
    /// Consumers that were passed over since the outbox had no room.
    pub parked: Vec<ConsumerKey>,
    /// Entries of that list whose consumer has gone since.
    pub parked_gone: usize,
    /// Indices of its open channels.
    pub channels: Vec<u32>,
}

impl Broker {
    /// A client has opened a connection to a virtual host. Credentials and access were checked.
    pub fn open_session(&mut self, session: Session) -> SessionKey {
        self.generation += 1;
        let generation = self.generation;
        let slot = self.sessions.insert(Session {
            generation,
            ..session
        }) as u32;
        SessionKey { slot, generation }
    }

    /// A connection is over: its channels close, its exclusive queues go.
    pub fn close_session<S: Sink>(&mut self, key: SessionKey, sink: &mut S) {
        let channels = self.sessions[key.slot as usize].channels.clone();
        let consumers: Vec<_> = channels
            .iter()
            .map(|&slot| self.consumers_of(slot))
            .collect();
        self.detach_consumers(&consumers.concat(), |it| it.session == key.slot);
        for (slot, consumers) in channels.into_iter().zip(consumers) {
            let generation = self.channels[slot as usize].generation;
            self.end_channel(ChannelKey { slot, generation }, &consumers, sink);
        }
        let mut pairs = Pairs::default();
        for queue in std::mem::take(&mut self.sessions[key.slot as usize].exclusive_queues) {
            if self.queue_is(queue) {
                self.remove_queue(queue, &mut pairs, sink);
            }
        }
        self.sessions.remove(key.slot as usize);
        if !pairs.is_empty() {
            sink.define(pairs.as_slice());
        }
    }
}
