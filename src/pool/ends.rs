//! The two superblocks at the ends of a member: what it tells that the back one is gone, and writing them again.
//!
//! A file that was cut short and made longer again, or a drive whose end was overwritten, has zeros or something else
//! where the back superblock was. What lay before it may be gone too, without a read error that would show it: such a
//! member counts as having nothing.

use super::planted::{Planted, is_planted};
use super::superblock::Superblock;
use super::survey::{SuperblockFlaw, superblocks};
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
pub async fn mend(core: &Core, disk: &Disk) {
    let found = superblocks(core, disk).await;
    let Some(sound) = found.iter().find_map(|s| s.content.as_ref().ok()).cloned() else { return };
    // A file that was cut a moment ago would be made longer by this, and pass for whole.
    if disk.size(core).await.is_ok_and(|size| size < sound.size) {
        return;
    }
    for superblock in found.iter().filter(|s| is_mendable(s.content.as_ref().err())) {
        tracing::warn!(disk = %disk.path().display(), at = superblock.at.0, "a superblock is written again");
        let bytes = core.buffers().copy_of(&Superblock::emit(&sound, superblock.at)).freeze();
        let _ = disk.write(core, superblock.at, bytes, true, Patience::Opening).await;
    }
}

fn is_mendable(flaw: Option<&SuperblockFlaw>) -> bool {
    match flaw {
        Some(SuperblockFlaw::Absent | SuperblockFlaw::Damaged | SuperblockFlaw::Unreadable(_)) => true,
        Some(SuperblockFlaw::Version(_) | SuperblockFlaw::Features(_) | SuperblockFlaw::BeyondEnd) | None => {
            false
        }
    }
}
