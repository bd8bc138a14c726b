//! A small map with a bound: what does not fit pushes the oldest out.

use std::collections::{HashMap, VecDeque};

/// Values by a runtime's id.
pub(super) struct Cache<V> {
    values: HashMap<String, V>,
    oldest_first: VecDeque<String>,
    capacity: usize,
}

impl<V: Clone> Cache<V> {
    /// A cache of at most `capacity` values.
    pub(super) fn new(capacity: usize) -> Self {
        Cache { values: HashMap::new(), oldest_first: VecDeque::new(), capacity }
    }

    /// The value of an id.
    pub(super) fn get(&self, id: &str) -> Option<V> {
        self.values.get(id).cloned()
    }

    /// Keeps a value.
    pub(super) fn insert(&mut self, id: &str, value: V) {
        if self.values.insert(id.to_owned(), value).is_none() {
            self.oldest_first.push_back(id.to_owned());
        }
        while self.values.len() > self.capacity {
            let Some(oldest) = self.oldest_first.pop_front() else { break };
            self.values.remove(&oldest);
        }
    }

    /// Forgets what does not exist any more.
    pub(super) fn retain(&mut self, exists: impl Fn(&str) -> bool) {
        if self.oldest_first.iter().all(|id| exists(id)) {
            return;
        }
        self.oldest_first.retain(|id| exists(id));
        self.values.retain(|id, _| exists(id));
        self.values.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_holds() {
        let mut cache = Cache::new(2);
        for id in ["a", "b", "a", "c"] {
            cache.insert(id, id.to_owned());
        }
        assert_eq!(
            (cache.get("a"), cache.get("b").as_deref(), cache.get("c").as_deref()),
            (None, Some("b"), Some("c"))
        );
        cache.retain(|id| id == "c");
        assert_eq!((cache.get("b"), cache.values.len(), cache.oldest_first.len()), (None, 1, 1));
    }
}
