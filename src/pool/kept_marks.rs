//! Written marks that outlive the process: what a kill leaves of them.
//!
//! The data of an answered write is with the drives, and they keep it when the daemon is killed. That the block was
//! written at all is in memory until the region is saved, and lost with the process a block would read as zeros. A host
//! that waits for the daemon and goes on would never hear of it. So the marks of every unsaved region are also in memory
//! that the kernel keeps (`Driver::lasting_memory`), set before the change is answered; the next opening takes them from
//! there. A power cut takes that memory away, and then only what was flushed counts.
//!
//! ```text
//! places of 16 words; the first one is the head, the last four are drives
//! head    magic | pool, high | pool, low | opening | next opening | sequence | drives are noted | …
//! drives  a word for each member whose drive is there
//! region  stamp | volume, slot | region | sum of these three | copies, 4 words | written marks, 8 words
//! ```
//! A stamp of zero is a free place; it is stored last. A mark is one bit of one word, so that a kill in the middle of a
//! store leaves it as before or after, and either is right for a change that was not answered.
//!
//! What is found counts only if it is of the last opening that served, and the log that was elected has every commit
//! that this opening had made: else the copies may not be those that the marks speak of. And only for copies on drives
//! that have been there ever since: one that was away has lost what was in its cache.

use super::member::Member;
use super::planted::{Planted, is_planted};
use super::reach::{Reach, Reached};
use super::region::{Kept, Placement, Region, RegionKey, RegionState};
use super::region_block::BLOCKS_MAX;
use super::shared::Shared;
use super::state::State;
use crate::base::bitmap::Bitmap;
use crate::base::checksum::structure_sum;
use crate::base::limits::{COPIES_MAX, MEMBERS_MAX};
use crate::base::units::{MemberId, RegionIndex, SlotIndex, VolumeId};
use crate::disk::Disk;
use crate::disk::in_words;
use crate::io::driver::LastingMemory;
use crate::reactor::Core;
use crate::reactor::sync::lock;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use uuid::Uuid;

const MAGIC: u64 = u64::from_le_bytes(*b"DSMARKS1");

/// Words of a place.
const PLACE: usize = 16;

/// Where the copies begin in a place, and the written marks.
const COPIES_AT: usize = 4;
const MARKS_AT: usize = 8;

const MARKS: usize = BLOCKS_MAX / 64;

const _: () = assert!(COPIES_AT + COPIES_MAX < MARKS_AT && MARKS_AT + MARKS == PLACE);
const _: () = assert!(MEMBERS_MAX.is_multiple_of(PLACE));

/// Places, the head included: twice as many as regions may be dirty, one MiB.
const PLACES: usize = 8192;

/// The places from here on hold the drives that serve.
const DRIVES_FROM: usize = PLACES - MEMBERS_MAX / PLACE;

/// Bytes of the name of a file, of which the state folder's path takes part.
const NAME_MAX: usize = 255;

/// Where the written marks are that a change has set or cleared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Marks {
    /// On the members.
    Saved,
    /// In memory; the next flush saves them.
    Kept,
    /// In memory that dies with the process: they are saved before the change is answered.
    Exposed,
}

/// The copies that had a region's blocks: each member with its drive's stay, as `copy_word` writes them.
type CopyWords = [u64; MARKS_AT - COPIES_AT];

/// The marks of one region as an earlier process left them.
#[derive(Clone)]
pub struct Left {
    place: usize,
    written: Bitmap,
    copies: CopyWords,
}

impl Left {
    /// The marks, for a region of `blocks` blocks.
    pub fn written(&self, blocks: usize) -> Bitmap {
        Bitmap::from_words(blocks, self.written.words())
    }

    /// Whether a copy has all that the marks speak of.
    pub fn is_on(&self, reached: &Reached) -> bool {
        self.copies.contains(&copy_word(reached))
    }
}

