//! What a simulated drive holds: what reads see, what would survive a power cut, and what lies between.
//!
//! Content is sparse pages of 4 KiB; a page that is absent is zeros. A write that reached the drive is a *version*
//! of the sectors it touched. Reads see the newest version. A version becomes stable when a flush covers it or
//! when it was written with FUA; a power cut picks, for every sector by itself, the stable content or any of the
//! versions above it. Invariant: `current` is `stable` with all versions laid over it in order, except where
//! damage was done on purpose.

use crate::base::prng::Prng;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use xxhash_rust::xxh3::xxh3_64_with_seed;

pub(super) const PAGE: u64 = 4096;
pub(super) const SECTOR: u64 = 512;
const PAGE_BYTES: usize = 4096;
const SECTOR_BYTES: usize = 512;
const ALL_SECTORS: u8 = 0xff;

/// One page's bytes, shared between what reads see, what is stable, and images.
type Page = Rc<[u8; PAGE_BYTES]>;

/// Sectors of one page and what they are to hold; no page means zeros.
#[derive(Clone)]
pub(super) struct Patch {
    page: u64,
    sectors: u8,
    bytes: Option<Page>,
}

/// Sparse content.
#[derive(Clone, Default)]
pub(super) struct Pages {
    pages: BTreeMap<u64, Page>,
}

impl Pages {
    fn read(&self, offset: u64, out: &mut [u8]) {
        for (page, within, range) in cuts(offset, out.len()) {
            let part = &mut out[range];
            match self.pages.get(&page) {
                Some(bytes) => part.copy_from_slice(&bytes[within..within + part.len()]),
                None => part.fill(0),
            }
        }
    }

    fn put(&mut self, page: u64, sectors: u8, bytes: Option<&Page>) {
        if sectors == ALL_SECTORS {
            match bytes {
                Some(bytes) => self.pages.insert(page, bytes.clone()),
                None => self.pages.remove(&page),
            };
            return;
        }
        if bytes.is_none() && !self.pages.contains_key(&page) {
            return;
        }
        let target = Rc::make_mut(self.pages.entry(page).or_insert_with(|| Rc::new([0; PAGE_BYTES])));
        for range in sector_ranges(sectors) {
            match bytes {
                Some(bytes) => target[range.clone()].copy_from_slice(&bytes[range]),
                None => target[range].fill(0),
            }
        }
    }

    fn flip(&mut self, offset: u64, bit: u8) {
        let page = Rc::make_mut(self.pages.entry(offset / PAGE).or_insert_with(|| Rc::new([0; PAGE_BYTES])));
        page[usize::try_from(offset % PAGE).expect("below 4096")] ^= 1 << bit;
    }

    fn truncate(&mut self, size: u64) {
        self.pages.split_off(&size.div_ceil(PAGE));
        let kept = usize::try_from(size % PAGE).expect("below 4096");
        if let Some(last) = self.pages.get_mut(&(size / PAGE)) {
            Rc::make_mut(last)[kept..].fill(0);
        }
    }
}

/// One write's sectors of one page, not yet stable.
#[derive(Clone)]
struct Version {
    op: u64,
    sectors: u8,
    bytes: Option<Page>,
    /// The drive's count of completed writes when this one completed.
    completed: Option<u64>,
    /// A flush of it failed: no later flush makes it stable.
    doomed: bool,
}

/// The content of one drive.
#[derive(Clone)]
pub(super) struct Media {
    current: Pages,
    stable: Pages,
    dirty: BTreeMap<u64, Vec<Version>>,
    completions: u64,
    /// The sectors of a page in groups that are written atomically.
    units: Vec<u8>,
}

