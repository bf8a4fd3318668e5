//! The two superblocks at the ends of a member: what it tells that the back one is gone, and writing them again, also as
//! those of a newer version.
//!
//! A file that was cut short and made longer again, or a drive whose end was overwritten, has zeros or something else
//! where the back superblock was. What lay before it may be gone too, without a read error that would show it: such a
//! member counts as having nothing.

use super::planted::{Planted, is_planted};
use super::superblock::{Superblock, VERSION};
use super::survey::{SuperblockFlaw, SuperblockFound, superblocks};
use crate::disk::{Disk, Patience};
use crate::reactor::Core;

/// Why a member gets everything.
pub const HOLLOW: &str =
    "its end was overwritten or cut off: what it holds is not believed, and everything is copied to it";

/// Whether something else lies where the member's back superblock was. One that is damaged, or cannot be read, is a
/// fault of one block and tells nothing about the others.
pub async fn is_hollow(core: &Core, disk: &Disk) -> bool {
    let [_, back] = superblocks(core, disk).await;
    back.content == Err(SuperblockFlaw::Absent) && !is_planted(core, Planted::HollowBelieved)
}

/// Writes a superblock again that is not sound, from the other one. For a member that is hollow not before that is
/// committed. What fails here is tried again by the next opening.
///
/// Superblocks of an older version are written as those of this one, so that a program that knows only the older one
/// refuses the member instead of misreading what is committed from now on. Called before anything can be committed that
/// the older one does not know.
pub async fn mend(core: &Core, disk: &Disk) {
    let found = superblocks(core, disk).await;
    let Some(sound) = found.iter().find_map(|s| s.content.as_ref().ok()).cloned() else { return };
    // A file that was cut a moment ago would be made longer by this, and pass for whole.
    if disk.size(core).await.is_ok_and(|size| size < sound.size) {
        return;
    }
    let wanted = Superblock { version: VERSION, ..sound };
    // One after the other, the back one first as in a creation: a write that is cut off leaves the other one sound.
    for superblock in found.iter().rev().filter(|s| is_mendable(s)) {
        tracing::warn!(disk = %disk.path().display(), at = superblock.at.0, "a superblock is written again");
        let bytes = core.buffers().copy_of(&wanted.emit(superblock.at)).freeze();
        if disk.write(core, superblock.at, bytes, true, Patience::Opening).await.is_err() {
            return;
        }
    }
}

fn is_mendable(found: &SuperblockFound) -> bool {
    match &found.content {
        Ok(superblock) => superblock.version < VERSION,
        Err(SuperblockFlaw::Absent | SuperblockFlaw::Damaged | SuperblockFlaw::Unreadable(_)) => true,
        Err(SuperblockFlaw::Version(_) | SuperblockFlaw::Features(_) | SuperblockFlaw::BeyondEnd) => false,
    }
}
