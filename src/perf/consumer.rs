//! A connection that consumes: its subscriptions, and the acknowledgements it owes.

use super::check::OrderCheck;
use super::client::CHANNEL;
use super::parser::subscription;
use crate::wire::method::basic;
use crate::wire::{DeliveryTag, encode};

/// A consuming connection.
#[derive(Debug)]
pub(super) struct Consumer {
    /// Its subscriptions, by the number in their consumer tags.
    subscriptions: Vec<Subscription>,
    /// Deliveries for each acknowledgement; 0 for auto-ack.
    ack_every: u64,
    /// Deliveries since the last acknowledgement.
    unacked: u64,
    /// Tag of the last delivery.
    last_tag: u64,
}

/// One queue that a connection consumes.
#[derive(Debug)]
pub(super) struct Subscription {
    /// Which queue, for the check.
    pub(super) queue: usize,
    /// What it has seen of each producer.
    pub(super) order: OrderCheck,
}

impl Consumer {
    /// A consumer of `queues` that acknowledges every `ack_every` deliveries; 0 for auto-ack.
    pub(super) fn new(queues: impl Iterator<Item = usize>, ack_every: u64) -> Self {
        let subscription = |queue| Subscription {
            queue,
            order: OrderCheck::default(),
        };
        Consumer {
            subscriptions: queues.map(subscription).collect(),
            ack_every,
            unacked: 0,
            last_tag: 0,
        }
    }

    /// The subscription whose consumer tag ends so.
    #[inline]
    pub(super) fn subscription(&mut self, octets: [u8; 4]) -> Option<&mut Subscription> {
        match &mut *self.subscriptions {
            [only] => Some(only),
            several => several.get_mut(subscription(octets)),
        }
    }

    /// Takes note of a delivery and appends the acknowledgement that is due with it.
    #[inline]
    pub(super) fn delivered(&mut self, delivery_tag: u64, outbox: &mut Vec<u8>) {
        if self.ack_every != 0 {
            self.last_tag = delivery_tag;
            self.unacked += 1;
            if self.unacked >= self.ack_every {
                self.acknowledge(outbox);
            }
        }
    }

    /// Appends an acknowledgement of all that has none yet; says whether there was any.
    pub(super) fn acknowledge(&mut self, outbox: &mut Vec<u8>) -> bool {
        if self.unacked == 0 {
            return false;
        }
        let ack = basic::Ack {
            delivery_tag: DeliveryTag(self.last_tag),
            multiple: self.unacked > 1,
        };
        encode::method_frame(outbox, CHANNEL, &ack);
        self.unacked = 0;
        true
    }
}
