//! What is exported under which name: one immutable table, swapped when it changes.

use super::Volume;
use arc_swap::ArcSwap;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The exports of a daemon, shared by all cores and listeners.
#[derive(Default)]
pub struct Catalog {
    table: ArcSwap<BTreeMap<String, Arc<Volume>>>,
}

impl Catalog {
    /// The volume of this name. The empty name is the only volume, if there is exactly one; reserved names, which
    /// begin with a point, do not count.
    pub fn find(&self, name: &str) -> Option<Arc<Volume>> {
        let table = self.table.load();
        if !name.is_empty() {
            return table.get(name).cloned();
        }
        let mut volumes = table.values().filter(|v| !v.name().starts_with('.'));
        volumes.next().filter(|_| volumes.next().is_none()).cloned()
    }

    /// All volumes, by name.
    pub fn list(&self) -> Vec<Arc<Volume>> {
        self.table.load().values().cloned().collect()
    }

    /// Adds a volume, or replaces the one of its name.
    pub fn insert(&self, volume: Arc<Volume>) {
        self.table.rcu(|table| {
            let mut next = BTreeMap::clone(table);
            next.insert(volume.name().to_owned(), volume.clone());
            next
        });
    }

    /// Takes a volume away; connections that have it keep it until they end.
    pub fn remove(&self, name: &str) {
        self.table.rcu(|table| {
            let mut next = BTreeMap::clone(table);
            next.remove(name);
            next
        });
    }
}
