//! Methods of channels but for publishing: each becomes a command for the router, and its outcome
//! an answer.

use super::channel::{ChannelSlot, ChannelState, encode_answer};
use super::host::Host;
use super::{Connection, Fault, Pause, Step, not_open};
use crate::broker::{Answer, ChannelKey, Command, Exception, Outcome, SessionKey};
use crate::wire::encode::method_frame;
use crate::wire::method::{basic, channel as channel_methods};
use crate::wire::{ChannelNumber, Method, ShortString};

impl Connection {
    pub(super) fn open_channel<H: Host>(
        &mut self,
        session: SessionKey,
        number: u16,
        method: &Method<'_>,
        host: &mut H,
    ) -> Result<(), Fault> {
        let Method::ChannelOpen(_) = method else {
            return Err(not_open(method.ids()));
        };
        let channel_max = self.client.channel_max;
        if channel_max != 0 && self.channels.len() >= usize::from(channel_max) {
            let open = self.channels.len();
            let exception = Exception::not_allowed(format!(
                "number of channels opened ({open}) has reached the negotiated channel_max ({channel_max})"
            ));
            return Err(Fault::Exception(exception, (0, 0)));
        }
        let key = host.open_channel(session, number);
        let at = self.channels.partition_point(|&(other, _)| other < number);
        self.channels
            .insert(at, (number, Box::new(ChannelSlot::new(key))));
        self.last_channel = at;
        let open_ok = channel_methods::OpenOk { channel_id: &[] };
        method_frame(host.out(), ChannelNumber(number), &open_ok);
        Ok(())
    }

