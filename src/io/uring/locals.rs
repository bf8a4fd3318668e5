//! One core's shares of the process-wide handles, and their slots in the ring's table of registered files.

use super::handles::{Handles, Held};
use super::ring::Ring;
use super::wake::Peer;
use nix::errno::Errno;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::os::fd::RawFd;
use std::sync::Arc;

/// How an entry names its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Fd(RawFd),
    /// A slot in the table of registered files.
    Registered(u32),
}

pub(super) struct Locals {
    shared: Arc<Handles>,
    shares: HashMap<u32, Share, BuildHasherDefault<IdHasher>>,
    free_slots: Vec<u32>,
}

struct Share {
    held: Arc<Held>,
    target: Target,
    /// Operations of this core between submission and completion.
    in_flight: u32,
    /// To be dropped when nothing is in flight: somebody closes it.
    released: bool,
}

impl Locals {
    /// `slots` is the size of the ring's table of registered files.
    pub fn new(shared: Arc<Handles>, slots: u32) -> Locals {
        Locals { shared, shares: HashMap::default(), free_slots: (0..slots).rev().collect() }
    }

    /// Begins an operation on a handle. EBADF if there is no such handle, or it is being closed.
    pub fn begin(&mut self, id: u32, ring: &mut Ring, peer: &Arc<Peer>) -> Result<&Arc<Held>, Errno> {
        if !self.shares.contains_key(&id) {
            self.adopt(id, ring, peer)?;
        }
        let share = self.shares.get_mut(&id).filter(|share| !share.released).ok_or(Errno::EBADF)?;
        share.in_flight += 1;
        Ok(&share.held)
    }

    /// Ends an operation that `begin` began.
    pub fn end(&mut self, id: u32, ring: &mut Ring) {
        let share = self.shares.get_mut(&id).expect("kept while operations are in flight");
        share.in_flight -= 1;
        if share.released && share.in_flight == 0 {
            self.discard(id, ring);
        }
    }

    /// The handle behind an operation that has begun.
    pub fn held(&self, id: u32) -> &Arc<Held> {
        &self.shares.get(&id).expect("kept while operations are in flight").held
    }

    /// A handle that this core has used before, if nobody closes it.
    pub fn known(&self, id: u32) -> Option<&Arc<Held>> {
        self.shares.get(&id).filter(|share| !share.released).map(|share| &share.held)
    }

    /// How to name the handle of an operation that has begun.
    pub fn target(&self, id: u32) -> Target {
        self.shares.get(&id).expect("kept while operations are in flight").target
    }

    /// Lets go of a handle, now or when its last operation here has ended.
    pub fn release(&mut self, id: u32, ring: &mut Ring) {
        let Some(share) = self.shares.get_mut(&id) else { return };
        share.released = true;
        if share.in_flight == 0 {
            self.discard(id, ring);
        }
    }

    fn adopt(&mut self, id: u32, ring: &mut Ring, peer: &Arc<Peer>) -> Result<(), Errno> {
        let held = self.shared.share(id, peer).ok_or(Errno::EBADF)?;
        let target = match self.free_slots.pop() {
            Some(slot) if ring.register_file(slot, held.raw()) => Target::Registered(slot),
            Some(slot) => {
                self.free_slots.push(slot);
                Target::Fd(held.raw())
            }
            None => Target::Fd(held.raw()),
        };
        self.shares.insert(id, Share { held, target, in_flight: 0, released: false });
        Ok(())
    }

    fn discard(&mut self, id: u32, ring: &mut Ring) {
        let share = self.shares.remove(&id).expect("the caller looked it up");
        // No entry names the slot any more: those in flight have ended, and no new ones could begin.
        if let Target::Registered(slot) = share.target
            && ring.register_file(slot, NO_FILE)
        {
            self.free_slots.push(slot);
        }
    }
}

/// Empties a slot of the table of registered files.
const NO_FILE: RawFd = -1;

/// Ids count up from 1, so multiplying spreads them well enough and costs nothing.
#[derive(Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, id: u32) {
        self.0 = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
