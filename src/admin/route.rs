//! Which request does what, and who may: the table of routes.

use super::change;
use super::command::HttpId;
use super::health;
use super::listing::Listing;
use super::read;
use super::reply::Reply;
use super::request::{Head, Method};
use super::view::{Admin, HttpPeer};
use crate::auth::{User, UserId};
use crate::clock::Now;

/// What a user needs for a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Nothing: anybody may ask.
    Nothing,
    /// Any of the tags that let into the management API.
    Management,
    /// `monitoring` or `administrator`.
    Monitoring,
    /// `administrator`.
    Administrator,
}

impl Need {
    /// Whether a user with these tags has it; the error is RabbitMQ's reason.
    pub(super) fn is_met_by(self, user: &User) -> Result<(), &'static str> {
        let has_any = |tags: &[&str]| tags.iter().any(|tag| user.has_tag(tag));
        let (met, reason) = match self {
            Need::Nothing => (true, ""),
            Need::Management => (
                has_any(&["management", "policymaker", "monitoring", "administrator"]),
                "Not management user",
            ),
            Need::Monitoring => (
                has_any(&["monitoring", "administrator"]),
                "Not monitor user",
            ),
            Need::Administrator => (has_any(&["administrator"]), "Not administrator user"),
        };
        if met { Ok(()) } else { Err(reason) }
    }
}

/// Who asks, once it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Actor {
    /// Somebody who opened the control socket.
    Local,
    /// A user who logged in.
    User(UserId),
    /// Nobody, on a route that needs nothing.
    Nobody,
}

/// A request whose body is whole, and what it may touch.
pub(super) struct Call<'a> {
    pub(super) now: Now,
    pub(super) id: HttpId,
    pub(super) peer: HttpPeer,
    pub(super) head: &'a Head,
    /// The parts of the path that the route leaves open, in order.
    pub(super) open: Vec<&'a str>,
    pub(super) body: &'a [u8],
    pub(super) actor: Actor,
    pub(super) admin: &'a mut dyn Admin,
}

/// What a route's action leads to; an error is a response, too.
pub(super) enum Action {
    /// This response.
    Reply(Reply),
    /// A listing, rendered in slices.
    List(Box<Listing>),
    /// A command whose answer comes later; its success gives this response unless there is none,
    /// when the outcome tells.
    Wait(Option<Reply>),
}

impl From<Reply> for Action {
    fn from(reply: Reply) -> Self {
        Action::Reply(reply)
    }
}

impl From<Listing> for Action {
    fn from(listing: Listing) -> Self {
        Action::List(Box::new(listing))
    }
}

