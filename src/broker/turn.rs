//! The consumers of a queue that may take a message, in the order in which they are served.

use std::collections::VecDeque;

use super::consumer::ConsumerKey;

/// Stands for nobody at the front.
const NOBODY: ConsumerKey = ConsumerKey::MAX;

/// A ring of consumers. The one whose turn it is lies in the queue itself: most queues have no
/// other, and with thousands of queues each line of the cache counts.
#[derive(Debug)]
pub struct Turn {
    front: ConsumerKey,
    /// Those behind it; none when nobody is at the front.
    #[expect(clippy::box_collection, reason = "a word in the queues that need none")]
    others: Option<Box<VecDeque<ConsumerKey>>>,
}

impl Default for Turn {
    fn default() -> Self {
        Turn {
            front: NOBODY,
            others: None,
        }
    }
}

impl Turn {
    /// Consumers in it.
    #[inline]
    pub fn len(&self) -> usize {
        usize::from(!self.is_empty()) + self.others.as_ref().map_or(0, |others| others.len())
    }

    /// Whether nobody is in it.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.front == NOBODY
    }

    /// Whether somebody may stand behind the one whose turn it is.
    #[inline]
    pub fn has_others(&self) -> bool {
        self.others.is_some()
    }

    /// Whose turn it is.
    #[inline]
    pub fn front(&self) -> Option<ConsumerKey> {
        (self.front != NOBODY).then_some(self.front)
    }

    /// All consumers, the next one first.
    pub fn iter(&self) -> impl Iterator<Item = ConsumerKey> {
        let others = self.others.iter().flat_map(|others| others.iter().copied());
        self.front().into_iter().chain(others)
    }

    /// Takes out the one whose turn it is.
    pub fn pop_front(&mut self) -> Option<ConsumerKey> {
        let front = self.front()?;
        let next = self.others.as_mut().and_then(|others| others.pop_front());
        self.front = next.unwrap_or(NOBODY);
        Some(front)
    }

    /// Puts a consumer at the end.
    pub fn push_back(&mut self, key: ConsumerKey) {
        if self.is_empty() {
            self.front = key;
        } else {
            self.others.get_or_insert_default().push_back(key);
        }
    }

    /// The one whose turn it was goes to the end.
    #[inline]
    pub fn rotate(&mut self) {
        if let Some(others) = &mut self.others
            && let Some(next) = others.pop_front()
        {
            others.push_back(std::mem::replace(&mut self.front, next));
        }
    }

    /// Puts a consumer behind those that go `before` it, which all stand at the front.
    pub fn insert_behind(&mut self, key: ConsumerKey, before: impl Fn(ConsumerKey) -> bool) {
        if self.is_empty() {
            self.front = key;
            return;
        }
        let others = self.others.get_or_insert_default();
        if before(self.front) {
            let at = others.partition_point(|&other| before(other));
            others.insert(at, key);
        } else {
            others.push_front(std::mem::replace(&mut self.front, key));
        }
    }

    /// Takes a consumer out, wherever it stands.
    pub fn remove(&mut self, key: ConsumerKey) {
        if self.front == key {
            self.pop_front();
        } else if let Some(others) = &mut self.others
            && let Some(at) = others.iter().position(|&other| other == key)
        {
            others.remove(at);
        }
        self.forget_memory();
    }

    /// Keeps those for which `stays` is true.
    pub fn retain(&mut self, mut stays: impl FnMut(ConsumerKey) -> bool) {
        if let Some(others) = &mut self.others {
            others.retain(|&other| stays(other));
        }
        if !self.is_empty() && !stays(self.front) {
            self.pop_front();
        }
        self.forget_memory();
    }

    fn forget_memory(&mut self) {
        if self.others.as_ref().is_some_and(|others| others.is_empty()) {
            self.others = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(turn: &Turn) -> Vec<ConsumerKey> {
        assert_eq!(turn.iter().count(), turn.len());
        assert_eq!(turn.front(), turn.iter().next());
        turn.iter().collect()
    }

    #[test]
    fn consumers_are_served_in_turn() {
        let mut turn = Turn::default();
        turn.rotate();
        assert_eq!((turn.pop_front(), turn.is_empty()), (None, true));
        for key in [5, 6, 7] {
            turn.push_back(key);
        }
        turn.rotate();
        assert_eq!(all(&turn), [6, 7, 5]);
        turn.remove(7);
        turn.remove(6);
        assert_eq!(all(&turn), [5]);
        turn.rotate();
        turn.push_back(8);
        assert_eq!(turn.pop_front(), Some(5));
        assert_eq!(turn.pop_front(), Some(8));
        assert!(turn.is_empty());
        turn.push_back(9);
        turn.remove(9);
        assert!(all(&turn).is_empty());
        for key in 1..9 {
            turn.push_back(key);
        }
        turn.retain(|key| key % 3 != 1);
        assert_eq!(all(&turn), [2, 3, 5, 6, 8]);
        turn.remove(5);
        turn.remove(7);
        assert_eq!(all(&turn), [2, 3, 6, 8]);
        turn.retain(|_| false);
        assert!(all(&turn).is_empty() && !turn.has_others());
    }

    #[test]
    fn a_priority_goes_behind_its_equals_and_before_the_lower() {
        let mut turn = Turn::default();
        // The priority is the tens.
        for key in [21, 11, 22, 31, 12, 32, 1] {
            turn.insert_behind(key, |other| other / 10 >= key / 10);
        }
        assert_eq!(all(&turn), [31, 32, 21, 22, 11, 12, 1]);
    }
}
