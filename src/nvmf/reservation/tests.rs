//! The rules of reservations, one by one, and random walks.

use super::*;
use crate::base::prng::Prng;
use crate::nvmf::command::Sqe;

const A: HostId = HostId([1; 16]);
const B: HostId = HostId([2; 16]);
const C: HostId = HostId([3; 16]);
const STRANGER: HostId = HostId([9; 16]);

fn sqe(opcode: u8, dword10: u32, dword11: u32) -> Sqe {
    let mut bytes = [0; 64];
    bytes[0] = opcode;
    bytes[40..44].copy_from_slice(&dword10.to_le_bytes());
    bytes[44..48].copy_from_slice(&dword11.to_le_bytes());
    Sqe::new(bytes)
}

fn data(first: u64, second: u64) -> Vec<u8> {
    [first.to_le_bytes(), second.to_le_bytes()].concat()
}

fn register(key: u64) -> Command {
    Command::parse(&sqe(0x0d, 0, 0), &data(0, key)).unwrap()
}

fn unregister(key: u64) -> Command {
    Command::parse(&sqe(0x0d, 1, 0), &data(key, 0)).unwrap()
}

fn acquire(action: u32, kind: Kind, key: u64, preempted: u64) -> Command {
    Command::parse(&sqe(0x11, action | u32::from(kind.code()) << 8, 0), &data(key, preempted)).unwrap()
}

fn release(kind: Kind, key: u64) -> Command {
    Command::parse(&sqe(0x15, u32::from(kind.code()) << 8, 0), &key.to_le_bytes()).unwrap()
}

fn clear(key: u64) -> Command {
    Command::parse(&sqe(0x15, 1, 0), &key.to_le_bytes()).unwrap()
}

/// A, B and C registered with keys 1, 2, 3; A holds a reservation of this type.
fn held_by_a(kind: Kind) -> Reservations {
    let mut now = Reservations::default();
    for (host, key) in [(A, 1), (B, 2), (C, 3)] {
        now = now.decide(&register(key), host, 7).unwrap().next;
    }
    now.decide(&acquire(0, kind, 1, 0), A, 7).unwrap().next
}

fn told(outcome: &Outcome) -> Vec<(HostId, u8)> {
    outcome.notices.iter().map(|notice| (notice.host, notice.kind.code())).collect()
}

#[test]
fn access_matrix_of_all_types() {
    use Access::{Read, Write};
    // Type; then read and write of the holder, of another registrant, of a host that is not registered.
    let table = [
        (Kind::WriteExclusive, [(true, true), (true, false), (true, false)]),
        (Kind::ExclusiveAccess, [(true, true), (false, false), (false, false)]),
        (Kind::WriteExclusiveRegistrantsOnly, [(true, true), (true, true), (true, false)]),
        (Kind::ExclusiveAccessRegistrantsOnly, [(true, true), (true, true), (false, false)]),
        (Kind::WriteExclusiveAllRegistrants, [(true, true), (true, true), (true, false)]),
        (Kind::ExclusiveAccessAllRegistrants, [(true, true), (true, true), (false, false)]),
    ];
    assert_eq!(table.map(|(kind, _)| kind), Kind::ALL);
    for (kind, expected) in table {
        let now = held_by_a(kind);
        let found = [A, B, STRANGER].map(|host| (now.permits(host, Read), now.permits(host, Write)));
        assert_eq!(found, expected, "{kind:?}");
        assert_eq!(now.is_holder(B), kind.is_of_all_registrants(), "{kind:?}");
    }
    let free = Reservations::default();
    assert!(free.permits(STRANGER, Read) && free.permits(STRANGER, Write));
}

