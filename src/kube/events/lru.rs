//! A bounded map that forgets what was used longest ago.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};

/// Stands for a key's text. 128 bits of keyed hashes: for some thousand entries a collision is out of reach, and the memory of
/// the texts, which are long, is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Digest(u64, u64);

/// Makes digests; those of two makers cannot be compared.
#[derive(Clone, Debug, Default)]
pub(super) struct Digester(RandomState, RandomState);

impl Digester {
    /// The digest of the parts; where one part ends and the next begins counts.
    pub(super) fn digest(&self, parts: &[&str]) -> Digest {
        Digest(self.0.hash_one(parts), self.1.hash_one(parts))
    }
}

/// The map.
#[derive(Debug)]
pub(super) struct Lru<V> {
    capacity: usize,
    tick: u64,
    values: HashMap<Digest, (u64, V)>,
    order: BTreeMap<u64, Digest>,
}

impl<V> Lru<V> {
    /// An empty map for so many entries.
    pub(super) fn new(capacity: usize) -> Self {
        Lru { capacity, tick: 0, values: HashMap::new(), order: BTreeMap::new() }
    }

    /// The key's value, made if it is not there; counts as a use.
    pub(super) fn get_or_insert_with(&mut self, key: Digest, make: impl FnOnce() -> V) -> &mut V {
        self.touch(key);
        let (used, value) = self.values.entry(key).or_insert_with(|| (0, make()));
        *used = self.tick;
        value
    }

    /// Makes the key the one used last, and room for it if it is new.
    fn touch(&mut self, key: Digest) {
        self.tick += 1;
        match self.values.get(&key) {
            Some((used, _)) => {
                self.order.remove(used);
            }
            None if self.values.len() >= self.capacity => {
                if let Some((_, oldest)) = self.order.pop_first() {
                    self.values.remove(&oldest);
                }
            }
            None => {}
        }
        self.order.insert(self.tick, key);
    }

    /// The key's value; does not count as a use.
    pub(super) fn peek(&self, key: Digest) -> Option<&V> {
        self.values.get(&key).map(|(_, value)| value)
    }

    /// Sets the key's value; counts as a use.
    pub(super) fn put(&mut self, key: Digest, value: V) {
        self.touch(key);
        self.values.insert(key, (self.tick, value));
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        debug_assert_eq!(self.values.len(), self.order.len());
        self.values.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_unused_goes_first() {
        let digester = Digester::default();
        let key = |n: u32| digester.digest(&[&n.to_string()]);
        let mut lru = Lru::new(3);
        for n in 0..3 {
            lru.put(key(n), n);
        }
        *lru.get_or_insert_with(key(0), || 9) += 10;
        lru.put(key(3), 3);
        assert_eq!([0, 1, 2, 3].map(|n| lru.peek(key(n)).copied()), [Some(10), None, Some(2), Some(3)]);
        lru.put(key(2), 20);
        assert_eq!(lru.peek(key(2)), Some(&20));
        assert_eq!(lru.len(), 3);
    }

    #[test]
    fn parts_do_not_run_together() {
        let digester = Digester::default();
        assert_ne!(digester.digest(&["ab", "c"]), digester.digest(&["a", "bc"]));
        assert_eq!(digester.digest(&["ab", "c"]), digester.digest(&["ab", "c"]));
    }
}
