//! A region at run time: who may touch its blocks now, which blocks were written, their checksums.
//!
//! The guard orders requests: first come, first served, block by block; reads share, writes exclude. That is what
//! makes overlapping writes reach all copies in one order (R31), a read see each block old or new (R8) and two
//! writes to one block both survive (R18). It works between cores: a region is shared by all of them.
//!
//! ```text
//! unloaded ──load──▶ loaded, clean ──first write──▶ marked (dirty bit durable) ──save, flush──▶ loaded, clean
//! ```

use super::redundancy::mirror::{Copies, Copy};
use super::region_block::RegionBlock;
use crate::base::bitmap::Bitmap;
use crate::base::units::{RegionIndex, SlotIndex, VolumeId};
use crate::io::time::Instant;
use crate::reactor::sync::{WaitList, lock};
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

/// Names a region within its pool.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct RegionKey {
    pub volume: VolumeId,
    pub slot: SlotIndex,
    pub region: RegionIndex,
}

/// Where a slot's copies lie, as the region remembers it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placement {
    pub stamp: u64,
    pub copies: Copies,
    /// A copy being made.
    pub incoming: Option<Incoming>,
}

/// A new copy of a slot, as far as a region of it is written there like on the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Incoming {
    pub copy: Copy,
    /// Blocks below this one.
    pub upto: u32,
    /// It comes to the others, and takes the place of none of them.
    pub more: bool,
    /// A write failed meanwhile, and what it left here may differ from what the others have.
    pub torn: bool,
}

/// How far a region's content has been read from its members.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Load {
    Unloaded,
    Loading,
    Loaded,
}

/// Whether the region's dirty bit is durable on the members that hold it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mark {
    Clear,
    /// One writer is making it durable; others wait.
    Underway,
    /// Durable, under this state of the membership; another member's loss asks for more marks.
    Durable {
        membership: u64,
    },
}

/// A place in memory that outlives the process (`kept_marks`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kept {
    pub place: usize,
    /// The state of the membership whose copies are named there.
    pub membership: u64,
}

/// A region shared by all cores.
pub struct Region {
    pub key: RegionKey,
    /// Looked at since the cache last swept.
    pub used: AtomicBool,
    state: Mutex<RegionState>,
    /// Woken when `load`, `mark` or `saving` changes.
    pub changed: WaitList,
}

/// What the lock protects.
pub struct RegionState {
    queue: Vec<Waiter>,
    next_ticket: u64,
    pub load: Load,
    /// None: the slot is not allocated (as far as this region was told).
    pub placement: Option<Placement>,
    /// Blocks that were written since the slot was allocated; others read as zeros.
    pub written: Bitmap,
    /// `written` as it is on the members.
    pub saved: Bitmap,
    /// Checksums of written blocks, if the volume has them.
    pub sums: Option<Box<[u32]>>,
    /// Written blocks that no copy has any more, of a volume whose checksums do not tell.
    pub lost: Option<Box<Bitmap>>,
    /// Checksums or lost blocks differ from what is on the members; or one of them has nothing yet, or what a save left
    /// that failed.
    pub sums_unsaved: bool,
    /// Where `written` is kept in memory that outlives the process. Only of an unsaved region.
    pub kept: Option<Kept>,
    pub version: u64,
    pub mark: Mark,
    /// Writes between the check of the mark and their completion.
    pub writing: u32,
    /// Saves of the region block under way: they must end before the slot's extents may be used by another.
    pub saving: u32,
    /// The commit that its slot lies elsewhere is under way: nothing is saved where it lay.
    pub switching: bool,
    /// A write failed on every copy: they may differ until the next opening compares them.
    pub unsettled: bool,
    /// Counts completed writes, zeroes and discards: tells a cleaner that nothing happened meanwhile.
    pub changes: u64,
    pub touched: Instant,
}

struct Waiter {
    ticket: u64,
    blocks: Range<u32>,
    exclusive: bool,
    waker: Option<Waker>,
}

impl Region {
    pub fn new(key: RegionKey, blocks: u32, checksums: bool) -> Region {
        let blocks = usize::try_from(blocks).expect("512 at most");
        let state = RegionState {
            queue: Vec::new(),
            next_ticket: 0,
            load: Load::Unloaded,
            placement: None,
            written: Bitmap::new(blocks),
            saved: Bitmap::new(blocks),
            sums: checksums.then(|| vec![0; blocks].into_boxed_slice()),
            lost: None,
            sums_unsaved: false,
            kept: None,
            version: 0,
            mark: Mark::Clear,
            writing: 0,
            saving: 0,
            switching: false,
            unsettled: false,
            changes: 0,
            touched: Instant::default(),
        };
        Region { key, used: AtomicBool::new(true), state: Mutex::new(state), changed: WaitList::default() }
    }

    pub fn state(&self) -> MutexGuard<'_, RegionState> {
        lock(&self.state)
    }

    /// Waits for the right to these blocks, behind everybody who asked before.
    pub fn hold(self: &Arc<Region>, blocks: Range<u32>, exclusive: bool) -> Acquire {
        let mut state = self.state();
        state.next_ticket += 1;
        let ticket = state.next_ticket;
        state.queue.push(Waiter { ticket, blocks, exclusive, waker: None });
        let granted = state.may_go(ticket);
        drop(state);
        Acquire { hold: Some(Hold { region: self.clone(), ticket }), granted }
    }

    /// Whether nobody holds or waits for anything, and nothing would be lost by forgetting this region.
    pub fn is_idle(&self) -> bool {
        let state = self.state();
        state.queue.is_empty()
            && state.mark == Mark::Clear
            && !state.is_unsaved()
            && state.kept.is_none()
            && state.load != Load::Loading
    }

    /// Whether it was used since the last time this was asked.
    pub fn sweep(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }
}

