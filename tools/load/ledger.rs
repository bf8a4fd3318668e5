//! What each sector may hold now, decided from what was issued, answered and flushed. Pure but for the journal.
//!
//! Every write has a stamp; stamps rise in the order of issue. Per sector the ledger keeps an interval of stamps:
//! - A read sees a stamp of at least `low` as it was when the read was issued, and at most `newest` as it is when
//!   the read is answered.
//! - An answered write raises `low` to its own stamp, or, where writes overlap, to the oldest stamp that was in
//!   flight when it was issued: of overlapping writes either may be the last.
//! - An answered FUA write, or a flush issued after the answer, raises `durable` in the same way. After a crash
//!   `low` falls back to `durable`.
//! - A value that was read while nothing was in flight is the value until the next write; after a crash even
//!   durably so ("one answer after a crash").
//! - TRIM may make a sector zero or leave it alone, and whichever it is stays.
//! - A request that failed or was never answered may or may not have taken effect.

use crate::content::{self, SECTOR, Value};
use crate::journal::{Journal, Record};
use std::collections::{BTreeMap, BTreeSet};

/// A run of sectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    pub first: u64,
    pub count: u64,
}

impl Span {
    pub fn sectors(self) -> std::ops::Range<u64> {
        self.first..self.first + self.count
    }
}

/// How a request changes sectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    Write,
    Zero,
    Trim,
}

/// A changing request between issue and answer, and on until it is flushed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket {
    pub span: Span,
    pub stamp: u32,
    change: Change,
    floor: u32,
}

/// What a sector's record was when a read was issued.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Before {
    record: Record,
    quiet: bool,
}

/// A sector that does not hold what it must.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mismatch {
    pub sector: u64,
    /// Its offset in the export, bytes.
    pub offset: u64,
    pub found: Value,
    pub why: String,
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "sector {} (offset {}): found {}, {}", self.sector, self.offset, self.found, self.why)
    }
}

/// What the user said about the run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules {
    /// Several writers of a sector at a time.
    pub overlap: bool,
    /// Sectors that were never written may hold anything.
    pub unknown: bool,
}

pub struct Ledger {
    journal: Journal,
    rules: Rules,
    /// Changing requests in flight, per sector.
    writers: Vec<u16>,
    /// Stamps in flight; kept only when writes may overlap.
    in_flight: BTreeSet<u32>,
    /// Checksums of sectors whose two pieces come from different writes, once they were read at rest.
    torn: BTreeMap<u64, u64>,
    /// All requests get this stamp instead of rising ones.
    fixed_stamp: Option<u32>,
}

impl Ledger {
    pub fn new(journal: Journal, rules: Rules) -> Ledger {
        let sectors = usize::try_from(journal.subject().sectors).expect("the journal fits in memory");
        let mut ledger = Ledger {
            journal,
            rules,
            writers: vec![0; sectors],
            in_flight: BTreeSet::new(),
            torn: BTreeMap::new(),
            fixed_stamp: None,
        };
        ledger.fall_back();
        ledger
    }

    /// A ledger that gives all writes the stamp 1, for content that can be checked without a journal.
    pub fn with_fixed_stamp(journal: Journal, rules: Rules) -> Ledger {
        Ledger { fixed_stamp: Some(1), ..Ledger::new(journal, rules) }
    }

    /// Says that every sector holds stamp 1, flushed.
    pub fn expect_fill(&mut self) {
        let filled = Record { low: 1, durable: 1, newest: 1, zero: 0 };
        for sector in 0..self.journal.subject().sectors {
            self.journal.set_record(sector, filled);
        }
    }

    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// The server crashed: forgets what that may have undone, and all requests in flight. What is read from now
    /// on is the answer, also after the next crash.
    pub fn crashed(&mut self) {
        self.writers.fill(0);
        self.in_flight.clear();
        self.torn.clear();
        self.fall_back();
        self.journal.set_crash_mark(self.journal.next_stamp().saturating_sub(1));
    }

