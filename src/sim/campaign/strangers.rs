//! What is done to the drives while no pool is open: they come back old, have twins, are exchanged, truncated, or taken
//! for others; the witness is lost.

use super::life::{Attempt, Life, Machine};
use super::plan::pick;
use super::report::{Failure, Oracle, Verdict};
use crate::base::units::{ByteLen, ByteOffset};
use crate::pool::create::witness_path;
use crate::pool::{OpenPlan, PoolError};
use crate::sim::DiskShape;
use std::path::Path;

/// Where a member's drive is put while another one has its path.
const HIDDEN: &str = "/dev/hidden";

const TWIN: &str = "/dev/twin";

/// Where the metadata log of the largest drive has ended, bytes.
const LOG_END: u64 = 4 << 20;

/// The state folder of another machine.
const OTHER_FOLDER: &str = "/other";

impl Machine {
    /// One of the strange things, where the run bears it.
    pub fn meet_stranger(&mut self) -> Verdict {
        match self.prng.below(6) {
            0 => self.meet_twin(),
            1 => {
                self.exchange_paths();
                Ok(())
            }
            2 => self.meet_foreigner(),
            3 => self.truncate_one(),
            4 => self.use_other_half(),
            _ => {
                self.lose_witness();
                Ok(())
            }
        }
    }

    /// Remembers members, and lets one come back as it was before the last life began.
    pub fn turn_back_time(&mut self) {
        if self.prng.chance(300)
            && self.plan.is_mirrored()
            && let Some((index, image)) = self.memories.pop()
            && self.expendable_as(index)
        {
            self.touch(index);
            self.step(format!("drive {index} comes back old"));
            self.disk(index).restore(&image);
            self.memories.clear();
        }
        if self.prng.chance(100) && self.plan.is_mirrored() {
            self.hollow_one();
        }
        if self.prng.chance(500) {
            let index = self.any_disk();
            self.memories.insert(0, (index, self.disk(index).snapshot()));
        }
        self.witness_memory = self.witness().map(|w| (self.disks.len(), w.snapshot()));
    }

    /// Whether this very member may miss something.
    fn expendable_as(&mut self, index: usize) -> bool {
        (0..8).any(|_| self.expendable() == Some(index))
    }

    /// While one drive is removed, one that was away may be there: it missed what the removed one has.
    pub fn return_alone(&mut self, removed: usize) -> Vec<usize> {
        let away = (0..self.disks.len()).filter(|i| !self.disk(*i).is_plugged() && !self.dead.contains(i));
        let away: Vec<usize> = away.filter(|i| !self.gone.contains(i)).collect();
        let mut back = Vec::new();
        for index in away.into_iter().filter(|i| *i != removed) {
            if self.prng.chance(600) {
                self.step(format!("drive {index} returns without it"));
                self.disk(index).heal();
                back.push(index);
            }
        }
        back
    }

    /// R25: two drives that say that they are one member.
    fn meet_twin(&mut self) -> Verdict {
        let there: Vec<usize> = (0..self.disks.len()).filter(|i| self.disk(*i).is_plugged()).collect();
        let index = pick(&mut self.prng, &there);
        self.step(format!("drive {index} has a twin"));
        self.world.copy_disk(self.path_of(index), TWIN);
        self.strangers.push(TWIN.into());
        let attempt = self.attempt()?;
        self.world.remove_disk(TWIN);
        self.strangers.clear();
        match attempt {
            Attempt::Refused(PoolError::Twins(..)) => Ok(()),
            Attempt::Refused(error) => Err(Failure::new(Oracle::Quorum, format!("twins, but: {error}"))),
            Attempt::Opened(_) => Err(Failure::new(Oracle::Quorum, "opened with twins")),
            Attempt::Crashed => Err(Failure::new(Oracle::Liveness, "crashed without an order")),
        }
    }

    /// R26: names mean nothing.
    fn exchange_paths(&mut self) {
        let (a, b) = (self.any_disk(), self.any_disk());
        if a != b && self.disk(a).is_plugged() && self.disk(b).is_plugged() {
            self.step(format!("drives {a} and {b} exchange their paths"));
            self.world.swap_disks(self.path_of(a), self.path_of(b));
        }
    }

    /// R27: a drive of nobody has a member's path; not one byte of it is changed.
    fn meet_foreigner(&mut self) -> Verdict {
        let Some(index) = self.expendable().filter(|i| self.disk(*i).is_plugged()) else { return Ok(()) };
        self.touch(index);
        let path = self.path_of(index);
        self.step(format!("another drive has the path of drive {index}"));
        self.world.rename_disk(&path, HIDDEN);
        let foreigner = self.world.add_disk(&path, DiskShape::flash(ByteLen(64 << 20)));
        foreigner.poke(ByteOffset(1 << 20), &[0x5a; 4096]);
        let before = foreigner.content_sum();
        let looked = self.look(&path);
        let changed = foreigner.content_sum() != before;
        self.world.remove_disk(&path);
        self.world.rename_disk(HIDDEN, &path);
        looked?;
        match changed {
            true => Err(Failure::new(Oracle::Bytes, "somebody else's drive was written")),
            false => Ok(()),
        }
    }

