//! What to ask for next: pure choice from a seeded sequence.

use crate::content::mix;
use crate::ledger::Span;

/// What to do to a run of sectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Read,
    Write,
    Zero,
    Trim,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Action {
    pub kind: Kind,
    pub span: Span,
    pub fua: bool,
}

/// How places are chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    Random,
    /// From the start to the end, with a short last request, so many times; none for no end.
    Sequential {
        passes: Option<u64>,
    },
}

/// How much of what; percent of all requests, the rest are writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mix {
    pub read: u64,
    pub zero: u64,
    pub trim: u64,
}

#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub order: Order,
    pub mix: Mix,
    /// Sectors of a request, from and to. If both are equal, requests lie on multiples of it.
    pub length: (u64, u64),
    /// Every n-th write carries FUA; 0 for none.
    pub fua_every: u64,
    /// Requests to make; none for no end.
    pub count: Option<u64>,
    /// Writers may meet in a sector.
    pub overlap: bool,
}

pub struct Workload {
    plan: Plan,
    sectors: u64,
    random: Random,
    cursor: u64,
    left: Option<u64>,
    writes: u64,
}

/// Tries at finding sectors that no other writer has.
const TRIES: u32 = 64;

impl Workload {
    /// # Panics
    /// If a request would be longer than the export, or of no length.
    pub fn new(plan: Plan, sectors: u64, seed: u64) -> Workload {
        let (min, max) = plan.length;
        assert!(min > 0 && min <= max && max <= sectors, "lengths are checked against the export");
        Workload { plan, sectors, random: Random(seed), cursor: 0, left: plan.count, writes: 0 }
    }

    /// The next request; None at the end. `busy` says whether a writer is in these sectors: then a read is made
    /// instead of a second writer, if no free place is found.
    pub fn next(&mut self, busy: impl Fn(Span) -> bool) -> Option<Action> {
        if self.left == Some(0) || self.passed() {
            return None;
        }
        self.left = self.left.map(|left| left - 1);
        let kind = self.kind();
        let mut span = self.place();
        let mut tries = 0;
        while kind != Kind::Read && !self.plan.overlap && busy(span) {
            tries += 1;
            if tries == TRIES {
                return Some(Action { kind: Kind::Read, span, fua: false });
            }
            span = self.place();
        }
        Some(Action { kind, span, fua: self.fua(kind) })
    }

    fn passed(&self) -> bool {
        match self.plan.order {
            Order::Random | Order::Sequential { passes: None } => false,
            Order::Sequential { passes: Some(passes) } => self.cursor >= passes * self.sectors,
        }
    }

    fn kind(&mut self) -> Kind {
        let Mix { read, zero, trim } = self.plan.mix;
        match self.random.below(100) {
            x if x < read => Kind::Read,
            x if x < read + zero => Kind::Zero,
            x if x < read + zero + trim => Kind::Trim,
            _rest => Kind::Write,
        }
    }

    fn fua(&mut self, kind: Kind) -> bool {
        if kind == Kind::Read || self.plan.fua_every == 0 {
            return false;
        }
        self.writes += 1;
        self.writes.is_multiple_of(self.plan.fua_every)
    }

    fn place(&mut self) -> Span {
        let (min, max) = self.plan.length;
        let count = min + self.random.below(max - min + 1);
        match self.plan.order {
            Order::Random if min == max => {
                Span { first: self.random.below(self.sectors / count) * count, count }
            }
            Order::Random => Span { first: self.random.below(self.sectors - count + 1), count },
            Order::Sequential { .. } => {
                let first = self.cursor % self.sectors;
                let count = count.min(self.sectors - first);
                self.cursor += count;
                Span { first, count }
            }
        }
    }
}

struct Random(u64);

impl Random {
    /// A number below `bound`; the bias is below 2^-32 for the bounds used here.
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let wide = u128::from(mix(self.0)) * u128::from(bound);
        u64::try_from(wide >> 64).expect("the high half of a product fits")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(order: Order) -> Plan {
        let mix = Mix { read: 0, zero: 0, trim: 0 };
        Plan { order, mix, length: (8, 8), fua_every: 0, count: None, overlap: false }
    }

    #[test]
    fn passes_cover_every_sector_so_many_times() {
        let mut work = Workload::new(plan(Order::Sequential { passes: Some(2) }), 100, 1);
        let spans: Vec<Span> = std::iter::from_fn(|| work.next(|_| false)).map(|a| a.span).collect();
        let sectors: Vec<u64> = spans.into_iter().flat_map(Span::sectors).collect();
        assert_eq!(sectors, (0..100).chain(0..100).collect::<Vec<u64>>());
    }

    #[test]
    fn random_places_are_inside_aligned_and_seeded() {
        let draw = |seed| {
            let mut work = Workload::new(plan(Order::Random), 100, seed);
            (0..200).map(|_| work.next(|_| false).unwrap().span).collect::<Vec<Span>>()
        };
        assert!(draw(1).iter().all(|s| s.first % 8 == 0 && s.first + s.count <= 100));
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn a_busy_place_is_never_written() {
        let mut work = Workload::new(plan(Order::Random), 16, 1);
        for _ in 0..50 {
            let action = work.next(|span| span.first == 0).unwrap();
            assert!(action.span.first == 8 && action.kind == Kind::Write);
        }
        assert_eq!(work.next(|_| true).unwrap().kind, Kind::Read);
    }

    #[test]
    fn mix_fua_and_count_are_kept() {
        let mix = Mix { read: 20, zero: 10, trim: 10 };
        let plan = Plan { mix, fua_every: 3, count: Some(1000), ..plan(Order::Sequential { passes: None }) };
        let mut work = Workload::new(plan, 64, 1);
        let actions: Vec<Action> = std::iter::from_fn(|| work.next(|_| false)).collect();
        let count = |kind| actions.iter().filter(|a| a.kind == kind).count();
        assert_eq!(actions.len(), 1000);
        assert!((150..250).contains(&count(Kind::Read)) && (60..140).contains(&count(Kind::Trim)));
        let fua = actions.iter().filter(|a| a.fua).count();
        assert_eq!(fua, (1000 - count(Kind::Read)) / 3);
    }
}
