//! What names mean: exchanges and queues found by name, and named in errors as RabbitMQ does.

use super::exception::shown;
use super::exchange::ExchangeKey;
use super::queue::QueueKey;
use super::{Broker, Exception};

impl Broker {
    pub(super) fn exchange_key(&self, vhost: u32, name: &[u8]) -> Option<ExchangeKey> {
        self.vhosts[vhost as usize].exchanges.get(name).copied()
    }

    pub(super) fn queue_key(&self, vhost: u32, name: &[u8]) -> Option<QueueKey> {
        let names = &self.vhosts[vhost as usize].queues;
        let slot = names.find(name, &self.queues)?;
        Some(self.queue_key_at(slot))
    }

    pub(super) fn exchange_shown(&self, vhost: u32, name: &[u8]) -> String {
        format!(
            "exchange '{}' in vhost '{}'",
            shown(name),
            self.vhosts[vhost as usize].name
        )
    }

    pub(super) fn queue_shown(&self, vhost: u32, name: &[u8]) -> String {
        format!(
            "queue '{}' in vhost '{}'",
            shown(name),
            self.vhosts[vhost as usize].name
        )
    }

    pub(super) fn no_queue(&self, vhost: u32, name: &[u8]) -> Exception {
        Exception::not_found(format!("no {}", self.queue_shown(vhost, name)))
    }

    pub(super) fn no_exchange(&self, vhost: u32, name: &[u8]) -> Exception {
        Exception::not_found(format!("no {}", self.exchange_shown(vhost, name)))
    }

    /// The name that a client means; an empty one is the queue the channel declared last.
    pub(super) fn queue_named(&self, channel: u32, name: &[u8]) -> Result<Vec<u8>, Exception> {
        if !name.is_empty() {
            return Ok(name
                .iter()
                .copied()
                .filter(|octet| !matches!(octet, b'\r' | b'\n'))
                .collect());
        }
        let last = self.channels[channel as usize].last_queue.as_deref();
        last.map(<[u8]>::to_vec)
            .ok_or_else(|| Exception::not_found("no previously declared queue"))
    }

    /// The queue of that name, if the channel's connection may use it.
    pub(super) fn find_queue(&self, channel: u32, name: &[u8]) -> Result<QueueKey, Exception> {
        let vhost = self.vhost_of(channel);
        let key = self
            .queue_key(vhost, name)
            .ok_or_else(|| self.no_queue(vhost, name))?;
        self.check_not_locked(channel, key)?;
        Ok(key)
    }

    /// A name as RabbitMQ generates them: the prefix and 128 random bits in base64url.
    pub(super) fn generated_name(&mut self, prefix: &[u8]) -> Vec<u8> {
        const ALPHABET: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut bits = u128::from(self.random.draw()) << 64 | u128::from(self.random.draw());
        let mut name = prefix.to_vec();
        for _ in 0..22 {
            name.push(ALPHABET[(bits & 63) as usize]);
            bits >>= 6;
        }
        name
    }
}