/// The written marks of a pool's unsaved regions, in memory that lasts; or nothing, where there is none.
pub struct KeptMarks {
    memory: Option<Arc<dyn LastingMemory>>,
    free: Mutex<Vec<usize>>,
    /// By region and the stamp of its slot.
    left: Mutex<BTreeMap<(RegionKey, u64), Left>>,
    /// The drives that served the last process, as `copy_word` writes them; empty if that is not known.
    served: Mutex<Vec<u64>>,
}

impl KeptMarks {
    /// The memory of a pool under a state folder; `folder` is where such memory is made, None to do without.
    pub fn open(core: &Core, folder: Option<&Path>, witness_folder: &Path, pool: Uuid) -> KeptMarks {
        let path = folder.map(|folder| folder.join(name(witness_folder, pool)));
        let memory = path.and_then(|path| match core.lasting_memory(&path, PLACES * PLACE) {
            Ok(memory) => Some(memory),
            Err(errno) => {
                tracing::warn!(
                    path = %path.display(),
                    error = in_words(errno),
                    "no memory that outlives the daemon: after kill -9, blocks written for the first time since the last \
                     flush read as zeros"
                );
                None
            }
        });
        KeptMarks { memory, free: Mutex::default(), left: Mutex::default(), served: Mutex::default() }
    }

    /// Looks at what an earlier process left, before this opening's first commit. `opening` is the mark of this one, and
    /// `sequence` the last commit of the log that was elected.
    pub fn begin(&self, state: &State, sequence: u64, opening: u64) {
        let Some(memory) = self.memory.as_deref() else { return };
        let last = state.lineage.last().map_or(0, |opening| opening.mark);
        let head = Head::read(memory);
        let counts = !state.clean && head.is_some_and(|head| head.counts(state.pool, last, sequence));
        let (mut left, mut free) = (BTreeMap::new(), Vec::new());
        for place in (1..DRIVES_FROM).rev() {
            let found = if counts { read_place(memory, place) } else { None };
            let live = |(key, stamp): &(RegionKey, u64)| {
                let slots = state.volumes.get(&key.volume).map(|volume| &volume.slots);
                slots.and_then(|slots| slots.get(&key.slot)).is_some_and(|slot| slot.stamp == *stamp)
            };
            match found.filter(|(key, _)| live(key)) {
                Some((key, found)) => {
                    left.insert(key, found);
                }
                None => {
                    memory.store(place * PLACE, 0);
                    free.push(place);
                }
            }
        }
        match counts {
            true => memory.store(Head::OPENING, last),
            // What was there is gone already; now the head may say something else.
            false => Head { pool: state.pool, opening: last, next: 0, sequence }.write(memory),
        }
        memory.store(Head::NEXT, opening);
        let noted = counts && memory.load(Head::NOTED) != 0;
        let served = if noted { drive_places().map(|at| memory.load(at)).collect() } else { Vec::new() };
        (*lock(&self.left), *lock(&self.free), *lock(&self.served)) = (left, free, served);
    }

