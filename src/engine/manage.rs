//! What operators change. A change is made at once, by the same functions that clients' commands
//! come to; its answer waits for the batch that its definitions or records belong to.

use super::{ConnectionId, Engine};
use crate::admin::{
    AdminAnswer, AdminCommand, AdminError, Binding, DestinationKind, HttpId, Outcome, UsersCommand,
    is_properties_key,
};
use crate::auth::record::{Definition, VhostDefinition};
use crate::auth::{AuthError, Changes, PermissionTexts};
use crate::broker::exchange::{ExchangeProperties, ExchangeType};
use crate::broker::manage::{Effect, Ends, Managed};
use crate::broker::queue::QueueProperties;
use crate::broker::record::Pairs;
use crate::broker::vhost::About;
use crate::broker::{Batch, Exception, Sink as _};
use crate::clock::Now;
use crate::storage::Storage;
use crate::wire::ReplyCode;
use crate::wire::field_table::FieldTable;
use crate::wire::reply_code::reply_text;

/// When the answer to a change may go out.
enum Due {
    /// At once.
    Now,
    /// When the batch is on stable storage.
    Flushed(Batch),
    /// When the virtual host of this index is gone, and that is on stable storage.
    Removed(u32),
}

/// A change that was made, and when its answer is due.
type Changed = Result<(Outcome, Due), AdminError>;

impl<S: Storage> Engine<S> {
    /// Answers to operators that may go out now. Each belongs to the HTTP connection that asked;
    /// one that has closed since gets none.
    pub fn take_answers(&mut self) -> Vec<(HttpId, AdminAnswer)> {
        std::mem::take(&mut self.answered)
    }

    /// Whether an operator has asked the server to stop.
    pub fn is_stop_asked(&self) -> bool {
        self.is_stop_asked
    }

    /// Whether answers to operators wait for the disk.
    pub fn owes_answers(&self) -> bool {
        !self.owed.is_empty() || !self.vhosts_going.is_empty()
    }

    pub(super) fn manage(
        &mut self,
        now: Now,
        id: HttpId,
        command: AdminCommand<'_>,
    ) -> Option<AdminAnswer> {
        if self.is_stopping || self.fatal.is_some() {
            let why = "the server stops".to_owned();
            return Some(Err(AdminError::Unavailable(why)));
        }
        self.sampler.arm(now);
        match self.change(now, command) {
            Ok((outcome, Due::Flushed(batch))) if !self.plant.is_flushed(batch) => {
                self.owed.push_back((batch, id, outcome));
                None
            }
            Ok((_, Due::Removed(index))) => {
                self.vhosts_going.push((index, id));
                None
            }
            Ok((outcome, Due::Now | Due::Flushed(_))) => Some(Ok(outcome)),
            Err(error) => Some(Err(error)),
        }
    }

    /// Hands out the answers that waited for `batch`.
    pub(super) fn answer_operators(&mut self, batch: Batch) {
        while let Some(&(after, id, outcome)) = self.owed.front()
            && after <= batch
        {
            self.owed.pop_front();
            self.answered.push((id, Ok(outcome)));
        }
    }

