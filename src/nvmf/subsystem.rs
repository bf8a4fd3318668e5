//! What a host sees: a subsystem for each pool, and a namespace for each of its volumes.
//!
//! Names and numbers follow from the pool's and the volume's identity alone, so they are the same after a restart, on
//! every address, and on every machine that will serve the pool one day.

use crate::volume::Volume;
use crate::volume::catalog::Catalog;
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

/// The name that every discovery subsystem answers to.
pub const DISCOVERY_NQN: &str = "nqn.2014-08.org.nvmexpress.discovery";

/// The largest namespace number (NN).
pub const NAMESPACE_MAX: u32 = (1 << 20) - 1;

/// Namespaces of a subsystem at the same time (MNAN): as many as a pool has volumes.
pub const NAMESPACES_MAX: u32 = 4096;

/// Bytes of an NQN, its end not counted.
pub const NQN_MAX: usize = 223;

/// A namespace number of a volume: active or not, it belongs to that volume for ever.
pub type Namespaces = BTreeMap<u32, Arc<Volume>>;

/// A pool as hosts see it.
#[derive(Clone)]
pub struct Subsystem {
    pub pool: Uuid,
    pub namespaces: Namespaces,
}

/// What the names of subsystems begin with; the pool's uuid follows.
const PREFIX: &str = "nqn.2014-08.org.nvmexpress:uuid:";

/// The name of a pool's subsystem.
pub fn nqn_of(pool: impl std::fmt::Display) -> String {
    format!("{PREFIX}{pool}")
}

/// The pool that a subsystem's name stands for.
pub fn pool_of(nqn: &str) -> Option<Uuid> {
    Uuid::parse_str(nqn.strip_prefix(PREFIX)?).ok()
}

impl Subsystem {
    /// The subsystem of this pool; None if nothing of the pool is exported.
    pub fn of(catalog: &Catalog, pool: Uuid) -> Option<Subsystem> {
        all(catalog).into_iter().find(|subsystem| subsystem.pool == pool)
    }
}

/// All subsystems, in the order of their pools. Reserved names, which begin with a point, are not for hosts.
pub fn all(catalog: &Catalog) -> Vec<Subsystem> {
    let mut found: BTreeMap<Uuid, Namespaces> = BTreeMap::new();
    for volume in catalog.list() {
        let identity = volume.identity();
        if !volume.name().starts_with('.') && identity.number <= NAMESPACE_MAX {
            found.entry(identity.pool).or_default().insert(identity.number, volume);
        }
    }
    found.into_iter().map(|(pool, namespaces)| Subsystem { pool, namespaces }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::units::ByteLen;
    use crate::volume::memory::MemoryVolume;

    #[test]
    fn volumes_are_the_namespaces_of_their_pools_subsystem() {
        let catalog = Catalog::default();
        assert!(all(&catalog).is_empty());
        for name in ["data", ".bench"] {
            let memory = MemoryVolume::new(ByteLen(1 << 20));
            catalog.insert(Arc::new(Volume::in_memory(name, memory)));
        }
        let found = all(&catalog);
        assert_eq!((found.len(), found[0].namespaces.len()), (1, 1));
        let nqn = nqn_of(found[0].pool);
        assert!(nqn.len() <= NQN_MAX);
        assert_eq!(pool_of(&nqn), Some(found[0].pool));
        assert!(Subsystem::of(&catalog, found[0].pool).is_some());
        assert_eq!(pool_of(DISCOVERY_NQN), None);
        assert!(found[0].namespaces.keys().all(|number| *number > 0));
    }
}
