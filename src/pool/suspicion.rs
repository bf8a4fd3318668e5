//! Suspicion (R43, R44): a member that says nothing, or takes much longer than it used to, is read only where nothing
//! else can be; it is looked at again and again, and earns its place back when it answers as before.
//!
//! What a member is suspected of is never committed: it is in sync, and written like the others.

use super::lifecycle::{Event, after};
use super::member::Member;
use super::shared::Shared;
use super::state::MemberState;
use crate::base::limits::BLOCK;
use crate::base::units::{ByteLen, ExtentIndex};
use crate::disk::{Disk, Patience};
use crate::reactor::Core;
use std::sync::Arc;
use std::time::Duration;

/// How often members are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A member that has said nothing for so long although it was asked is suspect.
const SILENT_AFTER: Duration = Duration::from_secs(1);

/// A member is slow whose reads take so many times what they usually take, and so much more at least.
const SLOW_FACTOR: u64 = 8;
const SLOW_MIN_NS: u64 = 2_000_000;

/// It is as before when they take less than so many times that.
const BACK_FACTOR: u64 = 3;

/// A member whose reads take so many times those of the fastest gets none, and nobody would see it become faster.
const UNREAD_FACTOR: u64 = 2;

/// What a look at a member's drive shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Look {
    read_ns: u64,
    usual_ns: u64,
    silence: Duration,
    late: bool,
}

/// What a look means for a member that was suspect, or was not; None: nothing new.
fn judge(suspect: bool, look: &Look) -> Option<Event> {
    let silent = look.late || look.silence >= SILENT_AFTER;
    let times = |factor: u64| look.usual_ns.saturating_mul(factor).saturating_add(SLOW_MIN_NS);
    if suspect {
        let back = !silent && look.read_ns < times(BACK_FACTOR);
        return back.then_some(Event::Answers);
    }
    (silent || look.read_ns >= times(SLOW_FACTOR)).then_some(Event::Slow)
}

/// Looks at the members until the pool closes.
pub async fn watch(core: Core, pool: Arc<Shared>) {
    let mut reads_before = 0;
    while !pool.is_closing() {
        let members = pool.members_in_sync();
        let disks = || members.iter().filter_map(|m| m.disk.as_ref());
        let reads: u64 = disks().map(|d| d.answers.reads()).sum();
        let fastest = disks().map(|d| d.answers.read_ns()).filter(|ns| *ns > 0).min().unwrap_or(0);
        for member in &members {
            let Some(disk) = &member.disk else { continue };
            look_at(&core, member, disk);
            let unread = reads != reads_before
                && disk.answers.read_ns() >= fastest.saturating_mul(UNREAD_FACTOR)
                && members.len() > 1;
            if (member.is_suspect() || unread) && disk.load() == 0 {
                probe(&core, member, disk.clone());
            }
        }
        reads_before = reads;
        let closed = pool.closed.ticket();
        if !pool.is_closing() {
            futures_util::future::select(closed, core.sleep(LOOK_EVERY)).await;
        }
    }
}

fn look_at(core: &Core, member: &Member, disk: &Disk) {
    let answers = &disk.answers;
    let look = Look {
        read_ns: answers.read_ns(),
        usual_ns: answers.usual_ns(),
        silence: answers.silence(core.now()),
        late: answers.is_late(),
    };
    let now = if member.is_suspect() { MemberState::Suspect } else { MemberState::Active };
    let Some(next) = judge(member.is_suspect(), &look).and_then(|event| after(event, now)) else { return };
    let (read_us, usual_us) = (look.read_ns / 1000, look.usual_ns / 1000);
    match next {
        MemberState::Suspect => {
            tracing::warn!(member = member.name, read_us, usual_us, "drive answers slowly")
        }
        _ => tracing::info!(member = member.name, read_us, usual_us, "drive answers as before"),
    }
    member.set_suspect(next == MemberState::Suspect);
}

/// Reads one block somewhere, for the time that it takes.
fn probe(core: &Core, member: &Member, disk: Arc<Disk>) {
    let layout = member.layout;
    let extent = core.with_prng(|prng| prng.below(u64::from(layout.extents)));
    let extent = ExtentIndex(u32::try_from(extent).expect("below a u32"));
    let into = core.buffers().take(ByteLen(BLOCK).as_usize());
    let inner = core.clone();
    core.spawn(async move {
        // How it ends shows in the disk's own counts.
        let _ = disk.read(&inner, layout.data(extent, ByteLen(0)), into, Patience::Peers).await;
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(read_us: u64, silence_ms: u64, late: bool) -> Look {
        let (read_ns, usual_ns) = (read_us * 1000, 100_000);
        Look { read_ns, usual_ns, silence: Duration::from_millis(silence_ms), late }
    }

    #[test]
    fn r44_a_member_becomes_suspect_when_it_is_much_slower_and_is_trusted_again_only_when_it_is_fast() {
        assert_eq!(judge(false, &look(1000, 0, false)), None);
        assert_eq!(judge(false, &look(2800, 0, false)), Some(Event::Slow));
        assert_eq!(judge(true, &look(2500, 0, false)), None, "between the two nothing changes");
        assert_eq!(judge(true, &look(400, 0, false)), Some(Event::Answers));
    }

    #[test]
    fn r43_a_member_that_says_nothing_is_suspect_until_it_has_answered_everything() {
        assert_eq!(judge(false, &look(100, 1000, false)), Some(Event::Slow));
        assert_eq!(judge(false, &look(100, 0, true)), Some(Event::Slow));
        assert_eq!(judge(true, &look(100, 0, true)), None);
        assert_eq!(judge(true, &look(100, 0, false)), Some(Event::Answers));
    }
}
