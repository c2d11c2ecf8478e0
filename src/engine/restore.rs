//! Builds the server up from what its storage remembers. An empty one gets the first user and virtual
//! host that the configuration names.

use std::collections::{BTreeMap, BTreeSet};

use super::{Engine, manage};
use crate::auth::{self, PermissionTexts, Secret};
use crate::broker::Sink as _;
use crate::broker::queue::QueueProperties;
use crate::broker::record::Definition;
use crate::broker::restore::RestoredQueue;
use crate::broker::vhost::About;
use crate::config::Config;
use crate::storage::{Recovery, Storage};

impl<S: Storage> Engine<S> {
    /// Takes over what the storage has read. `seed`: for the salt of the first password.
    pub(super) fn restore(&mut self, recovery: Recovery, config: &Config, seed: u64) {
        let (mut own, mut definitions) = (Vec::new(), Vec::new());
        for (key, value) in &recovery.definitions {
            match auth::record::Definition::decode(key, value) {
                Some(Ok(definition)) => own.push(definition),
                Some(Err(why)) => log::error!("a definition cannot be read: {why}"),
                None => match Definition::decode(key, value) {
                    Some(definition) => definitions.push(definition),
                    None => log::error!("a definition of an unknown kind is kept aside"),
                },
            }
        }
        let mut has_vhost = false;
        for definition in own {
            if let auth::record::Definition::Vhost(vhost) = &definition {
                let index = self.broker.add_vhost(&vhost.name);
                let about = About {
                    description: vhost.description.clone(),
                    tags: vhost.tags.clone(),
                    default_queue_type: vhost.default_queue_type.clone(),
                };
                self.broker.describe_vhost(index, about);
                has_vhost = true;
            } else if let Err(error) = self.broker.users.replay(definition) {
                log::error!("a user or permission cannot be restored: {error}");
            }
        }
        if !has_vhost {
            self.seed(config, seed);
        }
        self.restore_definitions(definitions, recovery.definitions_damaged);
        if recovery.definitions_damaged {
            self.name_orphans(&recovery);
        }
        let durable: BTreeMap<_, _> = self.broker.durable_queues().collect();
        for queue in recovery.queues {
            let Some(&key) = durable.get(&queue.id) else {
                self.plant.store.queue_deleted(queue.id);
                continue;
            };
            let permitted = queue.redelivered_up_to.map_or(0, |up_to| up_to + 1);
            let restored = RestoredQueue {
                pages: queue.pages.into(),
                // What may have been delivered is never given out again as something new.
                next_sequence: queue.next_sequence.max(permitted),
                permitted,
            };
            self.broker.restore_queue(key, restored);
        }
        self.broker.queue_ids_from(recovery.queue_id_next);
    }

    /// Forgets the bindings that a deletion has left behind when a crash cut it short. Where
    /// definitions are damaged, nothing is forgotten: the end that is missing may be only unread.
    fn restore_definitions(&mut self, definitions: Vec<Definition>, is_damaged: bool) {
        let mut leftovers = Vec::new();
        for unused in self.broker.restore_definitions(definitions) {
            match unused.leftover {
                Some(key) if !is_damaged => leftovers.push((key, None)),
                _ => log::error!("a definition does not fit the others: {}", unused.shown),
            }
        }
        for some in leftovers.chunks(self.slice_entries_max) {
            self.plant.define(some);
        }
    }

    /// Gives queues whose definitions were lost to damage a name, so that nothing is deleted since
    /// something else about it cannot be read.
    fn name_orphans(&mut self, recovery: &Recovery) {
        let known: BTreeSet<_> = self.broker.durable_queues().map(|(id, _)| id).collect();
        let Some(vhost) = self
            .broker
            .vhosts()
            .next()
            .map(|(_, vhost)| vhost.name.to_string())
        else {
            return;
        };
        for queue in &recovery.queues {
            if known.contains(&queue.id) || queue.messages == 0 {
                continue;
            }
            let name = format!("leveret.recovered-{}", queue.id.0);
            log::error!(
                "the definition of a queue is lost: its {} messages are in queue '{name}' in vhost '{vhost}'",
                queue.messages
            );
            let properties = QueueProperties {
                durable: true,
                exclusive_to: None,
                auto_delete: false,
                arguments: Box::default(),
            };
            let pair = Definition::queue(&vhost, name.as_bytes(), queue.id, &properties);
            let name = name.into_bytes();
            let definition = Definition::Queue {
                vhost: vhost.clone(),
                name,
                id: queue.id,
                properties,
            };
            self.broker.restore_definitions(vec![definition]);
            self.plant.define(&[(pair.key, Some(pair.value))]);
        }
    }

    fn seed(&mut self, config: &Config, seed: u64) {
        let first = &config.seed;
        let index = self.broker.add_vhost(&first.vhost);
        let about = About {
            description: "Default virtual host".into(),
            ..About::default()
        };
        let mut changes = vec![manage::vhost_pair(&first.vhost, &about)];
        self.broker.describe_vhost(index, about);
        let salt = (seed as u32).to_be_bytes();
        let secret = Secret::Password {
            password: first.password.as_bytes(),
            salt,
        };
        let texts = PermissionTexts {
            configure: &first.configure,
            write: &first.write,
            read: &first.read,
        };
        let users = &mut self.broker.users;
        match users.put(&first.user, secret, Some(first.tags.clone())) {
            Ok(put) => changes.extend(put.changes),
            Err(error) => log::error!("the first user cannot be created: {error}"),
        }
        match users.set_permission(&first.user, &first.vhost, texts) {
            Ok(put) => changes.extend(put.changes),
            Err(error) => log::error!("the first user's permissions cannot be set: {error}"),
        }
        self.plant.define(&changes);
    }
}
