//! Which copy of a block is taken when a volume is salvaged. Pure.
//!
//! Copies are ordered as in a running pool: the members in sync hold everything, of the others those of the highest
//! rank. Where a member of the highest rank is there, its region block says what was written, and what any copy
//! holds can be checked against it. Where none is there, what is found may be old.

use super::super::log::Position;
use super::super::open::is_current;
use super::super::region_block::{Places, RegionBlock};
use super::super::state::{MemberRecord, MemberState, Rank};
use smallvec::SmallVec;

/// What became of some bytes of the volume.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fate {
    /// Never written: zeros.
    Hole,
    /// Taken, and its checksum is right.
    Sound,
    /// Taken as a running pool would take it, without a checksum that could prove it: the volume has none, or the
    /// region was being written when everything stopped.
    Unchecked,
    /// Taken from a copy that may lack what was written last; no copy that has it is there.
    Old,
    /// No copy has it: zeros.
    Lost,
}

impl Fate {
    pub const ALL: [Fate; 5] = [Fate::Hole, Fate::Sound, Fate::Unchecked, Fate::Old, Fate::Lost];

    /// The word for people and for the map.
    pub fn word(self) -> &'static str {
        match self {
            Fate::Hole => "hole",
            Fate::Sound => "sound",
            Fate::Unchecked => "unchecked",
            Fate::Old => "old",
            Fate::Lost => "lost",
        }
    }

    /// Whether the bytes of the volume are known to be these.
    pub fn is_missing(self) -> bool {
        matches!(self, Fate::Old | Fate::Lost)
    }
}

/// How much a member holds, from the newest state and the end of its own log. None: it is not there, or has no log.
pub fn rank_of(record: &MemberRecord, is_there: bool, own: Option<&Position>, newest: &Position) -> Rank {
    let in_sync = matches!(record.state, MemberState::Active | MemberState::Suspect);
    let said = if in_sync { Rank::IN_SYNC } else { record.absence.rank };
    if !is_there {
        return said;
    }
    // It cannot say what it has, so it counts as having nothing.
    let Some(own) = own else { return Rank::default() };
    let until = if in_sync {
        *newest
    } else {
        // What it lacks from after it left is no news. One that ends before is an old image.
        let (epoch, sequence) = (record.absence.epoch, record.absence.rank.left.saturating_sub(1));
        Position { epoch, sequence: sequence.max(own.sequence), link: 0 }
    };
    if is_current(until.age(), own.age()) { said } else { Rank { left: own.sequence, kept: 0 } }
}

/// One copy of a region that is there.
#[derive(Clone, Debug)]
pub struct View {
    pub rank: Rank,
    /// Its member marks the region as being written.
    pub dirty: bool,
    /// None: they cannot be read.
    pub places: Option<Places>,
}

/// How the blocks of a region are found.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What was written; None: nothing.
    pub block: Option<RegionBlock>,
    /// The copies in the order in which they are tried, as indices of the views.
    pub order: SmallVec<[usize; 3]>,
    /// So many of them, from the first on, are of the rank that the region block came from.
    pub believed: usize,
    /// That rank is the highest there is: nothing newer exists.
    pub sure: bool,
    /// Checksums may be older than the data.
    pub dirty: bool,
    /// The newest region block is damaged, and no crash explains it: more may have been written than it is known.
    pub doubt: bool,
}

/// How to find the blocks of a region whose copies that are there look like this; `top` is the highest rank of all its
/// copies, also of those that are not there. None: no copy says what was written.
pub fn plan(views: &[View], top: Rank) -> Option<Plan> {
    let readable = |rank: Rank| views.iter().any(|v| v.rank == rank && v.places.is_some());
    let rank = views.iter().map(|v| v.rank).filter(|rank| readable(*rank)).max()?;
    let believed: SmallVec<[usize; 3]> =
        (0..views.len()).filter(|i| views[*i].rank == rank && views[*i].places.is_some()).collect();
    let places = |i: &usize| views[*i].places.as_ref();
    let version = |i: &usize| places(i).and_then(|p| p.newest.as_ref()).map(|b| b.version);
    // The first of the newest, as in a running pool.
    let newest = believed.iter().map(version).max().flatten();
    let source = believed.iter().copied().find(|i| version(i) == newest)?;
    let dirty = believed.iter().any(|i| views[*i].dirty);
    let doubt = !dirty && believed.iter().filter_map(places).all(|p| p.damaged);
    let mut order: SmallVec<[usize; 3]> = SmallVec::from_slice(&[source]);
    order.extend(believed.iter().copied().filter(|i| *i != source));
    let mut others: SmallVec<[usize; 3]> = (0..views.len()).filter(|i| !believed.contains(i)).collect();
    others.sort_by_key(|i| std::cmp::Reverse(views[*i].rank));
    order.extend(others);
    let block = places(&source).and_then(|p| p.newest.clone());
    Some(Plan { block, order, believed: believed.len(), sure: rank == top, dirty, doubt })
}

/// What a copy of a block is found to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    Unreadable,
    /// Its checksum is right.
    Matches,
    Differs,
    /// There is no checksum.
    NoSum,
}

