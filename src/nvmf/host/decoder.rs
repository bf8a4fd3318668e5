//! What a controller sends on a queue, checked against what was asked (TCP Transport, PDUs). Pure.
//!
//! Owns the table of commands in flight and their ids: the slot in the low bits, a generation above, so that an answer
//! to the last command in a slot is not taken for one to the next. The decoder is fed the stream in pieces of any size;
//! when data begins, it says how many bytes follow and for what, and the caller moves them out of the stream itself.
//! Any error it returns means that the stream cannot be trusted any more: the connection must end.

use super::failure::Failure;
use crate::base::limits::REQUESTS_IN_FLIGHT_MAX;
use crate::nvmf::command::{Cqe, Status};
use crate::nvmf::pdu::{
    COMMON_LEN, CQE_LEN, DIGEST_LEN, DataLimits, Digests, Fatal, Frame, Kind, SHORT_LEN, Side, Transfer,
    parse_termination,
};
use slab::Slab;

/// Bits of a command id that name the slot; the generation has the others.
const SLOT_BITS: u32 = 10;
const SLOT_MASK: u16 = (1 << SLOT_BITS) - 1;

const _: () = assert!(REQUESTS_IN_FLIGHT_MAX < 1 << SLOT_BITS);

/// Frames are bounded by what was asked, which is checked before any data is taken.
const LIMITS: DataLimits = DataLimits { capsule: 0, data: u32::MAX };

/// What a controller did that the protocol forbids.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Violation {
    #[error(transparent)]
    Pdu(#[from] Fatal),
    #[error("an answer to a command that was not made, or has ended already")]
    Command,
    #[error("a kind of PDU that does not fit the command")]
    Kind,
    #[error("data that leaves a gap, comes twice, or goes past what was asked for")]
    Range,
    #[error("a PDU whose length contradicts its header")]
    Length,
    #[error("data behind what was called the last")]
    AfterLast,
    #[error("data that stands for a response where that was not agreed on, or is not the last")]
    Success,
    #[error("a successful answer that leaves out data")]
    Missing,
    #[error("a request for data out of turn, or past what is to be written")]
    Request,
    #[error("the controller ended the connection (status {status}, information {info})")]
    Terminated { status: u16, info: u32 },
}

/// What was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asked {
    /// Anything whose data, if any, went with the command.
    Effect,
    /// So many bytes from the controller.
    Read(u32),
    /// So many bytes for the controller, which asks for them.
    Write(u32),
}

/// A command in flight, for the caller's own table. Never reused while the command is in flight.
pub type Key = usize;

/// How a command ended well.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Completion {
    /// Dwords 0 and 1.
    pub result: u64,
    /// All ones where there is no flow control.
    pub queue_head: u16,
}

/// Something that the stream says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// The next `len` bytes of the stream belong at `at` of the command's data.
    Data {
        key: Key,
        at: u32,
        len: u32,
    },
    /// The data that was moved last must have this digest; if it has not, `spoil` the command.
    Digest {
        key: Key,
        at: u32,
        len: u32,
        digest: [u8; DIGEST_LEN],
    },
    /// The controller wants these bytes of the command's data, under this tag; `sent` says when it has them.
    Wanted {
        key: Key,
        id: u16,
        tag: u16,
        at: u32,
        len: u32,
    },
    Done {
        key: Key,
        outcome: Result<Completion, Failure>,
    },
}

struct Pending {
    id: u16,
    asked: Asked,
    /// Bytes that came, or were asked for, so far.
    moved: u32,
    /// Data was called the last.
    last: bool,
    /// Data was asked for and is not sent yet.
    owed: bool,
    /// Data came with a digest that does not match.
    spoilt: bool,
}

#[derive(Clone, Copy)]
enum State {
    /// Collecting a common header.
    Common,
    /// Collecting all before the data.
    Head(Frame),
    /// The data was announced; collecting its digest.
    Digest { key: Key, at: u32, len: u32, success: bool },
    /// The data was announced, and stands for the response.
    Finish { key: Key },
}

/// The receiving side of one queue.
pub struct Decoder {
    digests: Digests,
    /// Data may stand for the response: flow control was declined.
    success: bool,
    pending: Slab<Pending>,
    /// The generation of the next command, by slot.
    generations: Vec<u8>,
    state: State,
    held: Vec<u8>,
}

