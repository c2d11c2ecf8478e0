//! One HTTP connection as a state machine.

use super::change::answered;
use super::command::{AdminAnswer, HttpId};
use super::listing::{Listing, Step};
use super::reply::{self, Manner, Reply};
use super::request::{BodyReader, Head, head_end, parse_head};
use super::route::{self, Action, Actor, Call, Need, ROUTES};
use super::view::{Admin, HttpPeer};
use crate::auth::RefusedReason;
use crate::clock::{Deadline, Now};
use crate::config::Limits;
use log::warn;

/// Octets of a rendered listing up to which the response has a length instead of chunks.
const UNCHUNKED_OCTETS_MAX: usize = 65_536;
/// Requests answered in one go, so that one peer's pipeline does not hold the loop.
const REQUESTS_PER_TURN: usize = 16;

/// What the owner of an [`HttpConnection`] does next. In every case what was appended to `out` is
/// written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Read the socket, and call [`HttpConnection::receive`] with what came.
    Read,
    /// Call [`HttpConnection::resume`] in the next turn, once `out` has room again.
    Resume,
    /// Nothing but wait: for the answer to a command, or for the deadline.
    Wait,
    /// Close the socket when everything is written.
    Close,
}

/// One HTTP connection: request octets in, response octets out.
///
/// How to drive it:
///
/// 1. Make it with [`HttpConnection::new`] when a peer was accepted.
/// 2. Call [`HttpConnection::receive`] with what the socket gave, as long as
///    [`HttpConnection::wants_input`]; otherwise leave the octets in the socket.
/// 3. After every call do what [`Progress`] says. `out` is the peer's outbox; when it holds more
///    than the configured octets, nothing is appended until it was drained.
/// 4. When the engine hands out an answer for the [`HttpId`], call [`HttpConnection::answered`].
/// 5. Ask [`HttpConnection::deadline`] after each call; when it is due, call
///    [`HttpConnection::expired`].
///
/// Requests on one connection are answered one after another, in order. No call takes longer than
/// a slice of a listing.
pub struct HttpConnection {
    id: HttpId,
    peer: HttpPeer,
    limits: HttpLimits,
    /// Octets received and not yet taken.
    inbox: Vec<u8>,
    /// Octets of the inbox that hold no end of a head.
    searched: usize,
    phase: Phase,
    deadline: Option<Deadline>,
}

/// The bounds of one connection; see [`Limits`] for what they mean.
#[derive(Clone, Copy, Debug)]
struct HttpLimits {
    head_octets_max: usize,
    body_octets_max: usize,
    timeout_ms: u64,
    outbox_octets_max: usize,
    login_refusal_delay_ms: u64,
}

enum Phase {
    /// A head is on its way, or nothing is.
    Head,
    /// The body is on its way; its sender may do what it asks for.
    Body {
        head: Box<Head>,
        route: usize,
        actor: Actor,
        body: Vec<u8>,
    },
    /// A command's answer is on its way.
    Command {
        manner: Manner,
        success: Option<Reply>,
    },
    /// A listing is on its way to the peer.
    Listing(Box<ListingResponse>),
    /// A log-in was refused, and the peer is kept waiting for that.
    Refusal { reply: Reply, manner: Manner },
    /// The last response was given.
    Closed,
}

struct ListingResponse {
    listing: Listing,
    manner: Manner,
    node: String,
    /// Rendered and not yet framed.
    body: Vec<u8>,
    is_chunked: bool,
}

impl HttpConnection {
    /// A connection that was just accepted.
    ///
    /// * `id`: how the engine names it in late answers.
    pub fn new(now: Now, id: HttpId, peer: HttpPeer, limits: &Limits) -> Self {
        HttpConnection {
            id,
            peer,
            limits: HttpLimits {
                head_octets_max: limits.http_head_octets_max,
                body_octets_max: limits.http_body_octets_max,
                timeout_ms: limits.http_timeout_ms,
                outbox_octets_max: limits.http_outbox_octets_max,
                login_refusal_delay_ms: limits.login_refusal_delay_ms,
            },
            inbox: Vec::new(),
            searched: 0,
            phase: Phase::Head,
            deadline: Some(now.after_ms(limits.http_timeout_ms)),
        }
    }