#[test]
fn registering_again_needs_the_same_key_and_replacing_the_current_one() {
    let now = Reservations::default().decide(&register(5), A, 1).unwrap().next;
    assert_eq!(now.decide(&register(6), A, 1), Err(Status::RESERVATION_CONFLICT));
    let again = now.decide(&register(5), A, 2).unwrap().next;
    assert_eq!((again.generation, again.registrants[&A].controller), (2, 2));
    // Hosts may share a key.
    assert!(again.decide(&register(5), B, 1).is_ok());
    let replace = |flags: u32, old, new| Command::parse(&sqe(0x0d, 2 | flags, 0), &data(old, new)).unwrap();
    assert_eq!(again.decide(&replace(0, 4, 6), A, 1), Err(Status::RESERVATION_CONFLICT));
    assert_eq!(again.decide(&replace(0, 5, 6), B, 1), Err(Status::RESERVATION_CONFLICT));
    assert_eq!(again.decide(&replace(0, 5, 6), A, 1).unwrap().next.registrants[&A].key, 6);
    let ignoring = 1 << 3;
    assert_eq!(again.decide(&replace(ignoring, 4, 6), A, 1).unwrap().next.registrants[&A].key, 6);
    assert_eq!(again.decide(&replace(ignoring, 0, 6), B, 1).unwrap().next.registrants.len(), 2);
}

#[test]
fn unregistering_needs_the_registration_and_its_key_unless_that_is_ignored() {
    let now = held_by_a(Kind::WriteExclusive);
    assert_eq!(now.decide(&unregister(9), B, 7), Err(Status::RESERVATION_CONFLICT));
    assert_eq!(now.decide(&unregister(9), STRANGER, 7), Err(Status::RESERVATION_CONFLICT));
    let ignoring = Command::parse(&sqe(0x0d, 1 | 1 << 3, 0), &data(0, 0)).unwrap();
    assert!(!now.decide(&ignoring, B, 7).unwrap().next.registrants.contains_key(&B));
    assert_eq!(now.decide(&ignoring, STRANGER, 7), Err(Status::RESERVATION_CONFLICT));
}

#[test]
fn unregistering_the_holder_releases_and_tells_those_who_shared() {
    for kind in Kind::ALL {
        let left = held_by_a(kind).decide(&unregister(1), A, 7).unwrap();
        let expected: &[(HostId, u8)] = if kind.is_of_registrants_only() { &[(B, 2), (C, 2)] } else { &[] };
        assert_eq!(told(&left), expected, "{kind:?}");
        // All registrants hold it until the last one goes.
        assert_eq!(left.next.held.is_some(), kind.is_of_all_registrants(), "{kind:?}");
        let left = left.next.decide(&unregister(2), B, 7).unwrap().next;
        let left = left.decide(&unregister(3), C, 7).unwrap();
        assert_eq!((left.next.held, left.notices), (None, Vec::new()), "{kind:?}");
    }
}

#[test]
fn persistence_changes_only_with_a_command_that_succeeds() {
    let with = |persist: u32, key| Command::parse(&sqe(0x0d, persist << 30, 0), &data(0, key));
    let on = Reservations::default().decide(&with(3, 5).unwrap(), A, 1).unwrap().next;
    assert!(on.persists);
    assert_eq!(on.decide(&with(2, 6).unwrap(), A, 1), Err(Status::RESERVATION_CONFLICT));
    assert!(on.decide(&with(0, 5).unwrap(), A, 1).unwrap().next.persists);
    assert!(!on.decide(&with(2, 5).unwrap(), A, 1).unwrap().next.persists);
    assert_eq!(with(1, 5), Err(Status::INVALID_FIELD));
}

#[test]
fn only_a_registrant_with_its_key_acquires_and_only_what_is_free() {
    let kind = Kind::WriteExclusive;
    let now = held_by_a(kind);
    for (host, key) in [(STRANGER, 0), (STRANGER, 1), (A, 2)] {
        assert_eq!(now.decide(&acquire(0, kind, key, 0), host, 7), Err(Status::RESERVATION_CONFLICT));
    }
    assert_eq!(now.decide(&acquire(0, kind, 1, 0), A, 7).unwrap().next, now);
    assert_eq!(now.decide(&acquire(0, Kind::ExclusiveAccess, 1, 0), A, 7), Err(Status::RESERVATION_CONFLICT));
    assert_eq!(now.decide(&acquire(0, kind, 2, 0), B, 7), Err(Status::RESERVATION_CONFLICT));
    // Where all registrants hold it, each may acquire it again.
    let all = held_by_a(Kind::ExclusiveAccessAllRegistrants);
    assert_eq!(all.decide(&acquire(0, Kind::ExclusiveAccessAllRegistrants, 2, 0), B, 7).unwrap().next, all);
}

