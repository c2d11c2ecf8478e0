//! A channel of a connection: is it open, what message is it in the middle of, which answers does
//! it hold back.

use std::collections::VecDeque;

use super::assembler::Assembly;
use crate::broker::{Answer, Batch, ChannelKey};
use crate::wire::encode::method_frame;
use crate::wire::method::{basic, channel, confirm, exchange, queue, tx};
use crate::wire::{ChannelNumber, ShortString};

/// Where a channel is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChannelState {
    /// Commands are taken.
    Open(ChannelKey),
    /// `channel.close` was sent: everything but its answer is ignored.
    Closing,
    /// The client has closed it; close-ok waits behind answers that are held back.
    Draining,
}

/// Answers that may not go out yet.
#[derive(Debug)]
struct Held {
    /// They wait for this batch; an answer that waits for nothing joins the one before it.
    after: Batch,
    /// Their octets.
    octets: Vec<u8>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct ChannelSlot {
    pub(super) state: ChannelState,
    pub(super) assembly: Assembly,
    held: VecDeque<Held>,
}

impl ChannelSlot {
    pub(super) fn new(key: ChannelKey) -> Self {
        let (assembly, held) = (Assembly::Idle, VecDeque::new());
        ChannelSlot {
            state: ChannelState::Open(key),
            assembly,
            held,
        }
    }

    /// Whether answers are held back.
    pub(super) fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// Octets of the answers that are held back.
    pub(super) fn held_octets(&self) -> usize {
        self.held.iter().map(|held| held.octets.len()).sum()
    }

    /// Drops the answers that are held back; says how many octets they had.
    pub(super) fn drop_held(&mut self) -> usize {
        let octets = self.held_octets();
        self.held.clear();
        octets
    }

    /// Where an answer goes that may be sent after `after`; `out` when nothing holds it back.
    pub(super) fn answer_out<'a>(
        &'a mut self,
        after: Option<Batch>,
        out: &'a mut Vec<u8>,
    ) -> &'a mut Vec<u8> {
        match after {
            None if self.held.is_empty() => out,
            Some(after) if self.held.back().is_none_or(|held| held.after < after) => {
                self.held.push_back(Held {
                    after,
                    octets: Vec::new(),
                });
                &mut self.held.back_mut().expect("just pushed").octets
            }
            _ => {
                &mut self
                    .held
                    .back_mut()
                    .expect("checked by the arms above")
                    .octets
            }
        }
    }

    /// Sends the answers whose batch is on stable storage; says whether some are left.
    pub(super) fn release(
        &mut self,
        is_flushed: impl Fn(Batch) -> bool,
        out: &mut Vec<u8>,
    ) -> bool {
        while let Some(held) = self.held.front()
            && is_flushed(held.after)
        {
            out.extend_from_slice(&held.octets);
            self.held.pop_front();
        }
        self.is_holding()
    }
}

/// Appends the frame of an answer; `tag` is that of the consumer a `basic.cancel` named.
pub(super) fn encode_answer(out: &mut Vec<u8>, number: u16, answer: &Answer, tag: ShortString<'_>) {
    let number = ChannelNumber(number);
    let short = |octets| ShortString::new(octets).expect("names are short strings");
    match answer {
        Answer::Nothing | Answer::NotYet | Answer::GoesOn => {}
        Answer::ExchangeDeclareOk => method_frame(out, number, &exchange::DeclareOk {}),
        Answer::ExchangeDeleteOk => method_frame(out, number, &exchange::DeleteOk {}),
        Answer::ExchangeBindOk => method_frame(out, number, &exchange::BindOk {}),
        Answer::ExchangeUnbindOk => method_frame(out, number, &exchange::UnbindOk {}),
        Answer::QueueDeclareOk {
            queue,
            message_count,
            consumer_count,
        } => {
            let (message_count, consumer_count) = (*message_count, *consumer_count);
            let queue = short(queue);
            method_frame(
                out,
                number,
                &queue::DeclareOk {
                    queue,
                    message_count,
                    consumer_count,
                },
            );
        }
        Answer::QueueBindOk => method_frame(out, number, &queue::BindOk {}),
        Answer::QueueUnbindOk => method_frame(out, number, &queue::UnbindOk {}),
        &Answer::QueuePurgeOk { message_count } => {
            method_frame(out, number, &queue::PurgeOk { message_count });
        }
        &Answer::QueueDeleteOk { message_count } => {
            method_frame(out, number, &queue::DeleteOk { message_count });
        }
        Answer::QosOk => method_frame(out, number, &basic::QosOk {}),
        Answer::ConsumeOk { consumer_tag } => {
            method_frame(
                out,
                number,
                &basic::ConsumeOk {
                    consumer_tag: short(consumer_tag),
                },
            );
        }
        Answer::CancelOk => method_frame(out, number, &basic::CancelOk { consumer_tag: tag }),
        Answer::GetEmpty => {
            method_frame(
                out,
                number,
                &basic::GetEmpty {
                    cluster_id: ShortString::EMPTY,
                },
            );
        }
        Answer::RecoverOk => method_frame(out, number, &basic::RecoverOk {}),
        Answer::ConfirmSelectOk => method_frame(out, number, &confirm::SelectOk {}),
        Answer::TxSelectOk => method_frame(out, number, &tx::SelectOk {}),
        Answer::TxCommitOk => method_frame(out, number, &tx::CommitOk {}),
        Answer::TxRollbackOk => method_frame(out, number, &tx::RollbackOk {}),
    }
}

/// Appends `channel.close`.
pub(super) fn encode_close(
    out: &mut Vec<u8>,
    number: u16,
    (reply_code, reply_text): (u16, &str),
    (class_id, method_id): (u16, u16),
) {
    let reply_text = ShortString::truncated(reply_text);
    let close = channel::Close {
        reply_code,
        reply_text,
        class_id,
        method_id,
    };
    method_frame(out, ChannelNumber(number), &close);
}
