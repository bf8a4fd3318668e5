//! Numbers, pages and bounds of what is kept.

use super::*;

fn at(seconds: u64) -> Moment {
    Moment { now: Instant::from_ns(seconds * 1_000_000_000), wall_ns: seconds }
}

fn told(watch: &Watch, count: u64) {
    for n in 0..count {
        let name = format!("volume-{n}");
        watch.note(at(n), Draft::info(EventKind::VolumeMade, "tank", &name, "made"));
    }
}

#[test]
fn memory_is_bounded_and_pages_lead_from_the_oldest_to_the_newest() {
    let watch = Watch::default();
    told(&watch, 2500);
    let (mut after, mut seen) = (0, Vec::new());
    loop {
        let page = watch.page(after);
        assert!(page.events.len() <= PAGE && page.newest == 2500);
        seen.extend(page.events.iter().map(|e| e.seq));
        after = seen.last().copied().unwrap();
        if after == page.newest {
            break;
        }
    }
    assert_eq!(seen, (1501..=2500).collect::<Vec<u64>>());
    assert!(watch.page(2500).events.is_empty());
}

#[test]
fn numbers_go_on_after_a_restart_and_a_killed_daemon_is_told() {
    let state = tempfile::tempdir().unwrap();
    let first = Watch::default();
    assert!(first.begin(state.path()), "there was none before");
    first.write_to(state.path());
    first.note(at(1), started(true));
    told(&first, 5);
    first.close();
    let second = Watch::default();
    assert!(!second.begin(state.path()), "it did not stop as it should");
    second.write_to(state.path());
    second.note(at(9), started(false));
    second.note(at(9), Draft::daemon(EventKind::DaemonStopped, "stopped"));
    second.close();
    assert_eq!(
        second.page(0).events.iter().map(|e| e.seq).collect::<Vec<_>>(),
        (1..=8).collect::<Vec<u64>>()
    );
    assert_eq!(second.page(6).events[0].code.as_deref(), Some("UNCLEAN_STOP"));
    assert!(Watch::default().begin(state.path()));
}

#[test]
fn control_characters_do_not_reach_a_terminal() {
    let event = Draft::info(EventKind::DriveAdded, "tank", "a\x1b[2Jb", "line\nline").numbered(1, 1);
    assert_eq!((event.subject.as_str(), event.message.as_str()), ("a [2Jb", "line line"));
}