impl Media {
    /// Empty content that tears at `atomic` bytes: 512, 1024, 2048 or 4096.
    pub(super) fn new(atomic: u64) -> Media {
        let sectors = u32::try_from(atomic / SECTOR).expect("at most 8");
        let unit = u8::try_from((1u32 << sectors) - 1).expect("at most eight bits");
        let units = (0..8).step_by(sectors as usize).map(|shift| unit << shift).collect(); // u32 to usize
        Media {
            current: Pages::default(),
            stable: Pages::default(),
            dirty: BTreeMap::new(),
            completions: 0,
            units,
        }
    }

    pub(super) fn read(&self, offset: u64, out: &mut [u8]) {
        self.current.read(offset, out);
    }

    /// What a power cut that loses everything would leave.
    pub(super) fn read_stable(&self, offset: u64, out: &mut [u8]) {
        self.stable.read(offset, out);
    }

    /// Stores what a write has left to store; reads see it from now on.
    pub(super) fn apply(&mut self, op: u64, patches: &[Patch]) {
        for patch in patches.iter().filter(|p| p.sectors != 0) {
            self.current.put(patch.page, patch.sectors, patch.bytes.as_ref());
            let version = Version {
                op,
                sectors: patch.sectors,
                bytes: patch.bytes.clone(),
                completed: None,
                doomed: false,
            };
            self.dirty.entry(patch.page).or_default().push(version);
        }
    }

    /// Moves a random part of the patches into a list of its own, cut at what is written atomically.
    pub(super) fn split(&self, patches: &mut [Patch], prng: &mut Prng) -> Vec<Patch> {
        let share = [100, 500, 900][usize::try_from(prng.below(3)).expect("below 3")];
        let mut taken = Vec::new();
        for patch in patches {
            let mut sectors = 0;
            for unit in &self.units {
                if prng.chance(share) {
                    sectors |= patch.sectors & unit;
                }
            }
            patch.sectors &= !sectors;
            taken.push(Patch { sectors, ..patch.clone() });
        }
        taken
    }

    /// A write has completed: flushes submitted from now on cover it.
    pub(super) fn complete(&mut self, op: u64, pages: Range<u64>) {
        self.completions += 1;
        let count = self.completions;
        for versions in self.dirty.range_mut(pages).map(|(_, v)| v) {
            versions.iter_mut().filter(|v| v.op == op).for_each(|v| v.completed = Some(count));
        }
    }

    /// How many writes have completed: what a flush submitted now covers.
    pub(super) fn completions(&self) -> u64 {
        self.completions
    }

    /// A flush ended well: what had completed when it was submitted is stable.
    pub(super) fn flushed(&mut self, covers: u64) {
        let covered = |v: &Version| !v.doomed && v.completed.is_some_and(|c| c <= covers);
        let pages = self.dirty.iter().filter(|(_, versions)| versions.iter().any(covered));
        let pages: Vec<u64> = pages.map(|(page, _)| *page).collect();
        pages.into_iter().for_each(|page| self.settle(page, covered));
    }

    /// A flush failed and the drive forgot that these versions were to be stored.
    pub(super) fn flush_failed(&mut self, covers: u64) {
        for version in self.dirty.values_mut().flatten() {
            version.doomed |= version.completed.is_some_and(|c| c <= covers);
        }
    }

    /// One write is stable (FUA, or a drive without a volatile cache).
    pub(super) fn forced(&mut self, op: u64, pages: Range<u64>) {
        let pages: Vec<u64> = self.dirty.range(pages).map(|(page, _)| *page).collect();
        pages.into_iter().for_each(|page| self.settle(page, |v| v.op == op));
    }

    fn settle(&mut self, page: u64, covered: impl Fn(&Version) -> bool) {
        let versions = self.dirty.get_mut(&page).expect("the caller looked it up");
        let mut takes = vec![0u8; versions.len()];
        for unit in &self.units {
            let last = versions.iter().rposition(|v| v.sectors & unit != 0 && covered(v));
            if let Some(last) = last {
                takes[last] |= unit & versions[last].sectors;
                versions[..last].iter_mut().for_each(|v| v.sectors &= !unit);
            }
        }
        for (version, take) in versions.iter_mut().zip(takes) {
            if take != 0 {
                self.stable.put(page, take, version.bytes.as_ref());
                version.sectors &= !take;
            }
        }
        versions.retain(|v| v.sectors != 0);
        if versions.is_empty() {
            self.dirty.remove(&page);
        }
    }

