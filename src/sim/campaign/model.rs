//! What every sector may hold: the oracle of O1, O2 (light) and O3.
//!
//! A sector has a *base*, a value that is fixed but perhaps not known (one of a few after a power cut), and the
//! changes issued since. Requests that overlap in time may take effect in either order; one that ended before
//! another was issued came first.
//!
//! - **Running**: a read may return a change that no *established* one replaced: established are changes that were
//!   answered, or seen by a read, before this read began. The base is older than all.
//! - **Kill** of the process: nothing that was answered is lost. What is durable does not change.
//! - **Power cut**: what may be there is the base and every change, answered or not, that no *durable* one replaced:
//!   durable are changes with FUA and those answered before a flush was issued that succeeded. The survivors
//!   become the base; the first read of the sector fixes it.
//!
//! A failed change may have happened or not, but not after it was answered. A change whose answer is not known, since its
//! connection died, is one that is under way until the server has ended that connection; then it is one that failed.

use super::report::{Failure, Oracle, Verdict};
use super::stamp::Serial;
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// A moment of a run: moments are counted, not measured.
pub type Moment = u64;

/// What a request stores.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stores {
    Stamps,
    Zeros,
}

/// Names a change: also the serial in its stamps.
pub type ChangeId = u64;

#[derive(Clone, Debug)]
struct Change {
    volume: usize,
    stores: Stores,
    fua: bool,
    issued: Moment,
    ended: Option<Moment>,
    ok: bool,
    durable: bool,
}

#[derive(Clone, Debug)]
struct Entry {
    change: ChangeId,
    /// A read that returned it ended at this moment.
    seen: Option<Moment>,
}

#[derive(Clone, Debug)]
struct Sector {
    /// Values it may have had before all entries; empty when a durable change replaced them.
    base: SmallVec<[Serial; 2]>,
    /// A read has fixed the base.
    fixed: bool,
    entries: SmallVec<[Entry; 4]>,
}

impl Default for Sector {
    fn default() -> Sector {
        Sector { base: SmallVec::from_slice(&[0]), fixed: false, entries: SmallVec::new() }
    }
}

#[derive(Clone, Default)]
struct VolumeModel {
    sectors: BTreeMap<u64, Sector>,
    /// Changes that ended well and are not durable yet.
    unflushed: Vec<ChangeId>,
}

/// The model of all volumes of a run.
#[derive(Clone)]
pub struct Model {
    clock: Moment,
    changes: Vec<Change>,
    volumes: Vec<VolumeModel>,
    /// Reads under way, by the moments at which they began: they may still see what was there then.
    reading: BTreeSet<Moment>,
}

/// Entries of a sector beyond which the replaced ones are dropped.
const ENTRIES_MANY: usize = 8;

impl Model {
    pub fn new(volumes: usize) -> Model {
        let volumes = (0..volumes).map(|_| VolumeModel::default()).collect();
        Model { clock: 0, changes: Vec::new(), volumes, reading: BTreeSet::new() }
    }

    /// Room for one more volume; its number.
    pub fn add_volume(&mut self) -> usize {
        self.volumes.push(VolumeModel::default());
        self.volumes.len() - 1
    }

    /// How many volumes there are or were.
    pub fn volume_count(&self) -> usize {
        self.volumes.len()
    }

    /// A new moment, later than all before.
    pub fn now(&mut self) -> Moment {
        self.clock += 1;
        self.clock
    }

    /// A read begins.
    pub fn begin_read(&mut self) -> Moment {
        let began = self.now();
        self.reading.insert(began);
        began
    }

    /// A read that began at this moment has ended and was judged.
    pub fn end_read(&mut self, began: Moment) {
        self.reading.remove(&began);
    }

    /// A change of these sectors is issued.
    pub fn begin(&mut self, volume: usize, sectors: Range<u64>, stores: Stores, fua: bool) -> ChangeId {
        let issued = self.now();
        self.changes.push(Change { volume, stores, fua, issued, ended: None, ok: false, durable: false });
        let change = self.changes.len() as u64; // widening; serials start at 1
        let oldest_read = self.reading.first().copied().unwrap_or(issued);
        for number in sectors {
            let sector = self.volumes[volume].sectors.entry(number).or_default();
            if sector.entries.len() >= ENTRIES_MANY {
                forget_replaced(&self.changes, sector, oldest_read);
            }
            sector.entries.push(Entry { change, seen: None });
        }
        change
    }