impl Decoder {
    pub fn new(digests: Digests) -> Decoder {
        let (pending, generations, held) = (Slab::new(), Vec::new(), Vec::new());
        Decoder { digests, success: false, pending, generations, state: State::Common, held }
    }

    /// From now on data may stand for the response.
    pub fn allow_success(&mut self) {
        self.success = true;
    }

    /// Registers a command; the id goes on the wire.
    ///
    /// # Panics
    /// If there are more commands in flight than ids: the caller bounds them.
    pub fn expect(&mut self, asked: Asked) -> (Key, u16) {
        let entry = self.pending.vacant_entry();
        let key = entry.key();
        if self.generations.len() <= key {
            self.generations.resize(key + 1, 0);
        }
        let generation = self.generations[key];
        self.generations[key] = generation.wrapping_add(1);
        let slot = u16::try_from(key).ok().filter(|slot| *slot < SLOT_MASK);
        // The upper bits of the generation fall off.
        let id = slot.expect("commands in flight are bounded") | u16::from(generation) << SLOT_BITS;
        entry.insert(Pending { id, asked, moved: 0, last: false, owed: false, spoilt: false });
        (key, id)
    }

    /// The data that was asked for has been sent, all of it. The command may have failed meanwhile.
    pub fn sent(&mut self, id: u16) {
        if let Ok(key) = self.lookup(id) {
            self.pending[key].owed = false;
        }
    }

    /// The data of a read is not what the controller sent: it fails, even if the controller says otherwise.
    pub fn spoil(&mut self, key: Key) {
        self.pending[key].spoilt = true;
    }

    /// Takes bytes from the front of the stream up to the next event; None means that all were taken and more
    /// are needed. After `Data` the caller moves the announced bytes before it calls again.
    pub fn next(&mut self, stream: &mut &[u8]) -> Result<Option<Event>, Violation> {
        loop {
            match self.state {
                State::Common => {
                    if !self.collect(stream, COMMON_LEN) {
                        return Ok(None);
                    }
                    let common = self.held.first_chunk().expect("collected");
                    self.state = State::Head(Frame::of(common, Side::Controller, self.digests, LIMITS)?);
                }
                State::Head(frame) => {
                    if !self.collect(stream, frame.head_len()) {
                        return Ok(None);
                    }
                    self.state = State::Common;
                    let event = self.head(&frame);
                    self.held.clear();
                    return event.map(Some);
                }
                State::Digest { key, at, len, success } => {
                    if !self.collect(stream, DIGEST_LEN) {
                        return Ok(None);
                    }
                    let digest = *self.held.first_chunk().expect("collected");
                    self.held.clear();
                    self.state = if success { State::Finish { key } } else { State::Common };
                    return Ok(Some(Event::Digest { key, at, len, digest }));
                }
                State::Finish { key } => {
                    self.state = State::Common;
                    return self.finish(key, Ok(Completion::default())).map(Some);
                }
            }
        }
    }

    /// Collects until `held` has `need` bytes; false when the stream ended first.
    fn collect(&mut self, stream: &mut &[u8], need: usize) -> bool {
        let take = need.saturating_sub(self.held.len()).min(stream.len());
        let (head, tail) = stream.split_at(take);
        self.held.extend_from_slice(head);
        *stream = tail;
        self.held.len() >= need
    }

    fn lookup(&self, id: u16) -> Result<Key, Violation> {
        let key = usize::from(id & SLOT_MASK);
        let known = self.pending.get(key).filter(|pending| pending.id == id);
        known.map(|_| key).ok_or(Violation::Command)
    }

    /// A header that was collected as a whole.
    fn head(&mut self, frame: &Frame) -> Result<Event, Violation> {
        frame.check_header(&self.held)?;
        let short: [u8; SHORT_LEN] = *self.held.first_chunk().ok_or(Violation::Length)?;
        match frame.kind {
            Kind::CapsuleResp => {
                let cqe: &[u8; CQE_LEN] = short[COMMON_LEN..].first_chunk().ok_or(Violation::Length)?;
                self.response(Cqe::parse(cqe))
            }
            Kind::C2hData => self.data(frame, Transfer::parse(&short)),
            Kind::R2t => self.wanted(Transfer::parse(&short)),
            Kind::C2hTerm => {
                let (status, info) = parse_termination(&short);
                Err(Violation::Terminated { status, info })
            }
            Kind::IcResp => Err(Fatal::Sequence.into()),
            Kind::IcReq | Kind::H2cTerm | Kind::CapsuleCmd | Kind::H2cData => {
                Err(Fatal::InvalidField(0).into())
            }
        }
    }

