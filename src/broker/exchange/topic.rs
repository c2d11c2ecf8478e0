//! Topic matching: keys are words between dots; in a binding key `*` stands for one word and `#`
//! for none or more (spec 3.1.3.3). Empty words count as words.
//!
//! Binding keys form a trie of words. A routing key is matched by carrying the set of live nodes
//! from word to word, each at most once, so the cost is words × live nodes whatever the bindings
//! are; there is no backtracking to blow up.

use hashbrown::HashTable;
use std::hash::BuildHasher as _;

use crate::broker::binding::{BindingKey, take_out};

type Node = u32;

const ROOT: Node = 0;

/// The binding keys of one topic exchange.
#[derive(Debug)]
pub struct TopicTrie {
    nodes: slab::Slab<TrieNode>,
    edges: HashTable<Edge>,
    hasher: foldhash::fast::FixedState,
    /// Number of the match under way; a node marked with it is in the live set already.
    round: u64,
    live: Vec<Node>,
    next: Vec<Node>,
}

#[derive(Debug)]
struct TrieNode {
    parent: Node,
    /// Edges that leave the node, `*` and `#` included.
    edge_count: u32,
    star: Option<Node>,
    hash: Option<Node>,
    /// The node stands behind a `#` and so lives on through any word.
    is_hash: bool,
    bindings: Vec<BindingKey>,
    mark: u64,
}

#[derive(Debug)]
struct Edge {
    from: Node,
    word: Box<[u8]>,
    to: Node,
}

impl Default for TopicTrie {
    fn default() -> Self {
        let mut nodes = slab::Slab::new();
        nodes.insert(TrieNode::new(ROOT, false));
        TopicTrie {
            nodes,
            edges: HashTable::new(),
            hasher: foldhash::fast::FixedState::default(),
            round: 0,
            live: Vec::new(),
            next: Vec::new(),
        }
    }
}

impl TrieNode {
    fn new(parent: Node, is_hash: bool) -> Self {
        let bindings = Vec::new();
        TrieNode {
            parent,
            edge_count: 0,
            star: None,
            hash: None,
            is_hash,
            bindings,
            mark: 0,
        }
    }
}

fn words(key: &[u8]) -> impl Iterator<Item = &[u8]> {
    // An empty key is one empty word in splitting but no word in matching, as in RabbitMQ.
    let count = if key.is_empty() { 0 } else { usize::MAX };
    key.split(|&octet| octet == b'.').take(count)
}

impl TopicTrie {
    /// Adds the binding `binding` under its key; gives its place among those of the key.
    pub fn insert(&mut self, binding_key: &[u8], binding: BindingKey) -> u32 {
        let mut node = ROOT;
        for word in words(binding_key) {
            node = match self.child(node, word) {
                Some(child) => child,
                None => self.add_child(node, word),
            };
        }
        let bindings = &mut self.nodes[node as usize].bindings;
        bindings.push(binding);
        bindings.len() as u32 - 1
    }

    /// Takes the binding at place `at` of its key out again, with the nodes that only it needed;
    /// gives the binding that has its place now.
    pub fn remove(&mut self, binding_key: &[u8], at: u32) -> Option<BindingKey> {
        let mut node = ROOT;
        for word in words(binding_key) {
            node = self.child(node, word)?;
        }
        let moved = take_out(&mut self.nodes[node as usize].bindings, at);
        let words: Vec<&[u8]> = words(binding_key).collect();
        for word in words.iter().rev() {
            let TrieNode {
                parent,
                edge_count,
                ref bindings,
                ..
            } = self.nodes[node as usize];
            if edge_count > 0 || !bindings.is_empty() {
                break;
            }
            self.remove_child(parent, word, node);
            node = parent;
        }
        moved
    }