    /// A change was answered.
    pub fn end(&mut self, id: ChangeId, ok: bool) {
        let ended = self.now();
        let change = change_mut(&mut self.changes, id);
        change.ended = Some(ended);
        change.ok = ok;
        change.durable = ok && change.fua;
        if ok && !change.fua {
            self.volumes[change.volume].unflushed.push(id);
        }
    }

    /// A flush that was issued at a moment succeeded.
    pub fn flushed(&mut self, volume: usize, issued: Moment) {
        let changes = &mut self.changes;
        self.volumes[volume].unflushed.retain(|id| {
            let change = change_mut(changes, *id);
            change.durable |= change.ended.is_some_and(|ended| ended < issued);
            !change.durable
        });
    }

    /// The volume's last life was killed: what was answered is there, and what was not may be.
    pub fn kill(&mut self, volume: usize) {
        let now = self.now();
        self.reading.clear();
        let open = self.changes.iter_mut().filter(|change| change.volume == volume && change.ended.is_none());
        open.for_each(|change| change.ended = Some(now));
    }

    /// The volume's last life ended with the machine's power; what was not durable may be lost.
    pub fn crash(&mut self, volume: usize) {
        let model = &mut self.volumes[volume];
        self.reading.clear();
        model.unflushed.clear();
        for sector in model.sectors.values_mut().filter(|s| !s.entries.is_empty()) {
            let survivors = survivors(&self.changes, sector);
            sector.fixed = false;
            sector.base = survivors;
            sector.entries.clear();
        }
    }

    /// The volume was closed well: everything answered is durable.
    pub fn closed(&mut self, volume: usize) {
        let now = self.now();
        self.flushed(volume, now);
        self.crash(volume);
    }

    /// Judges what a read that began at `began` and ends now returned for a sector, and learns from it.
    pub fn judge(&mut self, volume: usize, number: u64, value: Serial, began: Moment) -> Verdict {
        let now = self.now();
        let Some(sector) = self.volumes[volume].sectors.get_mut(&number) else {
            return match value {
                0 => Ok(()),
                _ => Err(never_written(volume, number, value)),
            };
        };
        let found: SmallVec<[usize; 4]> = possible(&self.changes, sector, value, began);
        let base = sector.base.contains(&value) && !base_replaced(&self.changes, sector, began);
        match (&found[..], base) {
            ([], false) => Err(explain(&self.changes, sector, (volume, number), value, began)),
            ([], true) => {
                sector.fixed = true;
                sector.base = SmallVec::from_slice(&[value]);
                Ok(())
            }
            ([one], false) => {
                sector.entries[*one].seen.get_or_insert(now);
                Ok(())
            }
            // Zeros can be from several: nothing is learned.
            (_, _) => Ok(()),
        }
    }

    /// Whether a sector may be zeros as a request that began at `began` and ends now sees it.
    pub fn may_be_zeros(&self, volume: usize, number: u64, began: Moment) -> bool {
        let Some(sector) = self.volumes[volume].sectors.get(&number) else { return true };
        !possible(&self.changes, sector, 0, began).is_empty()
            || sector.base.contains(&0) && !base_replaced(&self.changes, sector, began)
    }

    /// Whether a sector was ever changed.
    pub fn any_changed(&self, volume: usize, sectors: Range<u64>) -> bool {
        self.volumes[volume].sectors.range(sectors).next().is_some()
    }
}

fn change(changes: &[Change], id: ChangeId) -> &Change {
    &changes[usize::try_from(id - 1).expect("64-bit platform")]
}

fn change_mut(changes: &mut [Change], id: ChangeId) -> &mut Change {
    &mut changes[usize::try_from(id - 1).expect("64-bit platform")]
}

fn value(changes: &[Change], id: ChangeId) -> Serial {
    match change(changes, id).stores {
        Stores::Stamps => id,
        Stores::Zeros => 0,
    }
}

/// Whether a change had certainly happened before a moment.
fn established(changes: &[Change], entry: &Entry, before: Moment) -> bool {
    let change = change(changes, entry.change);
    change.ok && change.ended.is_some_and(|ended| ended < before) || entry.seen.is_some_and(|s| s < before)
}

