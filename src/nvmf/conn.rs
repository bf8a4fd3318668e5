//! A connection of the target: introductions and Connect, then a queue pair, all on one core.
//!
//! ```text
//! socket ─▶ receive ─▶ judge ─┬─▶ data here ─────────────▶ execute (inline, or a task of its own) ─▶ outbox ─▶ socket
//!              ▲              ├─▶ waits for the budget ─▶ asked for by R2T ─┐
//!              └── H2CData ───┼─────────────────────────────────────────────┘
//!                             └─▶ admin: answered at once, or held for an event
//! ```
//! Receiving does not wait for memory while data that was asked for may be next in line. Small data has its room from Connect
//! on. Larger data lies behind its command, which saves a message each way: the connection waits for its room, as it does
//! with NBD. What a host would rather be asked for waits aside for the budget, and only then is asked for.

mod execute;
mod handshake;
mod receive;
mod reserve;

pub use handshake::{Opened, open};

use super::admin::{Admin, World};
use super::command::{Cqe, Sqe, Status};
use super::controller::{Fabric, Seat};
use super::io_command::{Action, Extent};
use super::pdu::{Digests, Fatal, SHORT_LEN, ShortHead, emit_response, emit_termination};
use super::qpair::Progress;
use super::reservation::Reservations;
use super::subsystem::Subsystem;
use crate::io::buf::BufMut;
use crate::io::time::Instant;
use crate::link::{Chunk, Head, Link, Share, send_outbox};
use crate::volume::{Handle, Volume};
use futures_util::future::{Either, select};
use slab::Slab;
use smallvec::SmallVec;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::ops::Range;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Data of a command up to this has its room reserved for the life of the queue, bytes.
const SMALL: u32 = 4096;

/// A host is noted to live at most so often.
const HEARD_EVERY: Duration = Duration::from_millis(100);

/// A controller without keep-alive is looked at so often; a discovery controller that asks for nothing ends after
/// `IDLE_MAX`.
const LOOK_EVERY: Duration = Duration::from_secs(10);
const IDLE_MAX: Duration = Duration::from_secs(600);

/// A command that waited so long for memory is not begun any more: its host may have sent it again elsewhere.
const WAIT_MAX: Duration = Duration::from_secs(4);

/// Requests of many steps go on for so long after the host went away.
const FAREWELL: Duration = Duration::ZERO;

/// What was agreed upon for a queue.
#[derive(Clone, Copy, Debug)]
struct Queue {
    id: u16,
    /// Commands that may be outstanding.
    size: u16,
    no_flow_control: bool,
}

/// What a command is about.
enum Plan {
    Io(Rc<Handle>, Action, Extent),
    /// Flush of all namespaces.
    FlushAll,
    Admin,
}

/// A command that was judged.
struct Command {
    sqe: Sqe,
    plan: Plan,
    /// Bytes of memory that it holds while it runs, the small ones not counted.
    memory: u32,
    /// Its data has to be asked for: so many bytes.
    request: u32,
    began: Instant,
}

/// A command whose data is under way.
struct Transfer {
    command: Command,
    share: Option<Share>,
    parts: VecDeque<(BufMut, Range<usize>)>,
    /// The part that is received into, and how much of it has come.
    at: (usize, usize),
    progress: Progress,
    /// A digest was wrong.
    is_bad: bool,
    asked: Instant,
}

/// The namespaces of the subsystem, as they were at some version of the catalog.
#[derive(Default)]
struct Known {
    version: Option<u64>,
    /// Counted on this core alone: a volume's own count is shared by all.
    handles: BTreeMap<u32, Rc<Handle>>,
    /// The reservations of namespaces, and the versions of the bytes that they were read from.
    reservations: BTreeMap<u32, (u64, Reservations)>,
}

/// A queue pair at work.
struct Session {
    link: Rc<Link>,
    fabric: Arc<Fabric>,
    seat: Seat,
    queue: Queue,
    digests: Digests,
    /// Commands taken so far, modulo the queue's size (SQHD).
    taken: Cell<u16>,
    /// Commands that were not answered yet, by identifier.
    live: RefCell<SmallVec<[u16; 32]>>,
    transfers: RefCell<Slab<Option<Transfer>>>,
    waiting: RefCell<VecDeque<Command>>,
    /// Somebody begins what waits; somebody watches transfers.
    is_beginning: Cell<bool>,
    is_watching: Cell<bool>,
    heard: Cell<Instant>,
    known: RefCell<Known>,
    admin: Option<RefCell<Admin>>,
    local: Option<SocketAddr>,
    /// Nothing more is answered.
    is_over: Cell<bool>,
    /// The room of small data.
    _room: Option<Share>,
}