    /// All bindings in any order, and with each step a piece of the memory; `None` is a step that
    /// brings no binding.
    pub(super) fn into_bindings(self) -> impl Iterator<Item = Option<BindingKey>> {
        let nodes = self.nodes.into_iter();
        let bindings = nodes
            .flat_map(|(_, node)| std::iter::once(None).chain(node.bindings.into_iter().map(Some)));
        bindings.chain(self.edges.into_iter().map(|_| None))
    }

    /// Calls `found` with each binding whose key matches; each binding once. Gives the number of
    /// steps that took: nodes met and bindings found.
    pub fn route(&mut self, routing_key: &[u8], mut found: impl FnMut(BindingKey)) -> u64 {
        let mut steps = 0;
        let (mut live, mut next) = (
            std::mem::take(&mut self.live),
            std::mem::take(&mut self.next),
        );
        live.clear();
        self.round += 1;
        self.enter(ROOT, &mut live);
        for word in words(routing_key) {
            steps += live.len();
            next.clear();
            self.round += 1;
            for &node in &live {
                let TrieNode {
                    star,
                    is_hash,
                    edge_count,
                    ..
                } = self.nodes[node as usize];
                if is_hash {
                    self.enter(node, &mut next);
                }
                if edge_count == 0 {
                    continue;
                }
                if let Some(star) = star {
                    self.enter(star, &mut next);
                }
                if let Some(child) = self.word_child(node, word) {
                    self.enter(child, &mut next);
                }
            }
            std::mem::swap(&mut live, &mut next);
            if live.is_empty() {
                break;
            }
        }
        for &node in &live {
            let bindings = &self.nodes[node as usize].bindings;
            steps += 1 + bindings.len();
            bindings.iter().copied().for_each(&mut found);
        }
        (self.live, self.next) = (live, next);
        steps as u64
    }

    /// Puts `node` and what a `#` for no word at all reaches from it into the live set.
    fn enter(&mut self, node: Node, set: &mut Vec<Node>) {
        let mut entered = Some(node);
        while let Some(node) = entered {
            let round = self.round;
            let state = &mut self.nodes[node as usize];
            if state.mark == round {
                return;
            }
            state.mark = round;
            set.push(node);
            entered = state.hash;
        }
    }

    fn child(&self, node: Node, word: &[u8]) -> Option<Node> {
        match word {
            b"*" => self.nodes[node as usize].star,
            b"#" => self.nodes[node as usize].hash,
            _ => self.word_child(node, word),
        }
    }

    fn edge_hash(&self, from: Node, word: &[u8]) -> u64 {
        self.hasher.hash_one((from, word))
    }

    fn word_child(&self, from: Node, word: &[u8]) -> Option<Node> {
        let same = |edge: &Edge| edge.from == from && *edge.word == *word;
        self.edges
            .find(self.edge_hash(from, word), same)
            .map(|edge| edge.to)
    }

    fn add_child(&mut self, from: Node, word: &[u8]) -> Node {
        let to = self.nodes.insert(TrieNode::new(from, word == b"#")) as Node;
        let parent = &mut self.nodes[from as usize];
        parent.edge_count += 1;
        match word {
            b"*" => parent.star = Some(to),
            b"#" => parent.hash = Some(to),
            _ => {
                let hash = self.edge_hash(from, word);
                let hasher = &self.hasher;
                let edge = Edge {
                    from,
                    word: word.into(),
                    to,
                };
                self.edges
                    .insert_unique(hash, edge, |edge| hasher.hash_one((edge.from, &*edge.word)));
            }
        }
        to
    }

    fn remove_child(&mut self, from: Node, word: &[u8], to: Node) {
        self.nodes.remove(to as usize);
        let parent = &mut self.nodes[from as usize];
        parent.edge_count -= 1;
        match word {
            b"*" => parent.star = None,
            b"#" => parent.hash = None,
            _ => {
                let hash = self.edge_hash(from, word);
                if let Ok(edge) = self.edges.find_entry(hash, |edge| edge.to == to) {
                    edge.remove();
                }
            }
        }
    }

