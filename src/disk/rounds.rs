//! Work that many ask for and one does: flushes.
//!
//! Who asks is served by a round that *starts* after the asking: a round already under way may have missed what
//! the asker wants covered.

use crate::base::planted::{Planted, is_planted};
use crate::io::time::Instant;
use crate::reactor::Core;
use crate::reactor::sync::{WaitList, lock};
use futures_util::future::select;
use std::future::Future;
use std::sync::Mutex;

/// A series of rounds of the same work, run one at a time by whoever comes first.
#[derive(Default)]
pub struct Rounds {
    state: Mutex<State>,
    changed: WaitList,
}

#[derive(Default)]
struct State {
    started: u64,
    finished: u64,
    running: bool,
    /// Whether the round finished last succeeded.
    ok: bool,
}

/// Ends a round even if its leader is dropped half-way, so that others are not stuck.
struct Lead<'a> {
    rounds: &'a Rounds,
    ok: bool,
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        {
            let mut state = lock(&self.rounds.state);
            state.running = false;
            state.finished = state.started;
            state.ok = self.ok;
        }
        self.rounds.changed.wake_all();
    }
}

impl Rounds {
    /// Waits for a round that starts after this call, doing its work if nobody else does. True if it succeeded; false
    /// too if another one's round did not end until then.
    pub async fn join<F: Future<Output = bool>>(
        &self,
        core: &Core,
        until: Option<Instant>,
        work: impl Fn() -> F,
    ) -> bool {
        let wanted = {
            let state = lock(&self.state);
            let older = state.running && is_planted(core, Planted::JoinOlderFlush);
            state.started + u64::from(!older)
        };
        loop {
            let ticket = self.changed.ticket();
            let lead = {
                let mut state = lock(&self.state);
                if state.finished >= wanted {
                    return state.ok;
                }
                let lead = !state.running;
                if lead {
                    state.running = true;
                    state.started += 1;
                }
                lead
            };
            if !lead {
                match until {
                    None => ticket.await,
                    Some(until) if core.now() >= until => return false,
                    Some(until) => {
                        select(ticket, core.sleep(until.since(core.now()))).await;
                    }
                }
                continue;
            }
            let mut lead = Lead { rounds: self, ok: false };
            lead.ok = work().await;
            let ok = lead.ok;
            drop(lead);
            return ok;
        }
    }
}
