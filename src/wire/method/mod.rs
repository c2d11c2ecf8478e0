//! The methods of AMQP 0-9-1 and RabbitMQ's extensions: one struct each, in the module of its
//! class, read and written in both directions (our tests and tools are clients).
//!
//! A method frame's payload is drawn so (spec 4.2.4):
//!
//! ```text
//! offset  octets  field
//!      0       2  class id
//!      2       2  method id
//!      4       n  arguments, in the order of the struct's fields; consecutive bits share an octet
//! ```
//!
//! [`Method::decode`] reads any of them. Where the class and method are known already,
//! `T::decode_arguments` is the direct way, as for `basic.publish` and `basic.ack` on the hot path.

mod argument;

/// Writes the structs of one class: `Name<'a> = CLASS METHOD "class.method" content? { fields }`.
/// `content` marks the methods that a content header follows.
macro_rules! methods {
    ($($(#[$doc:meta])* $name:ident $(<$life:lifetime>)? = $class_id:literal $method_id:literal
        $method:literal $($content:ident)? {
            $($(#[$field_doc:meta])* $field:ident: $type:ty,)*
        }
    )*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name $(<$life>)? {
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl $(<$life>)? $name $(<$life>)? {
            /// Reads the arguments, which are all of `octets`.
            ///
            /// # Errors
            /// [`WireError::Arguments`](crate::wire::WireError::Arguments),
            /// [`WireError::MalformedUtf8`](crate::wire::WireError::MalformedUtf8),
            /// [`WireError::TableTooDeep`](crate::wire::WireError::TableTooDeep).
            #[inline]
            pub fn decode_arguments(
                octets: & $($life)? [u8],
            ) -> Result<Self, crate::wire::WireError> {
                const CHECK_UTF8: bool = !methods!(@content $($content)?);
                crate::wire::method::argument::decode(octets, CHECK_UTF8, |reader| {
                    let _ = &reader;
                    Ok($name {
                        $($field: crate::wire::method::argument::Argument::read(reader)?,)*
                    })
                })
                .map_err(|fault| fault.into_error($class_id, $method_id, octets))
            }
        }

        impl $(<$life>)? crate::wire::method::MethodFields for $name $(<$life>)? {
            const CLASS_ID: u16 = $class_id;
            const METHOD_ID: u16 = $method_id;
            const NAME: &'static str = $method;
            const HAS_CONTENT: bool = methods!(@content $($content)?);

            #[inline]
            fn encode_arguments(&self, out: &mut Vec<u8>) {
                use crate::wire::method::argument::Writer;
                let writer = &mut Writer::new(out);
                $(crate::wire::method::argument::Argument::write(&self.$field, writer);)*
                let _ = writer;
            }
        }

        impl $(<$life>)? std::fmt::Display for $name $(<$life>)? {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str($method)?;
                $(crate::wire::method::argument::Argument::show(
                    &self.$field,
                    stringify!($field),
                    f,
                )?;)*
                Ok(())
            }
        }
    )*};
    (@content) => { false };
    (@content content) => { true };
}

pub mod access;
pub mod basic;
pub mod channel;
pub mod confirm;
pub mod connection;
pub mod exchange;
pub mod queue;
pub mod tx;

use super::WireError;
use super::error::Snippet;
use super::frame::FrameKind;
use std::fmt;

/// What every method has.
pub trait MethodFields {
    /// Number of the class.
    const CLASS_ID: u16;
    /// Number of the method in its class.
    const METHOD_ID: u16;
    /// The name in the specification's words, as in `basic.recover-async`.
    const NAME: &'static str;
    /// Whether a content header and body follow.
    const HAS_CONTENT: bool;

    /// Appends the arguments, without the class and method numbers before them.
    fn encode_arguments(&self, out: &mut Vec<u8>);
}

macro_rules! method_enum {
    ($($variant:ident($class:ident::$method:ident $(<$life:lifetime>)?) =
        $class_id:literal $method_id:literal,)*) => {
        /// Any method.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Method<'a> {
            $(
                #[doc = concat!("See [`", stringify!($class), "::", stringify!($method), "`].")]
                $variant($class::$method $(<$life>)?),
            )*
        }

        impl<'a> Method<'a> {
            /// Reads the arguments of the method with these numbers.
            #[inline]
            fn decode_arguments(
                class_id: u16,
                method_id: u16,
                arguments: &'a [u8],
            ) -> Result<Self, WireError> {
                match (class_id, method_id) {
                    $(($class_id, $method_id) => {
                        $class::$method::decode_arguments(arguments).map(Method::$variant)
                    })*
                    _ => Err(WireError::UnknownMethod { class_id, method_id }),
                }
            }

            /// Class and method number.
            pub fn ids(&self) -> (u16, u16) {
                match self {
                    $(Method::$variant(_) => ($class_id, $method_id),)*
                }
            }

            /// The name in the specification's words, as in `basic.recover-async`.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Method::$variant(_) => <$class::$method as MethodFields>::NAME,)*
                }
            }

            /// Whether a content header and body follow.
            pub fn has_content(&self) -> bool {
                match self {
                    $(Method::$variant(_) => <$class::$method as MethodFields>::HAS_CONTENT,)*
                }
            }

            /// Appends the payload of a method frame: the numbers and the arguments.
            pub fn encode(&self, out: &mut Vec<u8>) {
                let (class_id, method_id) = self.ids();
                out.extend_from_slice(&class_id.to_be_bytes());
                out.extend_from_slice(&method_id.to_be_bytes());
                match self {
                    $(Method::$variant(method) => method.encode_arguments(out),)*
                }
            }
        }

        $(
            impl<'a> From<$class::$method $(<$life>)?> for Method<'a> {
                fn from(method: $class::$method $(<$life>)?) -> Self {
                    Method::$variant(method)
                }
            }
        )*

        /// As in a trace line: `basic.publish ex='' rk='q'`.
        impl fmt::Display for Method<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Method::$variant(method) => fmt::Display::fmt(method, f),)*
                }
            }
        }
    };
}