    fn change(&mut self, now: Now, command: AdminCommand<'_>) -> Changed {
        match command {
            AdminCommand::DeclareQueue {
                vhost,
                name,
                durable,
                auto_delete,
                arguments,
            } => {
                let properties = QueueProperties {
                    durable,
                    exclusive_to: None,
                    auto_delete,
                    arguments: arguments.as_bytes().into(),
                };
                check_name(name)?;
                let vhost = self.vhost(vhost)?;
                let (broker, plant) = (&mut self.broker, &mut self.plant);
                changed(broker.manage_declare_queue(now, vhost, name, properties, plant))
            }
            AdminCommand::DeleteQueue {
                vhost,
                name,
                if_unused,
                if_empty,
            } => {
                let vhost = self.vhost(vhost)?;
                let (broker, plant) = (&mut self.broker, &mut self.plant);
                changed(broker.manage_delete_queue(vhost, name, if_unused, if_empty, plant))
            }
            AdminCommand::PurgeQueue { vhost, name } => {
                let vhost = self.vhost(vhost)?;
                let (broker, plant) = (&mut self.broker, &mut self.plant);
                changed(broker.manage_purge_queue(vhost, name, plant))
            }
            AdminCommand::DeclareExchange {
                vhost,
                name,
                kind,
                durable,
                auto_delete,
                internal,
                arguments,
            } => {
                let exchange_type = ExchangeType::named(kind.as_bytes()).map_err(refused)?;
                let properties = ExchangeProperties {
                    exchange_type,
                    durable,
                    auto_delete,
                    internal,
                    arguments: arguments.as_bytes().into(),
                };
                check_name(name)?;
                let vhost = self.vhost(vhost)?;
                let (broker, plant) = (&mut self.broker, &mut self.plant);
                changed(broker.manage_declare_exchange(vhost, name, properties, plant))
            }
            AdminCommand::DeleteExchange {
                vhost,
                name,
                if_unused,
            } => {
                let vhost = self.vhost(vhost)?;
                let (broker, plant) = (&mut self.broker, &mut self.plant);
                changed(broker.manage_delete_exchange(vhost, name, if_unused, plant))
            }
            AdminCommand::Bind(binding) => {
                check_name(binding.routing_key)?;
                let vhost = self.vhost(binding.vhost)?;
                let Binding {
                    source,
                    destination,
                    destination_kind,
                    routing_key,
                    arguments,
                    ..
                } = binding;
                let ends = Ends {
                    source,
                    destination,
                    to_queue: destination_kind == DestinationKind::Queue,
                };
                let (broker, plant) = (&mut self.broker, &mut self.plant);
                let bound =
                    broker.manage_bind(vhost, &ends, routing_key, arguments.as_bytes(), plant);
                match bound {
                    Err(exception) if exception.reply_code == ReplyCode::NotFound => {
                        Err(AdminError::EndMissing(exception.explanation))
                    }
                    bound => changed(bound),
                }
            }
            AdminCommand::Unbind {
                vhost,
                source,
                destination,
                destination_kind,
                properties_key,
            } => {
                let vhost = self.vhost(vhost)?;
                let ends = Ends {
                    source,
                    destination,
                    to_queue: destination_kind == DestinationKind::Queue,
                };
                let is_meant = |binding_key: &[u8], arguments: &[u8]| {
                    is_properties_key(properties_key, binding_key, FieldTable::stored(arguments))
                };
                let (broker, plant) = (&mut self.broker, &mut self.plant);
                changed(broker.manage_unbind(vhost, &ends, is_meant, plant))
            }
            AdminCommand::PutVhost {
                name,
                description,
                tags,
                default_queue_type,
                user,
            } => {
                let about = AboutChange {
                    description,
                    tags,
                    default_queue_type,
                };
                self.put_vhost(name, &about, user)
            }
            AdminCommand::DeleteVhost { name } => self.delete_vhost(now, name),
            AdminCommand::Users(command) => self.change_users(now, command),
            AdminCommand::CloseConnection {
                name,
                reason,
                only_of,
            } => {
                let id = self.connection_named(name).ok_or(AdminError::NotFound)?;
                let user = &self.peers[id.slot as usize].connection.client.user;
                if only_of.is_some_and(|only| only != user) {
                    return Err(AdminError::NotFound);
                }
                self.close_by_operator(now, id, reason);
                Ok((Outcome::Done, Due::Now))
            }
            AdminCommand::Stop => {
                self.is_stop_asked = true;
                Ok((Outcome::Done, Due::Now))
            }
        }
    }

    fn vhost(&self, name: &str) -> Result<u32, AdminError> {
        self.broker.vhost_named(name).ok_or(AdminError::NotFound)
    }

    // ---- virtual hosts ----

    fn put_vhost(&mut self, name: &str, change: &AboutChange<'_>, user: Option<&str>) -> Changed {
        if name.is_empty() || name.len() > AuthError::NAME_OCTETS_MAX {
            let text = AuthError::InvalidName(name.chars().take(40).collect());
            return Err(text.into());
        }
        if self.broker.is_vhost_going(name) {
            let text = format!("virtual host '{name}' is being deleted");
            return Err(AdminError::Unavailable(text));
        }
        let existing = self.broker.vhost_named(name);
        let count = self.broker.vhosts().count();
        if existing.is_none() && count >= self.vhosts_max {
            return Err(AdminError::Precondition(format!(
                "the limit of {} virtual hosts is reached",
                self.vhosts_max
            )));
        }
        let index = self.broker.add_vhost(name);
        let mut about = self.broker.vhost_slots()[index as usize].about.clone();
        change.apply(&mut about);
        let mut changes = vec![vhost_pair(name, &about)];
        self.broker.describe_vhost(index, about);
        if let Some(user) = user.filter(|_| existing.is_none()) {
            let all = PermissionTexts {
                configure: ".*",
                write: ".*",
                read: ".*",
            };
            // Whoever made it may be gone by now, or be someone without a name.
            if let Ok(put) = self.broker.users.set_permission(user, name, all) {
                changes.extend(put.changes);
                self.broker.rights_changed();
            }
        }
        let outcome = Outcome::created(existing.is_none());
        Ok((outcome, self.remember(&changes)))
    }

    /// Begins to delete a virtual host; the end is told by [`Engine::vhosts_removed`].
    fn delete_vhost(&mut self, now: Now, name: &str) -> Changed {
        let index = self.vhost(name)?;
        let reason = format!("vhost '{name}' is deleted");
        self.close_where(now, &reason, |engine, id| {
            engine
                .session_of(id)
                .is_some_and(|session| session.vhost == index)
        });
        let mut pairs = Pairs::default();
        pairs.remove(Definition::vhost_key(name));
        for (key, _) in self.broker.users.forget_vhost(name) {
            pairs.remove(key);
        }
        self.broker.remove_vhost(index, pairs);
        self.broker.rights_changed();
        Ok((Outcome::Done, Due::Removed(index)))
    }

