//! What happened: noticed, numbered, kept in memory and in the state folder. Lives on the home core.
//!
//! What there is to tell is decided by `changes` and `drives` from two reports, how often by `repeats`; `filling` tells
//! when a pool is full; `journal` is the file.

mod changes;
mod draft;
mod drives;
mod filling;
mod journal;
mod repeats;
mod words;

pub use changes::FILLING_SOON;
pub use draft::Draft;
pub use journal::load;

use crate::control::api::{PoolReport, Request};
use crate::control::event::{Event, EventKind, EventPage, Level};
use crate::io::time::Instant;
use crate::reactor::sync::WaitList;
use filling::Filling;
use journal::Journal;
use repeats::Repeats;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;

/// Events in memory.
const KEPT: usize = 1000;

/// Events in one answer, so that it fits in a line of the control protocol.
const PAGE: usize = 100;

/// Events so far, and what they are made from.
#[derive(Default)]
pub struct Watch {
    /// Whether anybody watches: not in a command that changes nothing.
    on: Cell<bool>,
    kept: RefCell<VecDeque<Event>>,
    newest: Cell<u64>,
    before: RefCell<Vec<PoolReport>>,
    repeats: RefCell<Repeats>,
    fillings: RefCell<BTreeMap<String, Filling>>,
    journal: RefCell<Option<Journal>>,
    /// Woken by every event.
    pub changed: WaitList,
}

/// A moment by both clocks.
#[derive(Clone, Copy)]
pub struct Moment {
    pub now: Instant,
    pub wall_ns: u64,
}

impl Watch {
    /// Begins with what the state folder has; whether the daemon before, if any, ended as it should.
    pub fn begin(&self, state: &Path) -> bool {
        let events = load(state);
        let of_daemon = |e: &&Event| {
            matches!(e.kind, EventKind::DaemonStarted | EventKind::DaemonStopping | EventKind::DaemonStopped)
        };
        let last = events.iter().rev().find(of_daemon).map(|e| e.kind);
        self.newest.set(events.last().map_or(0, |e| e.seq));
        *self.kept.borrow_mut() = events.into();
        self.on.set(true);
        matches!(last, None | Some(EventKind::DaemonStopped))
    }

    /// From here on events are also written by a thread, while the daemon runs.
    pub fn write_to(&self, state: &Path) {
        match Journal::start(state) {
            Ok(journal) => *self.journal.borrow_mut() = Some(journal),
            Err(error) => tracing::warn!(%error, "events are not written: no thread"),
        }
    }

    /// Nothing that is seen from here on is an event.
    pub fn pause(&self) {
        self.on.set(false);
    }

    /// Waits until everything is in the file.
    pub fn close(&self) {
        let journal = self.journal.borrow_mut().take();
        journal.into_iter().for_each(Journal::close);
    }

    /// Takes the pools as they are without telling what is new.
    pub fn begin_with(&self, pools: Vec<PoolReport>) {
        *self.before.borrow_mut() = pools;
    }

    /// Tells what happened since the last look. `asked` is the change that was made.
    pub fn look(&self, at: Moment, pools: Vec<PoolReport>, asked: Option<&Request>) {
        if !self.on.get() {
            return;
        }
        self.note_growth(at.now, &pools);
        let before = self.before.replace(pools);
        let drafts = changes::changes(&before, &self.before.borrow(), asked);
        for draft in &drafts {
            if draft.kind == EventKind::VolumeDestroyed {
                self.fillings.borrow_mut().values_mut().for_each(Filling::begin_anew);
            }
        }
        let over = self.repeats.borrow_mut().ended(at.now);
        over.into_iter().for_each(|draft| self.add(at.wall_ns, draft));
        drafts.into_iter().for_each(|draft| self.note(at, draft));
    }

    /// Something happened.
    pub fn note(&self, at: Moment, draft: Draft) {
        let admitted = self.repeats.borrow_mut().admit(draft, at.now);
        admitted.into_iter().for_each(|draft| self.add(at.wall_ns, draft));
    }

    fn add(&self, wall_ns: u64, draft: Draft) {
        let event = draft.numbered(self.newest.get() + 1, wall_ns);
        self.newest.set(event.seq);
        if let Some(journal) = &*self.journal.borrow() {
            journal.keep(&event);
        }
        let mut kept = self.kept.borrow_mut();
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back(event);
        self.changed.wake_all();
    }

    fn note_growth(&self, now: Instant, pools: &[PoolReport]) {
        let mut fillings = self.fillings.borrow_mut();
        fillings.retain(|uuid, _| pools.iter().any(|p| p.uuid == *uuid));
        for pool in pools {
            fillings.entry(pool.uuid.clone()).or_default().note(now, pool.allocated_bytes);
        }
    }

    /// Seconds until a pool is full, if that can be told.
    pub fn full_in(&self, pool: &PoolReport) -> Option<u64> {
        self.fillings.borrow().get(&pool.uuid)?.full_in(pool.free())
    }

    /// The first events after the one of this number.
    pub fn page(&self, after: u64) -> EventPage {
        let kept = self.kept.borrow();
        let events = kept.iter().filter(|e| e.seq > after).take(PAGE).cloned().collect();
        EventPage { events, newest: self.newest.get() }
    }

    /// The events since the one of this number go into the file, and this waits for that.
    pub fn append(&self, state: &Path, after: u64) {
        let events: Vec<Event> = self.kept.borrow().iter().filter(|e| e.seq > after).cloned().collect();
        if let Err(error) = journal::append(state, &events) {
            tracing::warn!(%error, "events were not written into the state folder");
        }
    }

    pub fn newest(&self) -> u64 {
        self.newest.get()
    }
}

/// The first event of a daemon.
pub fn started(cleanly: bool) -> Draft {
    match cleanly {
        true => Draft::daemon(EventKind::DaemonStarted, "the daemon started"),
        false => {
            let message = "the daemon started; the one before was ended by a crash, a kill or a power cut: what was \
                           being written then is made equal on all copies";
            let draft = Draft::daemon(EventKind::DaemonStarted, message);
            Draft { code: Some("UNCLEAN_STOP".to_owned()), level: Level::Warning, ..draft }
        }
    }
}

#[cfg(test)]
mod tests;
