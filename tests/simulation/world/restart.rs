//! The end of a life and the start of the next.

use std::collections::{BTreeMap, BTreeSet};

use leveret::broker::Destination as EngineDestination;
use leveret::engine::Engine;
use leveret::storage::{DiskFault, Storage as _};

use super::{Jobs, Storage, World, fresh_now};
use crate::operation::{Criteria, Kind};
use crate::topology::{Binding, Destination, Exchange, QueueName, Topology};
use crate::{disk, hear};

/// Outcomes of a power loss in the middle of a flush that are looked at.
const OUTCOMES: usize = 16;

impl World {
    /// Says in the trace which records lie in each file.
    fn trace_files(&mut self) {
        if !self.plan.is_traced {
            return;
        }
        for (name, octets) in self.storage.names() {
            let contents = self.storage.contents(&name).unwrap_or_default();
            let records = disk::records(&contents);
            let (first, last) = (records.first(), records.last());
            let kinds: BTreeSet<u8> = records.iter().map(|it| it.kind).collect();
            let text = format!(
                "{name}: {octets} octets, {} records of kinds {kinds:?}, numbers {:?} to {:?}",
                records.len(),
                first.map(|it| it.lsn),
                last.map(|it| it.lsn)
            );
            self.note(|| text);
        }
    }

    /// The server ends, in some way, and starts again.
    pub(super) fn end_life(&mut self) {
        loop {
            let kind = self.random.below(3);
            if kind == 0 && !self.is_power_lost {
                self.storage = self.storage.killed();
                self.model.counts.add("kills");
                self.note(|| "==== killed".to_owned());
            } else {
                self.storage = self.without_power();
                self.model.counts.add("power losses");
                self.note(|| "==== power is lost".to_owned());
            }
            self.trace_files();
            self.bodies = self.bodies();
            if self.random.one_in(8) {
                self.damage();
            } else if self.random.one_in(6) {
                self.lose_what_can_be_lost();
            }
            if self.start() && self.look_around() {
                return;
            }
        }
    }

    /// The disk after a power loss; where it came in the middle of a flush, of some outcomes the
    /// first that ends inside a group.
    fn without_power(&mut self) -> Storage {
        let outcomes = if self.is_power_lost { OUTCOMES } else { 1 };
        for _ in 1..outcomes {
            let seed = self.random.draw();
            let storage = self.storage.crash(seed);
            if ends_inside_a_group(&storage) {
                return storage;
            }
        }
        let seed = self.random.draw();
        self.storage.crash(seed)
    }

    /// Removes or damages a file that another stands in for: that costs nothing.
    fn lose_what_can_be_lost(&mut self) {
        let names = self.storage.names();
        let indexes = names.iter().filter(|(name, _)| name.contains(".idx"));
        let indexes: Vec<String> = indexes.map(|(name, _)| name.clone()).collect();
        let (checkpoint, spare) = ("checkpoint", "checkpoint.spare");
        let copies = [checkpoint, spare].map(|name| self.storage.contents(name));
        let [first, second] = copies.map(|it| it.map(|it| disk::until_zeros(&it).to_vec()));
        // While the next one is being written there is no copy.
        let has_copy = first.is_some() && first == second;
        let (name, is_removed, what) = match self.random.below(5) {
            0 if !indexes.is_empty() => {
                (self.random.pick(&indexes).clone(), true, "lost: an index")
            }
            1 if !indexes.is_empty() => {
                let name = self.random.pick(&indexes).clone();
                (name, false, "damaged: an index")
            }
            2 if has_copy => (checkpoint.to_owned(), true, "lost: the checkpoint"),
            3 if has_copy => (checkpoint.to_owned(), false, "damaged: the checkpoint"),
            4 if has_copy => (spare.to_owned(), true, "lost: the spare checkpoint"),
            _ => return,
        };
        self.note(|| format!("{what} ({name})"));
        self.model.counts.add(what);
        if name == checkpoint {
            // A kill may have come before the copy's sync: then it is no copy yet for a disk that
            // loses power, too.
            let copy = self.storage.open(spare).expect("it is there");
            self.storage.sync(&copy).expect("nothing fails yet");
        }
        if is_removed {
            self.storage.remove(&name).expect("it is there");
            self.storage.sync_dir().expect("nothing fails yet");
            return;
        }
        let octets = self.storage.contents(&name).unwrap_or_default();
        let octets = disk::until_zeros(&octets).len();
        if octets > 0 {
            let (at, bit) = (self.random.below(octets), self.random.below(8) as u8);
            assert!(self.storage.flip(&name, at, bit), "it is there");
        }
    }

