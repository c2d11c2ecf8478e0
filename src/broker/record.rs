//! What the broker asks the storage to remember besides messages: definitions.
//!
//! Definitions are pairs of a key and a value; the last write of a key wins and a key without a
//! value is gone. The storage keeps them without knowing what they mean, the broker encodes and
//! decodes them here. A group of pairs is remembered whole or not at all.
//!
//! ```text
//! key    kind (1 octet), then its parts, each as length (4, big-endian) and octets
//! value  format (1 octet, 1), then the fields below in order
//!
//! kind          key parts                                        value fields
//! 'x' exchange  vhost, name                                      type, flags, arguments
//! 'q' queue     vhost, name                                      id, flags, arguments
//! 'b' binding   vhost, source, 'q' or 'x', destination,          -
//!               binding key, arguments
//! 'n' next id   -                                                id
//! ```
//!
//! Other kinds (users, virtual hosts, permissions) belong to `auth::record`.

use super::exchange::{ExchangeProperties, ExchangeType};
use super::queue::QueueProperties;

/// Names a durable queue in the log. Never reused, not even after the queue was deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueId(pub u32);

/// A key with its value, or without one to forget it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
}

/// Pairs that are remembered together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pairs(Vec<(Vec<u8>, Option<Vec<u8>>)>);

impl Pairs {
    /// Adds a definition.
    pub fn put(&mut self, pair: &Pair) {
        self.0.push((pair.key.clone(), Some(pair.value.clone())));
    }

    /// Forgets a definition.
    pub fn remove(&mut self, key: Vec<u8>) {
        self.0.push((key, None));
    }

    /// Whether there is nothing to remember or forget.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The pairs in the order in which they came.
    pub fn as_slice(&self) -> &[(Vec<u8>, Option<Vec<u8>>)] {
        &self.0
    }
}

const FORMAT: u8 = 1;
const DURABLE: u8 = 1;
const AUTO_DELETE: u8 = 2;
const INTERNAL: u8 = 4;

/// A definition of the router's, as it was remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Definition {
    /// A durable exchange.
    Exchange {
        /// Its virtual host.
        vhost: String,
        /// Its name.
        name: Vec<u8>,
        /// What it was declared with.
        properties: ExchangeProperties,
    },
    /// A durable queue.
    Queue {
        /// Its virtual host.
        vhost: String,
        /// Its name.
        name: Vec<u8>,
        /// Its name in the log.
        id: QueueId,
        /// What it was declared with.
        properties: QueueProperties,
    },
    /// A binding between durable ends.
    Binding {
        /// The virtual host.
        vhost: String,
        /// Name of the source exchange.
        source: Vec<u8>,
        /// Whether the destination is a queue.
        is_queue: bool,
        /// Name of the destination.
        destination: Vec<u8>,
        /// The binding key.
        binding_key: Vec<u8>,
        /// Arguments, a field table's octets without its length.
        arguments: Vec<u8>,
    },
    /// Queue ids below this were given out once.
    NextQueueId(u32),
}

impl Definition {
    /// The key of an exchange.
    pub fn exchange_key(vhost: &str, name: &[u8]) -> Vec<u8> {
        key(b'x', &[vhost.as_bytes(), name])
    }

    /// The key of a queue.
    pub fn queue_key(vhost: &str, name: &[u8]) -> Vec<u8> {
        key(b'q', &[vhost.as_bytes(), name])
    }

    /// The pair that remembers an exchange.
    pub fn exchange(vhost: &str, name: &[u8], properties: &ExchangeProperties) -> Pair {
        let mut value = vec![FORMAT];
        put(&mut value, properties.exchange_type.name().as_bytes());
        let flag = |is_set, bit| if is_set { bit } else { 0 };
        value.push(
            flag(properties.durable, DURABLE)
                | flag(properties.auto_delete, AUTO_DELETE)
                | flag(properties.internal, INTERNAL),
        );
        put(&mut value, &properties.arguments);
        Pair {
            key: Self::exchange_key(vhost, name),
            value,
        }
    }

    /// The pair that remembers a queue.
    pub fn queue(vhost: &str, name: &[u8], id: QueueId, properties: &QueueProperties) -> Pair {
        let mut value = vec![FORMAT];
        value.extend_from_slice(&id.0.to_be_bytes());
        value.push(if properties.auto_delete {
            DURABLE | AUTO_DELETE
        } else {
            DURABLE
        });
        put(&mut value, &properties.arguments);
        Pair {
            key: Self::queue_key(vhost, name),
            value,
        }
    }

    /// The pair that remembers a binding.
    pub fn binding(
        vhost: &str,
        source: &[u8],
        is_queue: bool,
        destination: &[u8],
        binding_key: &[u8],
        arguments: &[u8],
    ) -> Pair {
        let kind: &[u8] = if is_queue { b"q" } else { b"x" };
        let parts = [
            vhost.as_bytes(),
            source,
            kind,
            destination,
            binding_key,
            arguments,
        ];
        Pair {
            key: key(b'b', &parts),
            value: vec![FORMAT],
        }
    }

