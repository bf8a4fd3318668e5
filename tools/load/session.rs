//! The connections of a run between connect and disconnect, on one io_uring.
//!
//! Each connection is two tasks: one reads replies, judges them and queues the next requests; one sends what is
//! queued. Nobody waits for a particular request, so replies and requests travel in batches. When one connection
//! fails all end: which requests took effect is then for the ledger to say.

use crate::content;
use crate::ledger::{Before, Change, Ledger, Ticket};
use crate::report::{Class, Stats};
use crate::wire::{self, Command, Export, REPLY_LEN, Reply, Socket};
use crate::workload::{Action, Kind, Workload};
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};
use tokio_uring::BufResult;
use tokio_uring::buf::{BoundedBuf, Slice};

/// How a run treats its connections.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Requests in flight on each connection.
    pub depth: usize,
    /// A flush after so many writes of a connection; 0 for none.
    pub flush_every: u64,
    /// A flush at the end.
    pub flush_last: bool,
    /// Reads are judged.
    pub judge: bool,
    /// The longest payload, bytes.
    pub payload_max: usize,
    /// No request answered for this long is a hang.
    pub patience: Duration,
    pub end: Option<Instant>,
}

/// What all connections of a run share, also over reconnects.
pub struct Run {
    pub options: Options,
    pub begun: Instant,
    pub ledger: RefCell<Ledger>,
    pub work: RefCell<Workload>,
    pub stats: RefCell<Stats>,
    /// Nothing more is to be issued.
    pub stopping: Cell<bool>,
}

/// How a session ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SessionEnd {
    Finished,
    Lost(String),
    Hung(String),
}

/// What connections of one session share.
struct Session {
    run: Rc<Run>,
    export: Export,
    /// Answered and not yet flushed, per connection.
    unflushed: RefCell<Vec<Vec<Ticket>>>,
    lost: RefCell<Option<String>>,
    watch: Arc<Watch>,
}

/// Runs all connections to the end of the work or of the first connection.
pub async fn run_session(run: &Rc<Run>, sockets: Vec<Socket>, export: Export) -> std::io::Result<SessionEnd> {
    let handles = sockets.iter().map(Socket::try_clone).collect::<std::io::Result<Vec<Socket>>>()?;
    let watch = Watch::start(handles, run.options.patience);
    let session = Rc::new(Session {
        run: run.clone(),
        export,
        unflushed: RefCell::new(vec![Vec::new(); sockets.len()]),
        lost: RefCell::new(None),
        watch: watch.clone(),
    });
    let mut tasks = Vec::new();
    for (index, socket) in sockets.into_iter().enumerate() {
        let connection = Rc::new(Connection::new(session.clone(), index, Stream::from_std(socket)));
        tasks.push(tokio_uring::spawn(connection.clone().send_all()));
        tasks.push(tokio_uring::spawn(connection.receive_all()));
    }
    for task in tasks {
        task.await.expect("tasks do not panic");
    }
    watch.stop();
    let lost = session.lost.borrow_mut().take();
    Ok(match lost {
        None => SessionEnd::Finished,
        Some(_) if watch.hung.load(Ordering::Relaxed) => {
            SessionEnd::Hung(format!("no answer for {:.0} s", run.options.patience.as_secs_f64()))
        }
        Some(why) => SessionEnd::Lost(why),
    })
}

/// Ends all connections when nothing is answered for too long, or when one has failed.
struct Watch {
    answers: AtomicU64,
    over: AtomicBool,
    hung: AtomicBool,
    sockets: Vec<Socket>,
}

impl Watch {
    fn start(sockets: Vec<Socket>, patience: Duration) -> Arc<Watch> {
        let (answers, over, hung) = (AtomicU64::new(0), AtomicBool::new(false), AtomicBool::new(false));
        let watch = Arc::new(Watch { answers, over, hung, sockets });
        let thread = watch.clone();
        std::thread::spawn(move || thread.keep(patience));
        watch
    }