    /// How the engine names it.
    pub fn id(&self) -> HttpId {
        self.id
    }

    /// Whether there is room for input. It is `false` only while a response is under way and the
    /// next requests wait behind it.
    pub fn wants_input(&self) -> bool {
        match self.phase {
            Phase::Closed => false,
            Phase::Body { .. } => true,
            _ => self.inbox.len() <= self.limits.head_octets_max,
        }
    }

    /// When [`HttpConnection::expired`] is to be called: the end of the time that a request, or
    /// the reading of a response, may take.
    pub fn deadline(&self) -> Option<Deadline> {
        self.deadline
    }

    /// Takes octets from the peer, all of them, and goes on.
    pub fn receive(
        &mut self,
        now: Now,
        octets: &[u8],
        admin: &mut dyn Admin,
        out: &mut Vec<u8>,
    ) -> Progress {
        self.inbox.extend_from_slice(octets);
        self.advance(now, admin, out)
    }

    /// Goes on with a response, or with requests that wait.
    pub fn resume(&mut self, now: Now, admin: &mut dyn Admin, out: &mut Vec<u8>) -> Progress {
        self.advance(now, admin, out)
    }

    /// Takes the answer to the outstanding command.
    pub fn answered(
        &mut self,
        now: Now,
        answer: AdminAnswer,
        admin: &mut dyn Admin,
        out: &mut Vec<u8>,
    ) -> Progress {
        if let Phase::Command { manner, success } = &mut self.phase {
            let (manner, reply) = (*manner, answered(answer, success.take()));
            self.respond(now, &reply, manner, out);
        }
        self.advance(now, admin, out)
    }

    /// Does what the deadline is for: gives the refusal that was held back, or gives the peer up.
    pub fn expired(&mut self, now: Now, admin: &mut dyn Admin, out: &mut Vec<u8>) -> Progress {
        if self.deadline.is_none_or(|deadline| !deadline.is_due(now)) {
            return self.advance(now, admin, out);
        }
        match &self.phase {
            Phase::Refusal { reply, manner } => {
                let (reply, manner) = (
                    reply.clone(),
                    Manner {
                        keep_alive: false,
                        ..*manner
                    },
                );
                self.respond(now, &reply, manner, out);
            }
            // Nothing was asked: a kept connection ends without a word.
            Phase::Head if self.inbox.is_empty() => self.close(),
            Phase::Head | Phase::Body { .. } => {
                let reply = Reply::error(408, "request_timeout", "the request took too long");
                self.refuse(now, &reply, out);
            }
            Phase::Command { .. } | Phase::Listing(_) | Phase::Closed => self.close(),
        }
        self.advance(now, admin, out)
    }

    fn advance(&mut self, now: Now, admin: &mut dyn Admin, out: &mut Vec<u8>) -> Progress {
        for _ in 0..REQUESTS_PER_TURN {
            let has_room = out.len() < self.limits.outbox_octets_max;
            let progress = match &mut self.phase {
                Phase::Closed => Some(Progress::Close),
                Phase::Command { .. } | Phase::Refusal { .. } => Some(Progress::Wait),
                _ if !has_room => Some(Progress::Resume),
                Phase::Head => self.take_head(now, admin, out),
                Phase::Body { .. } => self.take_body(now, admin, out),
                Phase::Listing(_) => self.list(now, admin, out),
            };
            if let Some(progress) = progress {
                return progress;
            }
        }
        Progress::Resume
    }