    /// Relies on nothing but what was flushed.
    fn fall_back(&mut self) {
        for sector in 0..self.journal.subject().sectors {
            let record = self.journal.record(sector);
            if record.low != record.durable {
                self.journal.set_record(sector, Record { low: record.durable, ..record });
            }
        }
    }

    pub fn busy(&self, span: Span) -> bool {
        span.sectors().any(|sector| self.writers[index(sector)] > 0)
    }

    /// Records a changing request, before it is sent. None when all stamps are used up.
    pub fn issue(&mut self, span: Span, change: Change) -> Option<Ticket> {
        let stamp = self.take_stamp()?;
        let overlapping = self.busy(span);
        assert!(!overlapping || self.rules.overlap, "one writer per sector at a time");
        let floor = if overlapping { self.in_flight.first().copied().unwrap_or(stamp) } else { stamp };
        if self.rules.overlap {
            self.in_flight.insert(stamp);
        }
        for sector in span.sectors() {
            let old = self.journal.record(sector);
            let zero = if change == Change::Write { old.zero } else { stamp };
            let newest = if change == Change::Trim { old.newest } else { stamp };
            self.journal.set_record(sector, Record { newest, zero, ..old });
            self.torn.remove(&sector);
            self.writers[index(sector)] += 1;
        }
        Some(Ticket { span, stamp, change, floor })
    }

    fn take_stamp(&mut self) -> Option<u32> {
        let stamp = self.fixed_stamp.unwrap_or(self.journal.next_stamp());
        let next = stamp.checked_add(1)?;
        self.journal.set_next_stamp(next);
        Some(stamp)
    }

    /// The request was answered with success.
    pub fn answered(&mut self, ticket: Ticket, durable: bool) {
        self.release(ticket);
        self.raise(ticket, durable);
    }

    /// The request was answered with an error: it may or may not have taken effect.
    pub fn failed(&mut self, ticket: Ticket) {
        self.release(ticket);
    }

    /// A flush that was issued after these were answered has succeeded.
    pub fn flushed(&mut self, covered: &[Ticket]) {
        covered.iter().for_each(|ticket| self.raise(*ticket, true));
    }

    fn release(&mut self, ticket: Ticket) {
        self.in_flight.remove(&ticket.stamp);
        for sector in ticket.span.sectors() {
            self.writers[index(sector)] -= 1;
        }
    }

    fn raise(&mut self, ticket: Ticket, durable: bool) {
        if ticket.change == Change::Trim {
            return;
        }
        for sector in ticket.span.sectors() {
            let old = self.journal.record(sector);
            let low = old.low.max(ticket.floor);
            let durable = if durable { old.durable.max(ticket.floor) } else { old.durable };
            self.journal.set_record(sector, Record { low, durable, ..old });
        }
    }

    /// What is known of the sectors at the moment a read is issued.
    pub fn before_read(&self, span: Span) -> Vec<Before> {
        let before =
            |sector| Before { record: self.journal.record(sector), quiet: self.writers[index(sector)] == 0 };
        span.sectors().map(before).collect()
    }

    /// Judges what a read returned, and learns from it.
    pub fn answered_read(&mut self, span: Span, before: &[Before], bytes: &[u8]) -> Vec<Mismatch> {
        assert_eq!(bytes.len(), before.len() * SECTOR, "a read is answered in full");
        let sectors = span.sectors().zip(before).zip(bytes.chunks_exact(SECTOR));
        let mut mismatches = Vec::new();
        for ((sector, before), bytes) in sectors {
            if let Err(mismatch) = self.judge_sector(sector, before, bytes) {
                mismatches.push(mismatch);
            }
        }
        mismatches
    }

