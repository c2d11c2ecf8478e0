//! One message from its frames: method, content header, content bodies (spec 2.3.5).
//!
//! ```text
//!   Idle ──basic.publish──▶ Header ──content header──▶ Body ──octets──▶ Idle
//! ```
//!
//! A message whose frames lie in one piece never comes here: it is published from where it lies.

use crate::message::{Body, LargeBody, Message};
use crate::wire::WireError;
use crate::wire::content::{ContentHeader, Properties};

/// What has come of a message so far.
#[derive(Debug, Default)]
pub(super) enum Assembly {
    /// Nothing.
    #[default]
    Idle,
    /// basic.publish; its content header is next.
    Header(PublishHead),
    /// Everything but (the rest of) the body.
    Body(Box<PartialMessage>),
}

/// A `basic.publish` without its content.
#[derive(Clone, Debug)]
pub(super) struct PublishHead {
    /// Exchange and routing key, two adjacent short strings.
    pub(super) names: Vec<u8>,
    pub(super) mandatory: bool,
    pub(super) immediate: bool,
}

/// A message whose body is still coming.
#[derive(Debug)]
pub(super) struct PartialMessage {
    pub(super) head: PublishHead,
    pub(super) properties: Vec<u8>,
    pub(super) summary: PropertySummary,
    pub(super) body_size: u64,
    /// Octets of the body that have come.
    pub(super) received: u64,
    pub(super) body: PartialBody,
}

/// Where a body is collected.
#[derive(Debug)]
pub(super) enum PartialBody {
    /// In memory, which grows with what comes and not with what was declared.
    Octets(Vec<u8>),
    /// With the storage.
    Large {
        body: LargeBody,
        /// The storage does not keep up.
        is_behind: bool,
    },
}

impl PartialMessage {
    /// Octets of the body that are still to come.
    pub(super) fn remaining(&self) -> u64 {
        self.body_size - self.received
    }

    /// The whole message.
    pub(super) fn message(&self) -> Message<'_> {
        debug_assert_eq!(self.remaining(), 0);
        let body = match &self.body {
            PartialBody::Octets(octets) => Body::Octets(octets),
            PartialBody::Large { body, .. } => Body::Large(*body),
        };
        Message {
            names: &self.head.names,
            properties: &self.properties,
            body,
        }
    }
}

/// What the way of a message depends on among its properties.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PropertySummary {
    pub(super) persistent: bool,
    /// `user-id` or `expiration` is there, which the router checks.
    pub(super) has_checked: bool,
}

/// Remembers the last properties that were found in order: publishers repeat themselves, and
/// comparing octets is faster than reading them.
#[derive(Debug, Default)]
pub(super) struct PropertyCheck {
    octets: Vec<u8>,
    summary: PropertySummary,
}

impl PropertyCheck {
    const OCTETS_MAX: usize = 256;

    /// Checks a property list.
    ///
    /// # Errors
    /// [`WireError::Properties`], [`WireError::TableTooDeep`].
    #[inline]
    pub(super) fn check(&mut self, octets: &[u8]) -> Result<PropertySummary, WireError> {
        if octets == self.octets {
            return Ok(self.summary);
        }
        self.check_new(octets)
    }

    fn check_new(&mut self, octets: &[u8]) -> Result<PropertySummary, WireError> {
        let properties = Properties::check(octets)?;
        let summary = PropertySummary {
            persistent: properties.delivery_mode() == Some(crate::wire::content::PERSISTENT),
            has_checked: properties.user_id().is_some()
                || properties.expiration().is_some()
                || properties.reply_to().is_some(),
        };
        if octets.len() <= Self::OCTETS_MAX {
            self.octets.clear();
            self.octets.extend_from_slice(octets);
            self.summary = summary;
        }
        Ok(summary)
    }
}

/// Whether a content header is one of `basic`; the text says what is wrong with it.
pub(super) fn check_class(header: &ContentHeader<'_>) -> Result<(), String> {
    if header.weight != 0 {
        let text = "expected content header for class 60, got non content header frame instead";
        return Err(text.to_owned());
    }
    if header.class_id == crate::wire::content::CLASS_BASIC {
        return Ok(());
    }
    Err(format!(
        "expected content header for class 60, got one for class {} instead",
        header.class_id
    ))
}