impl RegionState {
    pub fn is_unsaved(&self) -> bool {
        self.sums_unsaved || self.written != self.saved
    }

    /// It cannot be saved for a moment: it has no place any more, and has not yet forgotten what it was, since the commit
    /// that frees its slot is under way; or that slot is just coming to lie elsewhere.
    pub fn is_between(&self) -> bool {
        self.load == Load::Loaded && (self.placement.is_none() || self.switching) && self.is_unsaved()
    }

    /// Takes over what a member (or nobody) had stored.
    pub fn fill(&mut self, placement: Option<Placement>, stored: Option<RegionBlock>) {
        self.placement = placement;
        self.version = stored.as_ref().map_or(0, |s| s.version);
        match stored {
            Some(stored) => {
                self.written = stored.written;
                self.lost = stored.lost;
                if let (Some(sums), Some(stored)) = (&mut self.sums, stored.sums) {
                    sums.copy_from_slice(&stored);
                }
            }
            None => {
                self.written.clear();
                self.lost = None;
            }
        }
        self.saved = self.written.clone();
        self.sums_unsaved = false;
        self.load = Load::Loaded;
    }

    /// These blocks were written: they are not lost any more. True if one was.
    pub fn found(&mut self, blocks: Range<usize>) -> bool {
        let Some(lost) = &mut self.lost else { return false };
        let changed = lost.set_range(blocks, false);
        if lost.is_empty() {
            self.lost = None;
        }
        self.sums_unsaved |= changed;
        changed
    }

    /// No copy has this block any more.
    pub fn lose(&mut self, block: usize) {
        let len = self.written.len();
        self.sums_unsaved |= self.lost.get_or_insert_with(|| Box::new(Bitmap::new(len))).set(block, true);
    }

    /// Forgets everything but the guard: the slot was freed.
    pub fn reset(&mut self) {
        self.fill(None, None);
        self.mark = Mark::Clear;
        self.changes += 1;
    }

    fn may_go(&self, ticket: u64) -> bool {
        let Some(place) = self.queue.iter().position(|w| w.ticket == ticket) else { return false };
        let me = &self.queue[place];
        let conflicts = |other: &Waiter| {
            (other.exclusive || me.exclusive)
                && other.blocks.start < me.blocks.end
                && me.blocks.start < other.blocks.end
        };
        !self.queue[..place].iter().any(conflicts)
    }
}

/// Resolves to the right to some blocks.
pub struct Acquire {
    hold: Option<Hold>,
    /// There was nobody to wait for.
    granted: bool,
}

impl Future for Acquire {
    type Output = Hold;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Hold> {
        let hold = self.hold.as_ref().expect("polled after it was ready");
        if !self.granted {
            let mut state = hold.region.state();
            if !state.may_go(hold.ticket) {
                let ticket = hold.ticket;
                let waiter =
                    state.queue.iter_mut().find(|w| w.ticket == ticket).expect("queued until dropped");
                waiter.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
        Poll::Ready(self.hold.take().expect("checked above"))
    }
}

/// The right to some blocks of a region; ends when dropped.
pub struct Hold {
    region: Arc<Region>,
    ticket: u64,
}

impl Hold {
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut wakers: smallvec::SmallVec<[Waker; 4]> = smallvec::SmallVec::new();
        {
            let mut state = self.region.state();
            let ticket = self.ticket;
            let Some(place) = state.queue.iter().position(|w| w.ticket == ticket) else { return };
            state.queue.remove(place);
            for at in place..state.queue.len() {
                if state.queue[at].waker.is_some() && state.may_go(state.queue[at].ticket) {
                    wakers.extend(state.queue[at].waker.take());
                }
            }
        }
        wakers.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn region() -> Arc<Region> {
        let key = RegionKey { volume: VolumeId(0), slot: SlotIndex(0), region: RegionIndex(0) };
        Arc::new(Region::new(key, 512, false))
    }

    #[test]
    fn r31_reads_share_and_writes_exclude_in_order_of_arrival() {
        let region = region();
        let first = region.hold(0..4, false).now_or_never().expect("free");
        let second = region.hold(2..6, false).now_or_never().expect("reads share");
        let mut write = region.hold(3..4, true);
        assert!((&mut write).now_or_never().is_none(), "a write waits for reads");
        let mut late = region.hold(3..4, false);
        assert!((&mut late).now_or_never().is_none(), "a read does not overtake the write");
        assert!(region.hold(100..101, true).now_or_never().is_some(), "other blocks are free");
        drop((first, second));
        let write = write.now_or_never().expect("the reads are gone");
        assert!((&mut late).now_or_never().is_none());
        drop(write);
        assert!(late.now_or_never().is_some());
        assert!(region.is_idle());
    }

    #[test]
    fn a_waiter_that_gives_up_lets_others_pass() {
        let region = region();
        let read = region.hold(0..1, false).now_or_never().expect("free");
        let write = region.hold(0..1, true);
        drop(write);
        assert!(region.hold(0..1, false).now_or_never().is_some());
        drop(read);
    }
}
