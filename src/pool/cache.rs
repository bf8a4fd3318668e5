//! The regions in memory: found by key, bounded in number.
//!
//! Only regions that nobody uses and whose state is on the members are forgotten; the cleaner turns the others
//! into such. So the bound may be exceeded by as many regions as are in use or waiting to be cleaned.

use super::region::{Mark, Region, RegionKey};
use crate::reactor::sync::lock;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Mutex};

const SHARDS: usize = 16;

/// Memory that one cached region takes, bytes, checksums included: for turning a budget into a number.
pub const REGION_COST: u64 = 2900;

/// A hasher for small integer keys: multiply and fold. Deterministic, unlike the standard one.
#[derive(Default)]
pub struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.write_u32(u32::from(*b)));
    }

    fn write_u32(&mut self, n: u32) {
        self.0 = (self.0.rotate_left(23) ^ u64::from(n)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

type Shard = HashMap<RegionKey, Arc<Region>, BuildHasherDefault<KeyHasher>>;

/// All regions in memory.
pub struct RegionCache {
    shards: [Mutex<Shard>; SHARDS],
    per_shard: usize,
}

impl RegionCache {
    /// A cache that keeps about this many regions.
    pub fn new(regions: usize) -> RegionCache {
        RegionCache { shards: Default::default(), per_shard: (regions / SHARDS).max(4) }
    }

    /// The region of this key; made by `make` if it is not in memory.
    pub fn find(&self, key: RegionKey, make: impl FnOnce() -> Region) -> Arc<Region> {
        let mut shard = lock(self.shard(&key));
        if let Some(region) = shard.get(&key) {
            region.used.store(true, std::sync::atomic::Ordering::Relaxed);
            return region.clone();
        }
        if shard.len() >= self.per_shard {
            forget_some(&mut shard, self.per_shard / 8 + 1);
        }
        let region = Arc::new(make());
        shard.insert(key, region.clone());
        region
    }

    /// The regions in memory that satisfy a condition, in order of their keys.
    pub fn select(&self, condition: impl Fn(&Region) -> bool) -> Vec<Arc<Region>> {
        let mut found: Vec<Arc<Region>> = Vec::new();
        for shard in &self.shards {
            found.extend(lock(shard).values().filter(|r| condition(r)).cloned());
        }
        found.sort_by_key(|region| region.key);
        found
    }

    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets the regions of a destroyed volume; gives the number of those that were marked dirty.
    pub fn forget_volume(&self, volume: crate::base::units::VolumeId) -> usize {
        let mut marked = 0;
        for shard in &self.shards {
            lock(shard).retain(|key, region| {
                let forget = key.volume == volume;
                if forget {
                    let mut state = region.state();
                    state.kept = None;
                    // Whoever is about to clean it finds no mark: its extents may be somebody else's soon.
                    let mark = std::mem::replace(&mut state.mark, Mark::Clear);
                    marked += usize::from(matches!(mark, Mark::Durable { .. }));
                }
                !forget
            });
        }
        marked
    }

    fn shard(&self, key: &RegionKey) -> &Mutex<Shard> {
        let mix =
            key.slot.0.wrapping_mul(31).wrapping_add(key.region.0).wrapping_add(key.volume.0.wrapping_mul(7));
        &self.shards[usize::try_from(mix).expect("64-bit platform") % SHARDS]
    }
}

/// Second chance: a region used since the last sweep stays, unless everything was used.
fn forget_some(shard: &mut Shard, wanted: usize) {
    for _ in 0..2 {
        let mut left = wanted;
        shard.retain(|_, region| {
            // Two references would be a request that is about to use it.
            let forget = left > 0 && !region.sweep() && Arc::strong_count(region) == 1 && region.is_idle();
            left -= usize::from(forget);
            !forget
        });
        if left < wanted {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::units::{RegionIndex, SlotIndex, VolumeId};

    fn key(n: u32) -> RegionKey {
        RegionKey { volume: VolumeId(1), slot: SlotIndex(n / 7), region: RegionIndex(n % 7) }
    }

    #[test]
    fn the_number_of_idle_regions_is_bounded_and_held_ones_stay() {
        let cache = RegionCache::new(160);
        let make = |n| cache.find(key(n), || Region::new(key(n), 16, true));
        let held = make(0);
        let _guard = held.hold(0..1, true);
        (1..5000).for_each(|n| drop(make(n)));
        assert!(cache.len() <= 200, "{}", cache.len());
        assert!(Arc::ptr_eq(&held, &make(0)));
    }
}
