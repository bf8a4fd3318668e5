//! The bytes of one queue: a task that sends commands and the data that is asked for, in batches, and a task that
//! receives and hands out what was answered.
//!
//! A command whose future is dropped stays in flight: its buffers and its place are given back when the answer has
//! come. Data goes from the socket into its place directly where it has not arrived already with other PDUs.

use super::decoder::{Asked, Completion, Decoder, Event, Key, Violation};
use super::draft::{Draft, FABRICS_CAPSULE_MAX};
use super::introduction::{Terms, hear, introduce};
use super::outbox::{Outbox, Outgoing};
use super::{HostError, HostOptions};
use crate::base::limits::REQUESTS_IN_FLIGHT_MAX;
use crate::base::units::Span;
use crate::block::Payload;
use crate::block::places::{Fill, Lent, Places};
use crate::io::buf::{Buf, BufMut, BufPool};
use crate::io::driver::{Direction, Op, RecvInto};
use crate::nvmf::command::DataPlace;
use crate::nvmf::pdu::{CAPSULE_LEN, DIGEST_LEN, Digests, IC_LEN, Transfer, emit_capsule};
use crate::reactor::Core;
use crate::reactor::net::Stream;
use crate::reactor::sync::{Budget, Grant, WaitList};
use nix::errno::Errno;
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Bytes received at once for which no place is known yet.
const INBOX: usize = 128 << 10;

/// PDUs whose headers and digests go into one buffer, and data bytes after which a batch is sent.
const BATCH_PDUS: usize = 48;
const BATCH_BYTES: u64 = 256 << 10;

/// The buffer of a batch: headers with their digests, and digests of data.
const PACKED: usize = 4096;

const _: () = assert!(BATCH_PDUS * (CAPSULE_LEN + 2 * DIGEST_LEN) <= PACKED);

/// The data of a command.
pub(super) enum Data {
    None,
    /// From the controller; the span says how it lies in its buffers.
    Receive(Span),
    Send(Payload),
}

/// How a command ended well.
pub(super) struct End {
    pub completion: Completion,
    pub payload: Payload,
}

/// One queue.
pub(super) struct Link {
    core: Core,
    stream: Stream,
    terms: Terms,
    /// Bytes of data behind a command that is not a Fabrics command.
    capsule_max: u32,
    depth: Budget,
    state: RefCell<State>,
    /// Something to send, or the end.
    outgoing: WaitList,
    /// The connection has ended.
    ended: WaitList,
    /// Bytes received so far, to notice a controller that stalls.
    received: Cell<u64>,
}

struct State {
    decoder: Decoder,
    calls: Slab<Call>,
    /// From the decoder's keys to `calls`.
    by_key: Vec<Option<usize>>,
    outbox: Outbox,
    broken: Option<HostError>,
}

/// One command between being made and being claimed.
struct Call {
    places: Places,
    /// What the controller may ask for.
    source: Payload,
    waker: Option<Waker>,
    outcome: Option<Result<Completion, HostError>>,
    abandoned: bool,
    /// Held until the answer has come, also when nobody waits for it any more.
    grant: Option<Grant>,
}

/// Exchanges the first PDUs.
pub(super) async fn meet(stream: &Stream, digests: Digests) -> Result<Terms, HostError> {
    let buffers = stream.core().buffers().clone();
    let (sent, _) = stream.send(vec![buffers.copy_of(&introduce(digests)).freeze()]).await;
    sent.map_err(HostError::Socket)?;
    let mut held: Vec<u8> = Vec::new();
    loop {
        if let Some(terms) = hear(digests, &held)? {
            return Ok(terms);
        }
        // One byte more than the answer: there is to be none.
        let into = RecvInto { first: buffers.take(IC_LEN + 1 - held.len()), second: None };
        let (received, into) = stream.receive(into).await;
        match received.map_err(HostError::Socket)? {
            0 => return Err(HostError::Closed),
            n => held.extend_from_slice(&into.first.as_slice()[..n]),
        }
    }
}

