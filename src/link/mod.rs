//! What the tasks of one connection share, whatever its protocol: the socket, the outbox, and the counts that bound
//! its memory.
//!
//! Rank 6. `inbox` receives, `send` sends what is in the outbox. A protocol judges and executes in between.
//!
//! State of the transmission phase: receiving (or not any more), the number of requests in flight, dead (or not).
//! A request is in flight from its admission until its last reply byte is sent, or dropped because the connection
//! is dead. Nothing here awaits with a borrow held.

mod inbox;
mod send;

pub use inbox::{BULK, Gone, Inbox};
pub use send::{SEND_MAX, run as send_outbox};

use crate::base::limits::{CHUNK_MAX, PAYLOAD_MAX, REQUESTS_IN_FLIGHT_MAX};
use crate::base::units::ByteLen;
use crate::io::buf::Buf;
use crate::io::driver::{Direction, Op, RecvInto, SocketId};
use crate::io::time::Instant;
use crate::reactor::Core;
use crate::reactor::net::Stream;
use crate::reactor::sync::{Budget, BudgetTake, Grant};
use crate::volume::catalog::Catalog;
use futures_util::future::select;
use smallvec::SmallVec;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

/// How long a socket that is closed stays open for the peer to read the last replies. Closing with unread input
/// would reset the connection and could take them back.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_READ: usize = 4096;

/// What all connections of a server share.
pub struct House {
    pub catalog: Arc<Catalog>,
    /// Bytes of payloads and replies, all connections together.
    pub budget: Budget,
    /// Bytes of the budget that one connection may hold.
    connection_bytes_max: u64,
    patience: Duration,
}

impl House {
    /// # Panics
    /// If the budget is smaller than two of the largest requests.
    pub fn new(catalog: Arc<Catalog>, budget_bytes: u64, patience: Duration) -> House {
        assert!(budget_bytes >= 2 * PAYLOAD_MAX, "a budget of {budget_bytes} bytes is too small");
        let connection_bytes_max = (budget_bytes / 4).max(PAYLOAD_MAX);
        House { catalog, budget: Budget::new(budget_bytes), connection_bytes_max, patience }
    }

    /// How long a peer may take for a piece of a payload or a batch of replies. Less when memory is short.
    pub fn patience(&self) -> Duration {
        if self.budget.free() < PAYLOAD_MAX { self.patience / 6 } else { self.patience }
    }
}

/// Wakes the tasks of a core that wait for it. What it stands for is looked at again after every wait.
#[derive(Default)]
pub struct Signal {
    /// Counts how often it was raised.
    raised: Cell<u64>,
    wakers: RefCell<SmallVec<[Waker; 1]>>,
}

impl Signal {
    pub fn raise(&self) {
        self.raised.set(self.raised.get() + 1);
        let wakers = self.wakers.take();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Ends when it is raised after this call.
    pub fn wait(&self) -> impl Future<Output = ()> + '_ {
        let seen = self.raised.get();
        poll_fn(move |cx| {
            if self.raised.get() != seen {
                return Poll::Ready(());
            }
            let mut wakers = self.wakers.borrow_mut();
            if !wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
                wakers.push(cx.waker().clone());
            }
            Poll::Pending
        })
    }
}

/// The bytes of the budget that a connection holds, and the signal that this or the requests in flight went down.
#[derive(Default)]
struct Held {
    bytes: Cell<u64>,
    changed: Signal,
}

/// A part of the budget, held for one request.
pub struct Share {
    grant: Grant,
    held: Rc<Held>,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.held.bytes.set(self.held.bytes.get() - self.grant.units());
        self.held.changed.raise();
    }
}

/// Bytes of the longest head.
pub const HEAD_MAX: usize = 64;

/// The bytes of a reply before its bulk data.
#[derive(Clone, Copy)]
pub struct Head {
    bytes: [u8; HEAD_MAX],
    len: u8,
}

impl Head {
    /// # Panics
    /// If the bytes are more than the longest head has.
    pub fn new(bytes: &[u8]) -> Head {
        let mut head = Head { bytes: [0; HEAD_MAX], len: 0 };
        head.push(bytes);
        head
    }