    /// A drive says that it is smaller than it was; later it is as before.
    fn truncate_one(&mut self) -> Verdict {
        let Some(index) = self.expendable().filter(|i| self.disk(*i).is_plugged()) else { return Ok(()) };
        self.touch(index);
        let (disk, path) = (self.disk(index), self.path_of(index));
        let whole = disk.snapshot();
        let most = disk.size().0 / 4096;
        let cut = (1 + self.prng.below(most - 1)) * 4096;
        self.step(format!("drive {index} is cut to {cut} bytes"));
        disk.resize(ByteLen(cut));
        let looked = self.look(&path);
        disk.restore(&whole);
        looked
    }

    /// R22, R23: one drive is used by order while the others are used without it, each long enough to serve. Then all
    /// are there, and neither is believed; afterwards that one is as it was before.
    fn use_other_half(&mut self) -> Verdict {
        let whole = self.touched.is_empty() && !self.witness_lost && self.plugged() == self.members_now();
        let Some(index) = self.expendable().filter(|_| whole) else { return Ok(()) };
        self.touch(index);
        self.step(format!("drive {index} is absent, and later it is used by order"));
        self.disk(index).unplug();
        let path = self.path_of(index);
        self.look(&path)?;
        let before = self.disk(index).snapshot();
        self.use_alone(index)?;
        let attempt = self.attempt()?;
        self.disk(index).restore(&before);
        match attempt {
            Attempt::Refused(PoolError::Forked { .. }) => Ok(()),
            Attempt::Refused(error) => {
                Err(Failure::new(Oracle::Quorum, format!("two histories, but: {error}")))
            }
            Attempt::Opened(_) => Err(Failure::new(Oracle::Quorum, "opened with two histories")),
            Attempt::Crashed => Err(Failure::new(Oracle::Liveness, "crashed without an order")),
        }
    }

    /// Opens the pool with nothing but one drive, by order, and with a state folder of its own.
    fn use_alone(&mut self, index: usize) -> Verdict {
        (0..self.disks.len()).for_each(|i| self.disk(i).unplug());
        self.disk(index).plug();
        for _ in 0..1 + self.prng.below(3) {
            let plan = OpenPlan { force: true, witness_folder: OTHER_FOLDER.into(), ..self.open_plan() };
            match self.attempt_by(plan)? {
                Attempt::Opened(life) => self.end(*life)?,
                Attempt::Refused(error) => {
                    return Err(Failure::new(Oracle::Quorum, format!("not by order either: {error}")));
                }
                Attempt::Crashed => return Err(Failure::new(Oracle::Liveness, "crashed without an order")),
            }
        }
        let members = (0..self.disks.len()).filter(|i| !self.gone.contains(i));
        members.for_each(|i| self.disk(i).plug());
        let witness = witness_path(Path::new(OTHER_FOLDER), self.pool.expect("the pool was made"));
        if self.world.find_disk(&witness).is_some() {
            self.world.remove_disk(&witness);
        }
        Ok(())
    }

    /// A file is cut and made as long as it was: zeros where its end was, and no error that would show it.
    fn hollow_one(&mut self) {
        let Some(index) = self.expendable().filter(|i| self.disk(*i).is_plugged()) else { return };
        self.touch(index);
        let disk = self.disk(index);
        let size = disk.size();
        // The superblock and the log at its start are left, so that it is known. Most of what is in use lies early.
        let most = pick(&mut self.prng, &[8 << 20, 8 << 20, size.0 - LOG_END - 4096]);
        let cut = (LOG_END + self.prng.below(most)) / 4096 * 4096;
        self.step(format!("drive {index} was cut to {cut} bytes and is as long as before"));
        disk.resize(ByteLen(cut));
        disk.resize(size);
    }

    /// Opens the pool, reads everything, and ends that life by a kill.
    fn look(&mut self, _path: &Path) -> Verdict {
        self.expect_failures(true);
        let faults = std::mem::take(&mut self.plan.faults);
        let opened = self.open();
        let looked = opened.and_then(|life: Life| {
            self.check_membership(&life.pool)?;
            self.verify_all(&life)?;
            self.end(life)
        });
        self.plan.faults = faults;
        self.note_end();
        looked
    }

    /// The state folder is lost, or put back from an old copy.
    fn lose_witness(&mut self) {
        if !self.touched.is_empty() || self.plugged() < self.members_now() {
            return;
        }
        let Some(witness) = self.witness() else { return };
        match self.witness_memory.take() {
            Some((members, image)) if self.prng.chance(500) => {
                self.step("the witness is an old one");
                // One that knows of fewer members has no vote in what was committed since.
                self.witness_lost |= members != self.disks.len();
                witness.restore(&image);
            }
            Some(_) | None => {
                self.step("the witness is lost");
                self.witness_lost = true;
                self.world.remove_disk(self.witness_path());
            }
        }
    }
}
