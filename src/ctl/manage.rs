//! The commands that change something.

use super::client::Response;
use super::command::{Session, part};
use super::{EXIT_DATA, EXIT_NO_USER, EXIT_SOFTWARE, EXIT_UNAVAILABLE, EXIT_USAGE, Failure};
use crate::auth::PasswordHash;
use serde_json::{Value, json};

type Done = Result<(), Failure>;

/// There is no such user.
pub(super) fn no_user(name: &str) -> Failure {
    Failure::error(EXIT_NO_USER, format!("User \"{name}\" does not exist"))
}

fn no_vhost(name: &str) -> Failure {
    Failure::error(
        EXIT_UNAVAILABLE,
        format!("Virtual host {name} does not exist"),
    )
}

impl Session<'_, '_> {
    /// The word at `place`, or a line of standard input: what others should not see on the command
    /// line.
    fn secret(&mut self, place: usize) -> Result<String, Failure> {
        if let Some(word) = self.options.words.get(place) {
            return Ok(word.clone());
        }
        self.banner("Password: ")?;
        let mut line = String::new();
        let octets = std::io::stdin().read_line(&mut line)?;
        let secret = line.trim_end_matches(['\r', '\n']);
        if octets == 0 || secret.is_empty() {
            let text = "Password is not provided via argument or stdin";
            return Err(Failure::error(EXIT_DATA, text));
        }
        Ok(secret.to_owned())
    }

    fn user(&mut self, name: &str) -> Result<Option<Value>, Failure> {
        self.get(&format!("/api/users/{}", part(name)))
    }

    /// Writes a user with what it has, but for what `change` replaces.
    fn rewrite_user(&mut self, name: &str, change: &Value) -> Done {
        let Some(user) = self.user(name)? else {
            return Err(no_user(name));
        };
        let mut body = json!({
            "tags": user["tags"],
            "password_hash": user["password_hash"],
            "hashing_algorithm": user["hashing_algorithm"],
        });
        if let (Value::Object(body), Value::Object(change)) = (&mut body, change) {
            for (key, value) in change {
                body.insert(key.clone(), value.clone());
            }
            body.retain(|_, value| !value.is_null());
        }
        let path = format!("/api/users/{}", part(name));
        self.change("PUT", &path, &body.to_string())?
            .map_or_else(|| Err(no_user(name)), |_| Ok(()))
    }

    /// A change of which only success counts.
    fn changed(&mut self, method: &str, path: &str, missing: Failure) -> Result<Response, Failure> {
        self.change(method, path, "")?.ok_or(missing)
    }
}

pub(super) fn add_user(session: &mut Session<'_, '_>) -> Done {
    let name = session.options.word(0).to_owned();
    session.banner(&format!("Adding user \"{name}\" ..."))?;
    let password = session.secret(1)?;
    if password.is_empty() {
        return Err(Failure::error(
            EXIT_DATA,
            "user and password cannot be empty",
        ));
    }
    if session.user(&name)?.is_some() {
        let text = format!("User \"{name}\" already exists");
        return Err(Failure::error(EXIT_SOFTWARE, text));
    }
    let body = json!({ "password": password, "tags": [] }).to_string();
    session.change("PUT", &format!("/api/users/{}", part(&name)), &body)?;
    session.banner(
        "Done. Don't forget to grant the user permissions to some virtual hosts! \
         See 'rabbitmqctl help set_permissions' to learn more.",
    )
}

pub(super) fn change_password(session: &mut Session<'_, '_>) -> Done {
    let name = session.options.word(0).to_owned();
    session.banner(&format!("Changing password for user \"{name}\" ..."))?;
    let password = session.secret(1)?;
    if password.is_empty() {
        return Err(Failure::error(EXIT_DATA, "password cannot be empty"));
    }
    let change = json!({ "password": password, "password_hash": null, "hashing_algorithm": null });
    session.rewrite_user(&name, &change)
}

pub(super) fn clear_password(session: &mut Session<'_, '_>) -> Done {
    let name = session.options.word(0).to_owned();
    session.banner(&format!("Clearing password for user \"{name}\" ..."))?;
    session.rewrite_user(&name, &json!({ "password_hash": "" }))
}

pub(super) fn set_user_tags(session: &mut Session<'_, '_>) -> Done {
    let name = session.options.word(0).to_owned();
    let tags = session.options.words[1..].to_vec();
    session.banner(&format!(
        "Setting tags for user \"{name}\" to [{}] ...",
        tags.join(", ")
    ))?;
    session.rewrite_user(&name, &json!({ "tags": tags }))
}

pub(super) fn delete_user(session: &mut Session<'_, '_>) -> Done {
    let name = session.options.word(0).to_owned();
    session.banner(&format!("Deleting user \"{name}\" ..."))?;
    session
        .changed(
            "DELETE",
            &format!("/api/users/{}", part(&name)),
            no_user(&name),
        )
        .map(drop)
}

pub(super) fn authenticate_user(session: &mut Session<'_, '_>) -> Done {
    let name = session.options.word(0).to_owned();
    session.banner(&format!("Authenticating user \"{name}\" ..."))?;
    let password = session.secret(1)?;
    let body = json!({ "username": name, "password": password }).to_string();
    let response = session.ask("POST", "/api/leveret/authenticate", &body)?;
    if response.status == 204 {
        return session.banner("Success");
    }
    let text = format!(
        "Error: failed to authenticate user \"{name}\"\nuser '{name}' - invalid credentials"
    );
    Err(Failure::error(EXIT_DATA, text))
}