    /// Starts a server on what is left; whether that went well.
    fn start(&mut self) -> bool {
        self.restarts += 1;
        self.peers.clear();
        self.jobs = Jobs::default();
        self.flush_answers.clear();
        self.keep_answers.clear();
        (self.is_disk_failing, self.is_disk_full, self.is_over) = (false, false, false);
        self.is_power_lost = false;
        self.model.crash();
        self.apply_damage();
        self.model.lost_by_damage.clear();
        let _ = hear::heard();
        self.now = fresh_now(&mut self.random);
        let is_disturbed = self.random.one_in(6);
        if is_disturbed {
            let calls = self.random.between(1, 60) as u64;
            self.storage.fail(calls, DiskFault::Eio);
        }
        if self.random.one_in(8) {
            self.is_disk_full = true;
            let free = self.random.below(20_000) as u64;
            self.storage.set_free_octets(Some(free));
            self.model.counts.add("starts on a full disk");
        }
        let opened = Engine::open(
            self.storage.clone(),
            &self.config,
            self.now,
            self.random.draw(),
        );
        let has_failed = self.count_hits();
        self.engine = match opened {
            Ok(engine) => engine,
            Err(error) => {
                assert!(has_failed, "the server does not start again: {error}");
                self.note(|| format!("start fails: {error}"));
                self.model.counts.add("starts cut off by a fault");
                self.hear_of_a_failed_start();
                return false;
            }
        };
        self.check_start(is_disturbed || self.is_disk_full);
        self.count_recovery();
        self.is_disk_failing = is_disturbed;
        self.model.counts.add("restarts");
        let found = self.found_topology();
        self.model.restarted(&found);
        self.shared.is_exact = false;
        self.recount();
        true
    }

    /// Counts the cases that the start has met.
    fn count_recovery(&mut self) {
        let account = *self.engine.recovered();
        let cases = [
            (account.checkpoint_lsn.is_some(), "start: checkpoint read"),
            (
                account.is_checkpoint_copy,
                "start: copy of the checkpoint used",
            ),
            (account.indexes_used > 0, "start: index used"),
            (account.indexes_made > 0, "start: index made anew"),
            (account.segments_read > 0, "start: segment read by records"),
            (
                account.segments_rewritten > 0,
                "start: rewritten segment found",
            ),
            (account.tables_damaged > 0, "start: table does not check"),
            (account.segments_free > 0, "start: free segment found"),
            (account.segments_unreadable > 0, "start: segment set aside"),
            (account.segments_missing > 0, "start: segment missing"),
            (account.records_cut > 0, "start: torn end cut off"),
            (
                account.group_records_cut > 0,
                "start: unfinished group cut off",
            ),
            (account.damaged_places > 0, "start: damage told"),
            (account.kept_aside > 0, "start: damage kept aside"),
            (account.large_bodies > 0, "start: large body found"),
            (
                account.large_bodies_superfluous > 0,
                "start: superfluous body removed",
            ),
            (
                account.large_bodies_missing > 0,
                "start: large body missing",
            ),
            (
                account.definitions_octets_cut > 0,
                "start: torn definitions cut off",
            ),
        ];
        for (_, case) in cases.into_iter().filter(|(is_met, _)| *is_met) {
            self.model.counts.add(case);
        }
    }

    /// Reads all queues, or leaves them to the clients. Whether the server lives on.
    fn look_around(&mut self) -> bool {
        if self.random.one_in(3) {
            self.model.counts.add("restarts without audit");
            return true;
        }
        let may_end = self.random.one_in(4);
        self.audit(may_end)
    }

    /// The durable topology that the engine has, in the model's words.
    fn found_topology(&self) -> Topology {
        let broker = self.engine.broker();
        let mut topology = Topology {
            exchanges: BTreeMap::new(),
            ..self.model.topology.durable_part()
        };
        (topology.queues, topology.bindings) = (BTreeMap::new(), BTreeSet::new());
        let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
        let mut exchange_names = BTreeMap::new();
        for (slot, exchange) in broker.exchanges() {
            let name = text(&exchange.name);
            exchange_names.insert(slot as u32, name.clone());
            topology.exchanges.insert(
                name,
                Exchange {
                    kind: *Kind::ALL
                        .iter()
                        .find(|kind| kind.name() == exchange.properties.exchange_type.name())
                        .expect("a type that exists"),
                    durable: exchange.properties.durable,
                    auto_delete: exchange.properties.auto_delete,
                    internal: exchange.properties.internal,
                    is_predeclared: exchange.name.is_empty() || exchange.name.starts_with(b"amq."),
                },
            );
        }
        let mut queue_names = BTreeMap::new();
        for (slot, queue) in broker.queues() {
            let name = text(&queue.name);
            let id = queue.id.expect("only durable queues come back").0;
            let known = self
                .model
                .queues
                .iter()
                .find(|(_, it)| it.log_id == Some(id));
            let Some((&uid, _)) = known else {
                panic!("queue '{name}' (id {id}) comes from nowhere")
            };
            queue_names.insert(slot as u32, name.clone());
            topology
                .queues
                .insert(name, QueueName { uid, durable: true });
        }
        for (_, binding) in broker.bindings().iter() {
            topology.bindings.insert(Binding {
                source: exchange_names[&binding.source.slot].clone(),
                destination: match binding.destination {
                    EngineDestination::Queue(key) => {
                        Destination::Queue(queue_names[&key.slot].clone())
                    }
                    EngineDestination::Exchange(key) => {
                        Destination::Exchange(exchange_names[&key.slot].clone())
                    }
                },
                key: text(&binding.binding_key),
                criteria: Criteria::read(&binding.arguments),
            });
        }
        topology
    }
}

/// Whether more must follow the last record of the log.
fn ends_inside_a_group(storage: &Storage) -> bool {
    let names = storage.names().into_iter();
    let segments = names.filter(|(name, _)| disk::is_of_kind(name, "seg"));
    let records =
        segments.flat_map(|(name, _)| disk::records(&storage.contents(&name).unwrap_or_default()));
    let last = records.max_by_key(|record| record.lsn);
    last.is_some_and(|record| record.more)
}
