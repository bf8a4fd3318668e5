//! The bytes of one client connection: a task that sends what was asked, in batches, and a task that receives and
//! hands out what was answered.
//!
//! A request whose future is dropped stays in flight: its buffers and its place are given back when the answer has
//! come. Data goes from the socket into its place directly where it has not arrived already with other replies.

use super::decoder::{Asked, Decoder, Event, Key, Violation};
use super::negotiation::{Export, Negotiation, Step, Wish, check_silent};
use super::{ClientError, ClientOptions};
use crate::base::limits::REQUESTS_IN_FLIGHT_MAX;
use crate::base::units::Span;
use crate::block::Payload;
use crate::block::places::{Fill, Lent, Places};
use crate::io::buf::{Buf, BufMut, BufPool};
use crate::io::driver::{Direction, Op, RecvInto};
use crate::nbd::wire::number::{Command, request};
use crate::nbd::wire::{Extent, ReplyMode, Request};
use crate::reactor::Core;
use crate::reactor::net::Stream;
use crate::reactor::sync::{Budget, Grant, WaitList};
use futures_util::future::{Either, select};
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Bytes received at once for which no place is known yet.
const INBOX: usize = 128 << 10;

/// Requests whose headers go into one buffer, and payload bytes after which a batch is sent.
const BATCH_REQUESTS: usize = 128;
const BATCH_BYTES: u64 = 256 << 10;

const _: () = assert!(BATCH_REQUESTS * Request::EXTENDED_LEN <= 4096);

/// How long a server may take to close the connection after it was asked to.
const GOODBYE: Duration = Duration::from_secs(5);

/// How a request ended well.
pub(super) struct End {
    pub payload: Payload,
    pub extents: Vec<Extent>,
}

/// One connection in transmission.
pub(super) struct Link {
    pub export: Export,
    core: Core,
    stream: Stream,
    depth: Budget,
    state: RefCell<State>,
    /// Something to send, or the end.
    outgoing: WaitList,
    /// A request has ended, or the connection has.
    ended: WaitList,
    /// Bytes received so far, to notice a server that stalls.
    received: Cell<u64>,
}

struct State {
    decoder: Decoder,
    calls: Slab<Call>,
    /// From the decoder's keys to `calls`.
    by_key: Vec<Option<usize>>,
    outbox: VecDeque<(Request, Option<Payload>)>,
    broken: Option<ClientError>,
    closing: bool,
}

/// One request between being made and being claimed.
struct Call {
    places: Places,
    waker: Option<Waker>,
    outcome: Option<Result<Vec<Extent>, ClientError>>,
    abandoned: bool,
    /// Held until the answer has come, also when nobody waits for it any more.
    grant: Option<Grant>,
}

/// Connects the two pure halves to the socket until they agree.
pub(super) async fn negotiate(stream: &Stream, wish: Wish) -> Result<Export, ClientError> {
    let mut negotiation = Negotiation::new(wish);
    let mut held: Vec<u8> = Vec::new();
    let buffers = stream.core().buffers().clone();
    loop {
        match negotiation.next(&held)? {
            Step::Took { bytes, answer } => {
                held.drain(..bytes);
                if !answer.is_empty() {
                    let (sent, _) = stream.send(vec![buffers.copy_of(&answer).freeze()]).await;
                    sent.map_err(ClientError::Socket)?;
                }
            }
            Step::Agreed { bytes, export } => {
                check_silent(&held[bytes..])?;
                return Ok(export);
            }
            Step::More => {
                let into = RecvInto { first: buffers.take(4096), second: None };
                let (received, into) = stream.receive(into).await;
                match received.map_err(ClientError::Socket)? {
                    0 => return Err(ClientError::Closed),
                    n => held.extend_from_slice(&into.first.as_slice()[..n]),
                }
            }
        }
    }
}

