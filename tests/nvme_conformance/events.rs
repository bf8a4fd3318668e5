//! Items 41, 43 to 45: events, and what keeps an association alive.

use crate::host::{Command, Conn, Connect, Data, Host, log_command, u32_at, u64_at};
use crate::server::{Rig, tank};
use drystone::base::units::ByteLen;
use drystone::volume::memory::MemoryVolume;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Dword 0 of events: a namespace is another one, or came, or went; where namespaces are changed.
const NAMESPACES: u64 = 0x0004_0002;
const ANA: u64 = 0x000c_0302;

/// The events of an I/O controller (feature 0Bh).
const ALL: u32 = 1 << 8 | 1 << 11;

/// Long enough for an event that is told to be seen.
const MOMENT: Duration = Duration::from_millis(150);

fn small(bytes: u64) -> MemoryVolume {
    MemoryVolume::new(ByteLen(bytes))
}

/// A host that hears of everything.
fn listener(rig: &Rig) -> Host {
    let mut host = rig.host();
    host.set_feature(0x0b, ALL).ok();
    host
}

/// The next event, of a request that was made before.
fn event(admin: &mut Conn) -> u64 {
    let done = match admin.early.is_empty() {
        true => admin.completion(),
        false => admin.early.remove(0),
    };
    assert_eq!(done.status, 0);
    done.result
}

/// The numbers in the log of changed namespaces.
fn changed(host: &mut Host, retain: bool) -> Vec<u32> {
    let page = host.log(4, 0, 4096, retain).bytes();
    (0..1024).map(|at| u32_at(&page, 4 * at)).take_while(|number| *number != 0).collect()
}

#[test]
fn c41_four_requests_are_held_and_no_fifth() {
    let rig = tank();
    let mut host = listener(&rig);
    let held: BTreeSet<u16> = (0..4).map(|_| host.listen()).collect();
    let fifth = host.listen();
    let done = host.admin.completion();
    assert_eq!((done.id, done.status, done.no_retry), (fifth, 0x105, true));
    rig.export("more", small(1 << 20));
    let told = [host.admin.completion(), host.admin.completion()];
    assert_eq!(told.map(|done| done.result), [NAMESPACES, ANA]);
    assert!(told.iter().all(|done| held.contains(&done.id)));
}

#[test]
fn c41_an_event_without_a_request_waits_for_one() {
    let rig = tank();
    let mut host = listener(&rig);
    let number = rig.export("more", small(1 << 20));
    assert!(host.admin.is_silent(MOMENT));
    host.listen();
    assert_eq!(event(&mut host.admin), NAMESPACES);
    host.listen();
    assert_eq!(event(&mut host.admin), ANA);
    assert_eq!(changed(&mut host, false), [number]);
}

#[test]
fn c41_an_event_is_told_again_when_its_log_was_read_and_not_before() {
    let rig = tank();
    let mut host = listener(&rig);
    host.set_feature(0x0b, 1 << 8).ok();
    host.listen();
    let number = rig.export("more", small(1 << 20));
    assert_eq!(event(&mut host.admin), NAMESPACES);
    host.listen();
    rig.export("more", small(2 << 20));
    assert!(host.admin.is_silent(MOMENT));
    assert_eq!(changed(&mut host, true), [number], "retained");
    assert!(host.admin.is_silent(MOMENT));
    assert_eq!(changed(&mut host, true), [number], "and still there");
    assert_eq!(changed(&mut host, false), [number]);
    assert_eq!(event(&mut host.admin), NAMESPACES, "it happened again meanwhile");
    assert!(changed(&mut host, false).is_empty());
}

#[test]
fn c41_a_log_that_could_not_be_sent_was_not_read() {
    let rig = tank();
    let mut host = listener(&rig);
    let number = rig.export("more", small(1 << 20));
    host.listen();
    assert_eq!(event(&mut host.admin), NAMESPACES);
    let command = log_command(4, 0, 4096, false);
    assert_eq!(host.admin.ask(&command, Data::Back(512)).status, 0x00f);
    assert_eq!(changed(&mut host, false), [number]);
}