    /// A method on a channel that we have closed: only the end of it counts.
    pub(super) fn closing_method<H: Host>(
        &mut self,
        at: usize,
        number: u16,
        payload: &[u8],
        host: &mut H,
    ) -> Result<(), Fault> {
        match Method::decode(payload) {
            Ok(Method::ChannelCloseOk(_)) => {
                self.channels.remove(at);
                self.last_channel = 0;
            }
            Ok(method @ Method::ChannelOpen(_)) => {
                let exception = Exception::channel_error("second 'channel.open' seen");
                return Err(Fault::Exception(exception, method.ids()));
            }
            Ok(Method::ChannelClose(_)) => {
                method_frame(
                    host.out(),
                    ChannelNumber(number),
                    &channel_methods::CloseOk {},
                );
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn command<H: Host>(
        &mut self,
        at: usize,
        number: u16,
        key: ChannelKey,
        method: &Method<'_>,
        host: &mut H,
    ) -> Result<Step, Fault> {
        let mut no_wait = false;
        let mut tag = ShortString::EMPTY;
        let mut noted = |is_set: bool| no_wait = is_set;
        let command = match *method {
            Method::BasicNack(nack) => Command::Nack(nack),
            Method::BasicReject(reject) => Command::Reject(reject),
            Method::BasicGet(_) | Method::BasicConsume(_) if self.channels[at].1.is_holding() => {
                // Their answers bring messages along, which could overtake answers held back.
                return Ok(Step::Pause(Pause::Storage));
            }
            Method::BasicGet(get) => Command::Get(get),
            Method::BasicConsume(consume) => {
                noted(consume.no_wait);
                Command::Consume(consume)
            }
            Method::BasicCancel(cancel) => {
                noted(cancel.no_wait);
                tag = cancel.consumer_tag;
                Command::Cancel(cancel)
            }
            Method::BasicQos(qos) => Command::Qos(qos),
            Method::BasicRecover(basic::Recover { requeue }) => Command::Recover {
                requeue,
                answer: true,
            },
            Method::BasicRecoverAsync(basic::RecoverAsync { requeue }) => Command::Recover {
                requeue,
                answer: false,
            },
            Method::ExchangeDeclare(declare) => {
                noted(declare.no_wait);
                Command::ExchangeDeclare(declare)
            }
            Method::ExchangeDelete(delete) => {
                noted(delete.no_wait);
                Command::ExchangeDelete(delete)
            }
            Method::ExchangeBind(bind) => {
                noted(bind.no_wait);
                Command::ExchangeBind(bind)
            }
            Method::ExchangeUnbind(unbind) => {
                noted(unbind.no_wait);
                Command::ExchangeUnbind(unbind)
            }
            Method::QueueDeclare(declare) => {
                noted(declare.no_wait);
                Command::QueueDeclare(declare)
            }
            Method::QueueDelete(delete) => {
                noted(delete.no_wait);
                Command::QueueDelete(delete)
            }
            Method::QueueBind(bind) => {
                noted(bind.no_wait);
                Command::QueueBind(bind)
            }
            Method::QueueUnbind(unbind) => Command::QueueUnbind(unbind),
            Method::QueuePurge(purge) => {
                noted(purge.no_wait);
                Command::QueuePurge(purge)
            }
            Method::ConfirmSelect(select) => {
                noted(select.no_wait);
                Command::ConfirmSelect
            }
            Method::TxSelect(_) => Command::TxSelect,
            Method::TxCommit(_) => Command::TxCommit,
            Method::TxRollback(_) => Command::TxRollback,
            _ => {
                return self
                    .channel_command(at, number, key, method, host)
                    .map(|()| Step::Done);
            }
        };
        match host.apply(key, &command) {
            Ok(Outcome {
                answer: Answer::NotYet,
                ..
            }) => Ok(Step::Pause(Pause::Storage)),
            Ok(Outcome {
                answer: Answer::GoesOn,
                ..
            }) => Ok(Step::Pause(Pause::Turn)),
            Ok(_) if no_wait => Ok(Step::Done),
            Ok(Outcome { answer, after }) => {
                let after = after.filter(|&batch| !host.is_flushed(batch));
                self.answer(at, after, host, |out| {
                    encode_answer(out, number, &answer, tag);
                });
                Ok(Step::Done)
            }
            Err(exception) => {
                let fault = Fault::Exception(exception, method.ids());
                self.channel_fault(number, fault, host).map(|_| Step::Done)
            }
        }
    }

    /// Methods that concern the channel itself.
    fn channel_command<H: Host>(
        &mut self,
        at: usize,
        number: u16,
        key: ChannelKey,
        method: &Method<'_>,
        host: &mut H,
    ) -> Result<(), Fault> {
        let channel = ChannelNumber(number);
        match method {
            Method::ChannelClose(_) => {
                self.drop_assembly(at, host);
                host.close_channel(key);
                self.answer(at, None, host, |out| {
                    method_frame(out, channel, &channel_methods::CloseOk {});
                });
                let slot = &mut self.channels[at].1;
                if slot.is_holding() {
                    slot.state = ChannelState::Draining;
                } else {
                    self.channels.remove(at);
                }
                Ok(())
            }
            Method::ChannelFlow(channel_methods::Flow { active: true }) => {
                let flow_ok = channel_methods::FlowOk { active: true };
                self.answer(at, None, host, |out| method_frame(out, channel, &flow_ok));
                Ok(())
            }
            Method::ChannelFlow(_) => {
                let exception = Exception::not_implemented("active=false");
                Err(Fault::Exception(exception, method.ids()))
            }
            Method::ChannelOpen(_) => {
                let exception = Exception::channel_error("second 'channel.open' seen");
                Err(Fault::Exception(exception, method.ids()))
            }
            // A late answer to a close that has crossed the client's own.
            Method::ChannelCloseOk(_) => Ok(()),
            Method::AccessRequest(_) => {
                let request_ok = crate::wire::method::access::RequestOk { ticket: 1 };
                self.answer(at, None, host, |out| {
                    method_frame(out, channel, &request_ok);
                });
                Ok(())
            }
            _ => {
                let exception = Exception::command_invalid("unimplemented method");
                Err(Fault::Exception(exception, method.ids()))
            }
        }
    }
}