/// Whether `newer` came after `older` in any order of events.
fn replaces(changes: &[Change], newer: &Entry, older: &Entry) -> bool {
    change(changes, older.change).ended.is_some_and(|ended| ended < change(changes, newer.change).issued)
}

fn base_replaced(changes: &[Change], sector: &Sector, began: Moment) -> bool {
    sector.entries.iter().any(|e| established(changes, e, began))
}

/// The entries of this value that a read which began at `began` may return.
fn possible(changes: &[Change], sector: &Sector, wanted: Serial, began: Moment) -> SmallVec<[usize; 4]> {
    let replaced = |older: &Entry| {
        sector.entries.iter().any(|e| established(changes, e, began) && replaces(changes, e, older))
    };
    let entries = sector.entries.iter().enumerate();
    let right = entries.filter(|(_, e)| value(changes, e.change) == wanted && !replaced(e));
    right.map(|(at, _)| at).collect()
}

/// The values that may be there after a crash, each once.
fn survivors(changes: &[Change], sector: &Sector) -> SmallVec<[Serial; 2]> {
    let durable = |e: &&Entry| change(changes, e.change).durable;
    let mut values: SmallVec<[Serial; 2]> = SmallVec::new();
    if !sector.entries.iter().any(|e| durable(&e)) {
        values.extend(sector.base.iter().copied());
    }
    for entry in &sector.entries {
        let replaced = sector.entries.iter().filter(durable).any(|newer| replaces(changes, newer, entry));
        let value = value(changes, entry.change);
        if !replaced && !values.contains(&value) {
            values.push(value);
        }
    }
    values
}

/// Drops what neither a read nor a crash can bring back.
fn forget_replaced(changes: &[Change], sector: &mut Sector, oldest_read: Moment) {
    let over = |c: &Change| c.durable && c.ended.is_some_and(|ended| ended < oldest_read);
    let durable: SmallVec<[Entry; 4]> =
        sector.entries.iter().filter(|e| over(change(changes, e.change))).cloned().collect();
    if !durable.is_empty() {
        sector.base.clear();
    }
    sector.entries.retain(|older| !durable.iter().any(|newer| replaces(changes, newer, older)));
}

fn never_written(volume: usize, number: u64, value: Serial) -> Failure {
    Failure::new(Oracle::Bytes, format!("volume {volume} sector {number}: write {value} never went there"))
}

/// Says which rule a value breaks.
fn explain(
    changes: &[Change],
    sector: &Sector,
    (volume, number): (usize, u64),
    found: Serial,
    began: Moment,
) -> Failure {
    let place = format!("volume {volume} sector {number}");
    let older = sector.entries.iter().find(|e| value(changes, e.change) == found);
    let newer = sector.entries.iter().filter(|e| established(changes, e, began));
    let newer: Vec<String> = newer.map(|e| describe(changes, e)).collect();
    match (older, &newer[..]) {
        (None, []) if sector.fixed => {
            let what =
                format!("{place}: was {} when it was last read, and is {found} now", list(&sector.base));
            Failure::new(Oracle::Stability, what)
        }
        (None, []) => {
            let what = format!("{place}: is {found} after a crash, may be {}", list(&sector.base));
            Failure::new(Oracle::Durability, what)
        }
        (older, newer) => {
            let older = older.map(|e| describe(changes, e)).unwrap_or_default();
            let newer = newer.join(", ");
            let what = format!("{place}: read {found} ({older}) at {began}, but there was {newer}");
            Failure::new(Oracle::Order, what)
        }
    }
}

fn describe(changes: &[Change], entry: &Entry) -> String {
    let c = change(changes, entry.change);
    let ended = c.ended.map_or("never".to_owned(), |e| e.to_string());
    let seen = entry.seen.map_or(String::new(), |s| format!(", seen at {s}"));
    format!("{:?} {} issued at {}, ended at {ended}{seen}", c.stores, entry.change, c.issued)
}