    /// The power went: every sector keeps its stable content or any version above it, each by itself.
    pub(super) fn power_cut(&mut self, prng: &mut Prng) {
        let newest = [0, 100, 500, 900, 1000][usize::try_from(prng.below(5)).expect("below 5")];
        for (page, versions) in std::mem::take(&mut self.dirty) {
            for unit in &self.units {
                let candidates: Vec<&Version> = versions.iter().filter(|v| v.sectors & unit != 0).collect();
                if candidates.is_empty() {
                    continue;
                }
                let last = candidates.len() - 1;
                // 0 is the stable content, n the nth version.
                let pick = match prng.chance(newest) {
                    true => last + 1,
                    false => usize::try_from(prng.below(last as u64 + 1)).expect("a list's index"), // widening
                };
                if let Some(version) = pick.checked_sub(1).map(|i| candidates[i]) {
                    self.stable.put(page, unit & version.sectors, version.bytes.as_ref());
                }
            }
        }
        self.current = self.stable.clone();
    }

    /// A checksum of what reads see.
    pub(super) fn content_sum(&self) -> u64 {
        let pages = self.current.pages.iter();
        pages.fold(0, |sum, (page, bytes)| xxh3_64_with_seed(&bytes[..], sum ^ page))
    }

    /// Sectors whose content a power cut may change.
    pub(super) fn volatile_sectors(&self) -> u64 {
        let masks = self.dirty.values().map(|versions| versions.iter().fold(0u8, |m, v| m | v.sectors));
        masks.map(|mask| u64::from(mask.count_ones())).sum()
    }

    /// Overwrites at rest, behind everybody's back.
    pub(super) fn damage(&mut self, patches: &[Patch]) {
        for patch in patches {
            self.current.put(patch.page, patch.sectors, patch.bytes.as_ref());
            self.stable.put(patch.page, patch.sectors, patch.bytes.as_ref());
        }
    }

    /// Flips one bit at rest.
    pub(super) fn flip(&mut self, offset: u64, bit: u8) {
        self.current.flip(offset, bit);
        self.stable.flip(offset, bit);
    }

    /// What reads see becomes what a power cut leaves.
    pub(super) fn all_stable(&mut self) {
        self.stable = self.current.clone();
        self.dirty.clear();
    }

    /// Forgets all from `size` on.
    pub(super) fn truncate(&mut self, size: u64) {
        self.current.truncate(size);
        self.stable.truncate(size);
        self.dirty.split_off(&size.div_ceil(PAGE));
    }
}

/// The pages that a range of bytes touches.
pub(super) fn pages_of(offset: u64, len: u64) -> Range<u64> {
    offset / PAGE..(offset + len).div_ceil(PAGE)
}

/// The patches that store `bytes` at `offset`, both whole sectors.
pub(super) fn patches_of(offset: u64, bytes: &[u8]) -> Vec<Patch> {
    let cuts = cuts(offset, bytes.len());
    cuts.map(|(page, within, range)| {
        let mut image = [0; PAGE_BYTES];
        image[within..within + range.len()].copy_from_slice(&bytes[range.clone()]);
        Patch { page, sectors: sector_mask(within, range.len()), bytes: Some(Rc::new(image)) }
    })
    .collect()
}

/// The patches that store zeros.
pub(super) fn zeros_of(offset: u64, len: usize) -> Vec<Patch> {
    let cuts = cuts(offset, len);
    cuts.map(|(page, within, range)| Patch { page, sectors: sector_mask(within, range.len()), bytes: None })
        .collect()
}