    /// # Panics
    /// If the whole is more than the longest head has.
    pub fn push(&mut self, bytes: &[u8]) {
        let start = usize::from(self.len);
        let end = start + bytes.len();
        self.bytes[start..end].copy_from_slice(bytes);
        self.len = u8::try_from(end).expect("HEAD_MAX is below 256");
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// A header and the data behind it, to be sent with no other chunk in between.
pub struct Chunk {
    /// None once it was sent.
    pub head: Option<Head>,
    pub parts: SmallVec<[Buf; 2]>,
    /// The first part that was not sent.
    pub next: usize,
    /// The reply's last chunk; its share goes back when it was sent.
    pub last: bool,
    pub share: Option<Share>,
}

/// One connection.
pub struct Link {
    core: Core,
    stream: Stream,
    peer: String,
    house: Arc<House>,
    phase: Cell<Phase>,
    stopping: Cell<bool>,
    stop: Signal,
    in_flight: Cell<usize>,
    held: Rc<Held>,
    outbox: RefCell<VecDeque<Chunk>>,
    outbox_bytes: Cell<usize>,
    sender: Signal,
    sender_ended: Cell<bool>,
    cancel_at: Cell<Option<Instant>>,
}

/// `Negotiating -> Receiving -> Sending -> Dead`; every state may become `Dead`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Negotiating,
    /// Requests are received, and replies sent.
    Receiving,
    /// No more requests are received; replies are still sent.
    Sending,
    /// The socket is shut down.
    Dead,
}

impl Link {
    pub fn new(core: &Core, socket: SocketId, peer: String, house: Arc<House>) -> Rc<Link> {
        Rc::new(Link {
            core: core.clone(),
            stream: Stream::adopt(core, socket),
            peer,
            house,
            phase: Cell::new(Phase::Negotiating),
            stopping: Cell::new(false),
            stop: Signal::default(),
            in_flight: Cell::new(0),
            held: Rc::default(),
            outbox: RefCell::default(),
            outbox_bytes: Cell::new(0),
            sender: Signal::default(),
            sender_ended: Cell::new(true),
            cancel_at: Cell::new(None),
        })
    }

    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// Requests that were received and whose reply was not sent yet.
    pub fn in_flight(&self) -> usize {
        self.in_flight.get()
    }

    /// Finishes what is in flight, refuses what comes after it, and then ends the connection.
    pub fn stop(&self) {
        self.stopping.set(true);
        self.stop.raise();
        self.stop_when_idle();
    }

    /// Ends the connection now: nothing more is received or sent. Requests that are running finish unheard.
    pub fn kill(&self) {
        if self.phase.replace(Phase::Dead) == Phase::Dead {
            return;
        }
        self.core.submit_detached(Op::Shutdown { socket: self.stream.socket(), direction: Direction::Both });
        self.outbox_bytes.set(0);
        let unsent = self.outbox.take();
        self.count_done(unsent.iter().filter(|chunk| chunk.last).count());
        drop(unsent);
        self.sender.raise();
        self.held.changed.raise();
    }