impl Plan {
    /// The copy to take, by its place in the order, and what that is worth. None: no copy has the block. `seen` has as
    /// many as were looked at; with fewer than all, None may change.
    pub fn choose(&self, seen: &[Seen]) -> Option<(usize, Fate)> {
        let (believed, others) = seen.split_at(self.believed.min(seen.len()));
        let worth = |fate: Fate| if self.sure { fate } else { Fate::Old };
        if let Some(at) = believed.iter().position(|s| *s == Seen::Matches) {
            return Some((at, worth(Fate::Sound)));
        }
        if let Some(at) = believed.iter().position(|s| *s == Seen::NoSum) {
            return Some((at, worth(Fate::Unchecked)));
        }
        if believed.len() < self.believed {
            return None;
        }
        // A copy that was written last may be newer than the checksum: it comes before older ones that match it.
        if self.dirty
            && let Some(at) = believed.iter().position(|s| *s == Seen::Differs)
        {
            return Some((at, worth(Fate::Unchecked)));
        }
        let at = others.iter().position(|s| matches!(s, Seen::Matches | Seen::NoSum))?;
        let proven = others[at] == Seen::Matches && !self.dirty;
        Some((self.believed + at, if proven { worth(Fate::Sound) } else { Fate::Old }))
    }

    /// What a block is that the region block does not know as written.
    pub fn unwritten(&self) -> Fate {
        match (self.doubt, self.sure) {
            (true, _) => Fate::Lost,
            (false, true) => Fate::Hole,
            // Zeros, as of the time when this copy was in sync.
            (false, false) => Fate::Old,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::bitmap::Bitmap;
    use crate::base::units::ByteLen;
    use crate::pool::state::Absence;
    use uuid::Uuid;

    const LOW: Rank = Rank { left: 7, kept: 7 };

    fn view(rank: Rank, version: Option<u64>) -> View {
        let block =
            version.map(|version| RegionBlock { version, written: Bitmap::new(4), sums: None, lost: None });
        View { rank, dirty: false, places: Some(Places { newest: block, damaged: false, doubtful: false }) }
    }

    #[test]
    fn the_highest_rank_says_what_was_written_and_its_newest_copy_comes_first() {
        let top = Rank::IN_SYNC;
        let views = [view(LOW, Some(9)), view(top, Some(4)), view(top, Some(5))];
        let plan = plan(&views, top).unwrap();
        assert_eq!((plan.block.as_ref().map(|b| b.version), &plan.order[..]), (Some(5), &[2, 1, 0][..]));
        assert!(plan.sure && !plan.doubt && plan.believed == 2);
    }

    #[test]
    fn without_the_highest_rank_everything_may_be_old() {
        let plan = plan(&[view(LOW, Some(1))], Rank::IN_SYNC).unwrap();
        assert_eq!(plan.choose(&[Seen::Matches]), Some((0, Fate::Old)));
        assert_eq!(plan.unwritten(), Fate::Old);
        let unreadable = View { places: None, ..view(LOW, None) };
        assert!(super::plan(&[unreadable], LOW).is_none() && super::plan(&[], LOW).is_none());
    }

    #[test]
    fn a_lower_rank_is_believed_only_what_a_checksum_proves() {
        let mut views = [view(LOW, Some(1)), view(Rank::IN_SYNC, Some(2))];
        let clean = plan(&views, Rank::IN_SYNC).unwrap();
        assert_eq!(clean.choose(&[Seen::Differs]), None);
        assert_eq!(clean.choose(&[Seen::Differs, Seen::Matches]), Some((1, Fate::Sound)));
        assert_eq!(clean.choose(&[Seen::Differs, Seen::Differs]), None);
        assert_eq!(clean.choose(&[Seen::Unreadable, Seen::NoSum]), Some((1, Fate::Old)));
        views[1].dirty = true;
        let dirty = plan(&views, Rank::IN_SYNC).unwrap();
        assert_eq!(dirty.choose(&[Seen::Differs, Seen::Matches]), Some((0, Fate::Unchecked)));
        assert_eq!(dirty.choose(&[Seen::Unreadable, Seen::Matches]), Some((1, Fate::Old)));
    }

    #[test]
    fn a_damaged_region_block_leaves_a_doubt_unless_a_copy_or_a_crash_explains_it() {
        let mut views = [view(LOW, Some(3)), view(LOW, Some(3))];
        views[0].places.as_mut().unwrap().damaged = true;
        assert!(!plan(&views, LOW).unwrap().doubt, "the other copy is whole");
        views[1].places.as_mut().unwrap().damaged = true;
        let doubtful = plan(&views, LOW).unwrap();
        assert_eq!((doubtful.doubt, doubtful.unwritten()), (true, Fate::Lost));
        views[0].dirty = true;
        assert_eq!(plan(&views, LOW).unwrap().unwritten(), Fate::Hole);
    }

    #[test]
    fn an_old_image_and_a_member_without_a_log_have_no_high_rank() {
        let at = |epoch, sequence| Position { epoch, sequence, link: 0 };
        let mut record = MemberRecord {
            uuid: Uuid::nil(),
            size: ByteLen(0),
            extents: 1,
            state: MemberState::Active,
            leaving: false,
            absence: Absence::default(),
            name: String::new(),
        };
        let newest = at(5, 100);
        let rank =
            |record: &MemberRecord, own: Option<Position>| rank_of(record, true, own.as_ref(), &newest);
        assert_eq!(rank(&record, Some(at(5, 99))), Rank::IN_SYNC);
        assert_eq!(rank(&record, Some(at(5, 60))), Rank { left: 60, kept: 0 });
        assert_eq!(rank(&record, None), Rank::default());
        assert_eq!(rank_of(&record, false, None, &newest), Rank::IN_SYNC);
        record.state = MemberState::Missing;
        record.absence = Absence { rank: Rank { left: 50, kept: 50 }, epoch: 4, ..Absence::default() };
        assert_eq!(rank(&record, Some(at(4, 49))), Rank { left: 50, kept: 50 });
        assert_eq!(rank(&record, Some(at(3, 20))), Rank { left: 20, kept: 0 });
    }
}