    /// Notes which virtual hosts are gone; who asked for it is answered when that is on the disk.
    pub(super) fn vhosts_removed(&mut self) {
        for (index, batch) in self.broker.take_vhosts_removed() {
            if let Some(at) = self.vhosts_going.iter().position(|it| it.0 == index) {
                let (_, id) = self.vhosts_going.swap_remove(at);
                self.owed.push_back((batch, id, Outcome::Done));
            }
        }
    }

    // ---- users ----

    fn change_users(&mut self, now: Now, command: UsersCommand<'_>) -> Changed {
        let salt = self.broker.draw_salt();
        let put = command.apply(&mut self.broker.users, salt)?;
        self.broker.rights_changed();
        let outcome = match command {
            UsersCommand::Put { .. } | UsersCommand::SetPermission { .. } => {
                Outcome::created(put.created)
            }
            UsersCommand::Delete { name } => {
                let reason = format!("user '{name}' is deleted");
                self.close_where(now, &reason, |engine, id| {
                    engine
                        .session_of(id)
                        .is_some_and(|session| &*session.user_name == name)
                });
                Outcome::Done
            }
            UsersCommand::ClearPermission { .. } => Outcome::Done,
        };
        Ok((outcome, self.remember(&put.changes)))
    }

    fn remember(&mut self, changes: &Changes) -> Due {
        if changes.is_empty() {
            return Due::Now;
        }
        self.plant.define(changes);
        Due::Flushed(self.plant.batch())
    }

    // ---- connections ----

    fn session_of(&self, id: ConnectionId) -> Option<&crate::broker::session::Session> {
        let key = self.peers.get(id.slot as usize)?.connection.session()?;
        self.broker.sessions().get(key.slot as usize)
    }

    fn close_where(
        &mut self,
        now: Now,
        reason: &str,
        is_meant: impl Fn(&Self, ConnectionId) -> bool,
    ) {
        let ids: Vec<ConnectionId> = self.ids().filter(|&id| is_meant(self, id)).collect();
        for id in ids {
            self.close_by_operator(now, id, reason);
        }
    }

    fn close_by_operator(&mut self, now: Now, id: ConnectionId, reason: &str) {
        let text = reply_text(ReplyCode::ConnectionForced, reason);
        self.with_connection(now, id, |connection, turn| {
            if connection.session().is_some() {
                connection.close(ReplyCode::ConnectionForced, &text, (0, 0), turn);
            } else {
                connection.abandon(turn);
            }
        });
        self.set_timer(id);
        // A connection without a last word is closed where the others are written.
        self.plant.out(id.slot);
        // What was held back goes no more; what the peer sends is read only for its close-ok.
        if self.peers[id.slot as usize].pause.is_some() {
            self.resumed.push(id);
        }
    }
}

/// What a request says about a virtual host; `None` leaves it as it is.
struct AboutChange<'a> {
    description: Option<&'a str>,
    tags: Option<&'a [String]>,
    default_queue_type: Option<&'a str>,
}

impl AboutChange<'_> {
    fn apply(&self, about: &mut About) {
        if let Some(description) = self.description {
            description.clone_into(&mut about.description);
        }
        if let Some(tags) = self.tags {
            tags.clone_into(&mut about.tags);
        }
        if let Some(default) = self.default_queue_type {
            about.default_queue_type = Some(default.to_owned());
        }
    }
}

/// The pair that remembers a virtual host.
pub(super) fn vhost_pair(name: &str, about: &About) -> (Vec<u8>, Option<Vec<u8>>) {
    let definition = Definition::Vhost(VhostDefinition {
        name: name.to_owned(),
        description: about.description.clone(),
        tags: about.tags.clone(),
        default_queue_type: about.default_queue_type.clone(),
    });
    let (key, value) = definition.encode();
    (key, Some(value))
}

fn check_name(name: &[u8]) -> Result<(), AdminError> {
    if name.len() > 255 || std::str::from_utf8(name).is_err() {
        let text = "a name or key has at most 255 octets of UTF-8";
        return Err(AdminError::Precondition(text.to_owned()));
    }
    Ok(())
}

fn changed(managed: Managed) -> Changed {
    let (effect, after) = managed.map_err(refused)?;
    let outcome = match effect {
        Effect::Created => Outcome::Created,
        Effect::Existed => Outcome::Exists,
        Effect::Gone => Outcome::Done,
        Effect::Messages(count) => Outcome::Messages(count.into()),
    };
    Ok((outcome, after.map_or(Due::Now, Due::Flushed)))
}

fn refused(exception: Exception) -> AdminError {
    match exception.reply_code {
        ReplyCode::NotFound => AdminError::NotFound,
        ReplyCode::AccessRefused => AdminError::Refused(exception.explanation),
        _ => AdminError::Precondition(exception.explanation),
    }
}
