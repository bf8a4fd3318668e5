//! The executor of one core.
//!
//! A turn runs every task that is ready, then hands the submitted operations to the driver and collects what has
//! ended; when nothing is ready the core parks in the driver until a completion, a timer or an unpark.
//!
//! Wakers may be called from any thread: they push the task's key on a queue and unpark the core only if it
//! sleeps. A task runs on the core that spawned it and on no other.

use super::op::{OpFuture, Ops};
use super::timers::{Sleep, Timers};
#[cfg(any(test, feature = "planted-bugs"))]
use crate::base::planted::{Plantable, Planted};
use crate::base::prng::Prng;
use crate::base::units::ByteOffset;
use crate::io::buf::{Buf, BufMut, BufPool};
use crate::io::driver::{Completion, Done, Driver, FileId, LastingMemory, Op, Unpark};
use crate::io::time::Instant;
use crossbeam::queue::SegQueue;
use nix::errno::Errno;
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

/// A core's number within the process, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct CoreIndex(pub u16);

/// Rounds of ready tasks before the driver has its turn.
const ROUNDS_PER_TURN: usize = 4;

/// What a turn found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Turn {
    /// Something ran or completed; another turn may find more.
    pub busy: bool,
    /// When the earliest timer is due.
    pub due: Option<Instant>,
}

/// A handle to one core; clones are handles to the same core and stay on its thread.
#[derive(Clone)]
pub struct Core {
    inner: Rc<Inner>,
}

struct Inner {
    index: CoreIndex,
    driver: RefCell<Box<dyn Driver>>,
    buffers: BufPool,
    prng: RefCell<Prng>,
    tasks: RefCell<Slab<Task>>,
    ready: Arc<Ready>,
    ops: RefCell<Ops>,
    timers: RefCell<Timers>,
    completions: RefCell<Vec<Completion>>,
    serial: Cell<u64>,
    turn_at: Cell<Instant>,
    #[cfg(any(test, feature = "planted-bugs"))]
    planted: Cell<Planted>,
}

struct Task {
    future: Option<Pin<Box<dyn Future<Output = ()>>>>,
    waker: Waker,
    handle: Arc<TaskWaker>,
}

/// The keys of tasks to run, filled from any thread.
struct Ready {
    queue: SegQueue<(usize, u64)>,
    asleep: AtomicBool,
    unpark: Arc<dyn Unpark>,
}

struct TaskWaker {
    key: usize,
    serial: u64,
    queued: AtomicBool,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        self.ready.queue.push((self.key, self.serial));
        // Pairs with `park`: it says that it sleeps before it looks at the queue for the last time.
        if self.ready.asleep.load(Ordering::SeqCst) {
            self.ready.unpark.unpark();
        }
    }
}

#[cfg(any(test, feature = "planted-bugs"))]
impl Plantable for Core {
    fn planted(&self) -> Planted {
        self.inner.planted.get()
    }
}

impl Core {
    /// Plants a bug in what runs on this core.
    #[cfg(any(test, feature = "planted-bugs"))]
    pub fn plant(&self, bug: Planted) {
        self.inner.planted.set(bug);
    }

    pub fn new(index: CoreIndex, driver: Box<dyn Driver>, buffers: BufPool, prng: Prng) -> Core {
        let ready = Arc::new(Ready {
            queue: SegQueue::new(),
            asleep: AtomicBool::new(false),
            unpark: driver.unparker(),
        });
        let turn_at = Cell::new(driver.now());
        let inner = Inner {
            index,
            driver: RefCell::new(driver),
            buffers,
            prng: RefCell::new(prng),
            tasks: RefCell::default(),
            ready,
            ops: RefCell::default(),
            timers: RefCell::default(),
            completions: RefCell::default(),
            serial: Cell::new(0),
            turn_at,
            #[cfg(any(test, feature = "planted-bugs"))]
            planted: Cell::default(),
        };
        Core { inner: Rc::new(inner) }
    }

    pub fn index(&self) -> CoreIndex {
        self.inner.index
    }

    pub fn now(&self) -> Instant {
        self.inner.driver.borrow().now()
    }