/// The patches that store garbage, the same in every page.
pub(super) fn garbage_of(offset: u64, len: usize, prng: &mut Prng) -> Vec<Patch> {
    let mut image = [0; PAGE_BYTES];
    prng.fill(&mut image);
    let image = Rc::new(image);
    let mut patches = zeros_of(offset, len);
    patches.iter_mut().for_each(|p| p.bytes = Some(image.clone()));
    patches
}

/// Cuts a range at page borders: the page, where in it, and which part of the range.
fn cuts(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset + done as u64; // widening
        let within = usize::try_from(at % PAGE).expect("below 4096");
        let range = done..len.min(done + PAGE_BYTES - within);
        done = range.end;
        Some((at / PAGE, within, range))
    })
}

fn sector_mask(within: usize, len: usize) -> u8 {
    let (first, end) = (within / SECTOR_BYTES, (within + len).div_ceil(SECTOR_BYTES));
    (first..end).fold(0, |mask, sector| mask | 1 << sector)
}

fn sector_ranges(sectors: u8) -> impl Iterator<Item = Range<usize>> {
    let present = (0..8usize).filter(move |i| sectors & (1 << i) != 0);
    present.map(|i| i * SECTOR_BYTES..(i + 1) * SECTOR_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn byte_at(media: &Media, offset: u64) -> u8 {
        let mut one = [0];
        media.read(offset, &mut one);
        one[0]
    }

    fn write(media: &mut Media, op: u64, offset: u64, tag: u8, len: usize) {
        media.apply(op, &patches_of(offset, &vec![tag; len]));
        media.complete(op, pages_of(offset, len as u64));
    }

    #[test]
    fn a_flush_covers_what_completed_before_it_was_submitted() {
        for seed in 0..50 {
            let mut media = Media::new(512);
            write(&mut media, 1, 0, 1, 4096);
            let covers = media.completions();
            write(&mut media, 2, 512, 2, 512);
            media.flushed(covers);
            assert_eq!(media.volatile_sectors(), 1);
            media.power_cut(&mut Prng::from_seed(seed));
            assert_eq!(byte_at(&media, 0), 1);
            assert!([1, 2].contains(&byte_at(&media, 512)), "never older than the flush");
        }
    }

    #[test]
    fn a_power_cut_tears_at_the_atomic_unit_only() {
        let mut torn = [false; 2];
        for seed in 0..50 {
            for (found, atomic) in torn.iter_mut().zip([512, 4096]) {
                let mut media = Media::new(atomic);
                write(&mut media, 1, 0, 1, 4096);
                media.power_cut(&mut Prng::from_seed(seed));
                let kept = (0..8).filter(|s| byte_at(&media, s * 512) == 1).count();
                *found |= kept != 0 && kept != 8;
            }
        }
        assert_eq!(torn, [true, false]);
    }

    #[test]
    fn a_forced_version_replaces_what_was_below_it() {
        let mut media = Media::new(512);
        write(&mut media, 1, 0, 1, 1024);
        write(&mut media, 2, 512, 2, 512);
        media.forced(2, 0..1);
        let mut below = [0; 1024];
        media.read_stable(0, &mut below);
        assert_eq!((below[0], below[512]), (0, 2));
        media.power_cut(&mut Prng::from_seed(1));
        assert_eq!(byte_at(&media, 512), 2);
    }

    #[test]
    fn a_failed_flush_dooms_what_it_covered() {
        let mut media = Media::new(512);
        write(&mut media, 1, 0, 7, 512);
        media.flush_failed(media.completions());
        media.flushed(media.completions());
        assert_eq!((byte_at(&media, 0), media.volatile_sectors()), (7, 1));
        let lost = (0..40).any(|seed| {
            let mut after = media.clone();
            after.power_cut(&mut Prng::from_seed(seed));
            byte_at(&after, 0) == 0
        });
        assert!(lost);
    }
}