    /// Looks for a head. `None` when the phase changed.
    fn take_head(
        &mut self,
        now: Now,
        admin: &mut dyn Admin,
        out: &mut Vec<u8>,
    ) -> Option<Progress> {
        // An empty line before a request is what some clients leave after a body.
        let blank = self
            .inbox
            .iter()
            .take_while(|octet| b"\r\n".contains(octet))
            .count();
        if blank > 0 && self.searched == 0 {
            self.inbox.drain(..blank);
        }
        let Some(end) = head_end(&self.inbox, self.searched) else {
            if self.inbox.len() > self.limits.head_octets_max {
                let reply = Reply::error(431, "bad_request", "the head of the request is too long");
                self.refuse(now, &reply, out);
                return None;
            }
            self.searched = self.inbox.len();
            return Some(Progress::Read);
        };
        self.searched = 0;
        let parsed = if end > self.limits.head_octets_max {
            Err(Reply::error(
                431,
                "bad_request",
                "the head of the request is too long",
            ))
        } else {
            parse_head(&self.inbox[..end], self.limits.body_octets_max)
        };
        self.inbox.drain(..end);
        let head = match parsed {
            Ok(head) => head,
            Err(reply) => {
                self.refuse(now, &reply, out);
                return None;
            }
        };
        match self.admit(&head, admin) {
            Ok((route, actor)) => {
                if head.expects_continue && head.body != BodyReader::Length(0) {
                    out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
                }
                let body = Vec::new();
                self.deadline = Some(now.after_ms(self.limits.timeout_ms));
                self.phase = Phase::Body {
                    head: Box::new(head),
                    route,
                    actor,
                    body,
                };
            }
            Err(Verdict::Answer(reply)) => {
                // The body of a refused request is not read, so nothing after it can be found.
                let has_body = head.body != BodyReader::Length(0);
                let keep_alive = head.manner.keep_alive && !has_body;
                self.respond(
                    now,
                    &reply,
                    Manner {
                        keep_alive,
                        ..head.manner
                    },
                    out,
                );
            }
            Err(Verdict::Delay(reply)) => {
                self.deadline = Some(now.after_ms(self.limits.login_refusal_delay_ms));
                self.phase = Phase::Refusal {
                    reply,
                    manner: head.manner,
                };
            }
        }
        None
    }

    /// Finds the route and who asks, and whether they may.
    fn admit(&self, head: &Head, admin: &dyn Admin) -> Result<(usize, Actor), Verdict> {
        let place = route::find(head).map_err(Verdict::Answer)?;
        let need = ROUTES[place].need;
        let address = match self.peer {
            _ if need == Need::Nothing => return Ok((place, Actor::Nobody)),
            HttpPeer::Local => return Ok((place, Actor::Local)),
            HttpPeer::Remote(address) => address,
        };
        let Some((name, password)) = &head.credentials else {
            return Err(Verdict::Answer(Reply::challenge()));
        };
        let users = admin.users();
        let id = users
            .authenticate(name, password, Some(address))
            .map_err(|refused| {
                warn!("HTTP access denied: {refused} (from {address})");
                Verdict::Delay(match refused.reason {
                    RefusedReason::InvalidCredentials => Reply::login_failed("Login failed"),
                    RefusedReason::NotLoopback => {
                        Reply::login_failed("User can only log in via localhost")
                    }
                })
            })?;
        let met = users
            .get(id)
            .map_or(Err("Login failed"), |user| need.is_met_by(user));
        met.map_err(|reason| Verdict::Answer(Reply::refused(reason)))?;
        Ok((place, Actor::User(id)))
    }