pub(super) fn hash_password(session: &mut Session<'_, '_>) -> Done {
    session.banner("Will hash password")?;
    let password = session.secret(0)?;
    let mut salt = [0; crate::auth::SALT_OCTETS];
    let filled = rustix::rand::getrandom(&mut salt, rustix::rand::GetRandomFlags::empty());
    if filled != Ok(salt.len()) {
        return Err(Failure::error(
            EXIT_SOFTWARE,
            "the system has no random numbers to give",
        ));
    }
    let hash = PasswordHash::new(password.as_bytes(), salt)
        .map_err(|error| Failure::error(EXIT_DATA, error))?;
    session.say(&hash.text())
}

pub(super) fn set_permissions(session: &mut Session<'_, '_>) -> Done {
    let (vhost, user) = (
        session.options.vhost.clone(),
        session.options.word(0).to_owned(),
    );
    session.banner(&format!(
        "Setting permissions for user \"{user}\" in vhost \"{vhost}\" ..."
    ))?;
    check_user_and_vhost(session, &user, &vhost)?;
    let options = &session.options;
    let body = json!({
        "configure": options.word(1),
        "write": options.word(2),
        "read": options.word(3),
    });
    let path = format!("/api/permissions/{}/{}", part(&vhost), part(&user));
    session.change("PUT", &path, &body.to_string()).map(drop)
}

pub(super) fn clear_permissions(session: &mut Session<'_, '_>) -> Done {
    let (vhost, user) = (
        session.options.vhost.clone(),
        session.options.word(0).to_owned(),
    );
    session.banner(&format!(
        "Clearing permissions for user \"{user}\" in vhost \"{vhost}\" ..."
    ))?;
    check_user_and_vhost(session, &user, &vhost)?;
    let path = format!("/api/permissions/{}/{}", part(&vhost), part(&user));
    // That there were none is no failure.
    session.change("DELETE", &path, "").map(drop)
}

fn check_user_and_vhost(session: &mut Session<'_, '_>, user: &str, vhost: &str) -> Done {
    if session.user(user)?.is_none() {
        return Err(Failure::error(
            EXIT_NO_USER,
            format!("User {user} does not exist"),
        ));
    }
    match session.get(&format!("/api/vhosts/{}", part(vhost)))? {
        Some(_) => Ok(()),
        None => Err(no_vhost(vhost)),
    }
}

pub(super) fn add_vhost(session: &mut Session<'_, '_>) -> Done {
    let name = session.options.word(0).to_owned();
    session.banner(&format!("Adding vhost \"{name}\" ..."))?;
    session
        .change("PUT", &format!("/api/vhosts/{}", part(&name)), "")
        .map(drop)
}

pub(super) fn delete_vhost(session: &mut Session<'_, '_>) -> Done {
    let name = session.options.word(0).to_owned();
    session.banner(&format!("Deleting vhost \"{name}\" ..."))?;
    let missing = Failure::new(EXIT_DATA, format!("Virtual host '{name}' does not exist"));
    session
        .changed("DELETE", &format!("/api/vhosts/{}", part(&name)), missing)
        .map(drop)
}

pub(super) fn purge_queue(session: &mut Session<'_, '_>) -> Done {
    let (vhost, name) = (
        session.options.vhost.clone(),
        session.options.word(0).to_owned(),
    );
    session.banner(&format!("Purging queue '{name}' in vhost '{vhost}' ..."))?;
    let path = format!("/api/queues/{}/{}/contents", part(&vhost), part(&name));
    let missing = Failure::error(EXIT_UNAVAILABLE, "not_found");
    session.changed("DELETE", &path, missing).map(drop)
}

pub(super) fn delete_queue(session: &mut Session<'_, '_>) -> Done {
    let (vhost, name) = (
        session.options.vhost.clone(),
        session.options.word(0).to_owned(),
    );
    let (if_empty, if_unused) = (session.options.if_empty, session.options.if_unused);
    let condition = match (if_empty, if_unused) {
        (false, false) => "",
        (true, false) => "if queue is empty ",
        (false, true) => "if queue is unused ",
        (true, true) => "if queue is empty and if queue is unused ",
    };
    session.banner(&format!(
        "Deleting queue '{name}' on vhost '{vhost}' {condition}..."
    ))?;
    let path = format!(
        "/api/queues/{}/{}?if-empty={if_empty}&if-unused={if_unused}",
        part(&vhost),
        part(&name)
    );
    let missing = Failure::error(EXIT_USAGE, "Queue not found");
    let response = session.changed("DELETE", &path, missing)?;
    let messages = response.messages.unwrap_or(0);
    session.banner(&format!(
        "Queue was successfully deleted with {messages} ready messages"
    ))
}

pub(super) fn close_connection(session: &mut Session<'_, '_>) -> Done {
    let name = session.options.word(0).to_owned();
    let reason = match session.options.word(1) {
        "" => "CONNECTION_FORCED".to_owned(),
        reason => reason.to_owned(),
    };
    session.banner(&format!("Closing connection {name}, reason: {reason}..."))?;
    let path = format!("/api/connections/{}?reason={}", part(&name), part(&reason));
    let missing = Failure::error(EXIT_UNAVAILABLE, format!("there is no connection {name}"));
    session.changed("DELETE", &path, missing).map(drop)
}