    /// The pair that remembers which queue ids were given out.
    pub fn next_queue_id(id: u32) -> Pair {
        let mut value = vec![FORMAT];
        value.extend_from_slice(&id.to_be_bytes());
        Pair {
            key: key(b'n', &[]),
            value,
        }
    }

    /// Reads a pair back. `None` for a kind that is not the router's, or for octets that no
    /// version of this code has written.
    pub fn decode(key: &[u8], value: &[u8]) -> Option<Self> {
        let (&kind, mut key) = key.split_first()?;
        let (&FORMAT, mut value) = value.split_first()? else {
            return None;
        };
        let text = |octets: &[u8]| String::from_utf8(octets.to_vec()).ok();
        Some(match kind {
            b'x' => {
                let (vhost, name) = (text(take(&mut key)?)?, take(&mut key)?.to_vec());
                let exchange_type = ExchangeType::named(take(&mut value)?).ok()?;
                let flags = *value.split_off_first()?;
                let properties = ExchangeProperties {
                    exchange_type,
                    durable: flags & DURABLE != 0,
                    auto_delete: flags & AUTO_DELETE != 0,
                    internal: flags & INTERNAL != 0,
                    arguments: take(&mut value)?.into(),
                };
                Definition::Exchange {
                    vhost,
                    name,
                    properties,
                }
            }
            b'q' => {
                let (vhost, name) = (text(take(&mut key)?)?, take(&mut key)?.to_vec());
                let id = QueueId(number(&mut value)?);
                let flags = *value.split_off_first()?;
                let properties = QueueProperties {
                    durable: true,
                    exclusive_to: None,
                    auto_delete: flags & AUTO_DELETE != 0,
                    arguments: take(&mut value)?.into(),
                };
                Definition::Queue {
                    vhost,
                    name,
                    id,
                    properties,
                }
            }
            b'b' => Definition::Binding {
                vhost: text(take(&mut key)?)?,
                source: take(&mut key)?.to_vec(),
                is_queue: take(&mut key)? == b"q",
                destination: take(&mut key)?.to_vec(),
                binding_key: take(&mut key)?.to_vec(),
                arguments: take(&mut key)?.to_vec(),
            },
            b'n' => Definition::NextQueueId(number(&mut value)?),
            _ => return None,
        })
    }
}

fn key(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = vec![kind];
    for part in parts {
        put(&mut key, part);
    }
    key
}

fn put(out: &mut Vec<u8>, part: &[u8]) {
    out.extend_from_slice(&(part.len() as u32).to_be_bytes());
    out.extend_from_slice(part);
}

fn number(octets: &mut &[u8]) -> Option<u32> {
    let (&head, rest) = octets.split_first_chunk()?;
    *octets = rest;
    Some(u32::from_be_bytes(head))
}

fn take<'a>(octets: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = number(octets)? as usize;
    let (part, rest) = octets.split_at_checked(length)?;
    *octets = rest;
    Some(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pair: &Pair, expected: &Definition) {
        assert_eq!(
            Definition::decode(&pair.key, &pair.value).as_ref(),
            Some(expected)
        );
        for cut in 0..pair.value.len() {
            assert_ne!(
                Definition::decode(&pair.key, &pair.value[..cut]).as_ref(),
                Some(expected)
            );
        }
        for cut in 0..pair.key.len() {
            assert_eq!(Definition::decode(&pair.key[..cut], &pair.value), None);
        }
    }

    #[test]
    fn definitions_are_read_back_as_they_were_written() {
        let properties = ExchangeProperties {
            exchange_type: ExchangeType::Topic,
            durable: true,
            auto_delete: true,
            internal: true,
            arguments: b"\x01aS\0\0\0\x01b"[..].into(),
        };
        let pair = Definition::exchange("/", b"x", &properties);
        check(
            &pair,
            &Definition::Exchange {
                vhost: "/".into(),
                name: b"x".to_vec(),
                properties,
            },
        );

        let properties = QueueProperties {
            durable: true,
            exclusive_to: None,
            auto_delete: true,
            arguments: b""[..].into(),
        };
        let pair = Definition::queue("v", b"q", QueueId(77), &properties);
        let (vhost, name, id) = ("v".into(), b"q".to_vec(), QueueId(77));
        check(
            &pair,
            &Definition::Queue {
                vhost,
                name,
                id,
                properties,
            },
        );

        let pair = Definition::binding("/", b"s", false, b"d", b"k.#", b"");
        let binding = Definition::Binding {
            vhost: "/".into(),
            source: b"s".to_vec(),
            is_queue: false,
            destination: b"d".to_vec(),
            binding_key: b"k.#".to_vec(),
            arguments: Vec::new(),
        };
        assert_eq!(Definition::decode(&pair.key, &pair.value), Some(binding));
        assert_eq!(
            Definition::decode(b"n", b"\x01\0\0\0\x09"),
            Some(Definition::NextQueueId(9))
        );
        assert_eq!(Definition::decode(b"?", b"\x01"), None);
    }
}