    /// Reads the body and calls the handler when it is whole. `None` when the phase changed.
    fn take_body(
        &mut self,
        now: Now,
        admin: &mut dyn Admin,
        out: &mut Vec<u8>,
    ) -> Option<Progress> {
        let Phase::Body { head, body, .. } = &mut self.phase else {
            return None;
        };
        let read = head
            .body
            .read(&self.inbox, body, self.limits.body_octets_max);
        match read {
            Ok(taken) => self.inbox.drain(..taken),
            Err(reply) => {
                self.refuse(now, &reply, out);
                return None;
            }
        };
        if head.body != BodyReader::Done {
            return Some(Progress::Read);
        }
        let Phase::Body {
            head,
            route,
            actor,
            body,
        } = std::mem::replace(&mut self.phase, Phase::Head)
        else {
            return None;
        };
        let manner = head.manner;
        // While a body was on its way its sender may have been deleted.
        if let Actor::User(id) = actor
            && admin.users().get(id).is_none()
        {
            self.respond(now, &Reply::login_failed("Login failed"), manner, out);
            return None;
        }
        let route = &ROUTES[route];
        let mut call = Call {
            now,
            id: self.id,
            peer: self.peer,
            head: &head,
            open: route.open(&head),
            body: &body,
            actor,
            admin: &mut *admin,
        };
        match (route.handle)(&mut call) {
            Ok(Action::Reply(reply)) | Err(reply) => self.respond(now, &reply, manner, out),
            Ok(Action::Wait(success)) => {
                self.deadline = None;
                self.phase = Phase::Command { manner, success };
            }
            Ok(Action::List(listing)) => {
                let node = admin.overview(now).node.to_owned();
                let (body, is_chunked) = (Vec::new(), false);
                let response = ListingResponse {
                    listing: *listing,
                    manner,
                    node,
                    body,
                    is_chunked,
                };
                self.phase = Phase::Listing(Box::new(response));
            }
        }
        None
    }

    /// One slice of a listing. `None` when it is done.
    fn list(&mut self, now: Now, admin: &mut dyn Admin, out: &mut Vec<u8>) -> Option<Progress> {
        // Each slice shows that the peer reads; one that does not is given up after this time.
        self.deadline = Some(now.after_ms(self.limits.timeout_ms));
        let Phase::Listing(response) = &mut self.phase else {
            return None;
        };
        let ListingResponse {
            listing,
            manner,
            node,
            body,
            is_chunked,
        } = &mut **response;
        let manner = *manner;
        if manner.head_only {
            reply::write_chunked_head(out, manner);
            self.finish(now, manner);
            return None;
        }
        match listing.step(&*admin, node, body) {
            Step::Instead(reply) => {
                self.respond(now, &reply, manner, out);
                return None;
            }
            Step::Done if !*is_chunked => {
                reply::write_rendered(out, body, manner);
                self.finish(now, manner);
                return None;
            }
            Step::Done => {
                reply::write_chunk(out, body, manner);
                reply::write_last_chunk(out, manner);
                self.finish(now, manner);
                return None;
            }
            Step::More => {}
        }
        if *is_chunked || body.len() > UNCHUNKED_OCTETS_MAX {
            if !*is_chunked {
                // Without chunks only the end of the connection can mark the end of the body.
                response.manner.keep_alive &= manner.is_1_1;
                reply::write_chunked_head(out, response.manner);
                response.is_chunked = true;
            }
            reply::write_chunk(out, &response.body, response.manner);
            response.body.clear();
        }
        Some(Progress::Resume)
    }

    /// Gives a whole response and goes on to the next request, or to the end.
    fn respond(&mut self, now: Now, reply: &Reply, manner: Manner, out: &mut Vec<u8>) {
        reply::write(out, reply, manner);
        self.finish(now, manner);
    }

    /// Gives a response to what is no request, after which nothing can be made out.
    fn refuse(&mut self, now: Now, reply: &Reply, out: &mut Vec<u8>) {
        let manner = Manner {
            is_1_1: true,
            keep_alive: false,
            head_only: false,
        };
        self.respond(now, reply, manner, out);
    }

    fn finish(&mut self, now: Now, manner: Manner) {
        if manner.keep_alive {
            self.phase = Phase::Head;
            self.deadline = Some(now.after_ms(self.limits.timeout_ms));
        } else {
            self.close();
        }
    }

    fn close(&mut self) {
        self.phase = Phase::Closed;
        self.deadline = None;
        self.inbox = Vec::new();
    }
}

/// Why a request is not admitted.
enum Verdict {
    /// This response.
    Answer(Reply),
    /// This response, after a while.
    Delay(Reply),
}
