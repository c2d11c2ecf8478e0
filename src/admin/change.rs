//! What can be changed: the handlers of `PUT`, `POST` and `DELETE`.
//!
//! Each checks that the user may do it, reads the body and hands one [`AdminCommand`] to the
//! engine.

use super::command::{AdminCommand, Binding, NewSecret, UsersCommand};
use super::json::{self, Object};
use super::json_value::to_table;
use super::read::exchange_name;
use super::reply::Reply;
use super::route::{Action, Actor, Call};
use super::view::{DestinationKind, HttpPeer};
use crate::auth::{Access, HashingAlgorithm, PermissionTexts};
use crate::wire::field_table::{FieldTable, TableBuilder};
use serde_json::Value;

type Answer = Result<Action, Reply>;

impl Call<'_> {
    /// The body as a JSON object; nothing at all is an empty one.
    fn json(&self) -> Result<Object, Reply> {
        if self.body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Object::new());
        }
        serde_json::from_slice(self.body).map_err(|_| Reply::bad_request("not_json"))
    }

    /// Checks that a virtual host exists and that the user has `access` to the names in it.
    fn may(&self, vhost: &str, needs: &[(Access, &[u8])]) -> Result<(), Reply> {
        if !self.admin.has_vhost(vhost) {
            return Err(Reply::error(404, "not_found", "vhost_not_found"));
        }
        let permission = match self.actor {
            Actor::Local => return Ok(()),
            Actor::User(id) => self.admin.users().access(id, vhost),
            Actor::Nobody => None,
        };
        let Some(permission) = permission else {
            return Err(Reply::refused("User not authorised to access virtual host"));
        };
        if needs
            .iter()
            .all(|(access, name)| permission.may(*access, name))
        {
            Ok(())
        } else {
            Err(Reply::refused("Access refused."))
        }
    }

    /// Hands the command over. Its answer becomes the response, now or later; a success may have a
    /// response of its own.
    #[expect(clippy::unnecessary_wraps, reason = "it ends handlers, which may fail")]
    fn command(&mut self, command: AdminCommand<'_>, success: Option<Reply>) -> Answer {
        Ok(match self.admin.command(self.now, self.id, command) {
            None => Action::Wait(success),
            Some(answer) => Action::Reply(answered(answer, success)),
        })
    }
}

/// The response to an answered command.
pub(super) fn answered(answer: super::AdminAnswer, success: Option<Reply>) -> Reply {
    match (answer, success) {
        (Ok(_), Some(reply)) => reply,
        (answer, _) => Reply::answer(answer),
    }
}

/// A field that is true or false, as such or as a word.
fn flag(body: &Object, name: &str) -> Result<bool, Reply> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(Value::String(text)) if text == "true" => Ok(true),
        Some(Value::String(text)) if text == "false" || text.is_empty() => Ok(false),
        Some(other) => Err(Reply::bad_request(serde_json::json!([
            "not_boolean",
            other
        ]))),
    }
}

/// A field that is a text, or `None` when it is missing.
fn optional_text<'a>(body: &'a Object, name: &str) -> Result<Option<&'a str>, Reply> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Reply::bad_request(format!("'{name}' is not a string"))),
    }
}

/// `tags`: a list, or one text with commas.
fn tags(body: &Object) -> Result<Option<Vec<String>>, Reply> {
    let wrong = || Reply::bad_request("'tags' is neither a list of strings nor a string");
    let list: Vec<String> = match body.get("tags") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) => text.split(',').map(|tag| tag.trim().to_owned()).collect(),
        Some(Value::Array(items)) => {
            let texts = items.iter().map(|item| item.as_str().map(str::to_owned));
            texts.collect::<Option<_>>().ok_or_else(wrong)?
        }
        Some(_) => return Err(wrong()),
    };
    let octets: usize = list.iter().map(String::len).sum();
    if list.len() > 100 || octets > 10_000 {
        return Err(Reply::bad_request("too many tags"));
    }
    Ok(Some(
        list.into_iter().filter(|tag| !tag.is_empty()).collect(),
    ))
}

/// `arguments` as a table that AMQP would take, too.
fn arguments(body: &Object) -> Result<TableBuilder, Reply> {
    let table = match body.get("arguments") {
        None | Some(Value::Null) => return Ok(TableBuilder::new()),
        // An empty list is how PHP writes an empty object.
        Some(Value::Array(items)) if items.is_empty() => return Ok(TableBuilder::new()),
        Some(Value::Object(object)) => to_table(object).map_err(Reply::bad_request)?,
        Some(_) => return Err(Reply::bad_request("'arguments' is not an object")),
    };
    FieldTable::check(table.as_table().as_bytes())
        .map_err(|_| Reply::bad_request("'arguments' is nested too deeply"))?;
    Ok(table)
}

/// A name that AMQP can carry.
fn short(name: &str) -> Result<&[u8], Reply> {
    if name.len() > 255 {
        return Err(Reply::bad_request("a name has at most 255 octets"));
    }
    Ok(name.as_bytes())
}