    fn keep(&self, patience: Duration) {
        let mut last = (0, Instant::now());
        while !self.over.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
            let answers = self.answers.load(Ordering::Relaxed);
            if answers != last.0 {
                last = (answers, Instant::now());
            } else if last.1.elapsed() > patience {
                self.hung.store(true, Ordering::Relaxed);
                return self.end_all();
            }
        }
    }

    fn end_all(&self) {
        self.sockets.iter().for_each(Socket::shutdown);
    }

    fn stop(&self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

enum Stream {
    Tcp(tokio_uring::net::TcpStream),
    Unix(tokio_uring::net::UnixStream),
}

impl Stream {
    fn from_std(socket: Socket) -> Stream {
        match socket {
            Socket::Tcp(s) => Stream::Tcp(tokio_uring::net::TcpStream::from_std(s)),
            Socket::Unix(s) => Stream::Unix(tokio_uring::net::UnixStream::from_std(s)),
        }
    }

    async fn read(&self, into: Slice<Vec<u8>>) -> BufResult<usize, Slice<Vec<u8>>> {
        match self {
            Stream::Tcp(s) => s.read(into).await,
            Stream::Unix(s) => s.read(into).await,
        }
    }

    async fn write_all(&self, from: Vec<u8>) -> BufResult<(), Vec<u8>> {
        match self {
            Stream::Tcp(s) => s.write_all(from).await,
            Stream::Unix(s) => s.write_all(from).await,
        }
    }
}

/// One request in flight.
struct InFlight {
    serial: u32,
    what: What,
    issued: Instant,
}

enum What {
    Read { action: Action, before: Vec<Before> },
    Change { ticket: Ticket, fua: bool },
    Flush { covered: Vec<Ticket> },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Working,
    FlushingLast,
    Over,
}

struct Connection {
    session: Rc<Session>,
    index: usize,
    stream: Stream,
    in_flight: RefCell<Slab<InFlight>>,
    serial: Cell<u32>,
    writes_since_flush: Cell<u64>,
    phase: Cell<Phase>,
    out: RefCell<Vec<u8>>,
    spare: RefCell<Vec<u8>>,
    sender: RefCell<Option<Waker>>,
}

impl Connection {
    fn new(session: Rc<Session>, index: usize, stream: Stream) -> Connection {
        Connection {
            session,
            index,
            stream,
            in_flight: RefCell::new(Slab::new()),
            serial: Cell::new(0),
            writes_since_flush: Cell::new(0),
            phase: Cell::new(Phase::Working),
            out: RefCell::new(Vec::new()),
            spare: RefCell::new(Vec::new()),
            sender: RefCell::new(None),
        }
    }

    fn run(&self) -> &Run {
        &self.session.run
    }

    async fn send_all(self: Rc<Connection>) {
        while let Some(bytes) = poll_fn(|cx| self.poll_queued(cx)).await {
            let (result, mut bytes) = self.stream.write_all(bytes).await;
            if let Err(error) = result {
                return self.lose(format!("sending: {error}"));
            }
            bytes.clear();
            *self.spare.borrow_mut() = bytes;
        }
    }

    /// Everything that is queued; None when nothing more will come.
    fn poll_queued(&self, cx: &mut std::task::Context<'_>) -> Poll<Option<Vec<u8>>> {
        let mut out = self.out.borrow_mut();
        if !out.is_empty() {
            return Poll::Ready(Some(std::mem::replace(&mut *out, self.spare.take())));
        }
        if self.phase.get() == Phase::Over {
            return Poll::Ready(None);
        }
        *self.sender.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }

    fn wake_sender(&self) {
        if let Some(waker) = self.sender.take() {
            waker.wake();
        }
    }

    async fn receive_all(self: Rc<Connection>) {
        if let Err(why) = self.receive().await {
            self.lose(why);
        }
    }

    async fn receive(&self) -> Result<(), String> {
        let longest = self.run().options.payload_max + REPLY_LEN;
        let mut buf = vec![0; (2 * longest).max(256 << 10)];
        let mut filled = 0;
        self.go_on();
        while self.phase.get() != Phase::Over {
            let (result, slice) = self.stream.read(buf.slice(filled..)).await;
            buf = slice.into_inner();
            match result {
                Ok(0) => return Err("the server closed the connection".to_owned()),
                Ok(received) => filled += received,
                Err(error) => return Err(format!("receiving: {error}")),
            }
            let used = self.take_replies(&buf[..filled])?;
            buf.copy_within(used..filled, 0);
            filled -= used;
            self.go_on();
        }
        Ok(())
    }

    /// Ends the whole session.
    fn lose(&self, why: String) {
        self.phase.set(Phase::Over);
        self.session.lost.borrow_mut().get_or_insert_with(|| format!("connection {}: {why}", self.index));
        self.session.watch.end_all();
        self.wake_sender();
    }

    /// Queues requests up to the depth, or the next step towards the end.
    fn go_on(&self) {
        let run = self.run();
        if run.options.end.is_some_and(|end| Instant::now() >= end) {
            run.stopping.set(true);
        }
        while !run.stopping.get() && self.in_flight.borrow().len() < run.options.depth {
            self.issue_next();
        }
        if self.in_flight.borrow().is_empty() {
            self.end_step();
        }
        self.wake_sender();
    }

    fn end_step(&self) {
        let flush = self.run().options.flush_last && self.session.export.has(wire::HAS_FLUSH);
        match self.phase.get() {
            Phase::Working if flush => {
                self.phase.set(Phase::FlushingLast);
                self.issue_flush();
            }
            Phase::Working | Phase::FlushingLast => {
                self.queue(Command::Disconnect, 0, 0, 0, 0);
                self.phase.set(Phase::Over);
            }
            Phase::Over => {}
        }
    }

    fn issue_next(&self) {
        let run = self.run();
        let every = run.options.flush_every;
        if every > 0 && self.writes_since_flush.get() >= every && self.session.export.has(wire::HAS_FLUSH) {
            return self.issue_flush();
        }
        let action = run.work.borrow_mut().next(|span| run.ledger.borrow().busy(span));
        match action {
            None => run.stopping.set(true),
            Some(action) => match change_of(action.kind) {
                None => self.issue_read(action),
                Some(change) => self.issue_change(action, change),
            },
        }
    }

    fn issue_read(&self, action: Action) {
        let ledger = self.run().ledger.borrow();
        let before = if self.run().options.judge { ledger.before_read(action.span) } else { Vec::new() };
        let cookie = self.begin(What::Read { action, before });
        self.queue_sectors(Command::Read, 0, cookie, action);
    }

    fn issue_change(&self, action: Action, change: Change) {
        let Some(ticket) = self.run().ledger.borrow_mut().issue(action.span, change) else {
            eprintln!("load: all stamps of this journal are used up; begin a new one on an empty volume");
            return self.run().stopping.set(true);
        };
        let fua = action.fua && self.session.export.has(wire::HAS_FUA);
        let cookie = self.begin(What::Change { ticket, fua });
        let flags = if fua { wire::COMMAND_FUA } else { 0 };
        let command = match change {
            Change::Write => Command::Write,
            Change::Zero => Command::WriteZeroes,
            Change::Trim => Command::Trim,
        };
        self.queue_sectors(command, flags, cookie, action);
        self.writes_since_flush.set(self.writes_since_flush.get() + 1);
        if change == Change::Write {
            let seed = self.run().ledger.borrow().journal().subject().seed;
            let mut out = self.out.borrow_mut();
            action.span.sectors().for_each(|sector| content::emit(seed, sector, ticket.stamp, &mut out));
        }
    }

    /// A flush covers what was answered before it is issued: everywhere if the server promises that, otherwise on
    /// this connection.
    fn issue_flush(&self) {
        let mut unflushed = self.session.unflushed.borrow_mut();
        let covered = if self.session.export.has(wire::HAS_MULTI_CONN) {
            unflushed.iter_mut().flat_map(std::mem::take).collect()
        } else {
            std::mem::take(&mut unflushed[self.index])
        };
        self.writes_since_flush.set(0);
        let cookie = self.begin(What::Flush { covered });
        self.queue(Command::Flush, 0, cookie, 0, 0);
    }

    fn begin(&self, what: What) -> u64 {
        let serial = self.serial.get().wrapping_add(1);
        self.serial.set(serial);
        let key = self.in_flight.borrow_mut().insert(InFlight { serial, what, issued: Instant::now() });
        u64::from(serial) << 32 | u64::try_from(key).expect("keys are below the depth")
    }

    fn queue_sectors(&self, command: Command, flags: u16, cookie: u64, action: Action) {
        let shift = self.run().ledger.borrow().journal().subject().shift;
        let length =
            u32::try_from(action.span.count * 512).expect("requests are bounded by the payload limit");
        self.queue(command, flags, cookie, shift + action.span.first * 512, length);
    }

    fn queue(&self, command: Command, flags: u16, cookie: u64, offset: u64, length: u32) {
        wire::Request { command, flags, cookie, offset, length }.emit(&mut self.out.borrow_mut());
    }

    /// Takes all whole replies from the front; returns how many bytes they were.
    fn take_replies(&self, bytes: &[u8]) -> Result<usize, String> {
        let mut rest = bytes;
        while let Some((header, after)) = rest.split_first_chunk::<REPLY_LEN>() {
            let reply = Reply::parse(header).ok_or("what came is not a simple reply")?;
            // The server's way to say goodbye: what is in flight is as if the connection had been lost.
            if reply.error == ESHUTDOWN {
                return Err("the server is shutting down".to_owned());
            }
            let payload_len = self.payload_of(reply)?;
            let Some((payload, after)) = after.split_at_checked(payload_len) else { break };
            self.complete(reply, payload);
            rest = after;
        }
        Ok(bytes.len() - rest.len())
    }

    fn payload_of(&self, reply: Reply) -> Result<usize, String> {
        let requests = self.in_flight.borrow();
        let request = requests.get(key_of(reply.cookie));
        let request = request.filter(|r| u64::from(r.serial) == reply.cookie >> 32);
        match request.map(|r| &r.what) {
            None => Err(format!("a reply to a request that is not in flight (cookie {:#x})", reply.cookie)),
            Some(What::Read { action, .. }) if reply.error == 0 => {
                Ok(usize::try_from(action.span.count * 512).expect("bounded by the payload limit"))
            }
            Some(What::Read { .. } | What::Change { .. } | What::Flush { .. }) => Ok(0),
        }
    }

    fn complete(&self, reply: Reply, payload: &[u8]) {
        self.session.watch.answers.fetch_add(1, Ordering::Relaxed);
        let request = self.in_flight.borrow_mut().remove(key_of(reply.cookie));
        let run = self.run();
        if reply.error != 0 {
            return self.complete_failed(request.what, reply.error);
        }
        let (class, bytes) = match request.what {
            What::Read { action, before } => {
                if run.options.judge {
                    let found = run.ledger.borrow_mut().answered_read(action.span, &before, payload);
                    run.stats.borrow_mut().mismatches(&found, run.begun.elapsed());
                }
                (Class::Read, action.span.count * 512)
            }
            What::Change { ticket, fua } => {
                run.ledger.borrow_mut().answered(ticket, fua);
                if !fua {
                    self.session.unflushed.borrow_mut()[self.index].push(ticket);
                }
                (Class::Write, ticket.span.count * 512)
            }
            What::Flush { covered } => {
                run.ledger.borrow_mut().flushed(&covered);
                (Class::Flush, 0)
            }
        };
        run.stats.borrow_mut().count(class, bytes, request.issued.elapsed());
    }

    fn complete_failed(&self, what: What, error: u32) {
        let run = self.run();
        let text = match what {
            What::Read { action, .. } => format!("read of sector {}", action.span.first),
            What::Change { ticket, .. } => {
                run.ledger.borrow_mut().failed(ticket);
                format!("change {} of sector {}", ticket.stamp, ticket.span.first)
            }
            What::Flush { .. } => "flush".to_owned(),
        };
        run.stats.borrow_mut().error(format!("{text}: error {error}"));
    }
}

/// NBD's number for it.
const ESHUTDOWN: u32 = 108;

fn key_of(cookie: u64) -> usize {
    usize::try_from(cookie & 0xffff_ffff).expect("masked")
}

fn change_of(kind: Kind) -> Option<Change> {
    match kind {
        Kind::Read => None,
        Kind::Write => Some(Change::Write),
        Kind::Zero => Some(Change::Zero),
        Kind::Trim => Some(Change::Trim),
    }
}