    fn response(&mut self, cqe: Cqe) -> Result<Event, Violation> {
        let key = self.lookup(cqe.command)?;
        let completion = Completion { result: cqe.result, queue_head: cqe.queue_head };
        let failed = cqe.status != Status::SUCCESS;
        self.finish(key, if failed { Err(Failure::of(&cqe)) } else { Ok(completion) })
    }

    fn data(&mut self, frame: &Frame, transfer: Transfer) -> Result<Event, Violation> {
        let key = self.lookup(transfer.command)?;
        let allowed = self.success;
        let pending = &mut self.pending[key];
        let Asked::Read(all) = pending.asked else { return Err(Violation::Kind) };
        let Transfer { offset: at, len, .. } = transfer;
        if len != frame.data_len || len == 0 {
            return Err(Violation::Length);
        }
        if pending.last {
            return Err(Violation::AfterLast);
        }
        let end = at.checked_add(len).filter(|end| *end <= all && at == pending.moved);
        pending.moved = end.ok_or(Violation::Range)?;
        pending.last = frame.last;
        let whole = pending.moved == all;
        if frame.success && !(allowed && frame.last) {
            return Err(Violation::Success);
        }
        if frame.success && !whole {
            return Err(Violation::Missing);
        }
        let success = frame.success;
        self.state = match (frame.has_data_digest, success) {
            (true, _) => State::Digest { key, at, len, success },
            (false, true) => State::Finish { key },
            (false, false) => State::Common,
        };
        Ok(Event::Data { key, at, len })
    }

    fn wanted(&mut self, transfer: Transfer) -> Result<Event, Violation> {
        let key = self.lookup(transfer.command)?;
        let pending = &mut self.pending[key];
        let Asked::Write(all) = pending.asked else { return Err(Violation::Kind) };
        let Transfer { command: id, tag, offset: at, len } = transfer;
        let end = at.checked_add(len).filter(|end| *end <= all && at == pending.moved && len > 0);
        // One at a time for each command: that is what ICReq said.
        let end = end.filter(|_| !pending.owed).ok_or(Violation::Request)?;
        pending.moved = end;
        pending.owed = true;
        Ok(Event::Wanted { key, id, tag, at, len })
    }

    fn finish(&mut self, key: Key, outcome: Result<Completion, Failure>) -> Result<Event, Violation> {
        let pending = self.pending.remove(key);
        let outcome = match (outcome, pending.asked) {
            (Err(failure), _) => Err(failure),
            (Ok(_), Asked::Read(all) | Asked::Write(all)) if pending.moved != all || pending.owed => {
                return Err(Violation::Missing);
            }
            (Ok(_), Asked::Read(_) | Asked::Write(_) | Asked::Effect) if pending.spoilt => {
                Err(Failure { status: Status::TRANSIENT_TRANSPORT, no_retry: false, result: 0 })
            }
            (Ok(completion), Asked::Read(_) | Asked::Write(_) | Asked::Effect) => Ok(completion),
        };
        Ok(Event::Done { key, outcome })
    }
}

/// Feeds any bytes to the decoder of a queue with commands in flight: nothing may panic.
pub fn fuzz_decoder(digests: Digests, success: bool, bytes: &[u8]) {
    let mut decoder = Decoder::new(digests);
    if success {
        decoder.allow_success();
    }
    for asked in [Asked::Effect, Asked::Read(8192), Asked::Write(8192)] {
        decoder.expect(asked);
    }
    let mut stream = bytes;
    while let Ok(Some(event)) = decoder.next(&mut stream) {
        match event {
            Event::Data { len, .. } => {
                let skip = usize::try_from(len).unwrap_or(usize::MAX).min(stream.len());
                stream = &stream[skip..];
            }
            Event::Digest { key, .. } => decoder.spoil(key),
            Event::Wanted { id, .. } => decoder.sent(id),
            Event::Done { .. } => {}
        }
    }
}
