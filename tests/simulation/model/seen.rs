//! What the engine was seen to do, held against what it may do.

use std::rc::Rc;

use super::{Channel, ConnectionKey, Expected, Hit, Mode, Model, Outstanding, Place, Unconfirmed};
use crate::topology::Uid;

impl Model {
    /// A call of the engine begins.
    pub(crate) fn begin_call(&mut self) {
        self.call += 1;
    }

    /// A call of the engine has ended and all it wrote was seen: nothing older than what was
    /// delivered may have been passed over.
    pub(crate) fn end_call(&mut self) {
        let call = self.call;
        for uid in std::mem::take(&mut self.in_call) {
            let Some(queue) = self.queues.get_mut(&uid) else {
                continue;
            };
            let Some(last) = queue.delivered_in_call.take() else {
                continue;
            };
            let older: Vec<(u64, bool)> = queue
                .entries
                .range(..last)
                .filter(|(_, it)| it.place == Place::Ready && it.returned_in != call)
                .map(|(&sequence, it)| (sequence, it.maybe))
                .collect();
            for (sequence, maybe) in older {
                let queue = &self.queues[&uid];
                assert!(
                    maybe,
                    "queue '{}': #{} was delivered before #{}, which is older",
                    queue.name,
                    queue.entries.get(&last).map_or(0, |it| it.message),
                    queue.entries[&sequence].message,
                );
                self.resolve(uid, sequence, false);
            }
        }
    }

    /// The engine has ended a turn.
    pub(crate) fn end_turn(&mut self) {
        self.turn += 1;
    }

    /// The engine has chosen a name.
    pub(crate) fn named(&mut self, key: ConnectionKey, number: u16, uid: Uid, name: &str) {
        let queue = self
            .queues
            .get_mut(&uid)
            .expect("a queue that was just declared");
        let before = std::mem::replace(&mut queue.name, name.to_owned());
        if self.topology.queues.contains_key(&before) {
            assert!(name.starts_with("amq.gen-"), "a generated name: {name}");
            assert!(
                !self.topology.queues.contains_key(name),
                "'{name}' was given out twice"
            );
        }
        self.rename(&before, name);
        let channel = self.channel(key, number);
        if channel.last_queue.as_ref() == Some(&before) {
            channel.last_queue = Some(name.to_owned());
        }
    }

    pub(super) fn rename(&mut self, before: &str, name: &str) {
        self.topology.rename_queue(before, name);
        for (_, topology) in &mut self.history {
            if topology.queues.contains_key(before) {
                Rc::make_mut(topology).rename_queue(before, name);
            }
        }
    }

    pub(crate) fn confirmed(&mut self, key: ConnectionKey, number: u16, tag: u64, multiple: bool) {
        let channel = self.channel(key, number);
        let Mode::Confirm { confirmed, waiting } = &mut channel.mode else {
            panic!("a confirm on a channel that did not ask for it");
        };
        assert!(tag > *confirmed, "publish {tag} was confirmed before");
        assert!(
            multiple || tag == *confirmed + 1,
            "confirm of {tag} leaves some out"
        );
        let count = (tag - *confirmed) as usize;
        assert!(
            count <= waiting.len(),
            "confirm of {tag}, which was not published"
        );
        *confirmed = tag;
        let released: Vec<Unconfirmed> = waiting.drain(..count).collect();
        assert!(
            released.iter().filter(|it| it.is_returned).count() == 0
                || channel.returns.is_empty()
                || waiting_returns(channel) >= channel.returns.len(),
            "a confirm came before its return"
        );
        for unconfirmed in released {
            self.counts.add("confirmed");
            let is_stored = |&(uid, sequence): &(Uid, u64)| {
                self.queues
                    .get(&uid)
                    .and_then(|queue| queue.entries.get(&sequence))
                    .is_some_and(|it| it.logged)
            };
            if unconfirmed.is_logged || unconfirmed.targets.iter().any(is_stored) {
                self.promised(unconfirmed.turn);
            }
        }
    }

    pub(crate) fn returned(&mut self, key: ConnectionKey, number: u16, id: u64) {
        let channel = self.channel(key, number);
        let wanted = channel.returns.pop_front().map(|it| it.id);
        assert_eq!(wanted, Some(id), "the message that comes back");
    }