#[test]
fn releasing_is_for_holders_and_for_the_right_type() {
    for kind in Kind::ALL {
        let now = held_by_a(kind);
        let other = if kind == Kind::WriteExclusive { Kind::ExclusiveAccess } else { Kind::WriteExclusive };
        assert_eq!(now.decide(&release(other, 1), A, 7), Err(Status::RESERVATION_CONFLICT), "{kind:?}");
        assert_eq!(now.decide(&release(kind, 1), STRANGER, 7), Err(Status::RESERVATION_CONFLICT));
        let by_b = now.decide(&release(kind, 2), B, 7).unwrap();
        assert_eq!(by_b.next.held.is_none(), kind.is_of_all_registrants(), "{kind:?}");
        let released = now.decide(&release(kind, 1), A, 7).unwrap();
        assert_eq!((released.next.held, released.next.generation), (None, now.generation), "{kind:?}");
        let alone = matches!(kind, Kind::WriteExclusive | Kind::ExclusiveAccess);
        let expected: &[(HostId, u8)] = if alone { &[] } else { &[(B, 2), (C, 2)] };
        assert_eq!(told(&released), expected, "{kind:?}");
        // With nothing to release there is nothing to do.
        assert_eq!(released.next.decide(&release(kind, 1), A, 7).unwrap().next, released.next);
    }
}

#[test]
fn clearing_takes_everything_and_tells_all_others() {
    let now = held_by_a(Kind::WriteExclusive);
    assert_eq!(now.decide(&clear(1), B, 7), Err(Status::RESERVATION_CONFLICT));
    let cleared = now.decide(&clear(2), B, 7).unwrap();
    assert_eq!(told(&cleared), [(A, 3), (C, 3)]);
    let next = cleared.next;
    assert!(next.held.is_none() && next.registrants.is_empty());
    assert_eq!(next.generation, now.generation + 1);
}

#[test]
fn preempting_the_holder_takes_its_place_and_its_registration() {
    let now = held_by_a(Kind::WriteExclusive);
    for (action, abort) in [(1, vec![]), (2, vec![A])] {
        let done = now.decide(&acquire(action, Kind::ExclusiveAccess, 2, 1), B, 7).unwrap();
        assert_eq!(done.next.held, Some(Held { kind: Kind::ExclusiveAccess, holder: Some(B) }));
        assert_eq!(done.next.registrants.keys().copied().collect::<Vec<_>>(), [B, C]);
        // C stays and hears that the type is another one now.
        assert_eq!(told(&done), [(A, 1), (C, 2)]);
        assert_eq!((done.abort, done.next.generation), (abort, now.generation + 1));
    }
    let same = now.decide(&acquire(1, Kind::WriteExclusive, 2, 1), B, 7).unwrap();
    assert_eq!(told(&same), [(A, 1)]);
}

#[test]
fn a_holder_preempts_itself_to_change_the_type() {
    let now = held_by_a(Kind::WriteExclusive);
    let done = now.decide(&acquire(2, Kind::ExclusiveAccessAllRegistrants, 1, 1), A, 7).unwrap();
    assert_eq!(done.next.held, Some(Held { kind: Kind::ExclusiveAccessAllRegistrants, holder: None }));
    assert_eq!(done.next.registrants, now.registrants);
    assert_eq!((told(&done), done.abort), (vec![(B, 2), (C, 2)], vec![]));
}

