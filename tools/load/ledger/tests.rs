//! The judgement of reads, case by case.

use super::*;
use crate::journal::Subject;

const ONE: Span = Span { first: 3, count: 1 };

fn ledger_with(rules: Rules, shift: u64) -> Ledger {
    let subject = Subject { seed: 1, size: 8192, shift, sectors: 8 };
    Ledger::new(Journal::in_memory(subject).unwrap(), rules)
}

fn ledger() -> Ledger {
    ledger_with(Rules::default(), 0)
}

fn content_of(stamp: u32) -> Vec<u8> {
    let mut out = Vec::new();
    if stamp == 0 {
        return vec![0; SECTOR];
    }
    content::emit(1, ONE.first, stamp, &mut out);
    out
}

/// Reads sector 3 as if it held the content of `stamp` (0: zeros).
fn reads(ledger: &mut Ledger, stamp: u32) -> bool {
    let before = ledger.before_read(ONE);
    ledger.answered_read(ONE, &before, &content_of(stamp)).is_empty()
}

fn write(ledger: &mut Ledger) -> Ticket {
    let ticket = ledger.issue(ONE, Change::Write).unwrap();
    ledger.answered(ticket, false);
    ticket
}

#[test]
fn never_written_sectors_are_zeros() {
    assert!(reads(&mut ledger(), 0));
    assert!(!reads(&mut ledger(), 1));
    assert!(reads(&mut ledger_with(Rules { unknown: true, ..Rules::default() }, 0), 1));
}

#[test]
fn an_answered_write_is_seen_and_the_one_before_is_not() {
    let mut l = ledger();
    let (a, b) = (write(&mut l), write(&mut l));
    assert!(!reads(&mut l, 0) && !reads(&mut l, a.stamp) && reads(&mut l, b.stamp));
    assert!(!reads(&mut l, b.stamp + 1));
}

#[test]
fn a_read_beside_a_write_sees_old_or_new_and_never_goes_back() {
    let mut l = ledger();
    let a = write(&mut l);
    let b = l.issue(ONE, Change::Write).unwrap();
    assert!(reads(&mut l, a.stamp) && reads(&mut l, b.stamp));
    assert!(!reads(&mut l, a.stamp), "the new value was seen already");
}

#[test]
fn a_read_issued_before_the_answer_may_be_old() {
    let mut l = ledger();
    let a = write(&mut l);
    let b = l.issue(ONE, Change::Write).unwrap();
    let before = l.before_read(ONE);
    l.answered(b, false);
    assert!(l.answered_read(ONE, &before, &content_of(a.stamp)).is_empty());
    assert!(reads(&mut l, b.stamp), "such a read teaches nothing");
}

#[test]
fn a_crash_may_undo_what_was_not_flushed_and_nothing_else() {
    let mut l = ledger();
    let a = write(&mut l);
    l.flushed(&[a]);
    let (b, c) = (write(&mut l), l.issue(ONE, Change::Write).unwrap());
    for survivor in [a, b, c] {
        let mut l2 = ledger();
        let x = write(&mut l2);
        l2.flushed(&[x]);
        write(&mut l2);
        l2.issue(ONE, Change::Write).unwrap();
        l2.crashed();
        assert!(reads(&mut l2, survivor.stamp), "stamp {}", survivor.stamp);
    }
    l.crashed();
    assert!(!reads(&mut l, 0) && !reads(&mut l, c.stamp + 1));
}

#[test]
fn the_first_answer_after_a_crash_stays_also_over_the_next_crash() {
    let mut l = ledger();
    let (a, b) = (write(&mut l), write(&mut l));
    l.crashed();
    assert!(reads(&mut l, a.stamp));
    assert!(!reads(&mut l, b.stamp) && !reads(&mut l, 0));
    l.crashed();
    assert!(reads(&mut l, a.stamp) && !reads(&mut l, b.stamp) && !reads(&mut l, 0));
}