/// How receiving ended.
#[derive(Clone, Debug)]
enum End {
    /// The host sends nothing more, or nothing can be received from it.
    Eof,
    /// The daemon stops.
    Stopping,
    /// The host said so.
    Terminated(u16, u32),
    /// The connection makes no sense any more; with the start of the PDU that is to blame.
    Fatal(Fatal, Vec<u8>),
    /// The host broke a rule that there is no PDU to say it with.
    Violation(&'static str),
}

/// Serves a queue pair until its connection has ended and nothing of it is left running.
pub async fn serve(link: Rc<Link>, opened: Opened) {
    let Opened { mut inbox, session } = opened;
    link.open();
    link.core().spawn(send_outbox(link.clone()));
    let end = {
        let receiving = pin!(receive::run(&session, &mut inbox));
        let ending = pin!(session.ending());
        match select(receiving, ending).await {
            Either::Left((end, _)) => end,
            Either::Right(((), receiving)) => {
                link.kill();
                receiving.await
            }
        }
    };
    drop(inbox);
    session.finish(end).await;
}

impl Session {
    fn world(&self) -> World<'_> {
        World {
            fabric: &self.fabric,
            controller: &self.seat.controller,
            wall_ns: self.link.core().wall_ns(),
            local: self.local,
        }
    }

    /// Ends when the queue is to end although its connection is there; tells events meanwhile.
    async fn ending(&self) {
        let unwanted = pin!(self.seat.unwanted());
        let chores = async {
            match &self.admin {
                Some(admin) => {
                    select(pin!(self.announce(admin)), pin!(self.watch_host(admin))).await;
                }
                None => std::future::pending().await,
            }
        };
        select(unwanted, pin!(chores)).await;
    }

    /// Tells the host what changes.
    async fn announce(&self, admin: &RefCell<Admin>) {
        let controller = &self.seat.controller;
        loop {
            let (catalog, notices) = (self.fabric.catalog.changed(), controller.changed());
            admin.borrow_mut().look_for_changes(&self.world());
            admin.borrow_mut().note_reservations(controller.take_notices());
            self.tell_events(admin);
            select(catalog, notices).await;
        }
    }

    fn tell_events(&self, admin: &RefCell<Admin>) {
        loop {
            let mut state = admin.borrow_mut();
            let aborted = state.aborted.pop();
            let next = if aborted.is_some() { None } else { state.events.due() };
            drop(state);
            match (aborted, next) {
                (Some(id), _) => self.answer_late(id, Err((Status::ABORTED, false))),
                (None, Some((id, event))) => self.answer_late(id, Ok(event)),
                (None, None) => return,
            }
        }
    }

    /// An answer to a request that was held, and so was not counted as running.
    fn answer_late(&self, id: u16, ended: Result<u64, (Status, bool)>) {
        self.link.begin();
        self.answer(id, ended, None);
    }

    /// Ends when the host has been silent for too long.
    async fn watch_host(&self, admin: &RefCell<Admin>) {
        let controller = &self.seat.controller;
        loop {
            let now = self.link.core().now();
            let asked = admin.borrow().patience();
            let patience = asked.or(controller.pool.is_none().then_some(IDLE_MAX));
            let until = patience.map(|patience| controller.last_heard() + patience);
            if until.is_some_and(|until| now >= until) {
                tracing::info!(
                    peer = self.link.peer(),
                    controller = controller.id,
                    "closed: the host is silent"
                );
                return self.fabric.close(controller);
            }
            let look = now + if admin.borrow().keeps_alive() { Duration::from_secs(1) } else { LOOK_EVERY };
            self.link.core().sleep_until(until.map_or(look, |until| until.max(look))).await;
        }
    }

    /// The host sent something.
    fn hear(&self) {
        let now = self.link.core().turn_at();
        if now >= self.heard.get() + HEARD_EVERY {
            self.heard.set(now);
            self.seat.controller.heard(now);
        }
    }

    /// The way to a namespace, if it is active.
    fn handle(&self, namespace: u32) -> Option<Rc<Handle>> {
        self.refresh();
        self.known.borrow().handles.get(&namespace).cloned()
    }

    fn all_handles(&self) -> Vec<Rc<Handle>> {
        self.refresh();
        self.known.borrow().handles.values().cloned().collect()
    }

    fn refresh(&self) {
        let version = Some(self.fabric.catalog.version());
        if self.known.borrow().version == version {
            return;
        }
        let pool = self.seat.controller.pool;
        let subsystem = pool.and_then(|pool| Subsystem::of(&self.fabric.catalog, pool));
        let core = self.link.core();
        let namespaces = subsystem.map(|s| s.namespaces).unwrap_or_default();
        let way = |(number, volume): (u32, Arc<Volume>)| (number, Rc::new(volume.handle(core)));
        let handles = namespaces.into_iter().map(way).collect();
        *self.known.borrow_mut() = Known { version, handles, reservations: BTreeMap::new() };
    }