    #[cfg(test)]
    fn node_count(&self) -> usize {
        self.nodes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The plain definition, by recursion over both lists of words.
    fn matches(pattern: &[&[u8]], key: &[&[u8]]) -> bool {
        match (pattern.split_first(), key.split_first()) {
            (None, None) => true,
            (Some((&b"#", rest)), _) => {
                matches(rest, key) || (!key.is_empty() && matches(pattern, &key[1..]))
            }
            (Some((&word, pattern)), Some((&given, key))) => {
                (word == b"*" || word == given) && matches(pattern, key)
            }
            _ => false,
        }
    }

    fn check(bindings: &[&str], routing_key: &str, expected: &[u32]) {
        let mut trie = TopicTrie::default();
        for (index, key) in bindings.iter().enumerate() {
            trie.insert(key.as_bytes(), index as u32);
        }
        let mut found = Vec::new();
        trie.route(routing_key.as_bytes(), |binding| found.push(binding));
        found.sort_unstable();
        assert_eq!(found, expected, "{bindings:?} with {routing_key:?}");
    }

    #[test]
    fn matches_as_the_specification_says() {
        let keys = [
            "a.b.c", "*.b.*", "#", "a.#", "#.c", "a.*", "", "*", "a..c", "#.b.#", "*.*.*",
        ];
        check(&keys, "a.b.c", &[0, 1, 2, 3, 4, 9, 10]);
        check(&keys, "a", &[2, 3, 7]);
        check(&keys, "", &[2, 6]);
        check(&keys, "a.", &[2, 3, 5]);
        check(&keys, "a..c", &[2, 3, 4, 8, 10]);
        check(&keys, "b", &[2, 7, 9]);
        check(&["#.#", "#.*.#", "*.#"], "x", &[0, 1, 2]);
    }

    #[test]
    fn agrees_with_the_plain_definition_and_forgets_what_is_removed() {
        let alphabet: [&[u8]; 5] = [b"a", b"b", b"", b"*", b"#"];
        let mut state = 7u32;
        let mut draw = |bound: usize| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) as usize % bound
        };
        for _ in 0..300 {
            let mut trie = TopicTrie::default();
            let patterns: Vec<Vec<u8>> = (0..6)
                .map(|_| {
                    (0..=draw(4))
                        .map(|_| alphabet[draw(5)])
                        .collect::<Vec<_>>()
                        .join(&b'.')
                })
                .collect();
            let mut places = Vec::new();
            for (index, pattern) in patterns.iter().enumerate() {
                places.push(trie.insert(pattern, index as u32));
            }
            for _ in 0..20 {
                let key = (0..=draw(4))
                    .map(|_| alphabet[draw(3)])
                    .collect::<Vec<_>>()
                    .join(&b'.');
                let mut found = Vec::new();
                trie.route(&key, |binding| found.push(binding as usize));
                found.sort_unstable();
                let key_words: Vec<&[u8]> = words(&key).collect();
                let expected: Vec<usize> = (0..patterns.len())
                    .filter(|&at| matches(&words(&patterns[at]).collect::<Vec<_>>(), &key_words))
                    .collect();
                assert_eq!(found, expected);
            }
            for (index, pattern) in patterns.iter().enumerate() {
                let at = places[index];
                if let Some(moved) = trie.remove(pattern, at) {
                    places[moved as usize] = at;
                }
            }
            assert_eq!((trie.node_count(), trie.edges.len()), (1, 0));
        }
    }

    #[test]
    fn many_wildcards_cost_words_times_nodes() {
        let mut trie = TopicTrie::default();
        let pattern = vec!["#"; 128].join(".");
        trie.insert(pattern.as_bytes(), 0);
        let mut found = 0;
        trie.route(vec!["x"; 128].join(".").as_bytes(), |_| found += 1);
        assert_eq!(found, 1);
        assert!(trie.live.len() <= 129);
    }
}