    /// When this turn began: `now` for what is noted with every request.
    pub fn turn_at(&self) -> Instant {
        self.inner.turn_at.get()
    }

    /// Wall-clock time, nanoseconds since 1970, for records that people read.
    pub fn wall_ns(&self) -> u64 {
        self.inner.driver.borrow().wall_ns()
    }

    pub fn buffers(&self) -> &BufPool {
        &self.inner.buffers
    }

    /// Memory that outlives this process; see `Driver::lasting_memory`.
    pub fn lasting_memory(&self, path: &Path, words: usize) -> Result<Arc<dyn LastingMemory>, Errno> {
        self.inner.driver.borrow().lasting_memory(path, words)
    }

    /// Draws from this core's generator.
    pub fn with_prng<T>(&self, draw: impl FnOnce(&mut Prng) -> T) -> T {
        draw(&mut self.inner.prng.borrow_mut())
    }

    /// Starts a task; it runs for the first time in the next turn.
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        let serial = self.inner.serial.get();
        self.inner.serial.set(serial + 1);
        let mut tasks = self.inner.tasks.borrow_mut();
        let entry = tasks.vacant_entry();
        let ready = self.inner.ready.clone();
        let handle = Arc::new(TaskWaker { key: entry.key(), serial, queued: AtomicBool::new(false), ready });
        handle.wake_by_ref();
        entry.insert(Task { future: Some(Box::pin(future)), waker: handle.clone().into(), handle });
    }

    /// Submits an operation when first polled; dropping the future does not cancel the operation.
    pub fn op(&self, op: Op) -> OpFuture {
        OpFuture::new(self.clone(), op)
    }

    /// Reads from a file whose bytes are memory; false if an operation is needed. See `Driver::read_now`.
    pub fn read_now(&self, file: FileId, offset: ByteOffset, into: &mut BufMut) -> bool {
        self.with_driver(|driver| driver.read_now(file, offset, into))
    }

    /// Writes to a file whose bytes are memory; false if an operation is needed. See `Driver::write_now`.
    pub fn write_now(&self, file: FileId, offset: ByteOffset, from: &Buf) -> bool {
        self.with_driver(|driver| driver.write_now(file, offset, from))
    }

    /// Submits an operation whose end nobody waits for.
    pub fn submit_detached(&self, op: Op) {
        let token = self.inner.ops.borrow_mut().begin_detached();
        self.inner.driver.borrow_mut().submit(token, op);
    }

    /// Waits until `duration` has passed.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        self.sleep_until(self.now() + duration)
    }

    pub fn sleep_until(&self, until: Instant) -> Sleep {
        Sleep::new(self.clone(), until)
    }

    /// Runs what is ready and collects completions, without waiting.
    pub fn turn(&self) -> Turn {
        let ran = self.run_rounds();
        let completed = self.collect();
        let due = self.inner.timers.borrow().next_due();
        let fired = due.is_some() && self.fire_timers();
        Turn { busy: ran || completed || fired || !self.inner.ready.queue.is_empty(), due }
    }

    /// Waits until something may be ready, `until` at the latest.
    pub fn park(&self, until: Option<Instant>) {
        self.inner.ready.asleep.store(true, Ordering::SeqCst);
        if self.inner.ready.queue.is_empty() {
            self.inner.driver.borrow_mut().park(until);
        }
        self.inner.ready.asleep.store(false, Ordering::SeqCst);
    }

    /// Runs tasks until this future has ended.
    pub fn run_until<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> T {
        let slot: Rc<RefCell<Option<T>>> = Rc::default();
        let out = slot.clone();
        self.spawn(async move {
            let value = future.await;
            *out.borrow_mut() = Some(value);
        });
        loop {
            self.run_rounds();
            if let Some(value) = slot.borrow_mut().take() {
                return value;
            }
            let due = self.inner.timers.borrow().next_due();
            // One way into the kernel per round: parking hands over what was submitted and waits, collecting after
            // it finds what has ended in shared memory.
            if self.inner.ready.queue.is_empty() {
                self.park(due);
            }
            self.collect();
            if due.is_some() {
                self.fire_timers();
            }
        }
    }

    /// Operations that have been submitted and have not completed.
    pub fn ops_in_flight(&self) -> usize {
        self.inner.ops.borrow().in_flight()
    }

    /// Drops all tasks and waits for the operations that the driver still holds. Buffers stay valid until then.
    pub fn drain(&self) {
        loop {
            // Dropping a task may spawn or submit (closing a socket), so the slab is emptied one task at a time.
            let task = {
                let mut tasks = self.inner.tasks.borrow_mut();
                let key = tasks.iter().map(|(key, _)| key).next();
                key.map(|key| tasks.remove(key))
            };
            if task.is_none() {
                break;
            }
        }
        while self.ops_in_flight() > 0 {
            if !self.collect() {
                self.inner.driver.borrow_mut().park(None);
            }
        }
    }

    /// Runs what is ready and what that makes ready, a few times over: what these submit reaches the kernel in one
    /// call.
    fn run_rounds(&self) -> bool {
        let ran = (0..ROUNDS_PER_TURN).take_while(|_| self.run_ready()).count();
        ran > 0
    }

    fn run_ready(&self) -> bool {
        let mut ran = false;
        // Only what is queued now: a task that wakes itself runs again after the others.
        for _ in 0..self.inner.ready.queue.len() {
            let Some((key, serial)) = self.inner.ready.queue.pop() else { break };
            ran = true;
            self.run_task(key, serial);
        }
        ran
    }

    fn run_task(&self, key: usize, serial: u64) {
        let taken = {
            let mut tasks = self.inner.tasks.borrow_mut();
            match tasks.get_mut(key) {
                Some(task) if task.handle.serial == serial => {
                    // Not queued from here on: a wake during the poll queues the task again.
                    task.handle.queued.store(false, Ordering::Release);
                    task.future.take().map(|f| (f, task.waker.clone()))
                }
                Some(_) | None => None,
            }
        };
        let Some((mut future, waker)) = taken else { return };
        let poll = future.as_mut().poll(&mut Context::from_waker(&waker));
        let ended = {
            let mut tasks = self.inner.tasks.borrow_mut();
            match poll {
                Poll::Ready(()) => Some(tasks.remove(key)),
                Poll::Pending => {
                    if let Some(task) = tasks.get_mut(key) {
                        task.future = Some(future);
                    }
                    return;
                }
            }
        };
        // The future's values are dropped with no borrow held: their Drop may spawn or submit.
        drop(future);
        drop(ended);
    }

    fn collect(&self) -> bool {
        let mut completions = self.inner.completions.take();
        self.inner.driver.borrow_mut().reap(&mut completions);
        self.inner.turn_at.set(self.now());
        let any = !completions.is_empty();
        for completion in completions.drain(..) {
            let unclaimed = self.inner.ops.borrow_mut().complete(completion);
            if let Some(done) = unclaimed {
                self.close_unclaimed(&done);
            }
        }
        *self.inner.completions.borrow_mut() = completions;
        any
    }

    /// What was opened for a future that was dropped meanwhile is closed again.
    fn close_unclaimed(&self, done: &Done) {
        match done {
            Done::Opened(Ok(opened)) => self.submit_detached(Op::Close { file: opened.file }),
            Done::Socket(Ok(socket)) => self.submit_detached(Op::CloseSocket { socket: *socket }),
            Done::Accepted(Ok(accepted)) => self.submit_detached(Op::CloseSocket { socket: accepted.socket }),
            _ => {}
        }
    }

    fn fire_timers(&self) -> bool {
        let now = self.now();
        let due = self.inner.timers.borrow_mut().take_due(now);
        let any = !due.is_empty();
        due.into_iter().for_each(Waker::wake);
        any
    }

    pub(super) fn with_ops<T>(&self, f: impl FnOnce(&mut Ops) -> T) -> T {
        f(&mut self.inner.ops.borrow_mut())
    }

    pub(super) fn with_timers<T>(&self, f: impl FnOnce(&mut Timers) -> T) -> T {
        f(&mut self.inner.timers.borrow_mut())
    }

    pub(super) fn with_driver<T>(&self, f: impl FnOnce(&mut dyn Driver) -> T) -> T {
        f(self.inner.driver.borrow_mut().as_mut())
    }
}
