//! Which rows a listing is made of, and which of them are wanted.

use super::json::{self, QueueFields, Writer};
use super::view::{Admin, Cursor, DestinationKind, Row, Scope, Table};
use crate::auth::{Permission, User, UserId, Users};

/// What is listed: a table of the broker, or the users that are at hand here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A table of [`Admin::rows`].
    Table(Table),
    /// Users.
    Users,
    /// Permissions of users in virtual hosts.
    Permissions,
}

/// One row of a [`Source`].
#[derive(Clone, Copy)]
pub(super) enum Item<'a> {
    Row(&'a Row<'a>),
    User(&'a User),
    /// What a user may do in a virtual host.
    Permission(&'a User, &'a str, &'a Permission),
}

impl Source {
    /// Visits items from `from` on; see [`Admin::rows`].
    pub(super) fn walk(
        self,
        admin: &dyn Admin,
        scope: Scope<'_>,
        from: Cursor,
        rows_max: usize,
        visit: &mut dyn FnMut(Cursor, Item<'_>),
    ) -> Option<Cursor> {
        match self {
            Source::Table(table) => admin.rows(table, scope, from, rows_max, &mut |at, row| {
                visit(at, Item::Row(&row));
            }),
            Source::Users => {
                let mut users = admin.users().iter_from(user_at(from));
                for user in users.by_ref().take(rows_max) {
                    visit(cursor(user, 0), Item::User(user));
                }
                users.next().map(|user| cursor(user, 0))
            }
            Source::Permissions => walk_permissions(admin.users(), from, rows_max, visit),
        }
    }
}

fn user_at(cursor: Cursor) -> UserId {
    UserId(u32::try_from(cursor.major).unwrap_or(u32::MAX))
}

fn cursor(user: &User, minor: u64) -> Cursor {
    Cursor {
        major: u64::from(user.id().0),
        minor,
    }
}

fn walk_permissions(
    users: &Users,
    from: Cursor,
    rows_max: usize,
    visit: &mut dyn FnMut(Cursor, Item<'_>),
) -> Option<Cursor> {
    let mut left = rows_max;
    for user in users.iter_from(user_at(from)) {
        let is_first = u64::from(user.id().0) == from.major;
        let skip = if is_first { from.minor } else { 0 };
        for (place, (vhost, permission)) in (0..).zip(user.permissions()) {
            if place < skip {
                continue;
            }
            if left == 0 {
                return Some(cursor(user, place));
            }
            left -= 1;
            visit(
                cursor(user, place),
                Item::Permission(user, vhost, permission),
            );
        }
        // A user without permissions costs a look, too.
        left = left.saturating_sub(1);
        if left == 0 {
            return Some(Cursor {
                major: u64::from(user.id().0) + 1,
                minor: 0,
            });
        }
    }
    None
}

impl<'a> Item<'a> {
    /// Writes the item as RabbitMQ's JSON.
    pub(super) fn write(&self, to: &mut Writer<'_>, node: &str, fields: QueueFields) {
        match self {
            Item::Row(row) => json::row(to, row, node, fields),
            Item::User(user) => json::user(to, user),
            Item::Permission(user, vhost, permission) => {
                json::permission(to, user, vhost, permission);
            }
        }
    }

    /// The name that `name=` looks at.
    pub(super) fn name(&self) -> Option<&'a [u8]> {
        let row = match self {
            Item::Row(row) => row,
            Item::User(user) => return Some(user.name().as_bytes()),
            Item::Permission(..) => return None,
        };
        match row {
            Row::Vhost(row) => Some(row.name.as_bytes()),
            Row::Queue(row) => Some(row.name),
            Row::Exchange(row) => Some(row.name),
            Row::Connection(row) => Some(row.name.name),
            Row::Channel(row) => Some(row.connection.name),
            Row::Binding(_) | Row::Consumer(_) => None,
        }
    }
}

/// Which rows are wanted. Everything `None` is all that the viewer may see.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    /// Only virtual hosts that this user may open; `None` sees all.
    pub(super) viewer: Option<UserId>,
    /// Only this user's connections, channels and permissions.
    pub(super) user: Option<String>,
    /// Of this virtual host.
    pub(super) vhost: Option<String>,
    /// Consumers of this queue; bindings to it.
    pub(super) queue: Option<Vec<u8>>,
    /// Bindings from this exchange.
    pub(super) source: Option<Vec<u8>>,
    /// Bindings to this exchange.
    pub(super) destination: Option<Vec<u8>>,
    /// The binding with this key, see [`json::properties_key`].
    pub(super) properties_key: Option<String>,
    /// This connection, or its channels.
    pub(super) connection: Option<String>,
    /// The channel of this name.
    pub(super) channel: Option<String>,
}

impl Filter {
    /// What the broker may leave out.
    pub(super) fn scope(&self) -> Scope<'_> {
        let exchange = self.source.as_ref().or(self.destination.as_ref());
        Scope {
            vhost: self.vhost.as_deref(),
            queue: self.queue.as_deref(),
            exchange: exchange.map(Vec::as_slice),
            connection: self.connection.as_deref().map(str::as_bytes),
        }
    }

    /// Whether the item is wanted, and the viewer may see it.
    pub(super) fn admits(&self, item: &Item<'_>, users: &Users) -> bool {
        let same = |wanted: &Option<Vec<u8>>, name: &[u8]| {
            wanted.as_deref().is_none_or(|wanted| wanted == name)
        };
        let same_text = |wanted: &Option<String>, text: &[u8]| {
            wanted
                .as_deref()
                .is_none_or(|wanted| wanted.as_bytes() == text)
        };
        let in_vhost = |vhost: &str| {
            same_text(&self.vhost, vhost.as_bytes())
                && self
                    .viewer
                    .is_none_or(|user| users.access(user, vhost).is_some())
        };
        let row = match item {
            Item::Row(row) => row,
            Item::User(_) => return true,
            Item::Permission(user, vhost, _) => {
                return in_vhost(vhost) && same_text(&self.user, user.name().as_bytes());
            }
        };
        match row {
            Row::Vhost(row) => in_vhost(row.name),
            Row::Queue(row) => in_vhost(row.vhost),
            Row::Exchange(row) => in_vhost(row.vhost),
            Row::Binding(row) => {
                let is_queue = row.destination_kind == DestinationKind::Queue;
                in_vhost(row.vhost)
                    && same(&self.source, row.source)
                    && (self.queue.is_none() || is_queue && same(&self.queue, row.destination))
                    && (self.destination.is_none()
                        || !is_queue && same(&self.destination, row.destination))
                    && self.properties_key.as_deref().is_none_or(|wanted| {
                        json::is_properties_key(wanted, row.routing_key, row.arguments)
                    })
            }
            // Before a connection opened a virtual host, only its own user and monitors see it.
            Row::Connection(row) => {
                (row.vhost.is_empty() && self.vhost.is_none() || in_vhost(row.vhost))
                    && same_text(&self.user, row.user.as_bytes())
                    && same_text(&self.connection, row.name.name)
            }
            Row::Channel(row) => {
                in_vhost(row.vhost)
                    && same_text(&self.user, row.user.as_bytes())
                    && same_text(&self.connection, row.connection.name)
                    && self.channel.as_deref().is_none_or(|channel| {
                        channel == json::channel_name(row.connection, row.number)
                    })
            }
            Row::Consumer(row) => in_vhost(row.vhost) && same(&self.queue, row.queue),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Fake;
    use super::*;
    use crate::auth::{PermissionTexts, Secret};

    fn shown(item: &Item<'_>) -> String {
        let fields = QueueFields::default();
        format!("{:?}", json::object(&[], |to| item.write(to, "n", fields)))
    }

    #[test]
    fn walks_over_users_and_permissions_visit_everything_once() {
        let mut fake = Fake::new();
        let texts = PermissionTexts {
            configure: "",
            write: "",
            read: "",
        };
        for number in 0..20 {
            let name = format!("u{number}");
            let users = fake.users_mut();
            users.put(&name, Secret::Unchanged, None).expect("valid");
            for vhost in 0..number % 5 {
                let vhost = format!("v{vhost}");
                users.set_permission(&name, &vhost, texts).expect("valid");
            }
        }
        fake.users_mut().delete("u7").expect("there");
        for (source, count) in [(Source::Users, 4 + 19), (Source::Permissions, 2 + 40 - 2)] {
            for rows_max in [1, 2, 3, 7, 100] {
                let (mut seen, mut from) = (Vec::new(), Some(Cursor::START));
                while let Some(start) = from {
                    let mut visited = 0;
                    let scope = Scope::default();
                    from = source.walk(&fake, scope, start, rows_max, &mut |at, item| {
                        visited += 1;
                        seen.push((at, shown(&item)));
                    });
                    assert!(visited <= rows_max);
                }
                assert_eq!(seen.len(), count, "{source:?} in slices of {rows_max}");
                assert!(seen.is_sorted_by(|left, right| left.0 < right.0));
                for (at, text) in seen {
                    let scope = Scope::default();
                    source.walk(&fake, scope, at, 1, &mut |again, item| {
                        assert_eq!(again, at);
                        assert_eq!(shown(&item), text);
                    });
                }
            }
        }
    }
}