    fn completion(&self, id: u16, ended: Result<u64, (Status, bool)>) -> ShortHead {
        let queue_head = if self.queue.no_flow_control { u16::MAX } else { self.taken.get() };
        let (result, status, no_retry) = match ended {
            Ok(result) => (result, Status::SUCCESS, false),
            Err((status, no_retry)) => (0, status, no_retry),
        };
        let cqe = Cqe { result, queue_head, command: id, status, no_retry };
        emit_response(&cqe.emit(), self.digests)
    }

    /// The command is not outstanding any more.
    fn forget(&self, id: u16) {
        let mut live = self.live.borrow_mut();
        if let Some(at) = live.iter().position(|known| *known == id) {
            live.swap_remove(at);
        }
    }

    /// Answers a command that has no data for the host.
    fn answer(&self, id: u16, ended: Result<u64, (Status, bool)>, share: Option<Share>) {
        self.forget(id);
        let head = (!self.is_over.get()).then(|| Head::new(&self.completion(id, ended)));
        self.link.push(Chunk { head, parts: SmallVec::new(), next: 0, last: true, share });
    }

    /// Counts what a command moved.
    fn count(&self, read: bool, bytes: u64) {
        let traffic = &self.seat.traffic;
        let (commands, sum) =
            if read { (&traffic.reads, &traffic.read) } else { (&traffic.writes, &traffic.written) };
        // This core alone writes them.
        commands.store(commands.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        sum.store(sum.load(Ordering::Relaxed) + bytes, Ordering::Relaxed);
    }

    /// Watches, while there are any, that transfers that were asked for come.
    fn watch_transfers(self: &Rc<Session>) {
        if self.is_watching.replace(true) {
            return;
        }
        let (core, patience) = (self.link.core().clone(), self.link.house().patience());
        let weak: Weak<Session> = Rc::downgrade(self);
        self.link.core().spawn(async move {
            loop {
                core.sleep(patience / 4).await;
                let Some(session) = weak.upgrade() else { return };
                let oldest =
                    session.transfers.borrow().iter().filter_map(|(_, t)| Some(t.as_ref()?.asked)).min();
                match oldest {
                    None => return session.is_watching.set(false),
                    Some(asked) if core.now() >= asked + patience => {
                        tracing::info!(
                            peer = session.link.peer(),
                            "closed: data that was asked for does not come"
                        );
                        return session.link.kill();
                    }
                    Some(_) => {}
                }
            }
        });
    }

    /// A daemon that stops lets I/O queues finish what is in flight: they end with their controller.
    async fn io_queues_ended(&self) {
        let died = pin!(self.link.died());
        let others = async {
            loop {
                let ended = self.fabric.queue_ended();
                if self.seat.controller.is_alone() {
                    return;
                }
                ended.await;
            }
        };
        select(pin!(others), died).await;
    }

    /// Sends what is still to be sent, closes the socket, and waits for the commands that are still running.
    async fn finish(&self, end: End) {
        let link = &self.link;
        let mut says_why = true;
        match &end {
            End::Eof | End::Stopping => says_why = matches!(end, End::Stopping),
            End::Terminated(status, information) => {
                tracing::warn!(
                    peer = link.peer(),
                    status,
                    information,
                    "closed: the host found an error of ours"
                );
            }
            End::Violation(rule) => {
                tracing::warn!(peer = link.peer(), rule, "closed: the host broke the protocol");
            }
            End::Fatal(why, offending) => {
                tracing::warn!(peer = link.peer(), %why, "closed: the host broke the protocol");
                let bytes = emit_termination(*why, offending);
                let (head, rest) = bytes.split_at(SHORT_LEN);
                let rest = link.core().buffers().copy_of(rest).freeze();
                let parts = crate::block::Payload::one(rest).parts;
                link.push(Chunk { head: Some(Head::new(head)), parts, next: 0, last: false, share: None });
            }
        }
        let goes_on = matches!(end, End::Stopping);
        self.is_over.set(!goes_on);
        link.end_receiving(FAREWELL);
        // What was not begun never will be.
        let waiting = self.waiting.take().len();
        let transfers = std::mem::take(&mut *self.transfers.borrow_mut());
        let asked = transfers.iter().filter(|(_, transfer)| transfer.is_some()).count();
        drop(transfers);
        link.count_sent(waiting + asked, 0);
        link.all_sent().await;
        if self.queue.id == 0 && link.is_stopping() {
            self.io_queues_ended().await;
        }
        if says_why && !link.is_dead() {
            link.linger().await;
        }
        link.kill();
        link.all_done().await;
        if self.queue.id == 0 {
            self.fabric.close(&self.seat.controller);
        }
    }
}