#[test]
fn preempting_another_key_takes_registrations_only() {
    let now = held_by_a(Kind::ExclusiveAccess);
    let done = now.decide(&acquire(2, Kind::WriteExclusive, 2, 3), B, 7).unwrap();
    assert_eq!(done.next.held, now.held);
    assert_eq!((told(&done), done.abort), (vec![(C, 1)], vec![C]));
    // A host can take away its own registration this way: nobody hears of it.
    let own = now.decide(&acquire(2, Kind::WriteExclusive, 2, 2), B, 7).unwrap();
    assert!(!own.next.registrants.contains_key(&B));
    assert_eq!((told(&own), own.abort), (vec![], vec![]));
    assert_eq!(now.decide(&acquire(1, Kind::WriteExclusive, 2, 8), B, 7), Err(Status::RESERVATION_CONFLICT));
    assert_eq!(now.decide(&acquire(1, Kind::WriteExclusive, 2, 0), B, 7), Err(Status::INVALID_FIELD));
    assert_eq!(
        now.decide(&acquire(1, Kind::WriteExclusive, 3, 1), B, 7),
        Err(Status::RESERVATION_CONFLICT),
        "the own key must be right first"
    );
}

#[test]
fn preempting_without_a_reservation_takes_registrations_only() {
    let now = held_by_a(Kind::WriteExclusive).decide(&release(Kind::WriteExclusive, 1), A, 7).unwrap().next;
    let done = now.decide(&acquire(1, Kind::WriteExclusive, 1, 2), A, 7).unwrap();
    assert_eq!((done.next.held, told(&done)), (None, vec![(B, 1)]));
    assert_eq!(now.decide(&acquire(1, Kind::WriteExclusive, 1, 0), A, 7), Err(Status::RESERVATION_CONFLICT));
}

#[test]
fn preempting_all_registrants_with_key_zero_leaves_one() {
    let now = held_by_a(Kind::WriteExclusiveAllRegistrants);
    let done = now.decide(&acquire(2, Kind::ExclusiveAccess, 2, 0), B, 7).unwrap();
    assert_eq!(done.next.held, Some(Held { kind: Kind::ExclusiveAccess, holder: Some(B) }));
    assert_eq!(done.next.registrants.len(), 1);
    assert_eq!((told(&done), done.abort), (vec![(A, 1), (C, 1)], vec![A, C]));
    // With a key only who has it goes; the reservation stays as it is.
    let one = now.decide(&acquire(1, Kind::ExclusiveAccess, 2, 1), B, 7).unwrap();
    assert_eq!((one.next.held, told(&one)), (now.held, vec![(A, 1)]));
    assert_eq!(now.decide(&acquire(1, Kind::ExclusiveAccess, 2, 8), B, 7), Err(Status::RESERVATION_CONFLICT));
}

#[test]
fn a_shared_key_of_the_holder_spares_who_preempts() {
    let mut now = Reservations::default();
    for host in [A, B, C] {
        now = now.decide(&register(5), host, 1).unwrap().next;
    }
    now = now.decide(&acquire(0, Kind::WriteExclusive, 5, 0), A, 1).unwrap().next;
    let done = now.decide(&acquire(2, Kind::WriteExclusive, 5, 5), B, 1).unwrap();
    assert_eq!(done.next.held, Some(Held { kind: Kind::WriteExclusive, holder: Some(B) }));
    assert_eq!((done.next.registrants.len(), done.abort), (1, vec![A, C]));
}

#[test]
fn at_most_64_hosts_are_registered() {
    let mut now = Reservations::default();
    let host = |n: usize| HostId([u8::try_from(n).unwrap(); 16]);
    for n in 0..REGISTRANTS_MAX {
        now = now.decide(&register(1), host(n), 1).unwrap().next;
    }
    assert_eq!(now.decide(&register(1), host(REGISTRANTS_MAX), 1), Err(Status::INTERNAL));
    assert!(now.decide(&register(1), host(0), 1).is_ok());
    assert_eq!(now.encode().len(), ENCODED_MAX - 16);
}