method_enum! {
    ConnectionStart(connection::Start<'a>) = 10 10,
    ConnectionStartOk(connection::StartOk<'a>) = 10 11,
    ConnectionSecure(connection::Secure<'a>) = 10 20,
    ConnectionSecureOk(connection::SecureOk<'a>) = 10 21,
    ConnectionTune(connection::Tune) = 10 30,
    ConnectionTuneOk(connection::TuneOk) = 10 31,
    ConnectionOpen(connection::Open<'a>) = 10 40,
    ConnectionOpenOk(connection::OpenOk<'a>) = 10 41,
    ConnectionClose(connection::Close<'a>) = 10 50,
    ConnectionCloseOk(connection::CloseOk) = 10 51,
    ConnectionBlocked(connection::Blocked<'a>) = 10 60,
    ConnectionUnblocked(connection::Unblocked) = 10 61,
    ConnectionUpdateSecret(connection::UpdateSecret<'a>) = 10 70,
    ConnectionUpdateSecretOk(connection::UpdateSecretOk) = 10 71,
    ChannelOpen(channel::Open<'a>) = 20 10,
    ChannelOpenOk(channel::OpenOk<'a>) = 20 11,
    ChannelFlow(channel::Flow) = 20 20,
    ChannelFlowOk(channel::FlowOk) = 20 21,
    ChannelClose(channel::Close<'a>) = 20 40,
    ChannelCloseOk(channel::CloseOk) = 20 41,
    AccessRequest(access::Request<'a>) = 30 10,
    AccessRequestOk(access::RequestOk) = 30 11,
    ExchangeDeclare(exchange::Declare<'a>) = 40 10,
    ExchangeDeclareOk(exchange::DeclareOk) = 40 11,
    ExchangeDelete(exchange::Delete<'a>) = 40 20,
    ExchangeDeleteOk(exchange::DeleteOk) = 40 21,
    ExchangeBind(exchange::Bind<'a>) = 40 30,
    ExchangeBindOk(exchange::BindOk) = 40 31,
    ExchangeUnbind(exchange::Unbind<'a>) = 40 40,
    ExchangeUnbindOk(exchange::UnbindOk) = 40 51,
    QueueDeclare(queue::Declare<'a>) = 50 10,
    QueueDeclareOk(queue::DeclareOk<'a>) = 50 11,
    QueueBind(queue::Bind<'a>) = 50 20,
    QueueBindOk(queue::BindOk) = 50 21,
    QueuePurge(queue::Purge<'a>) = 50 30,
    QueuePurgeOk(queue::PurgeOk) = 50 31,
    QueueDelete(queue::Delete<'a>) = 50 40,
    QueueDeleteOk(queue::DeleteOk) = 50 41,
    QueueUnbind(queue::Unbind<'a>) = 50 50,
    QueueUnbindOk(queue::UnbindOk) = 50 51,
    BasicQos(basic::Qos) = 60 10,
    BasicQosOk(basic::QosOk) = 60 11,
    BasicConsume(basic::Consume<'a>) = 60 20,
    BasicConsumeOk(basic::ConsumeOk<'a>) = 60 21,
    BasicCancel(basic::Cancel<'a>) = 60 30,
    BasicCancelOk(basic::CancelOk<'a>) = 60 31,
    BasicPublish(basic::Publish<'a>) = 60 40,
    BasicReturn(basic::Return<'a>) = 60 50,
    BasicDeliver(basic::Deliver<'a>) = 60 60,
    BasicGet(basic::Get<'a>) = 60 70,
    BasicGetOk(basic::GetOk<'a>) = 60 71,
    BasicGetEmpty(basic::GetEmpty<'a>) = 60 72,
    BasicAck(basic::Ack) = 60 80,
    BasicReject(basic::Reject) = 60 90,
    BasicRecoverAsync(basic::RecoverAsync) = 60 100,
    BasicRecover(basic::Recover) = 60 110,
    BasicRecoverOk(basic::RecoverOk) = 60 111,
    BasicNack(basic::Nack) = 60 120,
    TxSelect(tx::Select) = 90 10,
    TxSelectOk(tx::SelectOk) = 90 11,
    TxCommit(tx::Commit) = 90 20,
    TxCommitOk(tx::CommitOk) = 90 21,
    TxRollback(tx::Rollback) = 90 30,
    TxRollbackOk(tx::RollbackOk) = 90 31,
    ConfirmSelect(confirm::Select) = 85 10,
    ConfirmSelectOk(confirm::SelectOk) = 85 11,
}

impl<'a> Method<'a> {
    /// Reads the payload of a method frame.
    ///
    /// # Errors
    /// [`WireError::UnknownFrame`] when even the numbers are cut short,
    /// [`WireError::UnknownMethod`], and those of `decode_arguments` of the method.
    #[inline]
    pub fn decode(payload: &'a [u8]) -> Result<Self, WireError> {
        let (class_id, method_id, arguments) = split_ids(payload)?;
        Method::decode_arguments(class_id, method_id, arguments)
    }
}

/// Class number, method number and arguments of a method frame's payload.
///
/// # Errors
/// [`WireError::UnknownFrame`] when the numbers are cut short, as RabbitMQ has it.
#[inline]
pub fn split_ids(payload: &[u8]) -> Result<(u16, u16, &[u8]), WireError> {
    let Some((&[c1, c0, m1, m0], arguments)) = payload.split_first_chunk() else {
        return Err(WireError::UnknownFrame {
            frame_type: FrameKind::Method as u8,
            payload: Snippet::of(payload),
        });
    };
    let (class_id, method_id) = (u16::from_be_bytes([c1, c0]), u16::from_be_bytes([m1, m0]));
    Ok((class_id, method_id, arguments))
}

#[cfg(test)]
mod tests;