    /// A message came to a consumer; says whether it needs no acknowledgement.
    pub(crate) fn delivered(
        &mut self,
        key: ConnectionKey,
        number: u16,
        tag: &str,
        delivery_tag: u64,
        redelivered: bool,
        id: u64,
    ) -> bool {
        let channel = self.channel(key, number);
        let Some(consumer) = channel.consumers.get(tag) else {
            panic!("#{id} was delivered to consumer '{tag}', which does not exist");
        };
        assert!(
            consumer.is_announced,
            "#{id} was delivered before consume-ok of '{tag}'"
        );
        let (uid, no_ack, last) = (consumer.queue, consumer.no_ack, consumer.last_sequence);
        self.counts.add("deliveries");
        let sequence = self.take(key, number, uid, delivery_tag, redelivered, id);
        let entry = &self.queues[&uid].entries[&sequence];
        assert!(
            last.is_none_or(|last| last < sequence) || entry.returned,
            "#{id} was delivered to '{tag}' after a younger one"
        );
        let channel = self.channel(key, number);
        let global = channel.global;
        let consumer = channel.consumers.get_mut(tag).expect("found above");
        consumer.last_sequence = Some(sequence);
        if no_ack {
            self.settle(uid, sequence);
        } else {
            consumer.unacked += 1;
            assert!(
                consumer.prefetch == 0 || consumer.unacked <= u32::from(consumer.prefetch),
                "consumer '{tag}' has {} unacknowledged, its prefetch is {}",
                consumer.unacked,
                consumer.prefetch
            );
            channel.consumer_unacked += 1;
            assert!(
                global == 0 || channel.consumer_unacked <= u32::from(global),
                "channel {number} has {} unacknowledged, its prefetch is {global}",
                channel.consumer_unacked
            );
            let consumer = Some(tag.to_owned());
            let outstanding = Outstanding {
                queue: uid,
                sequence,
                consumer,
                counts: true,
            };
            channel.outstanding.insert(delivery_tag, outstanding);
        }
        no_ack
    }

    /// A message came by basic.get; says whether it needs no acknowledgement.
    pub(crate) fn got(
        &mut self,
        key: ConnectionKey,
        number: u16,
        (delivery_tag, redelivered, left): (u64, bool, u64),
        id: u64,
    ) -> bool {
        let expected = self.channel(key, number).expected.pop_front();
        let Some(Expected::Got {
            queue: uid,
            sequences,
            no_ack,
            ready,
            ..
        }) = expected
        else {
            panic!("#{id} by get-ok, where {expected:?} must come");
        };
        assert!(
            ready.0.saturating_sub(1) <= left && left < ready.1,
            "get-ok says {left} are left of {}..={}",
            ready.0,
            ready.1
        );
        self.counts.add("gets");
        let sequence = self.take(key, number, uid, delivery_tag, redelivered, id);
        assert!(
            sequences.contains(&sequence),
            "get brought #{id}, which is not the oldest"
        );
        for older in sequences.into_iter().filter(|&older| older < sequence) {
            self.resolve(uid, older, false);
        }
        if no_ack {
            self.settle(uid, sequence);
        } else {
            let outstanding = Outstanding {
                queue: uid,
                sequence,
                consumer: None,
                counts: false,
            };
            self.channel(key, number)
                .outstanding
                .insert(delivery_tag, outstanding);
        }
        no_ack
    }

    /// Books that a message went out; checks that it may, and its flags.
    pub(super) fn take(
        &mut self,
        key: ConnectionKey,
        number: u16,
        uid: Uid,
        delivery_tag: u64,
        redelivered: bool,
        id: u64,
    ) -> u64 {
        let channel = self.channel(key, number);
        assert!(
            !channel.is_closing,
            "#{id} was delivered on a closed channel"
        );
        assert_eq!(delivery_tag, channel.next_tag, "delivery tag of #{id}");
        channel.next_tag += 1;
        let queue = self.queues.get_mut(&uid).expect("the queue of a consumer");
        let Some(&sequence) = queue.by_message.get(&id) else {
            let name = &queue.name;
            assert!(
                !queue.gone.contains_key(&id),
                "#{id} came back in queue '{name}': it was settled, and that was on the disk"
            );
            assert!(
                queue.ghosts.values().all(|it| it.entry.message != id),
                "#{id} came back in queue '{name}': it was settled"
            );
            panic!("#{id} does not belong into queue '{}'", queue.name);
        };
        let entry = queue.entries.get_mut(&sequence).expect("indexed");
        assert_eq!(
            entry.place,
            Place::Ready,
            "#{id} was delivered twice in queue '{}'",
            queue.name
        );
        assert!(
            entry.hit != Some(Hit::Record),
            "#{id} came although its record is damaged"
        );
        let must = entry.returned || (entry.is_old && entry.seen);
        let must_not = !must && (!entry.is_old || entry.was_hidden);
        assert!(
            redelivered || !must || entry.is_flag_lost,
            "#{id} in queue '{}' was delivered before and is not marked redelivered",
            queue.name
        );
        assert!(
            !redelivered || !must_not,
            "#{id} in queue '{}' is marked redelivered, but nobody has seen it",
            queue.name
        );
        let flag = if redelivered {
            "redelivered"
        } else {
            "first deliveries"
        };
        entry.place = Place::Unacked(key, number, delivery_tag);
        entry.seen = true;
        entry.is_flag_lost = false;
        let last = queue.delivered_in_call.unwrap_or(sequence);
        queue.delivered_in_call = Some(last.max(sequence));
        // Nobody knows of a damaged body before it is read.
        let is_maybe = entry.maybe && entry.hit.is_none();
        if entry.is_old
            && entry.hit.is_none()
            && self.publications[&id].body_octets as u64 >= self.large_octets_min
        {
            self.counts.add("large bodies back after a restart");
        }
        self.counts.add(flag);
        self.in_call.insert(uid);
        if is_maybe {
            self.resolve(uid, sequence, true);
        }
        sequence
    }
}

fn waiting_returns(channel: &Channel) -> usize {
    match &channel.mode {
        Mode::Confirm { waiting, .. } => waiting.iter().filter(|it| it.is_returned).count(),
        _ => 0,
    }
}