pub(super) fn declare_queue(call: &mut Call<'_>) -> Answer {
    let [vhost, name] = call.parts();
    let name = short(name)?;
    call.may(vhost, &[(Access::Configure, name)])?;
    let body = call.json()?;
    let arguments = arguments(&body)?;
    let command = AdminCommand::DeclareQueue {
        vhost,
        name,
        durable: flag(&body, "durable")?,
        auto_delete: flag(&body, "auto_delete")?,
        arguments: arguments.as_table(),
    };
    call.command(command, None)
}

pub(super) fn delete_queue(call: &mut Call<'_>) -> Answer {
    let [vhost, name] = call.parts();
    let name = name.as_bytes();
    call.may(vhost, &[(Access::Configure, name)])?;
    let command = AdminCommand::DeleteQueue {
        vhost,
        name,
        if_unused: call.head.has_flag("if-unused"),
        if_empty: call.head.has_flag("if-empty"),
    };
    call.command(command, None)
}

pub(super) fn purge_queue(call: &mut Call<'_>) -> Answer {
    let [vhost, name] = call.parts();
    let name = name.as_bytes();
    call.may(vhost, &[(Access::Read, name)])?;
    call.command(AdminCommand::PurgeQueue { vhost, name }, None)
}

pub(super) fn declare_exchange(call: &mut Call<'_>) -> Answer {
    let [vhost, name] = call.parts();
    let name = short(name)?;
    call.may(vhost, &[(Access::Configure, exchange_resource(name))])?;
    let body = call.json()?;
    let arguments = arguments(&body)?;
    let command = AdminCommand::DeclareExchange {
        vhost,
        name: exchange_name(call.parts::<2>()[1]),
        kind: optional_text(&body, "type")?.unwrap_or("direct"),
        durable: flag(&body, "durable")?,
        auto_delete: flag(&body, "auto_delete")?,
        internal: flag(&body, "internal")?,
        arguments: arguments.as_table(),
    };
    call.command(command, None)
}

/// The name under which permissions know an exchange.
fn exchange_resource(name: &[u8]) -> &[u8] {
    match name {
        b"" => crate::auth::DEFAULT_EXCHANGE_RESOURCE.as_bytes(),
        name => name,
    }
}

pub(super) fn delete_exchange(call: &mut Call<'_>) -> Answer {
    let [vhost, name] = call.parts();
    let name = exchange_name(name);
    call.may(vhost, &[(Access::Configure, exchange_resource(name))])?;
    let if_unused = call.head.has_flag("if-unused");
    call.command(
        AdminCommand::DeleteExchange {
            vhost,
            name,
            if_unused,
        },
        None,
    )
}

pub(super) fn bind_queue(call: &mut Call<'_>) -> Answer {
    bind(call, DestinationKind::Queue)
}

pub(super) fn bind_exchange(call: &mut Call<'_>) -> Answer {
    bind(call, DestinationKind::Exchange)
}

fn bind(call: &mut Call<'_>, destination_kind: DestinationKind) -> Answer {
    let [vhost, source, destination_text] = call.parts();
    let source = exchange_name(source);
    let destination = match destination_kind {
        DestinationKind::Queue => destination_text.as_bytes(),
        DestinationKind::Exchange => exchange_name(destination_text),
    };
    call.may(
        vhost,
        &[
            (Access::Write, destination),
            (Access::Read, exchange_resource(source)),
        ],
    )?;
    let body = call.json()?;
    let arguments = arguments(&body)?;
    let routing_key = short(optional_text(&body, "routing_key")?.unwrap_or_default())?;
    let key = json::properties_key(routing_key, arguments.as_table());
    // The text goes into a header: what is not plain is escaped.
    let location = format!(
        "{}/{key}",
        json::properties_key(destination, FieldTable::EMPTY)
    );
    let binding = Binding {
        vhost,
        source,
        destination,
        destination_kind,
        routing_key,
        arguments: arguments.as_table(),
    };
    call.command(
        AdminCommand::Bind(binding),
        Some(Reply::empty(201).with("location", location)),
    )
}

pub(super) fn unbind_queue(call: &mut Call<'_>) -> Answer {
    unbind(call, DestinationKind::Queue)
}

pub(super) fn unbind_exchange(call: &mut Call<'_>) -> Answer {
    unbind(call, DestinationKind::Exchange)
}

fn unbind(call: &mut Call<'_>, destination_kind: DestinationKind) -> Answer {
    let [vhost, source, destination, properties_key] = call.parts();
    let source = exchange_name(source);
    let destination = match destination_kind {
        DestinationKind::Queue => destination.as_bytes(),
        DestinationKind::Exchange => exchange_name(destination),
    };
    call.may(
        vhost,
        &[
            (Access::Write, destination),
            (Access::Read, exchange_resource(source)),
        ],
    )?;
    call.command(
        AdminCommand::Unbind {
            vhost,
            source,
            destination,
            destination_kind,
            properties_key,
        },
        None,
    )
}

