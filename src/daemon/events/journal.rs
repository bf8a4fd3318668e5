//! The file of events in the state folder: one JSON object a line, at most 1 MiB, and one older file of that size.
//!
//! A line that is torn or damaged is skipped. A thread of its own writes, so that no core waits for the file; when it
//! cannot keep up or the folder takes nothing, events are dropped, with a warning, and are still in memory.

use super::KEPT;
use crate::control::event::Event;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

const FILE: &str = "events.jsonl";
const OLDER: &str = "events.old.jsonl";

/// A file that would become larger is the older one from then on, bytes.
const FILE_MAX: u64 = 1 << 20;

/// Events that wait for the thread.
const QUEUE: usize = 1024;

/// The thread writes so much at a time, bytes, if there is so much.
const BATCH: usize = 64 << 10;

/// Numbers above this are damage, bytes of a file were changed: below, every program can read them.
const SEQ_MAX: u64 = 1 << 53;

/// The last events that the state folder knows, oldest first; none if it cannot be read.
pub fn load(state: &Path) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    for name in [OLDER, FILE] {
        // A file that is not there, or not readable, has no events.
        let bytes = tail(&state.join(name)).unwrap_or_default();
        for event in bytes.split(|b| *b == b'\n').filter_map(parse) {
            if events.last().is_none_or(|last| last.seq < event.seq) {
                events.push(event);
            }
        }
    }
    events.split_off(events.len().saturating_sub(KEPT))
}

/// The event of a line; None for what is none.
fn parse(line: &[u8]) -> Option<Event> {
    serde_json::from_slice::<Event>(line).ok().filter(|e| (1..=SEQ_MAX).contains(&e.seq))
}