#[test]
fn c41_events_that_are_not_wanted_are_not_told() {
    let rig = tank();
    let mut host = rig.host();
    host.listen();
    rig.export("more", small(1 << 20));
    assert!(host.admin.is_silent(MOMENT));
    host.set_feature(0x0b, 1 << 11).ok();
    rig.export("other", small(1 << 20));
    assert_eq!(event(&mut host.admin), ANA);
    host.listen();
    host.log(0x0c, 0, 48, false).bytes();
    // Another size is no matter of paths.
    rig.export("other", small(2 << 20));
    assert!(host.admin.is_silent(MOMENT));
}

#[test]
fn c43_a_silent_host_loses_its_association_and_others_do_not() {
    let rig = tank();
    let (mut forever, mut queue) = rig.session(0);
    let with = |keep_alive_ms: u32| {
        let connect = Connect { keep_alive_ms, ..rig.connect() };
        Host::enabled(rig.server.address, &connect, 0)
    };
    let mut silent = [with(1), with(1000), with(u32::MAX)];
    let mut queues = [silent[0].queue(1), silent[1].queue(1), silent[2].queue(1)];
    silent[2].set_feature(0x0f, 1).ok();
    assert_eq!(silent[2].feature(0x0f, 0).ok(), 1);
    queues.iter_mut().for_each(Conn::expect_close);
    silent.iter_mut().for_each(|host| host.admin.expect_close());
    forever.admin.expect_alive(true);
    queue.expect_alive(false);
}

#[test]
fn c43_any_traffic_keeps_an_association_alive() {
    let rig = tank();
    let connect = Connect { keep_alive_ms: 2000, ..rig.connect() };
    let mut host = Host::enabled(rig.server.address, &connect, 0);
    let mut queue = host.queue(1);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(5) {
        queue.expect_alive(false);
        std::thread::sleep(Duration::from_millis(100));
    }
    host.admin.expect_alive(true);
}

#[test]
fn c44_a_volume_that_grows_is_told_and_used_at_once() {
    let rig = tank();
    let number = rig.export("more", small(1 << 20));
    let mut hosts = [listener(&rig), listener(&rig)];
    for host in &mut hosts {
        host.set_feature(0x0b, ALL).ok();
        assert_eq!(u64_at(&host.identify(0, number).bytes(), 0), 2048);
        host.listen();
    }
    let mut queue = hosts[0].queue(1);
    let beyond = Command::new(2, number).blocks(2048, 1);
    assert_eq!(queue.ask(&beyond, Data::Back(512)).status, 0x080);
    rig.export("more", small(2 << 20));
    for host in &mut hosts {
        assert_eq!(event(&mut host.admin), NAMESPACES);
        assert_eq!(changed(host, false), [number]);
        assert_eq!(u64_at(&host.identify(0, number).bytes(), 0), 4096);
    }
    queue.ask(&beyond, Data::Back(512)).bytes();
    rig.catalog.remove("more");
    for host in &mut hosts {
        host.listen();
        assert_eq!(event(&mut host.admin), NAMESPACES);
        assert_eq!(changed(host, false), [number]);
        assert_eq!(host.identify(0, number).bytes(), vec![0; 4096]);
        host.listen();
        assert_eq!(event(&mut host.admin), ANA);
    }
    assert_eq!(queue.ask(&beyond, Data::Back(512)).status, 0x00b);
}

#[test]
fn c45_more_changes_than_the_log_has_room_for_are_all_of_them() {
    let rig = tank();
    let mut host = listener(&rig);
    host.listen();
    let mut numbers = BTreeSet::new();
    for at in 0.. {
        numbers.insert(rig.export(&format!("burst{at}"), small(4096)));
        if numbers.len() > 1024 {
            break;
        }
    }
    assert_eq!(event(&mut host.admin), NAMESPACES);
    host.listen();
    assert_eq!(event(&mut host.admin), ANA);
    let page = host.log(4, 0, 4096, false).bytes();
    assert!(u32_at(&page, 0) == u32::MAX && page[4..] == [0; 4092]);
    numbers.insert(rig.tank);
    let mut listed = Vec::new();
    loop {
        let page = host.identify(2, listed.last().copied().unwrap_or(0)).bytes();
        let more: Vec<u32> =
            (0..1024).map(|at| u32_at(&page, 4 * at)).take_while(|number| *number != 0).collect();
        listed.extend(&more);
        if more.len() < 1024 {
            break;
        }
    }
    assert_eq!(listed, numbers.into_iter().collect::<Vec<_>>());
}
