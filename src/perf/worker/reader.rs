//! What a peer's frames are told to.

use super::Plan;
use super::peer::Role;
use super::tally::Tally;
use crate::perf::check::Stamp;
use crate::perf::client::passed_over;
use crate::perf::failure::Failure;
use crate::perf::parser::{Content, Events};
use crate::wire::method::basic;
use crate::wire::{DeliveryTag, Method, WireError};

/// What a peer's frames are told to.
pub(super) struct Reader<'a> {
    pub(super) role: &'a mut Role,
    pub(super) outbox: &'a mut Vec<u8>,
    pub(super) tally: &'a mut Tally,
    pub(super) plan: &'a Plan,
    pub(super) now_us: u64,
    pub(super) gone: bool,
}

impl Events for Reader<'_> {
    #[inline]
    fn content(&mut self, content: &Content) {
        let tally = &mut *self.tally;
        if tally.closing {
            return;
        }
        if content.returned {
            tally.counts.returned += 1;
            return;
        }
        let Role::Consumer(consumer) = &mut *self.role else {
            return;
        };
        tally.counts.delivered += 1;
        if self
            .plan
            .size
            .is_some_and(|size| size as u64 != content.body_size)
        {
            tally.findings.wrong_size += 1;
        } else if self.plan.stamped {
            let stamp = Stamp::decode(&content.head);
            let redelivered = content.redelivered;
            if let Some(subscription) = consumer.subscription(content.consumer) {
                let findings = &mut tally.findings;
                subscription.order.note(&stamp, redelivered, findings);
                tally.queues[subscription.queue].note(&stamp, redelivered, findings);
            }
            if self.plan.measured_us.contains(&stamp.sent_us) {
                tally
                    .end_to_end_us
                    .record(self.now_us.saturating_sub(stamp.sent_us));
            }
        }
        consumer.delivered(content.delivery_tag, self.outbox);
    }

    fn method(&mut self, payload: &[u8]) -> Result<(), Failure> {
        let method = Method::decode(payload).map_err(|error| malformed(&error))?;
        match method {
            Method::BasicAck(basic::Ack {
                delivery_tag,
                multiple,
            }) => self.tally.counts.confirmed += self.settle(delivery_tag, multiple)?,
            Method::BasicNack(basic::Nack {
                delivery_tag,
                multiple,
                ..
            }) => self.tally.counts.nacked += self.settle(delivery_tag, multiple)?,
            Method::ConnectionBlocked(_) => self.tally.counts.blocked += 1,
            Method::ConnectionCloseOk(_) => self.gone = true,
            method => {
                if let Role::Setter(setter) = &mut *self.role
                    && setter.answered(&method, self.outbox, self.now_us, &mut self.tally.set_up_us)
                {
                    return Ok(());
                }
                if !passed_over(&method)? {
                    return Err(Failure::Broker(format!("unexpected: {method}")));
                }
            }
        }
        Ok(())
    }
}

impl Reader<'_> {
    /// Takes note of a confirm; returns how many publishes it settles.
    fn settle(&mut self, delivery_tag: DeliveryTag, multiple: bool) -> Result<u64, Failure> {
        let window = match &mut *self.role {
            Role::Producer(producer) => producer.window.as_mut(),
            Role::Consumer(_) | Role::Setter(_) => None,
        };
        window
            .ok_or_else(|| Failure::Broker("a confirm that nobody asked for".to_owned()))?
            .confirmed(
                delivery_tag.0,
                multiple,
                self.now_us,
                &self.plan.measured_us,
                &mut self.tally.confirm_us,
            )
            .ok_or_else(|| Failure::Check(format!("confirm of {delivery_tag}, which is not open")))
    }
}

pub(super) fn malformed(error: &WireError) -> Failure {
    Failure::Broker(format!("malformed frame: {error:?}"))
}
