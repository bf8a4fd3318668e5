//! The bytes of `State` (checkpoints) and `Change` (log records). Tables in docs/format.md.

use super::redundancy::mirror::{Copies, Copy};
use super::redundancy::stripe::Segment;
use super::state::{
    Absence, Change, MemberRecord, MemberState, Opening, Rank, ScrubPlace, ScrubRun, Scrubs, SlotRecord,
    State, VolumeRecord,
};
use super::verdict::Findings;
use crate::base::codec::{Malformed, Reader, Writer};
use crate::base::limits::{
    COLUMNS_MAX, COPIES_MAX, EXTENT_MAX, EXTENT_MIN, LBA_BYTES, LBA_BYTES_DEFAULT, LINEAGE_MAX, MEMBERS_MAX,
    NAME_MAX, RESERVATIONS_LEN_MAX, STRIPE_UNIT_MAX, STRIPE_UNIT_MIN, VOLUME_SIZE_MAX, VOLUMES_MAX,
};
use crate::base::units::{ByteLen, ExtentIndex, MemberId, SlotIndex, VolumeId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The bytes a member's last known name may have.
const MEMBER_NAME_MAX: usize = 255;

/// The only scheme so far: stripes of mirrored slots. Others are reserved (parity).
const SCHEME_MIRROR: u8 = 0;

/// The same for a volume with other sectors than the default, or with reservations: those follow its fields. Since
/// version 4; all other volumes are written as in version 3.
const SCHEME_MIRROR_ATTRIBUTES: u8 = 1;

pub fn emit_state(state: &State) -> Vec<u8> {
    let mut w = Writer::new();
    w.uuid(state.pool).string(&state.name).u64(state.extent.0).u8(state.copies);
    w.u8(emit_condition(state)).bool(state.forced).u32(state.next_volume);
    if is_numbered(state) {
        w.u16(state.next_member.0);
    }
    w.u32(count(state.lineage.len()));
    for opening in &state.lineage {
        w.u64(opening.mark).u64(opening.sequence);
    }
    emit_scrubs(&mut w, &state.scrubs);
    w.u32(count(state.members.len()));
    for (id, member) in &state.members {
        w.u16(id.0).uuid(member.uuid).u64(member.size.0).u32(member.extents);
        let leaving = if member.leaving { LEAVING } else { 0 };
        emit_standing(&mut w, emit_member_state(member.state) | leaving, &member.absence);
        w.string(&member.name);
    }
    w.u32(count(state.volumes.len()));
    for (id, volume) in &state.volumes {
        w.u32(id.0);
        emit_volume(&mut w, volume);
    }
    w.finish()
}

pub fn parse_state(bytes: &[u8]) -> Result<State, Malformed> {
    let mut r = Reader::new(bytes);
    let (pool, name) = (r.uuid()?, r.string(NAME_MAX)?);
    let (extent, copies) = (ByteLen(r.u64()?), r.u8()?);
    let condition = r.u8()?;
    require(condition & !(CLEAN | SPREADING | NUMBERED) == 0)?;
    let (clean, spreading) = (condition & CLEAN != 0, condition & SPREADING != 0);
    let (forced, next_volume) = (r.bool()?, r.u32()?);
    let next_member = if condition & NUMBERED != 0 { Some(MemberId(r.u16()?)) } else { None };
    let mut state = State {
        pool,
        name,
        extent,
        copies,
        clean,
        spreading,
        forced,
        next_volume,
        next_member: MemberId(0),
        lineage: parse_lineage(&mut r)?,
        scrubs: parse_scrubs(&mut r)?,
        members: BTreeMap::new(),
        volumes: BTreeMap::new(),
    };
    let extent_ok = state.extent.0.is_power_of_two() && (EXTENT_MIN..=EXTENT_MAX).contains(&state.extent.0);
    require(extent_ok && copies_ok(state.copies))?;
    for _ in 0..bounded(r.u32()?, MEMBERS_MAX)? {
        let id = MemberId(r.u16()?);
        let (uuid, size, extents) = (r.uuid()?, ByteLen(r.u64()?), r.u32()?);
        let (byte, absence) = parse_standing(&mut r)?;
        let (state_, leaving) = (parse_member_state(byte & !LEAVING)?, byte & LEAVING != 0);
        let name = r.string(MEMBER_NAME_MAX)?;
        let member = MemberRecord { uuid, size, extents, state: state_, leaving, absence, name };
        require(state.members.insert(id, member).is_none())?;
    }
    let after_last = state.number_after_last();
    require(next_member.is_none_or(|next| next > after_last))?;
    state.next_member = next_member.unwrap_or(after_last);
    for _ in 0..bounded(r.u32()?, VOLUMES_MAX)? {
        let id = VolumeId(r.u32()?);
        let volume = parse_volume(&mut r)?;
        require(id.0 < state.next_volume && state.volumes.insert(id, volume).is_none())?;
    }
    r.finish()?;
    Ok(state)
}

fn parse_lineage(r: &mut Reader) -> Result<Vec<Opening>, Malformed> {
    let mut lineage: Vec<Opening> = Vec::new();
    for _ in 0..bounded(r.u32()?, LINEAGE_MAX)? {
        let opening = Opening { mark: r.u64()?, sequence: r.u64()? };
        let later = lineage.last().is_none_or(|last| last.sequence < opening.sequence);
        require(opening.mark != 0 && later)?;
        lineage.push(opening);
    }
    Ok(lineage)
}

/// Bits of the byte that up to version 4 only said whether the pool is clean. The third one, since version 6: the number
/// of the next member follows, since members with higher numbers than those there are were taken out.
const CLEAN: u8 = 1;
const SPREADING: u8 = 2;
const NUMBERED: u8 = 4;

/// The bit in the byte of a member's state, in a checkpoint, that tells that the member leaves. Since version 6.
const LEAVING: u8 = 0x80;

fn emit_condition(state: &State) -> u8 {
    let bit = |set: bool, bit: u8| if set { bit } else { 0 };
    bit(state.clean, CLEAN) | bit(state.spreading, SPREADING) | bit(is_numbered(state), NUMBERED)
}

fn is_numbered(state: &State) -> bool {
    state.next_member != state.number_after_last()
}

pub fn emit_changes(changes: &[Change]) -> Vec<u8> {
    let mut w = Writer::new();
    w.u32(count(changes.len()));
    for change in changes {
        emit_change(&mut w, change);
    }
    w.finish()
}

pub fn parse_changes(bytes: &[u8]) -> Result<Vec<Change>, Malformed> {
    let mut r = Reader::new(bytes);
    let count = r.u32()?;
    let mut changes = Vec::new();
    for _ in 0..count {
        changes.push(parse_change(&mut r)?);
    }
    r.finish()?;
    Ok(changes)
}

fn emit_change(w: &mut Writer, change: &Change) {
    match change {
        Change::Opened { forced, mark } => w.u8(1).bool(*forced).u64(*mark),
        Change::Closed => w.u8(2),
        Change::MemberState { member, state, absence } => {
            w.u8(3).u16(member.0);
            emit_standing(w, emit_member_state(*state), absence);
            w
        }
        Change::MemberNamed { member, name } => w.u8(4).u16(member.0).string(name),
        Change::VolumeCreated { id, volume } => {
            w.u8(5).u32(id.0);
            emit_volume(w, volume);
            w
        }
        Change::VolumeResized { id, size, segments } => {
            w.u8(6).u32(id.0).u64(size.0);
            emit_segments(w, segments);
            w
        }
        Change::VolumeRenamed { id, name } => w.u8(7).u32(id.0).string(name),
        Change::VolumeDestroyed { id } => w.u8(8).u32(id.0),
        Change::SlotAllocated { id, slot, copies } => {
            w.u8(9).u32(id.0).u32(slot.0);
            emit_copies(w, copies);
            w
        }
        Change::SlotFreed { id, slot } => w.u8(10).u32(id.0).u32(slot.0),
        Change::SlotMoved { id, slot, copies } => {
            w.u8(11).u32(id.0).u32(slot.0);
            emit_copies(w, copies);
            w
        }
        Change::Scrubbed { scrubs } => {
            w.u8(12);
            emit_scrubs(w, scrubs);
            w
        }
        Change::MemberAdded { member, uuid, size, extents, name } => {
            w.u8(14).u16(member.0).uuid(*uuid).u64(size.0).u32(*extents).string(name)
        }
        Change::Spreading { going } => w.u8(15).bool(*going),
        Change::MemberLeaving { member, leaving } => w.u8(16).u16(member.0).bool(*leaving),
        Change::MemberGone { member } => w.u8(17).u16(member.0),
        Change::VolumeCopies { id, copies } => w.u8(18).u32(id.0).u8(*copies),
        Change::VolumeReserved { id, reservations } => {
            w.u8(13).u32(id.0);
            emit_reservations(w, reservations);
            w
        }
    };
}

fn parse_change(r: &mut Reader) -> Result<Change, Malformed> {
    Ok(match r.u8()? {
        1 => Change::Opened { forced: r.bool()?, mark: r.u64()? },
        2 => Change::Closed,
        3 => {
            let member = MemberId(r.u16()?);
            let (state, absence) = parse_standing(r)?;
            Change::MemberState { member, state: parse_member_state(state)?, absence }
        }
        4 => Change::MemberNamed { member: MemberId(r.u16()?), name: r.string(MEMBER_NAME_MAX)? },
        5 => Change::VolumeCreated { id: VolumeId(r.u32()?), volume: parse_volume(r)? },
        6 => Change::VolumeResized {
            id: VolumeId(r.u32()?),
            size: parse_size(r)?,
            segments: parse_segments(r)?,
        },
        7 => Change::VolumeRenamed { id: VolumeId(r.u32()?), name: r.string(NAME_MAX)? },
        8 => Change::VolumeDestroyed { id: VolumeId(r.u32()?) },
        9 => Change::SlotAllocated {
            id: VolumeId(r.u32()?),
            slot: SlotIndex(r.u32()?),
            copies: parse_copies(r)?,
        },
        10 => Change::SlotFreed { id: VolumeId(r.u32()?), slot: SlotIndex(r.u32()?) },
        11 => {
            Change::SlotMoved { id: VolumeId(r.u32()?), slot: SlotIndex(r.u32()?), copies: parse_copies(r)? }
        }
        12 => Change::Scrubbed { scrubs: parse_scrubs(r)? },
        13 => Change::VolumeReserved { id: VolumeId(r.u32()?), reservations: parse_reservations(r)? },
        14 => Change::MemberAdded {
            member: MemberId(r.u16()?),
            uuid: r.uuid()?,
            size: ByteLen(r.u64()?),
            extents: r.u32()?,
            name: r.string(MEMBER_NAME_MAX)?,
        },
        15 => Change::Spreading { going: r.bool()? },
        16 => Change::MemberLeaving { member: MemberId(r.u16()?), leaving: r.bool()? },
        17 => Change::MemberGone { member: MemberId(r.u16()?) },
        18 => {
            let (id, copies) = (VolumeId(r.u32()?), r.u8()?);
            require(copies_ok(copies))?;
            Change::VolumeCopies { id, copies }
        }
        _ => return Err(Malformed),
    })
}

fn emit_scrubs(w: &mut Writer, scrubs: &Scrubs) {
    w.u64(scrubs.since_wall_ns).u32(scrubs.every_s);
    for run in [&scrubs.current, &scrubs.last] {
        w.bool(run.is_some());
        if let Some(run) = run {
            w.u64(run.began_wall_ns).u64(run.ended_wall_ns).u32(run.next.volume.0).u32(run.next.slot.0);
            let Findings { blocks, different, mismatched, unreadable, repaired, unrepaired, lost } =
                run.found;
            w.u64(blocks).u64(different).u64(mismatched).u64(unreadable);
            w.u64(repaired).u64(unrepaired).u64(lost);
        }
    }
}

fn parse_scrubs(r: &mut Reader) -> Result<Scrubs, Malformed> {
    let (since_wall_ns, every_s) = (r.u64()?, r.u32()?);
    let run = |r: &mut Reader| if r.bool()? { parse_scrub_run(r).map(Some) } else { Ok(None) };
    Ok(Scrubs { since_wall_ns, every_s, current: run(r)?, last: run(r)? })
}

fn parse_scrub_run(r: &mut Reader) -> Result<ScrubRun, Malformed> {
    Ok(ScrubRun {
        began_wall_ns: r.u64()?,
        ended_wall_ns: r.u64()?,
        next: ScrubPlace { volume: VolumeId(r.u32()?), slot: SlotIndex(r.u32()?) },
        found: Findings {
            blocks: r.u64()?,
            different: r.u64()?,
            mismatched: r.u64()?,
            unreadable: r.u64()?,
            repaired: r.u64()?,
            unrepaired: r.u64()?,
            lost: r.u64()?,
        },
    })
}

fn emit_volume(w: &mut Writer, volume: &VolumeRecord) {
    let attributes = volume.lba_bytes != LBA_BYTES_DEFAULT || !volume.reservations.is_empty();
    w.u8(if attributes { SCHEME_MIRROR_ATTRIBUTES } else { SCHEME_MIRROR });
    w.uuid(volume.uuid).string(&volume.name).u64(volume.size.0).u8(volume.copies);
    w.u64(volume.unit.0).bool(volume.checksums);
    if attributes {
        w.u32(volume.lba_bytes);
        emit_reservations(w, &volume.reservations);
    }
    emit_segments(w, &volume.segments);
    w.u32(count(volume.slots.len()));
    for (slot, record) in &volume.slots {
        w.u32(slot.0).u64(record.stamp);
        emit_copies(w, &record.copies);
    }
}

fn parse_volume(r: &mut Reader) -> Result<VolumeRecord, Malformed> {
    let attributes = match r.u8()? {
        SCHEME_MIRROR => false,
        SCHEME_MIRROR_ATTRIBUTES => true,
        _ => return Err(Malformed),
    };
    let mut volume = VolumeRecord {
        uuid: r.uuid()?,
        name: r.string(NAME_MAX)?,
        size: parse_size(r)?,
        copies: r.u8()?,
        unit: ByteLen(r.u64()?),
        checksums: r.bool()?,
        lba_bytes: if attributes { parse_lba_bytes(r)? } else { LBA_BYTES_DEFAULT },
        reservations: if attributes { parse_reservations(r)? } else { Arc::default() },
        segments: parse_segments(r)?,
        slots: BTreeMap::new(),
    };
    let unit_ok =
        volume.unit.0.is_power_of_two() && (STRIPE_UNIT_MIN..=STRIPE_UNIT_MAX).contains(&volume.unit.0);
    require(copies_ok(volume.copies) && unit_ok)?;
    for _ in 0..r.u32()? {
        let slot = SlotIndex(r.u32()?);
        let record = SlotRecord { stamp: r.u64()?, copies: parse_copies(r)? };
        require(volume.slots.insert(slot, record).is_none())?;
    }
    Ok(volume)
}

fn parse_lba_bytes(r: &mut Reader) -> Result<u32, Malformed> {
    let bytes = r.u32()?;
    require(LBA_BYTES.contains(&bytes))?;
    Ok(bytes)
}

fn emit_reservations(w: &mut Writer, reservations: &[u8]) {
    w.u16(u16::try_from(reservations.len()).expect("4096 at most")).bytes(reservations);
}

fn parse_reservations(r: &mut Reader) -> Result<Arc<[u8]>, Malformed> {
    let len = usize::from(r.u16()?);
    require(len <= RESERVATIONS_LEN_MAX)?;
    r.bytes(len).map(Arc::from)
}

fn emit_segments(w: &mut Writer, segments: &[Segment]) {
    w.u32(count(segments.len()));
    for segment in segments {
        w.u32(segment.columns).u32(segment.stripes);
    }
}

fn parse_segments(r: &mut Reader) -> Result<Vec<Segment>, Malformed> {
    let count = r.u32()?;
    let (mut segments, mut slots) = (Vec::new(), 0u64);
    for _ in 0..count {
        let segment = Segment { columns: r.u32()?, stripes: r.u32()? };
        require((1..=COLUMNS_MAX).contains(&segment.columns) && segment.stripes > 0)?;
        slots += u64::from(segment.columns) * u64::from(segment.stripes);
        require(slots <= u64::from(u32::MAX))?;
        segments.push(segment);
    }
    Ok(segments)
}

fn emit_copies(w: &mut Writer, copies: &[Copy]) {
    w.u8(u8::try_from(copies.len()).expect("three copies at most"));
    for copy in copies {
        w.u16(copy.member.0).u32(copy.extent.0);
    }
}

fn parse_copies(r: &mut Reader) -> Result<Copies, Malformed> {
    let count = r.u8()?;
    require(copies_ok(count))?;
    let mut copies = Copies::new();
    for _ in 0..count {
        let copy = Copy { member: MemberId(r.u16()?), extent: ExtentIndex(r.u32()?) };
        require(copies.iter().all(|c| c.member != copy.member))?;
        copies.push(copy);
    }
    Ok(copies)
}

fn emit_standing(w: &mut Writer, state: u8, absence: &Absence) {
    w.u8(state).u64(absence.rank.left).u64(absence.rank.kept).u64(absence.epoch);
    w.bool(absence.whole).bool(absence.dead).u64(absence.since_wall_ns);
}

/// The byte of the state, and the absence.
fn parse_standing(r: &mut Reader) -> Result<(u8, Absence), Malformed> {
    let state = r.u8()?;
    let rank = Rank { left: r.u64()?, kept: r.u64()? };
    let (epoch, whole, dead) = (r.u64()?, r.bool()?, r.bool()?);
    Ok((state, Absence { rank, epoch, whole, dead, since_wall_ns: r.u64()? }))
}

fn emit_member_state(state: MemberState) -> u8 {
    match state {
        // A member under suspicion is in sync; suspicion does not outlive the process.
        MemberState::Active | MemberState::Suspect => 1,
        MemberState::Missing => 2,
        MemberState::Stale => 3,
        MemberState::Faulted => 4,
        MemberState::Resyncing => 5,
        MemberState::Rebuilding => 6,
        MemberState::Removed => 7,
    }
}

fn parse_member_state(byte: u8) -> Result<MemberState, Malformed> {
    Ok(match byte {
        1 => MemberState::Active,
        2 => MemberState::Missing,
        3 => MemberState::Stale,
        4 => MemberState::Faulted,
        5 => MemberState::Resyncing,
        6 => MemberState::Rebuilding,
        7 => MemberState::Removed,
        _ => return Err(Malformed),
    })
}

fn parse_size(r: &mut Reader) -> Result<ByteLen, Malformed> {
    let size = r.u64()?;
    require(size <= VOLUME_SIZE_MAX)?;
    Ok(ByteLen(size))
}

fn copies_ok(copies: u8) -> bool {
    (1..=COPIES_MAX).contains(&usize::from(copies))
}

fn bounded(count: u32, max: usize) -> Result<u32, Malformed> {
    require(u64::from(count) <= max as u64)?; // widening
    Ok(count)
}

fn count(len: usize) -> u32 {
    u32::try_from(len).expect("collections of the state are bounded below 2^32")
}

fn require(condition: bool) -> Result<(), Malformed> {
    if condition { Ok(()) } else { Err(Malformed) }
}

/// For fuzzing: parses any bytes as a checkpoint and as a record.
pub fn fuzz_state(bytes: &[u8]) {
    if let Ok(state) = parse_state(bytes) {
        assert_eq!(parse_state(&emit_state(&state)), Ok(state));
    }
    if let Ok(changes) = parse_changes(bytes) {
        assert_eq!(parse_changes(&emit_changes(&changes)), Ok(changes));
    }
}

#[cfg(test)]
pub use tests::sample;

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn scrubs() -> Scrubs {
        let found = Findings { blocks: 9, repaired: 2, lost: 1, ..Findings::default() };
        let next = ScrubPlace { volume: VolumeId(3), slot: SlotIndex(4) };
        let run = ScrubRun { began_wall_ns: 5, ended_wall_ns: 6, next, found };
        Scrubs { since_wall_ns: 4, every_s: 7, current: None, last: Some(run) }
    }

    pub fn sample() -> State {
        let copies: Copies =
            [0u16, 2].iter().map(|m| Copy { member: MemberId(*m), extent: ExtentIndex(7) }).collect();
        let volume = VolumeRecord {
            uuid: Uuid::from_u128(9),
            name: "data".to_owned(),
            size: ByteLen(70 << 20),
            copies: 2,
            unit: ByteLen(128 << 10),
            checksums: true,
            lba_bytes: 512,
            reservations: Arc::default(),
            segments: vec![Segment { columns: 3, stripes: 23 }, Segment { columns: 1, stripes: 1 }],
            slots: BTreeMap::from([(SlotIndex(4), SlotRecord { stamp: 17, copies })]),
        };
        let member = |n: u128| MemberRecord {
            uuid: Uuid::from_u128(n),
            size: ByteLen(1 << 30),
            extents: 900,
            state: MemberState::Active,
            leaving: false,
            absence: Absence::default(),
            name: format!("drive-{n}"),
        };
        State {
            pool: Uuid::from_u128(1),
            name: "tank".to_owned(),
            extent: ByteLen(1 << 20),
            copies: 2,
            clean: false,
            spreading: false,
            forced: false,
            lineage: vec![Opening { mark: 6, sequence: 2 }, Opening { mark: 7, sequence: 9 }],
            scrubs: scrubs(),
            members: (0..3).map(|i| (MemberId(i), member(u128::from(i)))).collect(),
            next_member: MemberId(3),
            volumes: BTreeMap::from([(VolumeId(0), volume)]),
            next_volume: 1,
        }
    }

    fn with_attributes(volume: VolumeRecord) -> VolumeRecord {
        VolumeRecord { lba_bytes: 4096, reservations: [1, 2, 3].into(), ..volume }
    }

    fn added() -> Change {
        let (member, uuid, name) = (MemberId(3), Uuid::from_u128(7), "new".to_owned());
        Change::MemberAdded { member, uuid, size: ByteLen(1 << 30), extents: 800, name }
    }

    #[test]
    fn golden_bytes_of_what_version_5_added() {
        let golden: &[&[u8]] = &[
            &[2, 0, 0, 0],
            &[14, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7],
            &[0, 0, 0, 0x40, 0, 0, 0, 0, 0x20, 3, 0, 0],
            b"\x03\0new",
            &[15, 1],
        ];
        assert_eq!(emit_changes(&[added(), Change::Spreading { going: true }]), golden.concat());
        // What version 4 knows is written as version 4 did.
        let condition = |clean, spreading| emit_state(&State { clean, spreading, ..sample() })[31];
        let conditions = [(false, false), (true, false), (false, true), (true, true)];
        assert_eq!(conditions.map(|(clean, spreading)| condition(clean, spreading)), [0, 1, 2, 3]);
        for (clean, spreading) in conditions {
            let state = State { clean, spreading, ..sample() };
            assert_eq!(parse_state(&emit_state(&state)), Ok(state));
        }
        let mut bytes = emit_state(&sample());
        bytes[31] = 8;
        assert_eq!(parse_state(&bytes), Err(Malformed));
    }

    #[test]
    fn golden_bytes_of_what_version_6_added() {
        let leaving = Change::MemberLeaving { member: MemberId(2), leaving: true };
        let gone = Change::MemberGone { member: MemberId(2) };
        assert_eq!(emit_changes(&[leaving, gone]), [2, 0, 0, 0, 16, 2, 0, 1, 17, 2, 0]);
        let before = emit_state(&sample());
        let mut state = sample();
        state.members.get_mut(&MemberId(1)).unwrap().leaving = true;
        let after = emit_state(&state);
        let changed: Vec<(u8, u8)> =
            before.iter().zip(&after).filter(|(a, b)| a != b).map(|(a, b)| (*a, *b)).collect();
        assert_eq!((before.len(), changed), (after.len(), vec![(1, 0x81)]));
        assert_eq!(parse_state(&after), Ok(state.clone()));
        // The last one is gone: its number is not given again.
        state.volumes.clear();
        state.members.remove(&MemberId(2));
        let bytes = emit_state(&state);
        assert_eq!((bytes[31], &bytes[37..39]), (4, &[3, 0][..]));
        assert_eq!(parse_state(&bytes), Ok(state));
        let mut low = bytes.clone();
        low[37] = 2;
        assert_eq!(
            parse_state(&low),
            Err(Malformed),
            "a number that follows from the members is not written"
        );
    }

    #[test]
    fn state_round_trips_and_truncation_is_malformed() {
        let bytes = emit_state(&sample());
        assert_eq!(parse_state(&bytes), Ok(sample()));
        assert!((0..bytes.len()).all(|len| parse_state(&bytes[..len]).is_err()));
    }

    #[test]
    fn every_change_round_trips() {
        let state = sample();
        let volume = state.volumes[&VolumeId(0)].clone();
        let copies = volume.slots[&SlotIndex(4)].copies.clone();
        let changes = vec![
            Change::Opened { forced: true, mark: 5 },
            Change::Closed,
            Change::MemberState {
                member: MemberId(1),
                state: MemberState::Faulted,
                absence: Absence {
                    rank: Rank { left: 7, kept: 8 },
                    epoch: 3,
                    whole: true,
                    dead: true,
                    since_wall_ns: 9,
                },
            },
            Change::MemberNamed { member: MemberId(1), name: "x".to_owned() },
            Change::VolumeCreated { id: VolumeId(3), volume: volume.clone() },
            Change::VolumeResized { id: VolumeId(3), size: ByteLen(1), segments: volume.segments.clone() },
            Change::VolumeRenamed { id: VolumeId(3), name: "y".to_owned() },
            Change::VolumeDestroyed { id: VolumeId(3) },
            Change::SlotAllocated { id: VolumeId(3), slot: SlotIndex(0), copies: copies.clone() },
            Change::SlotMoved { id: VolumeId(3), slot: SlotIndex(0), copies },
            Change::SlotFreed { id: VolumeId(3), slot: SlotIndex(0) },
            Change::Scrubbed { scrubs: scrubs() },
            Change::VolumeReserved { id: VolumeId(3), reservations: [7, 8].into() },
            Change::VolumeCreated { id: VolumeId(4), volume: with_attributes(volume) },
            added(),
            Change::Spreading { going: true },
            Change::Spreading { going: false },
            Change::MemberLeaving { member: MemberId(1), leaving: true },
            Change::MemberLeaving { member: MemberId(1), leaving: false },
            Change::MemberGone { member: MemberId(1) },
            Change::VolumeCopies { id: VolumeId(3), copies: 3 },
        ];
        let bytes = emit_changes(&changes);
        assert_eq!(parse_changes(&bytes), Ok(changes));
        assert!((0..bytes.len()).all(|len| parse_changes(&bytes[..len]).is_err()));
    }

    #[test]
    fn golden_bytes_of_changes_and_of_a_state() {
        let copies = sample().volumes[&VolumeId(0)].slots[&SlotIndex(4)].copies.clone();
        let absence =
            Absence { rank: Rank { left: 7, kept: 8 }, epoch: 3, whole: true, dead: false, since_wall_ns: 9 };
        let changes = [
            Change::Opened { forced: true, mark: 5 },
            Change::Closed,
            Change::MemberState { member: MemberId(1), state: MemberState::Faulted, absence },
            Change::SlotMoved { id: VolumeId(3), slot: SlotIndex(6), copies },
        ];
        let golden: &[&[u8]] = &[
            &[4, 0, 0, 0],
            &[1, 1, 5, 0, 0, 0, 0, 0, 0, 0],
            &[2],
            &[3, 1, 0, 4, 7, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0],
            &[3, 0, 0, 0, 0, 0, 0, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0],
            &[11, 3, 0, 0, 0, 6, 0, 0, 0, 2, 0, 0, 7, 0, 0, 0, 2, 0, 7, 0, 0, 0],
        ];
        assert_eq!(emit_changes(&changes), golden.concat());
        let copies = |copies| emit_changes(&[Change::VolumeCopies { id: VolumeId(3), copies }]);
        assert_eq!(copies(2), [1, 0, 0, 0, 18, 3, 0, 0, 0, 2]);
        assert!([0, 4].into_iter().all(|wrong| parse_changes(&copies(wrong)) == Err(Malformed)));
        let bytes = emit_state(&sample());
        let head: &[&[u8]] = &[
            &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
            b"\x04\0tank",
            &[0, 0, 16, 0, 0, 0, 0, 0, 2, 0, 0, 1, 0, 0, 0],
            &[2, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0],
            &[7, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0],
            &[4, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 1, 5, 0, 0, 0, 0, 0, 0, 0],
        ];
        let head = head.concat();
        assert_eq!(&bytes[..head.len()], head);
        // A run of 80 bytes, three members, one volume with its id.
        assert_eq!(bytes.len(), head.len() - 8 + 80 + 4 + 3 * (2 + 16 + 8 + 4 + 35 + 9) + 4 + 4 + 90);
    }

    /// The bytes up to the segments: those of version 3, and those of version 4 for what version 3 does not know.
    #[test]
    fn golden_bytes_of_a_volume_as_version_3_wrote_it_and_with_what_version_4_added() {
        let volume = sample().volumes[&VolumeId(0)].clone();
        let emitted = |volume: &VolumeRecord| {
            let mut w = Writer::new();
            emit_volume(&mut w, volume);
            w.finish()
        };
        let uuid = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
        let fields: &[&[u8]] =
            &[&uuid, b"\x04\0data", &[0, 0, 0x60, 4, 0, 0, 0, 0, 2], &[0, 0, 2, 0, 0, 0, 0, 0, 1]];
        let old = [&[0][..], &fields.concat()].concat();
        assert_eq!(emitted(&volume)[..old.len()], old);
        let new = [&[1][..], &fields.concat(), &[0, 16, 0, 0, 3, 0, 1, 2, 3]].concat();
        let attributes = with_attributes(volume.clone());
        assert_eq!(emitted(&attributes)[..new.len()], new);
        assert_eq!(emitted(&attributes)[new.len()..], emitted(&volume)[old.len()..]);
        for (bytes, volume) in [(emitted(&volume), volume), (emitted(&attributes), attributes)] {
            assert_eq!(parse_volume(&mut Reader::new(&bytes)), Ok(volume));
        }
        let reserved = [Change::VolumeReserved { id: VolumeId(3), reservations: [7, 8].into() }];
        assert_eq!(emit_changes(&reserved), [1, 0, 0, 0, 13, 3, 0, 0, 0, 2, 0, 7, 8]);
    }

    #[test]
    fn sectors_and_reservations_out_of_bounds_are_malformed() {
        let reserve = |len: usize| {
            let reservations = vec![0; len].into();
            parse_changes(&emit_changes(&[Change::VolumeReserved { id: VolumeId(3), reservations }]))
        };
        assert!(reserve(RESERVATIONS_LEN_MAX).is_ok());
        assert_eq!(reserve(RESERVATIONS_LEN_MAX + 1), Err(Malformed));
        let mut w = Writer::new();
        let volume = sample().volumes[&VolumeId(0)].clone();
        emit_volume(&mut w, &VolumeRecord { lba_bytes: 520, ..volume });
        assert_eq!(parse_volume(&mut Reader::new(&w.finish())), Err(Malformed));
    }

    #[test]
    fn hostile_bytes_neither_panic_nor_allocate_by_their_own_word() {
        let mut prng = crate::base::prng::Prng::from_seed(5);
        let mut state = sample();
        let attributes = with_attributes(state.volumes[&VolumeId(0)].clone());
        state.volumes.insert(VolumeId(0), attributes);
        let golden = emit_state(&state);
        for _ in 0..20_000 {
            let mut bytes = golden.clone();
            for _ in 0..=prng.below(4) {
                let at = usize::try_from(prng.below(bytes.len() as u64)).unwrap();
                bytes[at] = (prng.u64() & 0xff) as u8;
            }
            fuzz_state(&bytes);
        }
    }
}