impl Link {
    /// Starts the tasks of a connection. `depth` commands are in flight at a time.
    pub(super) fn start(
        stream: Stream,
        terms: Terms,
        capsule_max: u32,
        depth: usize,
        options: &HostOptions,
    ) -> Rc<Link> {
        let depth = depth.clamp(1, REQUESTS_IN_FLIGHT_MAX);
        let state = State {
            decoder: Decoder::new(terms.digests),
            calls: Slab::new(),
            by_key: Vec::new(),
            outbox: Outbox::default(),
            broken: None,
        };
        let core = stream.core().clone();
        let link = Rc::new(Link {
            core: core.clone(),
            stream,
            terms,
            capsule_max,
            depth: Budget::new(u64::try_from(depth).expect("a small number")),
            state: RefCell::new(state),
            outgoing: WaitList::default(),
            ended: WaitList::default(),
            received: Cell::new(0),
        });
        core.spawn(send_loop(link.clone()));
        core.spawn(receive_loop(link.clone()));
        core.spawn(watch(Rc::downgrade(&link), core.clone(), options.stall));
        link
    }

    pub(super) fn core(&self) -> &Core {
        &self.core
    }

    pub(super) fn buffers(&self) -> &BufPool {
        self.core.buffers()
    }

    /// Makes a command and waits for its end.
    pub(super) async fn call(self: &Rc<Link>, draft: Draft, data: Data) -> Result<End, HostError> {
        let grant = self.depth.take(1).await;
        let call = {
            let mut state = self.state.borrow_mut();
            if let Some(error) = &state.broken {
                return Err(error.clone());
            }
            state.begin(self.core.buffers(), draft, data, self.capsule_of(&draft), grant)
        };
        self.outgoing.wake_all();
        Waiting { link: self.clone(), call, claimed: false }.await
    }

    /// Bytes of data that may lie behind this command.
    fn capsule_of(&self, draft: &Draft) -> u64 {
        u64::from(if draft.is_fabrics() { FABRICS_CAPSULE_MAX } else { self.capsule_max })
    }

    /// From now on data may stand for a response.
    pub(super) fn allow_success(&self) {
        self.state.borrow_mut().decoder.allow_success();
    }

    /// Why the connection has ended, once it has.
    pub(super) async fn end(&self) -> HostError {
        loop {
            let ended = self.ended.ticket();
            if let Some(error) = &self.state.borrow().broken {
                return error.clone();
            }
            ended.await;
        }
    }

    /// Ends every command with this error, and the connection.
    pub(super) fn fail(&self, error: HostError) {
        let wakers = self.state.borrow_mut().fail(&error);
        let Some(wakers) = wakers else { return };
        wakers.into_iter().for_each(Waker::wake);
        self.outgoing.wake_all();
        self.ended.wake_all();
        // Both loops see the end of the stream and stop; then the socket is closed.
        self.core.submit_detached(Op::Shutdown { socket: self.stream.socket(), direction: Direction::Both });
    }
}

impl State {
    fn begin(&mut self, buffers: &BufPool, draft: Draft, data: Data, capsule: u64, grant: Grant) -> usize {
        let bytes = |len: u64| u32::try_from(len).expect("a transfer is below 4 GiB");
        let (mut places, mut source, mut behind) =
            (Places::default(), Payload::default(), Payload::default());
        let (asked, place) = match data {
            Data::None => (Asked::Effect, DataPlace::ByTransfer { len: 0 }),
            Data::Receive(span) => {
                places = Places::new(buffers, span);
                let len = bytes(span.len().0);
                (Asked::Read(len), DataPlace::ByTransfer { len })
            }
            Data::Send(payload) => {
                let len = bytes(payload.len().0);
                if payload.len().0 <= capsule {
                    behind = payload;
                    (Asked::Effect, DataPlace::InCapsule { offset: 0, len })
                } else {
                    source = payload;
                    (Asked::Write(len), DataPlace::ByTransfer { len })
                }
            }
        };
        let call = Call { places, source, waker: None, outcome: None, abandoned: false, grant: Some(grant) };
        let number = self.calls.insert(call);
        let (key, id) = self.decoder.expect(asked);
        if self.by_key.len() <= key {
            self.by_key.resize(key + 1, None);
        }
        self.by_key[key] = Some(number);
        self.outbox.push(Outgoing::Command { entry: draft.seal(id, place), data: behind });
        number
    }