    fn judge_sector(&mut self, sector: u64, before: &Before, bytes: &[u8]) -> Result<(), Mismatch> {
        let subject = self.journal.subject();
        let now = self.journal.record(sector);
        if self.rules.unknown && now.newest == 0 && now.zero == 0 {
            return Ok(());
        }
        let cut = cut_of(subject.shift);
        let values = content::inspect(subject.seed, sector, bytes, cut);
        let bounds = Record { low: before.record.low, ..now };
        if let Some(found) = values.into_iter().find(|value| !allowed(bounds, *value)) {
            let offset = subject.shift + sector * 512;
            return Err(Mismatch { sector, offset, found, why: explain(bounds, found) });
        }
        let quiet = before.quiet && self.writers[index(sector)] == 0;
        let unchanged = (before.record.newest, before.record.zero) == (now.newest, now.zero);
        let at_rest = quiet && unchanged;
        if values[0] != values[1] {
            return if at_rest { self.judge_torn(sector, values[1], bytes) } else { Ok(()) };
        }
        if at_rest || !self.rules.overlap {
            self.journal.set_record(sector, learn(now, values[0], at_rest, self.journal.crash_mark()));
        }
        Ok(())
    }

    /// A sector in two pieces cannot be pinned to one stamp; it must still read the same every time.
    fn judge_torn(&mut self, sector: u64, found: Value, bytes: &[u8]) -> Result<(), Mismatch> {
        let sum = sum_of(bytes);
        if *self.torn.entry(sector).or_insert(sum) == sum {
            return Ok(());
        }
        let offset = self.journal.subject().shift + sector * 512;
        Err(Mismatch { sector, offset, found, why: "another answer than the first read gave".to_owned() })
    }
}

/// Where a server's 512-byte sector edge cuts ours; 0 if the two agree.
fn cut_of(shift: u64) -> usize {
    let within = usize::try_from(shift % 512).expect("below 512");
    if within == 0 { 0 } else { SECTOR - within }
}

fn index(sector: u64) -> usize {
    usize::try_from(sector).expect("the ledger fits in memory")
}

fn sum_of(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(8).map(|w| u64::from_le_bytes(w.try_into().expect("chunks of eight")));
    words.fold(0, |sum, word| content::mix(sum ^ word))
}

fn allowed(bounds: Record, value: Value) -> bool {
    match value {
        Value::Stamp(stamp) => stamp >= bounds.low && stamp <= bounds.newest,
        Value::Zero => bounds.zero >= bounds.low,
        Value::Torn { .. } | Value::Foreign { .. } | Value::Garbage => false,
    }
}

fn explain(bounds: Record, found: Value) -> String {
    let Record { low, durable, newest, zero } = bounds;
    let must = if newest == 0 && zero == 0 {
        "it was never written and must be zeros".to_owned()
    } else {
        let zeros = if zero >= low { " or zeros" } else { "" };
        format!("must be stamp {low} to {newest}{zeros} (flushed {durable})")
    };
    let verdict = match found {
        Value::Stamp(stamp) if stamp < durable => ": a FLUSHED write is lost",
        Value::Zero if durable > 0 => ": a FLUSHED write is lost",
        Value::Stamp(stamp) if stamp < low => ": an answered write is gone, or a value that was read before",
        Value::Stamp(_) => ": a value that was overwritten or never issued",
        Value::Zero => ": an answered write is gone",
        Value::Torn { .. } => ": a block is neither old nor new",
        Value::Foreign { .. } => ": data of another place or run",
        Value::Garbage => ": nothing that was ever written here",
    };
    must + verdict
}

/// What a record becomes once this value was read.
fn learn(now: Record, value: Value, at_rest: bool, crash_mark: u32) -> Record {
    let (stamp, zero) = match value {
        Value::Stamp(stamp) => (stamp, if now.zero > stamp { 0 } else { now.zero }),
        Value::Zero => (now.zero, now.zero),
        Value::Torn { .. } | Value::Foreign { .. } | Value::Garbage => return now,
    };
    let low = now.low.max(stamp);
    if !at_rest {
        return Record { low, ..now };
    }
    let durable = if stamp <= crash_mark { now.durable.max(stamp) } else { now.durable };
    Record { low, durable, newest: stamp, zero }
}

#[cfg(test)]
#[path = "ledger/tests.rs"]
mod tests;