    /// Notes the drives that serve from here on. The regions that the last process left dirty are settled, or it said
    /// nothing: what it noted counts no more.
    pub fn note_drives<'a>(&self, drives: impl Iterator<Item = (MemberId, &'a Disk)>) {
        lock(&self.served).clear();
        let Some(memory) = self.memory.as_deref() else { return };
        let mut words: Vec<u64> = drives.map(|(member, disk)| drive_word(member, disk)).collect();
        // Each word in its place: a kill between two of them leaves each drive noted as it was or as it is.
        let mut free = Vec::new();
        for at in drive_places() {
            match words.iter().position(|word| *word == memory.load(at)) {
                Some(known) => _ = words.swap_remove(known),
                None => free.push(at),
            }
        }
        for (at, word) in free.into_iter().zip(words.into_iter().chain(std::iter::repeat(0))) {
            memory.store(at, word);
        }
        memory.store(Head::NOTED, 1);
    }

    /// A drive failed to make durable what it was given: it may have lost some of it, though it still reads so.
    pub fn doubt(&self, member: MemberId, disk: &Disk) {
        let Some(memory) = self.memory.as_deref() else { return };
        let word = drive_word(member, disk);
        for at in drive_places().filter(|at| memory.load(*at) == word) {
            memory.store(at, 0);
        }
    }

    /// Whether the last process said which drives served.
    pub fn knows_drives(&self) -> bool {
        !lock(&self.served).is_empty()
    }

    /// Whether a copy's drive served the last process and has been there ever since, so that it has all that was
    /// answered; None if that is not known.
    pub fn stayed(&self, reached: &Reached) -> Option<bool> {
        let served = lock(&self.served);
        (!served.is_empty()).then(|| served.contains(&copy_word(reached)))
    }

    /// This opening's commits are made; from here on the marks are its own.
    pub fn begun(&self, opening: u64, sequence: u64) {
        let Some(memory) = self.memory.as_deref() else { return };
        memory.store(Head::SEQUENCE, sequence);
        memory.store(Head::OPENING, opening);
    }

    /// A commit is done, and nobody was told yet.
    pub fn committed(&self, sequence: u64) {
        if let Some(memory) = self.memory.as_deref() {
            memory.store(Head::SEQUENCE, sequence);
        }
    }

    /// The pool is closed and everything is saved.
    pub fn close(&self) {
        if let Some(memory) = self.memory.as_deref() {
            memory.remove();
        }
    }

    /// Keeps the written marks of a region as they are now, after a change of them; `reach` gives its copies, and
    /// `membership` counts the changes of these.
    pub fn keep(
        &self,
        key: &RegionKey,
        state: &mut RegionState,
        membership: u64,
        reach: impl FnOnce(&Placement) -> Reach,
    ) -> Marks {
        // A save that failed, or is under way, may have left something else on the members.
        if !state.is_unsaved() && state.saving == 0 {
            self.release(state);
            return Marks::Saved;
        }
        let Some(memory) = self.memory.as_deref() else { return Marks::Kept };
        let Some(placement) = &state.placement else { return Marks::Kept };
        if let Some(Kept { place, membership: known }) = state.kept
            && known == membership
        {
            write_marks(memory, place, &state.written);
            return Marks::Kept;
        }
        if state.kept.is_none() && state.written == state.saved && state.saving == 0 {
            return Marks::Saved;
        }
        let place = match state.kept {
            Some(kept) => kept.place,
            None => match lock(&self.free).pop() {
                Some(place) => place,
                None => return Marks::Exposed,
            },
        };
        write_place(memory, place, key, placement.stamp, &reach(placement), &state.written);
        state.kept = Some(Kept { place, membership });
        Marks::Kept
    }

    /// The members have a region's marks now, or it is gone: they need not be kept.
    pub fn release(&self, state: &mut RegionState) {
        if let Some(kept) = state.kept.take() {
            self.give_back(kept.place);
        }
    }

    fn give_back(&self, place: usize) {
        if let Some(memory) = self.memory.as_deref() {
            memory.store(place * PLACE, 0);
            lock(&self.free).push(place);
        }
    }

    /// Forgets the regions of a volume that is gone; they hold their places no more.
    pub fn forget_volume(&self, volume: VolumeId) {
        let Some(memory) = self.memory.as_deref() else { return };
        lock(&self.left).retain(|(key, _), _| key.volume != volume);
        for place in 1..DRIVES_FROM {
            if read_place(memory, place).is_some_and(|((key, _), _)| key.volume == volume) {
                self.give_back(place);
            }
        }
    }

    /// What an earlier process left of a region, of which this is the slot's stamp.
    pub fn left(&self, key: &RegionKey, stamp: u64) -> Option<Left> {
        lock(&self.left).get(&(*key, stamp)).cloned()
    }

    /// The regions of which something was left.
    pub fn all_left(&self) -> Vec<RegionKey> {
        lock(&self.left).keys().map(|(key, _)| *key).collect()
    }

    /// What was left of a region is on its members now, or on none.
    pub fn settled(&self, key: &RegionKey, stamp: u64) {
        let left = lock(&self.left).remove(&(*key, stamp));
        left.into_iter().for_each(|left| self.give_back(left.place));
    }

    /// Gives a region that has just been loaded the marks that were left of it, if all its copies have what they speak
    /// of. True if there are any: they are unsaved.
    pub fn restore(&self, region: &Region, state: &mut RegionState, reach: &Reach) -> bool {
        let stamp = state.placement.as_ref().map_or(0, |placement| placement.stamp);
        let Some(left) = lock(&self.left).remove(&(region.key, stamp)) else { return false };
        if !reach.copies.iter().all(|reached| left.is_on(reached)) {
            self.give_back(left.place);
            return false;
        }
        state.written = left.written(state.written.len());
        // Of no membership yet: the next change writes the copies anew.
        state.kept = Some(Kept { place: left.place, membership: 0 });
        true
    }

    /// Places in use: regions whose marks are kept.
    pub fn in_use(&self) -> usize {
        match &self.memory {
            Some(_) => DRIVES_FROM - 1 - lock(&self.free).len(),
            None => 0,
        }
    }
}

