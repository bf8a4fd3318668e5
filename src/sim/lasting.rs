//! Memory that outlives the processes of the simulated machine, until its power is cut.

use super::lives::ProcessId;
use super::world::State;
use crate::io::driver::LastingMemory;
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The words under one name.
struct Words {
    words: Vec<AtomicU64>,
    removed: AtomicBool,
}

/// One process's handle to them.
struct Handle(Arc<Words>);

impl LastingMemory for Handle {
    fn load(&self, at: usize) -> u64 {
        self.0.words[at].load(Ordering::Acquire)
    }

    fn store(&self, at: usize, word: u64) {
        self.0.words[at].store(word, Ordering::Release);
    }

    fn remove(&self) {
        self.0.removed.store(true, Ordering::Release);
    }
}

/// Everything that lasts, with who had it last.
#[derive(Default)]
pub(super) struct Lasting(BTreeMap<PathBuf, (ProcessId, Arc<Words>)>);

impl Lasting {
    pub(super) fn power_cut(&mut self) {
        self.0.clear();
    }
}

impl State {
    pub(super) fn lasting_memory(
        &mut self,
        process: ProcessId,
        path: &Path,
        words: usize,
    ) -> Result<Arc<dyn LastingMemory>, Errno> {
        let fits = |found: &&(ProcessId, Arc<Words>)| {
            found.1.words.len() == words && !found.1.removed.load(Ordering::Acquire)
        };
        let found = self.lasting.0.get(path).filter(fits).cloned();
        // The process's handle is the one beside the world's.
        if found.as_ref().is_some_and(|(holder, words)| self.alive(*holder) && Arc::strong_count(words) > 2) {
            return Err(Errno::EBUSY);
        }
        let fresh = || (0..words).map(|_| AtomicU64::new(0)).collect();
        let words = found.map_or_else(|| Arc::new(Words { words: fresh(), removed: false.into() }), |f| f.1);
        self.lasting.0.insert(path.to_owned(), (process, words.clone()));
        Ok(Arc::new(Handle(words)))
    }
}