/// A handler.
pub(super) type Handle = fn(&mut Call<'_>) -> Result<Action, Reply>;

/// One line of the table.
pub(super) struct Route {
    method: Method,
    /// Parts after `/api`; `:` leaves one open.
    path: &'static str,
    /// What a user needs.
    pub(super) need: Need,
    /// What it does.
    pub(super) handle: Handle,
}

const fn get(path: &'static str, need: Need, handle: Handle) -> Route {
    Route {
        method: Method::Get,
        path,
        need,
        handle,
    }
}

const fn put(path: &'static str, need: Need, handle: Handle) -> Route {
    Route {
        method: Method::Put,
        path,
        need,
        handle,
    }
}

const fn post(path: &'static str, need: Need, handle: Handle) -> Route {
    Route {
        method: Method::Post,
        path,
        need,
        handle,
    }
}

const fn delete(path: &'static str, need: Need, handle: Handle) -> Route {
    Route {
        method: Method::Delete,
        path,
        need,
        handle,
    }
}

use Need::{Administrator, Management, Monitoring, Nothing};

/// All routes. A request that fits none is answered 404, one whose path fits and whose method does
/// not 405.
pub(super) const ROUTES: &[Route] = &[
    get("", Management, read::index),
    get("overview", Management, read::overview),
    get("whoami", Management, read::whoami),
    get("cluster-name", Management, read::cluster_name),
    get("extensions", Management, read::extensions),
    get("nodes", Monitoring, read::nodes),
    get("nodes/:", Monitoring, read::node),
    get("queues", Management, read::queues),
    get("queues/:", Management, read::queues),
    get("queues/:/:", Management, read::queue),
    put("queues/:/:", Management, change::declare_queue),
    delete("queues/:/:", Management, change::delete_queue),
    get("queues/:/:/bindings", Management, read::queue_bindings),
    delete("queues/:/:/contents", Management, change::purge_queue),
    get("exchanges", Management, read::exchanges),
    get("exchanges/:", Management, read::exchanges),
    get("exchanges/:/:", Management, read::exchange),
    put("exchanges/:/:", Management, change::declare_exchange),
    delete("exchanges/:/:", Management, change::delete_exchange),
    get(
        "exchanges/:/:/bindings/source",
        Management,
        read::bindings_from,
    ),
    get(
        "exchanges/:/:/bindings/destination",
        Management,
        read::bindings_to,
    ),
    get("bindings", Management, read::bindings),
    get("bindings/:", Management, read::bindings),
    get("bindings/:/e/:/q/:", Management, read::bindings_to_queue),
    post("bindings/:/e/:/q/:", Management, change::bind_queue),
    get("bindings/:/e/:/q/:/:", Management, read::binding_to_queue),
    delete("bindings/:/e/:/q/:/:", Management, change::unbind_queue),
    get("bindings/:/e/:/e/:", Management, read::bindings_to_exchange),
    post("bindings/:/e/:/e/:", Management, change::bind_exchange),
    get(
        "bindings/:/e/:/e/:/:",
        Management,
        read::binding_to_exchange,
    ),
    delete("bindings/:/e/:/e/:/:", Management, change::unbind_exchange),
    get("connections", Management, read::connections),
    get("connections/:", Management, read::connection),
    delete("connections/:", Management, change::close_connection),
    get(
        "connections/:/channels",
        Management,
        read::connection_channels,
    ),
    get("channels", Management, read::channels),
    get("channels/:", Management, read::channel),
    get("consumers", Management, read::consumers),
    get("consumers/:", Management, read::consumers),
    get("users", Administrator, read::users),
    get("users/:", Administrator, read::user),
    put("users/:", Administrator, change::put_user),
    delete("users/:", Administrator, change::delete_user),
    get("users/:/permissions", Administrator, read::user_permissions),
    get("permissions", Administrator, read::permissions),
    get("permissions/:/:", Administrator, read::permission),
    put("permissions/:/:", Administrator, change::set_permission),
    delete("permissions/:/:", Administrator, change::clear_permission),
    get("vhosts", Management, read::vhosts),
    get("vhosts/:", Management, read::vhost),
    put("vhosts/:", Administrator, change::put_vhost),
    delete("vhosts/:", Administrator, change::delete_vhost),
    get(
        "vhosts/:/permissions",
        Administrator,
        read::vhost_permissions,
    ),
    get("vhosts/:/connections", Management, read::vhost_connections),
    get("vhosts/:/channels", Management, read::vhost_channels),
    get(
        "health/checks/ready-to-serve-clients",
        Nothing,
        health::is_serving,
    ),
    get("health/checks/is-in-service", Nothing, health::is_serving),
    get(
        "health/checks/below-node-connection-limit",
        Nothing,
        health::below_connection_limit,
    ),
    get(
        "health/checks/reached-target-cluster-size",
        Nothing,
        health::is_well,
    ),
    get("health/checks/alarms", Management, health::alarms),
    get("health/checks/local-alarms", Management, health::alarms),
    get("health/checks/virtual-hosts", Management, health::is_well),
    get(
        "health/checks/metadata-store/initialized",
        Management,
        health::is_well,
    ),
    get(
        "health/checks/node-is-mirror-sync-critical",
        Management,
        health::single_node,
    ),
    get(
        "health/checks/node-is-quorum-critical",
        Management,
        health::single_node,
    ),
    get(
        "health/checks/port-listener/:",
        Management,
        health::port_listener,
    ),
    get(
        "health/checks/protocol-listener/:",
        Management,
        health::protocol_listener,
    ),
    get("aliveness-test/:", Management, health::aliveness),
    get("healthchecks/node", Management, health::is_well),
    get("healthchecks/node/:", Management, health::is_well),
    post("leveret/authenticate", Administrator, change::authenticate),
    post("leveret/stop", Administrator, change::stop),
];

/// The place in [`ROUTES`] for a request.
///
/// # Errors
/// 404, 405, or the answer to `OPTIONS`.
pub(super) fn find(head: &Head) -> Result<usize, Reply> {
    let parts = match head.path.split_first() {
        Some((api, parts)) if api == "api" => parts,
        _ => return Err(Reply::not_found()),
    };
    let mut allowed = Vec::new();
    for (place, route) in ROUTES.iter().enumerate() {
        if !fits(route.path, parts) {
            continue;
        }
        if route.method == head.method {
            return Ok(place);
        }
        allowed.push(match route.method {
            Method::Get => "HEAD, GET",
            Method::Put => "PUT",
            Method::Post => "POST",
            Method::Delete => "DELETE",
            Method::Options => "",
        });
    }
    if allowed.is_empty() {
        return Err(Reply::not_found());
    }
    allowed.push("OPTIONS");
    let status = if head.method == Method::Options {
        200
    } else {
        405
    };
    Err(Reply::empty(status).with("allow", allowed.join(", ")))
}

fn fits(path: &str, parts: &[String]) -> bool {
    if path.is_empty() {
        return parts.is_empty();
    }
    let mut parts = parts.iter();
    path.split('/').all(|wanted| {
        parts
            .next()
            .is_some_and(|part| wanted == ":" || wanted == part)
    }) && parts.next().is_none()
}

impl Route {
    /// The parts of the path that the route leaves open.
    pub(super) fn open<'a>(&self, head: &'a Head) -> Vec<&'a str> {
        let parts = head.path.iter().skip(1);
        let pairs = self.path.split('/').zip(parts);
        pairs
            .filter(|(wanted, _)| *wanted == ":")
            .map(|(_, part)| part.as_str())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::request::parse_head;
    use super::*;
    use crate::auth::{Secret, Users};

    fn head(text: &str) -> Head {
        parse_head(format!("{text} HTTP/1.1\r\n\r\n").as_bytes(), 0).expect("well formed")
    }

    #[test]
    fn requests_find_their_routes() {
        for (text, expected) in [
            ("GET /api", Ok(("", vec![]))),
            ("GET /api/", Ok(("", vec![]))),
            ("HEAD /api/queues", Ok(("queues", vec![]))),
            ("GET /api/queues/%2F/", Ok(("queues/:", vec!["/"]))),
            (
                "GET /api/queues/v/bindings",
                Ok(("queues/:/:", vec!["v", "bindings"])),
            ),
            (
                "GET /api/bindings/v/e/x/q/y",
                Ok(("bindings/:/e/:/q/:", vec!["v", "x", "y"])),
            ),
            ("GET /api/bindings/v/e/x/z/y", Err(404)),
            ("GET /api/nonsense", Err(404)),
            ("GET /", Err(404)),
            ("GET /apiqueues", Err(404)),
            ("POST /api/queues", Err(405)),
            ("OPTIONS /api/queues", Err(200)),
        ] {
            let head = head(text);
            let got = find(&head)
                .map(|place| (ROUTES[place].path, ROUTES[place].open(&head)))
                .map_err(|reply| reply.status);
            assert_eq!(got, expected, "{text}");
        }
        let refused = find(&head("POST /api/queues/v/q")).expect_err("405");
        assert_eq!(
            refused.headers,
            [("allow", "HEAD, GET, PUT, DELETE, OPTIONS".to_owned())]
        );
    }

    #[test]
    fn no_route_hides_another_one() {
        for (place, route) in ROUTES.iter().enumerate() {
            let path = format!("/api/{}", route.path.replace(':', "x"));
            let method = match route.method {
                Method::Get => "GET",
                Method::Put => "PUT",
                Method::Post => "POST",
                Method::Delete => "DELETE",
                Method::Options => "OPTIONS",
            };
            assert_eq!(
                find(&head(&format!("{method} {path}"))),
                Ok(place),
                "{method} {path}"
            );
        }
    }

    #[test]
    fn every_route_asks_for_its_tag() {
        let mut users = Users::new(vec![], 10);
        for tag in [
            "none",
            "management",
            "policymaker",
            "monitoring",
            "administrator",
        ] {
            let tags = Some(vec![tag.to_owned()]);
            users
                .put(tag, Secret::Unchanged, tags)
                .expect("a valid user");
        }
        let who = |need: Need| {
            let names = [
                "none",
                "management",
                "policymaker",
                "monitoring",
                "administrator",
            ];
            names.map(|name| {
                need.is_met_by(users.named(name).expect("made above"))
                    .is_ok()
            })
        };
        assert_eq!(who(Need::Nothing), [true, true, true, true, true]);
        assert_eq!(who(Need::Management), [false, true, true, true, true]);
        assert_eq!(who(Need::Monitoring), [false, false, false, true, true]);
        assert_eq!(who(Need::Administrator), [false, false, false, false, true]);
        let open: Vec<&str> = ROUTES
            .iter()
            .filter(|route| route.need == Need::Nothing)
            .map(|route| route.path)
            .collect();
        assert!(
            open.iter().all(|path| path.starts_with("health/checks/")),
            "{open:?}"
        );
        for route in ROUTES {
            let is_change = route.method != Method::Get;
            assert!(!is_change || route.need != Need::Nothing, "{}", route.path);
            for family in ["users", "permissions", "leveret"] {
                assert!(!route.path.starts_with(family) || route.need == Need::Administrator);
            }
        }
    }

    #[test]
    fn the_operators_page_tells_every_route() {
        let page = include_str!("../../docs/operations.md");
        for route in ROUTES {
            let slash = if route.path.is_empty() { "" } else { "/" };
            let row = format!("| `/api{slash}{}` |", route.path);
            assert!(page.contains(&row), "docs/operations.md lacks {row}");
        }
    }
}