    fn call_mut(&mut self, key: Key) -> &mut Call {
        let number = self.by_key[key].expect("the decoder names commands in flight only");
        &mut self.calls[number]
    }

    /// Records the end of a command; the waker of who waits for it.
    fn end(&mut self, number: usize, outcome: Result<Completion, HostError>) -> Option<Waker> {
        let call = &mut self.calls[number];
        call.grant = None;
        call.outcome = Some(outcome);
        if call.abandoned {
            self.calls.remove(number);
            return None;
        }
        call.waker.take()
    }

    /// Breaks the connection, once: all commands in flight end with the error.
    fn fail(&mut self, error: &HostError) -> Option<Vec<Waker>> {
        if self.broken.is_some() {
            return None;
        }
        self.broken = Some(error.clone());
        self.outbox.clear();
        let numbers: Vec<usize> = self.by_key.iter_mut().filter_map(Option::take).collect();
        Some(numbers.into_iter().filter_map(|n| self.end(n, Err(error.clone()))).collect())
    }
}

/// Waits for the end of one command.
struct Waiting {
    link: Rc<Link>,
    call: usize,
    claimed: bool,
}

impl Future for Waiting {
    type Output = Result<End, HostError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let mut state = this.link.state.borrow_mut();
        let call = &mut state.calls[this.call];
        match call.outcome.take() {
            None => {
                call.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            Some(outcome) => {
                this.claimed = true;
                let places = state.calls.remove(this.call).places;
                Poll::Ready(outcome.map(|completion| End { completion, payload: places.into_payload() }))
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.claimed {
            return;
        }
        let mut state = self.link.state.borrow_mut();
        let call = &mut state.calls[self.call];
        match call.outcome {
            Some(_) => drop(state.calls.remove(self.call)),
            None => call.abandoned = true,
        }
    }
}

/// Sends what is queued until the connection ends.
async fn send_loop(link: Rc<Link>) {
    let mut spare = Vec::new();
    loop {
        let ticket = link.outgoing.ticket();
        let batch = {
            let mut state = link.state.borrow_mut();
            if state.broken.is_some() {
                return;
            }
            state.take_batch(link.terms.digests, link.core.buffers(), std::mem::take(&mut spare))
        };
        if batch.is_empty() {
            spare = batch;
            ticket.await;
            continue;
        }
        let (sent, list) = link.stream.send(batch).await;
        spare = list;
        if let Err(errno) = sent {
            link.fail(HostError::Socket(errno));
            return;
        }
    }
}

impl State {
    /// The buffers of the next send: headers packed into one buffer, data where it lies.
    fn take_batch(&mut self, digests: Digests, buffers: &BufPool, batch: Vec<Buf>) -> Vec<Buf> {
        if self.outbox.is_empty() {
            return batch;
        }
        let mut packing = Packing { packed: buffers.take(PACKED), len: 0, data: Vec::new() };
        let (mut count, mut bytes) = (0, 0u64);
        while count < BATCH_PDUS && bytes < BATCH_BYTES {
            let Some(pdu) = self.outbox.pop() else { break };
            let (head, data) = match pdu {
                Outgoing::Command { entry, data } => {
                    let len = u32::try_from(data.len().0).expect("bounded by the capsule");
                    (emit_capsule(&entry, len, digests), data)
                }
                Outgoing::Data { transfer, last, data } => {
                    if last {
                        // No answer to it can come before it is sent.
                        self.decoder.sent(transfer.command);
                    }
                    (transfer.emit_h2c(last, digests).to_vec(), data)
                }
            };
            count += 1;
            bytes += data.len().0;
            packing.push(&head, data, digests);
        }
        packing.finish(batch)
    }
}

/// A batch in the making.
struct Packing {
    packed: BufMut,
    len: usize,
    /// Data, and where in the packed bytes it belongs.
    data: Vec<(usize, Payload)>,
}

impl Packing {
    fn push(&mut self, head: &[u8], data: Payload, digests: Digests) {
        self.put(head);
        if data.is_empty() {
            return;
        }
        let digest = digests.data.then(|| digest_of(&data));
        self.data.push((self.len, data));
        if let Some(digest) = digest {
            self.put(&digest);
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        self.packed.as_mut_slice()[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn finish(self, mut batch: Vec<Buf>) -> Vec<Buf> {
        let packed = self.packed.freeze();
        let mut start = 0;
        for (end, data) in self.data {
            batch.push(packed.slice(start..end));
            batch.extend(data.parts);
            start = end;
        }
        if start < self.len {
            batch.push(packed.slice(start..self.len));
        }
        batch
    }
}

/// The digest of data in several buffers.
fn digest_of(data: &Payload) -> [u8; DIGEST_LEN] {
    let sum = data.parts.iter().fold(0, |sum, part| crc32c::crc32c_append(sum, part.as_slice()));
    sum.to_le_bytes()
}

/// Data of a command that is still in the socket.
#[derive(Clone, Copy)]
struct Rest {
    key: Key,
    at: u64,
    len: u64,
}

/// Receives until the connection ends.
async fn receive_loop(link: Rc<Link>) {
    let mut inbox = link.core.buffers().take(INBOX);
    let mut rest: Option<Rest> = None;
    loop {
        inbox.set_window(0..INBOX);
        let received = match rest {
            None => receive(&link, inbox).await,
            Some(due) => receive_data(&link, inbox, due).await,
        };
        let (outcome, back, taken) = received;
        inbox = back;
        let received = match outcome {
            Ok(0) => return link.fail(HostError::Closed),
            Ok(received) => received,
            Err(errno) => return link.fail(HostError::Socket(errno)),
        };
        link.received.set(link.received.get().wrapping_add(1));
        rest = rest.and_then(|due| due.after(taken));
        let surplus = received - taken;
        match handle(&link, &inbox.as_slice()[..surplus], rest.is_some()) {
            Ok(begun) => rest = rest.or(begun),
            Err(violation) => return link.fail(violation.into()),
        }
    }
}

impl Rest {
    /// What is left after some bytes were received.
    fn after(self, taken: usize) -> Option<Rest> {
        let taken = u64::try_from(taken).expect("a buffer's length");
        let left = Rest { key: self.key, at: self.at + taken, len: self.len - taken };
        (left.len > 0).then_some(left)
    }
}

type Received = (Result<usize, Errno>, BufMut, usize);

async fn receive(link: &Link, inbox: BufMut) -> Received {
    let (outcome, into) = link.stream.receive(RecvInto { first: inbox, second: None }).await;
    (outcome, into.first, 0)
}

/// Receives the rest of a command's data into its place, and what follows it into the inbox.
async fn receive_data(link: &Link, inbox: BufMut, due: Rest) -> Received {
    let taken = {
        let mut state = link.state.borrow_mut();
        // A connection that broke has ended its commands: there is no place any more, and the stream ends.
        if state.broken.is_some() { None } else { Some(state.call_mut(due.key).places.lend(due.at, due.len)) }
    };
    let Some(Lent { number, buf: place }) = taken else { return (Ok(0), inbox, 0) };
    let room = place.len();
    let whole = u64::try_from(room).expect("a buffer's length") == due.len;
    let (second, kept) = if whole { (Some(inbox), None) } else { (None, Some(inbox)) };
    let (outcome, into) = link.stream.receive(RecvInto { first: place, second }).await;
    let inbox = into.second.or(kept).expect("one of them holds it");
    let mut state = link.state.borrow_mut();
    if state.broken.is_none() {
        state.call_mut(due.key).places.give_back(Lent { number, buf: into.first });
    }
    let taken = outcome.map_or(0, |n| n.min(room));
    (outcome, inbox, taken)
}

/// Works through what has arrived; what is missing of a command's data at its end.
fn handle(link: &Link, mut bytes: &[u8], data_due: bool) -> Result<Option<Rest>, Violation> {
    if data_due {
        // The socket gave less than the data that is due, so nothing lies behind it.
        return Ok(None);
    }
    let mut woken = Woken::default();
    let rest = {
        let mut state = link.state.borrow_mut();
        match state.broken {
            Some(_) => Ok(None),
            None => state.decode(&mut bytes, u64::from(link.terms.data_max), &mut woken),
        }
    };
    woken.callers.into_iter().for_each(Waker::wake);
    if woken.sender {
        link.outgoing.wake_all();
    }
    rest
}

/// Who has something to do after some bytes were worked through.
#[derive(Default)]
struct Woken {
    callers: Vec<Waker>,
    sender: bool,
}

impl State {
    fn decode(
        &mut self,
        bytes: &mut &[u8],
        data_max: u64,
        woken: &mut Woken,
    ) -> Result<Option<Rest>, Violation> {
        while let Some(event) = self.decoder.next(bytes)? {
            match event {
                Event::Data { key, at, len } => {
                    let (at, len) = (u64::from(at), u64::from(len));
                    let here = usize::try_from(len).unwrap_or(usize::MAX).min(bytes.len());
                    let (data, behind) = bytes.split_at(here);
                    *bytes = behind;
                    self.call_mut(key).places.fill(at, Fill::Copy(data));
                    if let Some(rest) = (Rest { key, at, len }).after(here) {
                        return Ok(Some(rest));
                    }
                }
                Event::Digest { key, at, len, digest } => {
                    if self.digest_at(key, at, len) != digest {
                        self.decoder.spoil(key);
                    }
                }
                Event::Wanted { key, id, tag, at, len } => {
                    let wanted = Transfer { command: id, tag, offset: at, len };
                    let source = self.call_mut(key).source.clone();
                    answer_request(&wanted, &source, data_max).for_each(|pdu| self.outbox.push(pdu));
                    woken.sender = true;
                }
                Event::Done { key, outcome } => {
                    let number = self.by_key[key].take().expect("the decoder ends each command once");
                    woken.callers.extend(self.end(number, outcome.map_err(HostError::Command)));
                }
            }
        }
        Ok(None)
    }

    fn digest_at(&mut self, key: Key, at: u32, len: u32) -> [u8; DIGEST_LEN] {
        let (at, len) = (u64::from(at), usize::try_from(len).expect("64-bit platform"));
        let mut sum = 0;
        self.call_mut(key).places.visit(at, len, |bytes| sum = crc32c::crc32c_append(sum, bytes));
        sum.to_le_bytes()
    }
}

/// The PDUs that bring what a controller wants, none with more data than it takes.
fn answer_request(wanted: &Transfer, source: &Payload, data_max: u64) -> impl Iterator<Item = Outgoing> {
    let (start, all) = (u64::from(wanted.offset), u64::from(wanted.len));
    let narrow = |n: u64| u32::try_from(n).expect("within a transfer that has 32 bits");
    let piece = move |done: u64| {
        let len = (all - done).min(data_max);
        let transfer = Transfer { offset: narrow(start + done), len: narrow(len), ..*wanted };
        Outgoing::Data { transfer, last: done + len == all, data: source.slice(start + done, len) }
    };
    (0..all.div_ceil(data_max)).map(move |number| piece(number * data_max))
}

/// Ends a connection whose controller leaves commands unanswered without sending anything.
async fn watch(link: Weak<Link>, core: Core, stall: Duration) {
    let mut seen = None;
    loop {
        core.sleep(stall).await;
        let Some(link) = link.upgrade() else { return };
        let state = link.state.borrow();
        if state.broken.is_some() {
            return;
        }
        let waits = state.by_key.iter().any(Option::is_some);
        drop(state);
        let now = waits.then(|| link.received.get());
        if now.is_some() && now == seen {
            return link.fail(HostError::Stalled);
        }
        seen = now;
    }
}