impl Shared {
    /// Notes which drives serve, for the opening after a kill.
    pub fn note_drives(&self) {
        let members = self.members.load_full();
        let drives = members.values().filter_map(|member| Some((member.id, &**member.disk.as_ref()?)));
        self.kept_marks.note_drives(drives.filter(|(_, disk)| !disk.has_failed_flush()));
    }

    /// A member's drive failed: what it was given since its last good flush may not be there after a kill.
    pub fn doubt_drive(&self, member: &Member) {
        if let Some(disk) = &member.disk {
            self.kept_marks.doubt(member.id, disk);
        }
    }

    /// Keeps a region's written marks after a change of them.
    pub fn keep_marks(&self, key: RegionKey, state: &mut RegionState) -> Marks {
        if is_planted(self, Planted::MarksNotKept) {
            return Marks::Kept;
        }
        self.kept_marks.keep(&key, state, self.membership(), |placement| self.reach(placement, key.region))
    }

    /// Notes that another copy has all of a region, too: the commit that makes it one comes next.
    pub fn keep_marks_of(&self, another: Reached, key: RegionKey, state: &mut RegionState) {
        let Some(kept) = &mut state.kept else { return };
        kept.membership = 0;
        self.kept_marks.keep(&key, state, self.membership(), |placement| {
            let mut reach = self.reach(placement, key.region);
            reach.copies.push(another);
            reach
        });
    }
}

/// What the first place says.
struct Head {
    pool: Uuid,
    /// The mark of the opening whose marks are kept.
    opening: u64,
    /// The mark of one that has begun and may have committed that, and has taken over the marks then.
    next: u64,
    /// The last commit of that opening that anybody may rely on.
    sequence: u64,
}

impl Head {
    const OPENING: usize = 3;
    const NEXT: usize = 4;
    const SEQUENCE: usize = 5;
    const NOTED: usize = 6;

    fn read(memory: &dyn LastingMemory) -> Option<Head> {
        let word = |at| memory.load(at);
        let head = || Head {
            pool: Uuid::from_u64_pair(word(1), word(2)),
            opening: word(Head::OPENING),
            next: word(Head::NEXT),
            sequence: word(Head::SEQUENCE),
        };
        (word(0) == MAGIC).then(head)
    }

    fn write(&self, memory: &dyn LastingMemory) {
        let (high, low) = self.pool.as_u64_pair();
        memory.store(0, 0);
        memory.store(Head::NOTED, 0);
        let words = [high, low, self.opening, self.next, self.sequence];
        (1..).zip(words).for_each(|(at, word)| memory.store(at, word));
        memory.store(0, MAGIC);
    }