    pub fn core(&self) -> &Core {
        &self.core
    }

    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    pub fn house(&self) -> &House {
        &self.house
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    pub fn is_dead(&self) -> bool {
        self.phase.get() == Phase::Dead
    }

    /// Waits until the connection is dead.
    pub async fn died(&self) {
        while !self.is_dead() {
            self.held.changed.wait().await;
        }
    }

    /// Waits until `stop` is called; for one task.
    pub async fn stopped(&self) {
        while !self.stopping.get() {
            self.stop.wait().await;
        }
    }

    /// Enters the transmission phase, in which `send::run` must be running.
    pub fn open(&self) {
        self.sender_ended.set(false);
        if !self.is_dead() {
            self.phase.set(Phase::Receiving);
        }
        self.stop_when_idle();
    }

    /// No more requests come. Those of many steps may go on for `farewell`.
    pub fn end_receiving(&self, farewell: Duration) {
        if !self.is_dead() {
            self.phase.set(Phase::Sending);
        }
        self.cancel_at.set(Some(self.core.now() + farewell));
        self.sender.raise();
        self.held.changed.raise();
    }

    /// Whether a request of many steps should not go on: nobody waits for it any more.
    pub fn is_cancelled(&self) -> bool {
        self.is_dead() || self.cancel_at.get().is_some_and(|at| self.core.now() >= at)
    }

    /// Waits for a place among the requests in flight, and for `bytes` of the budget. None if the connection died
    /// meanwhile. The request is in flight from here on.
    pub async fn admit(&self, bytes: u64) -> Option<Option<Share>> {
        while self.in_flight.get() >= REQUESTS_IN_FLIGHT_MAX {
            self.held.changed.wait().await;
            if self.is_dead() {
                return None;
            }
        }
        let share = match bytes {
            0 => None,
            _ => Some(self.hold(bytes).await?),
        };
        self.begin();
        Some(share)
    }

    /// A request is in flight, until its last chunk was sent.
    pub fn begin(&self) {
        self.in_flight.set(self.in_flight.get() + 1);
    }

    /// Waits for bytes of the budget. None if nothing more is to begin.
    pub async fn hold(&self, bytes: u64) -> Option<Share> {
        while !self.has_room(bytes) {
            self.held.changed.wait().await;
            if self.is_over() {
                return None;
            }
        }
        let grant = match self.house.budget.try_take(bytes) {
            Some(grant) => grant,
            None => self.wait_for(self.house.budget.take(bytes)).await?,
        };
        Some(self.share(grant))
    }

    /// The same without waiting; None if it would have to be waited for.
    pub fn try_hold(&self, bytes: u64) -> Option<Share> {
        let grant = self.has_room(bytes).then(|| self.house.budget.try_take(bytes))??;
        Some(self.share(grant))
    }

    fn share(&self, grant: Grant) -> Share {
        self.held.bytes.set(self.held.bytes.get() + grant.units());
        Share { grant, held: self.held.clone() }
    }

    fn has_room(&self, bytes: u64) -> bool {
        let held = self.held.bytes.get();
        held == 0 || held + bytes <= self.house.connection_bytes_max
    }

    /// Nothing more is received, so nothing more may begin.
    fn is_over(&self) -> bool {
        matches!(self.phase.get(), Phase::Sending | Phase::Dead)
    }

    /// Waits for the budget, as long as the connection lives.
    async fn wait_for(&self, mut take: BudgetTake) -> Option<Grant> {
        loop {
            let mut changed = pin!(self.held.changed.wait());
            let granted = poll_fn(|cx| match Pin::new(&mut take).poll(cx) {
                Poll::Ready(grant) => Poll::Ready(Some(grant)),
                Poll::Pending => changed.as_mut().poll(cx).map(|()| None),
            });
            if let Some(grant) = granted.await {
                return Some(grant);
            }
            if self.is_over() {
                return None;
            }
        }
    }

    /// Queues a chunk.
    pub fn push(&self, chunk: Chunk) {
        if self.is_dead() {
            self.count_done(usize::from(chunk.last));
            return;
        }
        let bytes: usize = chunk.parts.iter().map(Buf::len).sum();
        self.outbox_bytes.set(self.outbox_bytes.get() + bytes);
        self.outbox.borrow_mut().push_back(chunk);
        self.sender.raise();
    }

    /// Sends bytes now, past the outbox: before there is one.
    pub async fn send_all(&self, bytes: &[u8]) -> Option<()> {
        let mut parts: Vec<Buf> = Vec::new();
        for part in bytes.chunks(ByteLen(CHUNK_MAX).as_usize()) {
            parts.push(self.core.buffers().copy_of(part).freeze());
            let (sent, emptied) = self.stream.send(parts).await;
            sent.ok()?;
            parts = emptied;
        }
        Some(())
    }

    /// Says that nothing more will be sent, and gives the peer a moment to read and close.
    pub async fn linger(&self) {
        self.stream.shutdown(Direction::Write).await;
        let until_closed = async {
            loop {
                let into = RecvInto { first: self.core.buffers().take(LINGER_READ), second: None };
                match self.stream.receive(into).await.0 {
                    Ok(count) if count > 0 => {}
                    Ok(_) | Err(_) => return,
                }
            }
        };
        select(pin!(until_closed), pin!(self.core.sleep(LINGER))).await;
    }

    /// Queues a reply, or the end of one, that has no data.
    pub fn push_head(&self, head: Head) {
        self.push(Chunk { head: Some(head), parts: SmallVec::new(), next: 0, last: true, share: None });
    }

    /// Bytes of data that are queued.
    pub fn outbox_bytes(&self) -> usize {
        self.outbox_bytes.get()
    }

    pub fn has_replies(&self) -> bool {
        !self.outbox.borrow().is_empty()
    }

    /// Takes from the outbox; for the sender.
    pub fn with_outbox<T>(&self, take: impl FnOnce(&mut VecDeque<Chunk>) -> T) -> T {
        take(&mut self.outbox.borrow_mut())
    }

    /// So many requests are over, and so many bytes of data have left the outbox.
    pub fn count_sent(&self, requests: usize, bytes: usize) {
        self.outbox_bytes.set(self.outbox_bytes.get().saturating_sub(bytes));
        self.count_done(requests);
    }

    fn count_done(&self, requests: usize) {
        if requests == 0 {
            return;
        }
        self.in_flight.set(self.in_flight.get() - requests);
        self.held.changed.raise();
        if self.in_flight.get() == 0 {
            self.sender.raise();
            self.stop_when_idle();
        }
    }

    /// Waits until there may be something to send; false when there will be nothing more.
    pub async fn next_replies(&self) -> bool {
        loop {
            if self.is_dead() {
                return false;
            }
            if self.has_replies() {
                return true;
            }
            if self.phase.get() == Phase::Sending && self.in_flight.get() == 0 {
                return false;
            }
            self.sender.wait().await;
        }
    }

    pub fn sender_ended(&self) {
        self.sender_ended.set(true);
        self.held.changed.raise();
    }

    /// Waits until every reply was sent, or the connection is dead.
    pub async fn all_sent(&self) {
        while !self.sender_ended.get() {
            self.held.changed.wait().await;
        }
    }

    /// Waits until no request is running.
    pub async fn all_done(&self) {
        while self.in_flight.get() > 0 {
            self.held.changed.wait().await;
        }
    }

    /// A connection that is to stop and has nothing in flight receives no more.
    fn stop_when_idle(&self) {
        let idle = self.phase.get() == Phase::Receiving && self.in_flight.get() == 0;
        if self.stopping.get() && idle {
            let socket = self.stream.socket();
            self.core.submit_detached(Op::Shutdown { socket, direction: Direction::Read });
        }
    }
}