fn list(values: &[Serial]) -> String {
    let words: Vec<String> = values.iter().map(u64::to_string).collect();
    words.join(" or ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(model: &mut Model) -> ChangeId {
        let id = model.begin(0, 0..1, Stores::Stamps, false);
        model.end(id, true);
        id
    }

    fn read(model: &mut Model, value: Serial) -> Result<(), Oracle> {
        let began = model.now();
        model.judge(0, 0, value, began).map_err(|f| f.oracle)
    }

    fn flush(model: &mut Model) {
        let issued = model.now();
        model.flushed(0, issued);
    }

    #[test]
    fn an_answered_write_replaces_what_was_there_and_an_open_one_may() {
        let mut m = Model::new(1);
        assert_eq!(read(&mut m, 0), Ok(()));
        let first = write(&mut m);
        assert_eq!(read(&mut m, 0), Err(Oracle::Order));
        let second = m.begin(0, 0..1, Stores::Stamps, false);
        assert_eq!(read(&mut m, first), Ok(()));
        assert_eq!(read(&mut m, second), Ok(()));
        assert_eq!(read(&mut m, first), Err(Oracle::Order), "the second was seen");
        assert_eq!(read(&mut m, 99), Err(Oracle::Order));
    }

    #[test]
    fn a_crash_keeps_at_least_what_was_flushed_and_the_first_read_decides() {
        let mut m = Model::new(1);
        let flushed = write(&mut m);
        flush(&mut m);
        let late = write(&mut m);
        let open = m.begin(0, 0..1, Stores::Zeros, false);
        let _ = open;
        m.crash(0);
        let mut again = Model {
            clock: m.clock,
            changes: m.changes.clone(),
            volumes: vec![VolumeModel::default()],
            reading: BTreeSet::new(),
        };
        again.volumes[0].sectors = m.volumes[0].sectors.clone();
        assert_eq!(read(&mut again, 0), Ok(()));
        assert_eq!(read(&mut again, flushed), Err(Oracle::Stability));
        assert_eq!(read(&mut m, 77), Err(Oracle::Durability));
        assert_eq!(read(&mut m, late), Ok(()));
        m.crash(0);
        assert_eq!(read(&mut m, flushed), Err(Oracle::Stability), "a second crash changes nothing");
        assert_eq!(read(&mut m, late), Ok(()));
    }

    #[test]
    fn a_kill_loses_nothing_that_was_answered_and_a_power_cut_after_it_does() {
        let mut m = Model::new(1);
        let flushed = write(&mut m);
        flush(&mut m);
        let answered = write(&mut m);
        let open = m.begin(0, 0..1, Stores::Stamps, false);
        m.kill(0);
        assert_eq!(read(&mut m, flushed), Err(Oracle::Order));
        assert_eq!(read(&mut m, answered), Ok(()));
        assert_eq!(read(&mut m, open), Ok(()));
        let later = write(&mut m);
        assert_eq!(read(&mut m, open), Err(Oracle::Order), "what was under way does not come late");
        m.crash(0);
        assert_eq!(&m.volumes[0].sectors[&0].base[..], [flushed, answered, open, later]);
    }

    #[test]
    fn a_flush_covers_what_was_answered_before_it_and_fua_needs_none() {
        let mut m = Model::new(1);
        let first = write(&mut m);
        let issued = m.now();
        let second = write(&mut m);
        m.flushed(0, issued);
        m.crash(0);
        assert_eq!(read(&mut m, 0), Err(Oracle::Durability));
        let sector = &m.volumes[0].sectors[&0];
        assert_eq!(&sector.base[..], [first, second]);
        let fua = m.begin(0, 0..1, Stores::Stamps, true);
        m.end(fua, true);
        m.crash(0);
        assert_eq!(read(&mut m, second), Err(Oracle::Durability));
        assert_eq!(read(&mut m, fua), Ok(()));
    }

    #[test]
    fn a_failed_write_is_old_or_new_but_comes_not_late() {
        let mut m = Model::new(1);
        let failed = m.begin(0, 0..1, Stores::Stamps, false);
        m.end(failed, false);
        assert!(m.may_be_zeros(0, 0, m.clock));
        assert_eq!(read(&mut m, failed), Ok(()));
        let next = write(&mut m);
        flush(&mut m);
        m.crash(0);
        assert_eq!(read(&mut m, failed), Err(Oracle::Durability));
        assert_eq!(read(&mut m, next), Ok(()));
    }
}