    /// Whether the marks are of the pool's last opening, and the log has all of its commits.
    fn counts(&self, pool: Uuid, last: u64, sequence: u64) -> bool {
        let known = last != 0 && (last == self.opening || last == self.next);
        self.pool == pool && known && sequence >= self.sequence
    }
}

/// The name of a pool's memory: it tells the state folder, as units of systemd tell paths.
fn name(witness_folder: &Path, pool: Uuid) -> PathBuf {
    let folder = witness_folder.to_string_lossy().replace('/', "-");
    let end = format!("-{pool}");
    let room = NAME_MAX - "drystone".len() - end.len();
    let skip = folder.char_indices().map(|(at, _)| at).find(|at| folder.len() - at <= room).unwrap_or(0);
    format!("drystone{}{end}", &folder[skip..]).into()
}

fn read_place(memory: &dyn LastingMemory, place: usize) -> Option<((RegionKey, u64), Left)> {
    let word = |at: usize| memory.load(place * PLACE + at);
    let (stamp, owner, region) = (word(0), word(1), word(2));
    if stamp == 0 || word(3) != sum(stamp, owner, region) {
        return None;
    }
    let [volume, slot] = [owner >> 32, owner & 0xffff_ffff].map(|half| u32::try_from(half).expect("32 bits"));
    let region = RegionIndex(u32::try_from(region).ok()?);
    let key = RegionKey { volume: VolumeId(volume), slot: SlotIndex(slot), region };
    let marks: [u64; MARKS] = std::array::from_fn(|at| word(MARKS_AT + at));
    let copies = std::array::from_fn(|at| word(COPIES_AT + at));
    Some(((key, stamp), Left { place, written: Bitmap::from_words(BLOCKS_MAX, &marks), copies }))
}

fn write_place(
    memory: &dyn LastingMemory,
    place: usize,
    key: &RegionKey,
    stamp: u64,
    reach: &Reach,
    written: &Bitmap,
) {
    let at = place * PLACE;
    let owner = u64::from(key.volume.0) << 32 | u64::from(key.slot.0);
    let region = u64::from(key.region.0);
    memory.store(at + 1, owner);
    memory.store(at + 2, region);
    memory.store(at + 3, sum(stamp, owner, region));
    let copies = reach.copies.iter().map(copy_word).chain(std::iter::repeat(0));
    (at + COPIES_AT..at + MARKS_AT).zip(copies).for_each(|(at, word)| memory.store(at, word));
    write_marks(memory, place, written);
    (written.words().len()..MARKS).for_each(|word| memory.store(at + MARKS_AT + word, 0));
    memory.store(at, stamp);
}

fn copy_word(reached: &Reached) -> u64 {
    drive_word(reached.member.id, reached.disk())
}

/// A member with its drive's stay; never zero.
fn drive_word(member: MemberId, disk: &Disk) -> u64 {
    (u64::from(member.0) + 1) << 48 | disk.facts().stay
}

/// Where the words of the drives are.
fn drive_places() -> std::ops::Range<usize> {
    DRIVES_FROM * PLACE..DRIVES_FROM * PLACE + MEMBERS_MAX
}

fn write_marks(memory: &dyn LastingMemory, place: usize, written: &Bitmap) {
    for (at, word) in (place * PLACE + MARKS_AT..).zip(written.words()) {
        if memory.load(at) != *word {
            memory.store(at, *word);
        }
    }
}

fn sum(stamp: u64, owner: u64, region: u64) -> u64 {
    structure_sum(&[stamp, owner, region].map(u64::to_le_bytes).concat())
}

#[cfg(test)]
mod tests {
    use super::super::state::{Opening, SlotRecord};
    use super::*;
    use smallvec::SmallVec;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    /// Words on the heap.
    struct Words(Vec<AtomicU64>, AtomicBool);