#[test]
fn fields_that_are_reserved_are_refused() {
    let parse = |opcode, dword, len: usize| Command::parse(&sqe(opcode, dword, 0), &[1; 16][..len]);
    let ignoring = 1 << 3;
    for action in 3..8 {
        assert_eq!(parse(0x0d, action, 16), Err(Status::INVALID_FIELD));
        assert_eq!(parse(0x11, action | 1 << 8, 16), Err(Status::INVALID_FIELD));
        assert_eq!(parse(0x15, action | 1 << 8, 16), Err(Status::INVALID_FIELD));
    }
    for kind in [0, 7, 0x80, 0xff] {
        assert_eq!(parse(0x11, kind << 8, 16), Err(Status::INVALID_FIELD));
        assert_eq!(parse(0x15, kind << 8, 16), Err(Status::INVALID_FIELD));
    }
    assert_eq!(parse(0x11, ignoring | 1 << 8, 16), Err(Status::INVALID_FIELD));
    assert_eq!(parse(0x15, ignoring | 1 << 8, 16), Err(Status::INVALID_FIELD));
    assert_eq!(parse(0x15, ignoring | 1, 16), Err(Status::INVALID_FIELD));
    assert_eq!(parse(0x0d, 0, 15), Err(Status::SGL_LENGTH));
    assert_eq!(parse(0x11, 1 << 8, 8), Err(Status::SGL_LENGTH));
    assert_eq!(parse(0x15, 1 << 8, 7), Err(Status::SGL_LENGTH));
    assert!(parse(0x15, 1 << 8, 8).is_ok());
    assert_eq!(parse(0x02, 0, 16), Err(Status::INVALID_OPCODE));
    assert_eq!(Command::parse(&sqe(0x0d, 0, 0), &data(1, 0)), Err(Status::INVALID_FIELD));
    assert_eq!([0x0d, 0x11, 0x15, 0x0e].map(data_len), [Some(16), Some(16), Some(8), None]);
}

#[test]
fn reports_have_the_layout_and_the_size_of_their_form() {
    let on = Command::parse(&sqe(0x0d, 3 << 30, 0), &data(0, 3)).unwrap();
    let now = held_by_a(Kind::WriteExclusiveRegistrantsOnly).decide(&on, C, 0xffff).unwrap().next;
    let (basic, extended) = (now.report(false), now.report(true));
    assert_eq!((basic.len(), extended.len()), (24 + 3 * 24, 64 + 3 * 64));
    let head = [4, 0, 0, 0, 3, 3, 0, 0, 0, 1];
    assert_eq!((&basic[..10], &extended[..10]), (&head[..], &head[..]));
    assert!(basic[10..24].iter().chain(&extended[10..64]).all(|b| *b == 0));
    assert_eq!(basic[24..48], [7, 0, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0]);
    let a = [&[7, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0][..], &[1; 16], &[0; 32]].concat();
    let c = [&[0xff, 0xff, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0][..], &[3; 16], &[0; 32]].concat();
    assert_eq!((&extended[64..128], &extended[192..]), (&a[..], &c[..]));
    let none = Reservations::default();
    assert_eq!((none.report(false), none.report(true)), (vec![0; 24], vec![0; 64]));
    // All registrants are marked as holders where all hold it.
    let all = held_by_a(Kind::ExclusiveAccessAllRegistrants).report(true);
    assert_eq!([all[66], all[130], all[194]], [1; 3]);
}

#[test]
fn a_report_says_how_much_of_it_is_wanted() {
    assert_eq!(parse_report(&sqe(0x0e, 5, 0)), Ok(Report { len: 24, extended: false }));
    assert_eq!(parse_report(&sqe(0x0e, u32::MAX, 1)), Ok(Report { len: 1 << 34, extended: true }));
    assert_eq!(parse_report(&sqe(0x0d, 0, 0)), Err(Status::INVALID_OPCODE));
}

#[test]
fn golden_bytes_of_what_is_kept() {
    let mut now = held_by_a(Kind::ExclusiveAccess);
    now.registrants.retain(|host, _| *host == A);
    let holder = [&[1, 3, 0, 0, 0, 0, 2][..], &[1; 16]].concat();
    let entry = [&[1, 0][..], &[1; 16], &[1, 0, 0, 0, 0, 0, 0, 0, 7, 0]].concat();
    assert_eq!(now.encode(), [holder, entry].concat());
    assert_eq!(Reservations::decode(&[]), Ok(Reservations::default()));
    let all = held_by_a(Kind::WriteExclusiveAllRegistrants).encode();
    assert_eq!(all[..9], [1, 3, 0, 0, 0, 0, 5, 3, 0]);
}

