//! What is exported under which name: one immutable table, swapped when it changes.

use super::Volume;
use crate::reactor::sync::{Ticket, WaitList};
use arc_swap::ArcSwap;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The exports of a daemon, shared by all cores and listeners.
#[derive(Default)]
pub struct Catalog {
    table: ArcSwap<BTreeMap<String, Arc<Volume>>>,
    version: AtomicU64,
    changed: WaitList,
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

    /// Counts what changed: volumes that came or went, and sizes.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Ends at the next change after this call.
    pub fn changed(&self) -> Ticket<'_> {
        self.changed.ticket()
    }

    /// Something that clients know of a volume is different now.
    pub fn note_change(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
        self.changed.wake_all();
    }

    /// Adds a volume, or replaces the one of its name.
    pub fn insert(&self, volume: Arc<Volume>) {
        self.table.rcu(|table| {
            let mut next = BTreeMap::clone(table);
            next.insert(volume.name().to_owned(), volume.clone());
            next
        });
        self.note_change();
    }

    /// Takes a volume away; connections that have it keep it until they end.
    pub fn remove(&self, name: &str) {
        self.table.rcu(|table| {
            let mut next = BTreeMap::clone(table);
            next.remove(name);
            next
        });
        self.note_change();
    }
}