    impl LastingMemory for Words {
        fn load(&self, at: usize) -> u64 {
            self.0[at].load(Ordering::Relaxed)
        }

        fn store(&self, at: usize, word: u64) {
            self.0[at].store(word, Ordering::Relaxed);
        }

        fn remove(&self) {
            self.1.store(true, Ordering::Relaxed);
        }
    }

    fn memory() -> Arc<Words> {
        Arc::new(Words((0..PLACES * PLACE).map(|_| AtomicU64::new(0)).collect(), false.into()))
    }

    fn marks(memory: &Arc<Words>) -> KeptMarks {
        KeptMarks {
            memory: Some(memory.clone()),
            free: Mutex::default(),
            left: Mutex::default(),
            served: Mutex::default(),
        }
    }

    fn nowhere(_: &Placement) -> Reach {
        Reach { copies: SmallVec::new(), degraded: false, writable: true, incoming: None }
    }

    /// A region whose slot has this number as its stamp, with one block written and not saved.
    fn region(slot: u32) -> Region {
        let key = RegionKey { volume: VolumeId(1), slot: SlotIndex(slot), region: RegionIndex(2) };
        let region = Region::new(key, 512, false);
        {
            let mut state = region.state();
            let copies = SmallVec::new();
            state.fill(Some(Placement { stamp: u64::from(slot), copies, incoming: None }), None);
            state.written.set(300, true);
        }
        region
    }

    fn state(last: u64, slots: std::ops::Range<u32>) -> State {
        let mut state = crate::pool::state_codec::sample();
        state.clean = false;
        state.lineage = vec![Opening { mark: last, sequence: 1 }];
        let mut volume = state.volumes.pop_first().expect("the sample has one").1;
        let record = |slot| SlotRecord { stamp: u64::from(slot), copies: SmallVec::new() };
        volume.slots = slots.map(|slot| (SlotIndex(slot), record(slot))).collect();
        state.volumes = BTreeMap::from([(VolumeId(1), volume)]);
        state
    }

    /// Marks of an opening 7 whose last commit was 20, for slots 1 to 3.
    fn left_behind() -> Arc<Words> {
        let memory = memory();
        let marks = marks(&memory);
        marks.begin(&state(5, 0..0), 17, 7);
        marks.begun(7, 20);
        for slot in 1..4 {
            let region = region(slot);
            assert_eq!(marks.keep(&region.key, &mut region.state(), 1, nowhere), Marks::Kept);
        }
        assert_eq!(marks.in_use(), 3);
        memory
    }

    fn found(memory: &Arc<Words>, state: &State, sequence: u64) -> usize {
        let marks = marks(memory);
        marks.begin(state, sequence, 9);
        marks.all_left().len()
    }

    #[test]
    fn the_next_opening_finds_the_marks_of_slots_that_are_there() {
        let memory = left_behind();
        let marks = marks(&memory);
        marks.begin(&state(7, 2..10), 20, 9);
        let keys: Vec<u32> = marks.all_left().iter().map(|key| key.slot.0).collect();
        assert_eq!(keys, [2, 3]);
        assert_eq!(marks.in_use(), 2, "the place of the other one is free");
        let left = marks.left(&region(2).key, 2).expect("it was left");
        assert_eq!(left.written(512).iter().collect::<Vec<_>>(), [300]);
        assert!(marks.left(&region(2).key, 3).is_none(), "another stamp is another slot");
        marks.settled(&region(2).key, 2);
        assert_eq!(marks.in_use(), 1);
    }