#[test]
fn kept_bytes_that_are_cut_or_make_no_sense_are_malformed() {
    let bytes = held_by_a(Kind::ExclusiveAccess).encode();
    assert!((1..bytes.len()).all(|len| Reservations::decode(&bytes[..len]).is_err()));
    let bad = |at: usize, value: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = value;
        Reservations::decode(&bytes).is_err()
    };
    assert!(bad(0, 2), "an unknown version");
    assert!(bad(6, 7), "an unknown type");
    assert!(bad(7, 9), "a holder that is not registered");
    assert!(bad(25, 8), "hosts out of order");
    let unheld = [1, 0, 0, 0, 0, 0, 6, 0, 0];
    assert!(Reservations::decode(&unheld).is_err(), "held by all of nobody");
    let mut prng = Prng::from_seed(3);
    for _ in 0..20_000 {
        let mut bytes = bytes.clone();
        let at = usize::try_from(prng.below(bytes.len() as u64)).unwrap();
        bytes[at] = (prng.u64() & 0xff) as u8;
        fuzz_reservations(&bytes);
    }
}

fn any_command(prng: &mut Prng) -> Sqe {
    let opcode = [0x0d, 0x0d, 0x11, 0x11, 0x15][usize::try_from(prng.below(5)).unwrap()];
    let action = u32::try_from(prng.below(4)).unwrap();
    let ignoring = if prng.chance(100) { 1 << 3 } else { 0 };
    let kind = u32::try_from(prng.below(8)).unwrap() << 8;
    sqe(opcode, action | ignoring | kind | u32::try_from(prng.below(4)).unwrap() << 30, 0)
}

/// What holds after whatever commands.
fn check(before: &Reservations, outcome: &Outcome, host: HostId) {
    let Outcome { next, notices, abort } = outcome;
    assert!(next.generation == before.generation || next.generation == before.generation.wrapping_add(1));
    if next.registrants != before.registrants {
        assert_ne!(next.generation, before.generation, "registrations change with the generation");
    }
    match next.held {
        Some(Held { kind, holder: None }) => {
            assert!(kind.is_of_all_registrants() && !next.registrants.is_empty());
        }
        Some(Held { kind, holder: Some(holder) }) => {
            assert!(!kind.is_of_all_registrants() && next.registrants.contains_key(&holder));
        }
        None => {}
    }
    assert!(notices.iter().all(|n| n.host != host && before.registrants.contains_key(&n.host)));
    let lost = |id: &HostId| before.registrants.contains_key(id) && !next.registrants.contains_key(id);
    assert!(abort.iter().all(|id| *id != host && lost(id)));
    // Who lost its registration without doing so itself hears of it; once.
    for id in before.registrants.keys().filter(|id| **id != host) {
        let count = notices.iter().filter(|n| n.host == *id).count();
        assert!(count <= 1 && (!lost(id) || count == 1));
    }
    let entries = next.registrants.len();
    assert_eq!((next.report(false).len(), next.report(true).len()), (24 + 24 * entries, 64 + 64 * entries));
    assert_eq!(Reservations::decode(&next.encode()).as_ref(), Ok(next));
}

#[test]
fn random_walks_keep_the_invariants() {
    let (mut done, mut changes_of_holder) = (0, 0);
    for seed in 0..200 {
        let mut prng = Prng::from_seed(seed);
        let mut now = Reservations { generation: u32::MAX - 20, ..Reservations::default() };
        for _ in 0..300 {
            let host = HostId([u8::try_from(prng.below(5)).unwrap(); 16]);
            let known = now.registrants.get(&host).map_or(1, |r| r.key);
            let key = if prng.chance(800) { known } else { prng.below(4) };
            let Ok(command) = Command::parse(&any_command(&mut prng), &data(key, prng.below(4))) else {
                continue;
            };
            let Ok(outcome) = now.decide(&command, host, 7) else { continue };
            check(&now, &outcome, host);
            changes_of_holder += u32::from(outcome.next.held != now.held);
            done += 1;
            now = outcome.next;
        }
    }
    assert!(done > 5000 && changes_of_holder > 500, "{done} {changes_of_holder}");
}