/// The end of a file: no more of it than this program would have written.
fn tail(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(2 * FILE_MAX)))?;
    let mut bytes = Vec::new();
    file.take(2 * FILE_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Appends events, waiting for the file: for a command that works without a daemon.
pub fn append(state: &Path, events: &[Event]) -> std::io::Result<()> {
    let lines: Vec<u8> = events.iter().flat_map(line).collect();
    if lines.is_empty() { Ok(()) } else { Writer::open(state)?.append(&lines) }
}

fn line(event: &Event) -> Vec<u8> {
    let mut line = serde_json::to_vec(event).expect("an event has text keys");
    line.push(b'\n');
    line
}

/// Where a running daemon leaves events.
pub struct Journal {
    sender: SyncSender<Vec<u8>>,
    thread: JoinHandle<()>,
}

impl Journal {
    pub fn start(state: &Path) -> std::io::Result<Journal> {
        let (sender, lines) = sync_channel(QUEUE);
        let state = state.to_owned();
        let thread =
            std::thread::Builder::new().name("events".to_owned()).spawn(move || write(&state, &lines))?;
        Ok(Journal { sender, thread })
    }

    /// Leaves an event to the thread; never waits.
    pub fn keep(&self, event: &Event) {
        if self.sender.try_send(line(event)).is_err() {
            tracing::warn!(seq = event.seq, "an event was not written: the state folder is too slow");
        }
    }

    /// Waits until everything is written.
    pub fn close(self) {
        drop(self.sender);
        // A thread that panicked has said so.
        let _ = self.thread.join();
    }
}

/// Writes what comes, as much as there is at a time, until nobody can send any more.
fn write(state: &Path, lines: &Receiver<Vec<u8>>) {
    let mut writer: Option<Writer> = None;
    while let Ok(mut batch) = lines.recv() {
        while batch.len() < BATCH {
            let Ok(line) = lines.try_recv() else { break };
            batch.extend(line);
        }
        let written = match &mut writer {
            Some(writer) => writer.append(&batch),
            None => Writer::open(state).and_then(|fresh| writer.insert(fresh).append(&batch)),
        };
        if let Err(error) = written {
            tracing::warn!(%error, "events were not written into the state folder");
            // Opened anew with the next event.
            writer = None;
        }
    }
}

/// The open file.
struct Writer {
    state: PathBuf,
    file: File,
    size: u64,
}

impl Writer {
    fn open(state: &Path) -> std::io::Result<Writer> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(state.join(FILE))?;
        let size = file.seek(SeekFrom::End(0))?;
        let mut writer = Writer { state: state.to_owned(), file, size };
        if size > 0 && !writer.ends_with_a_line()? {
            // What was cut off stays a line of its own, which is skipped.
            writer.put(b"\n")?;
        }
        Ok(writer)
    }

    fn ends_with_a_line(&mut self) -> std::io::Result<bool> {
        let mut last = [0];
        self.file.seek(SeekFrom::End(-1))?;
        self.file.read_exact(&mut last)?;
        Ok(last == *b"\n")
    }

    /// Appends whole lines, durably.
    fn append(&mut self, lines: &[u8]) -> std::io::Result<()> {
        if self.size > 0 && self.size + lines.len() as u64 > FILE_MAX {
            std::fs::rename(self.state.join(FILE), self.state.join(OLDER))?;
            *self = Writer::open(&self.state)?;
        }
        self.put(lines)?;
        self.file.sync_data()
    }

    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.file.write_all(bytes)?;
        self.size += bytes.len() as u64; // widening
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::draft::Draft;
    use super::*;
    use crate::control::event::EventKind;

    fn event(seq: u64) -> Event {
        let what = format!("volume {seq}: 10.0 GB, 2 copies{}", "…".repeat(100));
        Draft::info(EventKind::VolumeMade, "tank", "data", what).numbered(seq, seq)
    }

    fn numbers(state: &Path) -> Vec<u64> {
        load(state).iter().map(|e| e.seq).collect()
    }

    #[test]
    fn torn_and_damaged_lines_are_skipped() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(load(state.path()), []);
        append(state.path(), &[event(1), event(2)]).unwrap();
        let path = state.path().join(FILE);
        let whole = std::fs::read(&path).unwrap();
        for end in (0..whole.len()).step_by(7) {
            std::fs::write(&path, &whole[..end]).unwrap();
            append(state.path(), &[event(3)]).unwrap();
            let kept = numbers(state.path());
            assert_eq!(kept.last(), Some(&3), "cut at {end}");
            assert!(kept.len() <= 3 && kept.windows(2).all(|w| w[0] < w[1]), "cut at {end}: {kept:?}");
        }
        let garbage = b"\xff\xfe\n{}\n{\"seq\":18446744073709551615}\n\0\0\0\n";
        std::fs::write(&path, [garbage.as_slice(), &whole, garbage].concat()).unwrap();
        assert_eq!(numbers(state.path()), [1, 2]);
        let mut absurd = event(4);
        absurd.seq = u64::MAX;
        append(state.path(), &[absurd, event(5)]).unwrap();
        assert_eq!(numbers(state.path()), [1, 2, 5]);
    }

    #[test]
    fn kinds_of_a_newer_version_are_kept() {
        let line = String::from_utf8(line(&event(1))).unwrap().replace("volume_made", "volume_sung_to");
        assert_eq!(parse(line.trim().as_bytes()).unwrap().kind, EventKind::Unknown);
    }

    #[test]
    fn the_files_are_bounded_and_the_newest_events_are_in_them() {
        let state = tempfile::tempdir().unwrap();
        let journal = Journal::start(state.path()).unwrap();
        for seq in 1..=12_000 {
            // Unlike `keep`, waits for the thread.
            journal.sender.send(line(&event(seq))).unwrap();
        }
        journal.close();
        for name in [FILE, OLDER] {
            let size = std::fs::metadata(state.path().join(name)).unwrap().len();
            assert!(size > 0 && size <= FILE_MAX, "{name}: {size}");
        }
        assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 2);
        let expected: Vec<u64> = (12_001 - KEPT as u64..=12_000).collect();
        assert_eq!(numbers(state.path()), expected);
    }

    #[test]
    fn a_folder_that_takes_nothing_ends_nothing() {
        let journal = Journal::start(Path::new("/proc/nowhere")).unwrap();
        (1..5_000).for_each(|seq| journal.keep(&event(seq)));
        journal.close();
    }
}