impl Link {
    /// Starts the tasks of a connection.
    pub(super) fn start(core: &Core, stream: Stream, export: Export, options: &ClientOptions) -> Rc<Link> {
        let depth = options.depth.clamp(1, REQUESTS_IN_FLIGHT_MAX);
        let state = State {
            decoder: Decoder::new(export.replies, export.context, export.size),
            calls: Slab::new(),
            by_key: Vec::new(),
            outbox: VecDeque::new(),
            broken: None,
            closing: false,
        };
        let link = Rc::new(Link {
            export,
            core: core.clone(),
            stream,
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

    /// Makes a request and waits for its end.
    pub(super) async fn call(
        self: &Rc<Link>,
        asked: Asked,
        command: Command,
        flags: u16,
        span: Span,
        payload: Option<Payload>,
    ) -> Result<End, ClientError> {
        let grant = self.depth.take(1).await;
        let places = match asked {
            Asked::Read(span) => Places::new(self.core.buffers(), span),
            Asked::Status(_) | Asked::Effect => Places::default(),
        };
        let key = {
            let mut state = self.state.borrow_mut();
            if let Some(error) = state.refusal() {
                return Err(error);
            }
            state.begin(asked, command, flags, span, payload, Call::new(places, grant))
        };
        self.outgoing.wake_all();
        Waiting { link: self.clone(), call: key, claimed: false }.await
    }

    /// Ends the connection at once; requests in flight end with `Closed`.
    pub(super) fn hang_up(&self) {
        self.fail(ClientError::Closed);
    }

    /// Section 20.12.
    pub(super) async fn disconnect(&self) -> Result<(), ClientError> {
        self.state.borrow_mut().closing = true;
        loop {
            let ended = self.ended.ticket();
            {
                let mut state = self.state.borrow_mut();
                if let Some(error) = &state.broken {
                    return Err(error.clone());
                }
                if state.by_key.iter().all(Option::is_none) {
                    state.goodbye();
                    break;
                }
            }
            ended.await;
        }
        self.outgoing.wake_all();
        let closed = async {
            loop {
                let ended = self.ended.ticket();
                if let Some(error) = &self.state.borrow().broken {
                    return error.clone();
                }
                ended.await;
            }
        };
        match select(pin!(closed), pin!(self.core.sleep(GOODBYE))).await {
            // After DISC the server closes: that is how it should end.
            Either::Left((ClientError::Closed, _)) => Ok(()),
            Either::Left((error, _)) => Err(error),
            Either::Right(_) => Err(ClientError::Stalled),
        }
    }

    /// Ends every request with this error, and the connection.
    fn fail(&self, error: ClientError) {
        let wakers = self.state.borrow_mut().fail(&error);
        let Some(wakers) = wakers else { return };
        wakers.into_iter().for_each(Waker::wake);
        self.outgoing.wake_all();
        self.ended.wake_all();
        // Both loops see the end of the stream and stop; then the socket is closed.
        self.core.submit_detached(Op::Shutdown { socket: self.stream.socket(), direction: Direction::Both });
    }
}

impl Call {
    fn new(places: Places, grant: Grant) -> Call {
        Call { places, waker: None, outcome: None, abandoned: false, grant: Some(grant) }
    }
}

impl State {
    fn refusal(&self) -> Option<ClientError> {
        self.broken.clone().or_else(|| self.closing.then_some(ClientError::Closed))
    }

    fn begin(
        &mut self,
        asked: Asked,
        command: Command,
        flags: u16,
        span: Span,
        payload: Option<Payload>,
        call: Call,
    ) -> usize {
        let number = self.calls.insert(call);
        let (key, cookie) = self.decoder.expect(asked);
        if self.by_key.len() <= key {
            self.by_key.resize(key + 1, None);
        }
        self.by_key[key] = Some(number);
        let request =
            Request { flags, command: command.to_wire(), cookie, offset: span.offset().0, len: span.len().0 };
        self.outbox.push_back((request, payload));
        number
    }

    fn goodbye(&mut self) {
        let command = Command::Disconnect.to_wire();
        self.outbox.push_back((Request { flags: 0, command, cookie: 0, offset: 0, len: 0 }, None));
    }

    fn call_mut(&mut self, key: Key) -> &mut Call {
        let number = self.by_key[key].expect("the decoder names requests in flight only");
        &mut self.calls[number]
    }

    /// Records the end of a request; the waker of who waits for it.
    fn end(&mut self, number: usize, outcome: Result<Vec<Extent>, ClientError>) -> Option<Waker> {
        let call = &mut self.calls[number];
        call.grant = None;
        call.outcome = Some(outcome);
        if call.abandoned {
            self.calls.remove(number);
            return None;
        }
        call.waker.take()
    }

    /// Breaks the connection, once: all requests in flight end with the error.
    fn fail(&mut self, error: &ClientError) -> Option<Vec<Waker>> {
        if self.broken.is_some() {
            return None;
        }
        self.broken = Some(error.clone());
        self.outbox.clear();
        let numbers: Vec<usize> = self.by_key.iter_mut().filter_map(Option::take).collect();
        Some(numbers.into_iter().filter_map(|n| self.end(n, Err(error.clone()))).collect())
    }
}

/// Waits for the end of one request.
struct Waiting {
    link: Rc<Link>,
    call: usize,
    claimed: bool,
}

impl Future for Waiting {
    type Output = Result<End, ClientError>;

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
                Poll::Ready(outcome.map(|extents| End { payload: places.into_payload(), extents }))
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
            take_batch(
                &mut state.outbox,
                link.export.replies,
                link.core.buffers(),
                std::mem::take(&mut spare),
            )
        };
        if batch.is_empty() {
            spare = batch;
            ticket.await;
            continue;
        }
        let (sent, list) = link.stream.send(batch).await;
        spare = list;
        if let Err(errno) = sent {
            link.fail(ClientError::Socket(errno));
            return;
        }
    }
}

/// The buffers of the next send: headers packed into one buffer, payloads where they lie.
fn take_batch(
    outbox: &mut VecDeque<(Request, Option<Payload>)>,
    mode: ReplyMode,
    buffers: &BufPool,
    mut batch: Vec<Buf>,
) -> Vec<Buf> {
    let (mut headers, mut payloads) = (Vec::new(), Vec::new());
    let mut bytes = 0u64;
    while headers.len() < BATCH_REQUESTS && bytes < BATCH_BYTES {
        let Some((mut header, payload)) = outbox.pop_front() else { break };
        if mode == ReplyMode::Extended && payload.is_some() {
            header.flags |= request::PAYLOAD_LEN;
        }
        bytes += payload.as_ref().map_or(0, |p| p.len().0);
        headers.push(header);
        payloads.push(payload);
    }
    if headers.is_empty() {
        return batch;
    }
    let size = mode.request_len();
    let packed = pack(&headers, mode, buffers.take(headers.len() * size));
    let mut start = 0;
    for (number, payload) in payloads.into_iter().enumerate() {
        let end = (number + 1) * size;
        if let Some(payload) = payload {
            batch.push(packed.slice(start..end));
            batch.extend(payload.parts);
            start = end;
        }
    }
    if start < packed.len() {
        batch.push(packed.slice(start..packed.len()));
    }
    batch
}

fn pack(headers: &[Request], mode: ReplyMode, mut buf: BufMut) -> Buf {
    let size = mode.request_len();
    for (header, place) in headers.iter().zip(buf.as_mut_slice().chunks_exact_mut(size)) {
        match mode {
            ReplyMode::Simple | ReplyMode::Structured => place.copy_from_slice(&header.emit_compact()),
            ReplyMode::Extended => place.copy_from_slice(&header.emit_extended()),
        }
    }
    buf.freeze()
}

/// Data of a READ that is still in the socket.
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
            Ok(0) => return link.fail(ClientError::Closed),
            Ok(received) => received,
            Err(errno) => return link.fail(ClientError::Socket(errno)),
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

type Received = (Result<usize, nix::errno::Errno>, BufMut, usize);

async fn receive(link: &Link, inbox: BufMut) -> Received {
    let (outcome, into) = link.stream.receive(RecvInto { first: inbox, second: None }).await;
    (outcome, into.first, 0)
}

/// Receives the rest of a READ's data into its place, and what follows it into the inbox.
async fn receive_data(link: &Link, inbox: BufMut, due: Rest) -> Received {
    let taken = {
        let mut state = link.state.borrow_mut();
        // A connection that broke has ended its requests: there is no place any more, and the stream ends.
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

/// Works through what has arrived; what is missing of a READ's data at its end.
fn handle(link: &Link, mut bytes: &[u8], data_due: bool) -> Result<Option<Rest>, Violation> {
    if data_due {
        // The socket gave less than the data that is due, so nothing lies behind it.
        return Ok(None);
    }
    let mut wakers = Vec::new();
    let rest = {
        let mut state = link.state.borrow_mut();
        if state.broken.is_some() { Ok(None) } else { state.decode(&mut bytes, &mut wakers) }
    };
    if !wakers.is_empty() {
        wakers.into_iter().flatten().for_each(Waker::wake);
        link.ended.wake_all();
    }
    rest
}

impl State {
    fn decode(
        &mut self,
        bytes: &mut &[u8],
        wakers: &mut Vec<Option<Waker>>,
    ) -> Result<Option<Rest>, Violation> {
        while let Some(event) = self.decoder.next(bytes)? {
            match event {
                Event::Data { key, at, len } => {
                    let here = usize::try_from(len).unwrap_or(usize::MAX).min(bytes.len());
                    let (data, behind) = bytes.split_at(here);
                    *bytes = behind;
                    self.call_mut(key).places.fill(at, Fill::Copy(data));
                    if let Some(rest) = (Rest { key, at, len }).after(here) {
                        return Ok(Some(rest));
                    }
                }
                Event::Hole { key, at, len } => {
                    let len = usize::try_from(len).expect("a hole lies within a READ");
                    self.call_mut(key).places.fill(at, Fill::Zeroes(len));
                }
                Event::Done { key, outcome } => {
                    let number = self.by_key[key].take().expect("the decoder ends each request once");
                    wakers.push(self.end(number, outcome.map_err(ClientError::Server)));
                }
            }
        }
        Ok(None)
    }
}

/// Ends a connection whose server leaves requests unanswered without sending anything.
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
            return link.fail(ClientError::Stalled);
        }
        seen = now;
    }
}
