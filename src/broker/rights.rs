//! What a channel's user may do.

use super::arguments;
use super::exception::shown;
use super::publish::Resource;
use super::queue::QueueKey;
use super::{Broker, Exception};
use crate::auth::Access;

impl Broker {
    /// Users or permissions have changed.
    pub fn rights_changed(&mut self) {
        self.epoch += 1;
    }

    /// # Errors
    /// 403 naming what is refused to whom.
    pub(super) fn check_access(
        &self,
        channel: u32,
        access: Access,
        resource: Resource<'_>,
    ) -> Result<(), Exception> {
        let session = &self.sessions[self.channels[channel as usize].session.slot as usize];
        let vhost = &self.vhosts[session.vhost as usize].name;
        let (kind, name) = match resource {
            Resource::Exchange(b"") => ("exchange", &b"amq.default"[..]),
            Resource::Exchange(name) => ("exchange", name),
            Resource::Queue(name) => ("queue", name),
        };
        let permission = self.users.access(session.user, vhost);
        if permission.is_some_and(|permission| permission.may(access, name)) {
            return Ok(());
        }
        Err(Exception::access_refused(format!(
            "{} access to {kind} '{}' in vhost '{vhost}' refused for user '{}'",
            access.name(),
            shown(name),
            session.user_name
        )))
    }

    /// A passive declaration needs some right, whichever (RabbitMQ 4.3).
    pub(super) fn check_any_access(&self, channel: u32, name: &[u8]) -> Result<(), Exception> {
        let check = |access| self.check_access(channel, access, Resource::Queue(name));
        check(Access::Read)
            .or_else(|_| check(Access::Write))
            .or_else(|_| check(Access::Configure))
    }

    pub(super) fn check_not_locked(&self, channel: u32, key: QueueKey) -> Result<(), Exception> {
        let queue = &self.queues[key.slot as usize];
        let owner = queue.properties.exclusive_to;
        if owner.is_none_or(|owner| owner == self.channels[channel as usize].session) {
            return Ok(());
        }
        Err(arguments::locked(
            &self.queue_shown(queue.vhost, &queue.name),
        ))
    }

    pub(super) fn check_user_id(&self, channel: u32, user_id: &[u8]) -> Result<(), Exception> {
        let session = &self.sessions[self.channels[channel as usize].session.slot as usize];
        let is_impersonator = || {
            self.users
                .get(session.user)
                .is_some_and(|user| user.has_tag("impersonator"))
        };
        if user_id == session.user_name.as_bytes() || is_impersonator() {
            return Ok(());
        }
        Err(Exception::precondition_failed(format!(
            "user_id property set to '{}' but authenticated user was '{}'",
            shown(user_id),
            session.user_name
        )))
    }
}