#[test]
fn a_fua_write_needs_no_flush() {
    let mut l = ledger();
    let a = l.issue(ONE, Change::Write).unwrap();
    l.answered(a, true);
    l.crashed();
    assert!(!reads(&mut l, 0) && reads(&mut l, a.stamp));
}

#[test]
fn a_read_before_the_crash_proves_no_durability() {
    let mut l = ledger();
    let a = write(&mut l);
    assert!(reads(&mut l, a.stamp));
    l.crashed();
    assert!(reads(&mut l, 0));
}

#[test]
fn a_failed_write_is_old_or_new_and_then_stays() {
    let mut l = ledger();
    let a = write(&mut l);
    let b = l.issue(ONE, Change::Write).unwrap();
    l.failed(b);
    assert!(reads(&mut l, a.stamp) && !reads(&mut l, b.stamp));
}

#[test]
fn zeroes_are_a_write() {
    let mut l = ledger();
    let a = write(&mut l);
    let z = l.issue(ONE, Change::Zero).unwrap();
    l.answered(z, false);
    assert!(!reads(&mut l, a.stamp) && reads(&mut l, 0));
    let b = write(&mut l);
    assert!(!reads(&mut l, 0) && reads(&mut l, b.stamp));
}

#[test]
fn trim_may_zero_or_not_but_decides_once() {
    for (first, second) in [(0, 1), (1, 0)] {
        let mut l = ledger();
        assert_eq!(write(&mut l).stamp, 1);
        let t = l.issue(ONE, Change::Trim).unwrap();
        l.answered(t, false);
        assert!(reads(&mut l, first) && reads(&mut l, first) && !reads(&mut l, second));
        let b = write(&mut l);
        assert!(!reads(&mut l, 0) && !reads(&mut l, 1) && reads(&mut l, b.stamp));
    }
}

#[test]
fn of_overlapping_writes_either_may_be_last() {
    let mut l = ledger_with(Rules { overlap: true, ..Rules::default() }, 0);
    let old = write(&mut l);
    let a = l.issue(ONE, Change::Write).unwrap();
    let b = l.issue(ONE, Change::Write).unwrap();
    l.answered(b, false);
    l.answered(a, false);
    let before = l.before_read(ONE);
    assert!(l.answered_read(ONE, &before, &content_of(a.stamp)).is_empty());
    assert!(!reads(&mut l, b.stamp), "read at rest, so a was the last");
    assert!(!reads(&mut l, old.stamp));
}

#[test]
#[should_panic(expected = "one writer per sector")]
fn overlap_needs_to_be_asked_for() {
    let mut l = ledger();
    l.issue(ONE, Change::Write).unwrap();
    l.issue(ONE, Change::Write).unwrap();
}

#[test]
fn a_torn_sector_is_a_mismatch_unless_the_server_may_tear_there() {
    let torn = |cut: usize, a: u32, b: u32| {
        let mut bytes = content_of(a)[..cut].to_vec();
        bytes.extend_from_slice(&content_of(b)[cut..]);
        bytes
    };
    for (shift, fine) in [(0, false), (512 - 100, true)] {
        let mut l = ledger_with(Rules::default(), shift);
        let a = write(&mut l);
        l.flushed(&[a]);
        write(&mut l);
        l.crashed();
        let before = l.before_read(ONE);
        assert_eq!(l.answered_read(ONE, &before, &torn(100, 1, 2)).is_empty(), fine);
        let before = l.before_read(ONE);
        assert!(!l.answered_read(ONE, &before, &torn(100, 2, 1)).is_empty(), "another answer than the first");
    }
}

#[test]
fn a_lost_flush_is_called_so() {
    let mut l = ledger();
    let a = write(&mut l);
    l.flushed(&[a]);
    let before = l.before_read(ONE);
    let found = l.answered_read(ONE, &before, &[0; SECTOR]);
    assert!(found[0].to_string().contains("FLUSHED write is lost"), "{}", found[0]);
    assert_eq!((found[0].sector, found[0].offset), (3, 1536));
}