pub(super) fn close_connection(call: &mut Call<'_>) -> Answer {
    let [name] = call.parts();
    let given = call.head.reason.as_deref().or(call.head.query("reason"));
    let reason = given.unwrap_or("Closed via management plugin");
    let own_user = match call.user() {
        Some(user) if !user.has_tag("administrator") => Some(user.name().to_owned()),
        _ => None,
    };
    let command = AdminCommand::CloseConnection {
        name: name.as_bytes(),
        reason,
        only_of: own_user.as_deref(),
    };
    call.command(command, None)
}

pub(super) fn put_vhost(call: &mut Call<'_>) -> Answer {
    let [name] = call.parts();
    if name.is_empty() || name.len() > 255 {
        return Err(Reply::bad_request("a name has 1 to 255 octets"));
    }
    let body = call.json()?;
    let tags = tags(&body)?;
    let user = call.user().map(|user| user.name().to_owned());
    let command = AdminCommand::PutVhost {
        name,
        description: optional_text(&body, "description")?,
        tags: tags.as_deref(),
        default_queue_type: optional_text(&body, "default_queue_type")?
            .filter(|kind| *kind != "undefined"),
        user: user.as_deref(),
    };
    call.command(command, None)
}

pub(super) fn delete_vhost(call: &mut Call<'_>) -> Answer {
    let [name] = call.parts();
    call.command(AdminCommand::DeleteVhost { name }, None)
}

pub(super) fn put_user(call: &mut Call<'_>) -> Answer {
    let [name] = call.parts();
    let body = call.json()?;
    let tags = tags(&body)?.ok_or_else(|| Reply::bad_request("tags_not_present"))?;
    let algorithm = match optional_text(&body, "hashing_algorithm")? {
        None => HashingAlgorithm::Sha256,
        Some(name) => {
            HashingAlgorithm::named(name).map_err(|error| Reply::bad_request(error.to_string()))?
        }
    };
    let password = optional_text(&body, "password")?.filter(|password| !password.is_empty());
    let secret = match (password, optional_text(&body, "password_hash")?) {
        (Some(_), Some(_)) => {
            return Err(Reply::bad_request(
                "both_password_and_password_hash_are_provided",
            ));
        }
        (Some(password), None) => NewSecret::Password(password.as_bytes()),
        (None, Some(text)) => NewSecret::Hash { text, algorithm },
        (None, None) => NewSecret::None,
    };
    let command = UsersCommand::Put {
        name,
        secret,
        tags: Some(&tags),
    };
    call.command(AdminCommand::Users(command), None)
}

pub(super) fn delete_user(call: &mut Call<'_>) -> Answer {
    let [name] = call.parts();
    call.command(AdminCommand::Users(UsersCommand::Delete { name }), None)
}

pub(super) fn set_permission(call: &mut Call<'_>) -> Answer {
    let [vhost, user] = call.parts();
    let body = call.json()?;
    let text = |name: &str| {
        optional_text(&body, name)?
            .ok_or_else(|| Reply::bad_request(format!("[{{key_missing,{name}}}]")))
    };
    let texts = PermissionTexts {
        configure: text("configure")?,
        write: text("write")?,
        read: text("read")?,
    };
    if !call.admin.has_vhost(vhost) || call.admin.users().named(user).is_none() {
        return Err(Reply::bad_request("vhost_or_user_not_found"));
    }
    call.command(
        AdminCommand::Users(UsersCommand::SetPermission { user, vhost, texts }),
        None,
    )
}

pub(super) fn clear_permission(call: &mut Call<'_>) -> Answer {
    let [vhost, user] = call.parts();
    let has_one = call
        .admin
        .users()
        .named(user)
        .and_then(|user| user.permission(vhost));
    if has_one.is_none() {
        return Err(Reply::not_found());
    }
    call.command(
        AdminCommand::Users(UsersCommand::ClearPermission { user, vhost }),
        None,
    )
}

/// Whether a name and a password fit, as a log-in from the asking peer's place would find.
pub(super) fn authenticate(call: &mut Call<'_>) -> Answer {
    let body = call.json()?;
    let name = optional_text(&body, "username")?.unwrap_or_default();
    let password = optional_text(&body, "password")?.unwrap_or_default();
    let from = match call.peer {
        HttpPeer::Local => None,
        HttpPeer::Remote(address) => Some(address),
    };
    match call
        .admin
        .users()
        .authenticate(name.as_bytes(), password.as_bytes(), from)
    {
        Ok(_) => Ok(Reply::empty(204).into()),
        Err(_) => Err(Reply::error(403, "access_refused", "invalid credentials")),
    }
}

pub(super) fn stop(call: &mut Call<'_>) -> Answer {
    call.command(AdminCommand::Stop, None)
}