    #[test]
    fn marks_count_for_the_last_opening_and_a_log_that_has_its_commits() {
        assert_eq!(found(&left_behind(), &state(7, 0..10), 20), 3);
        assert_eq!(
            found(&left_behind(), &state(7, 0..10), 25),
            3,
            "one that was cut off may have committed more"
        );
        assert_eq!(found(&left_behind(), &state(7, 0..10), 19), 0, "this log lacks a commit");
        assert_eq!(found(&left_behind(), &state(8, 0..10), 20), 0, "another opening came between");
        assert_eq!(found(&left_behind(), &State { clean: true, ..state(7, 0..10) }, 20), 0);
        assert_eq!(found(&left_behind(), &State { pool: Uuid::from_u128(9), ..state(7, 0..10) }, 20), 0);
        assert_eq!(found(&memory(), &state(7, 0..10), 20), 0);
    }

    #[test]
    fn an_opening_that_is_cut_off_leaves_the_marks_to_the_next_one() {
        let memory = left_behind();
        assert_eq!(found(&memory, &state(7, 0..10), 20), 3, "opening 9 begins");
        assert_eq!(found(&memory, &state(7, 0..10), 20), 3, "its commit was not made");
        assert_eq!(found(&memory, &state(9, 0..10), 21), 3, "or it was");
        assert_eq!(found(&memory, &state(9, 0..10), 21), 3);
        assert_eq!(found(&memory, &state(7, 0..10), 20), 0, "that is a fork");
    }

    #[test]
    fn what_is_saved_again_as_it_was_needs_no_place() {
        let marks = marks(&memory());
        marks.begin(&state(5, 0..0), 17, 7);
        let region = region(1);
        let mut state = region.state();
        assert_eq!(marks.keep(&region.key, &mut state, 1, nowhere), Marks::Kept);
        state.written.set(300, false);
        assert_eq!(marks.keep(&region.key, &mut state, 1, nowhere), Marks::Saved);
        assert_eq!((marks.in_use(), state.kept), (0, None));
        state.saving = 1;
        assert_eq!(
            marks.keep(&region.key, &mut state, 1, nowhere),
            Marks::Kept,
            "the save may say otherwise"
        );
        state.saving = 0;
        marks.release(&mut state);
        assert_eq!(marks.in_use(), 0);
    }

    #[test]
    fn without_a_free_place_a_change_is_saved_before_it_is_answered() {
        let memory = memory();
        let marks = marks(&memory);
        marks.begin(&state(5, 0..0), 17, 7);
        let regions: Vec<Region> = (1..).take(DRIVES_FROM).map(region).collect();
        let kept = |region: &Region| marks.keep(&region.key, &mut region.state(), 1, nowhere);
        let (last, first) = regions.split_last().expect("there are some");
        assert!(first.iter().all(|region| kept(region) == Marks::Kept));
        assert_eq!(kept(last), Marks::Exposed);
        marks.release(&mut first[0].state());
        assert_eq!(kept(last), Marks::Kept);
        marks.forget_volume(VolumeId(2));
        assert_eq!(marks.in_use(), DRIVES_FROM - 1);
        marks.forget_volume(VolumeId(1));
        assert_eq!(marks.in_use(), 0);
    }

    #[test]
    fn a_place_that_was_torn_says_nothing() {
        for word in 0..4 {
            let memory = left_behind();
            let place = (1..PLACES).find(|place| memory.load(place * PLACE) == 2).expect("slot 2 has one");
            let was = memory.load(place * PLACE + word);
            memory.store(place * PLACE + word, was ^ 1 << 40);
            let found = found(&memory, &state(7, 0..10), 20);
            assert_eq!(found, 2, "word {word}");
        }
    }

    #[test]
    fn the_name_tells_the_state_folder_and_fits() {
        let pool = Uuid::from_u128(1);
        let short = name(Path::new("/var/lib/drystone"), pool);
        assert_eq!(short.to_str(), Some("drystone-var-lib-drystone-00000000-0000-0000-0000-000000000001"));
        for len in [10, 200, 210, 220, 300, 4000] {
            let long = name(&Path::new("/").join("é".repeat(len / 2)), pool);
            assert!(long.as_os_str().len() <= NAME_MAX, "{len}");
        }
    }
}
