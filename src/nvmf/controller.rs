//! The controllers of all hosts, shared by the cores that their queues are on.
//!
//! ```text
//! Connect of an admin queue ─▶ created ──CC.EN──▶ enabled: I/O queues may come
//!                                 ▲                  │ CC.EN = 0, shutdown: they are closed
//!                                 └──────────────────┘
//! admin queue or keep-alive ends ─▶ closed: all its queues end, and it is forgotten when nothing of it runs any more
//! ```

use super::command::Status;
use super::fabrics::{CONTROLLER_MAX, Connect, HostName, QUEUES_MAX, Refusal, field};
use super::log_page::Traffic;
use super::subsystem::{DISCOVERY_NQN, pool_of};
use crate::io::time::Instant;
use crate::reactor::sync::{Ticket, WaitList, lock};
use crate::volume::catalog::Catalog;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex};
use uuid::Uuid;

/// What all NVMe connections of a target share.
pub struct Fabric {
    pub catalog: Arc<Catalog>,
    registry: Mutex<Registry>,
    /// A queue has ended for good.
    ended: WaitList,
    portals: Mutex<Vec<SocketAddr>>,
    /// What the discovery log's generation counts from, so that it differs after a restart.
    generation: AtomicU64,
}

#[derive(Default)]
struct Registry {
    controllers: BTreeMap<u16, Arc<Controller>>,
    /// Closed ones of which something still runs.
    leaving: Vec<Arc<Controller>>,
    /// The number that is tried next; zero: none was given yet.
    next: u16,
}

/// One association: a host, its admin queue and its I/O queues.
pub struct Controller {
    pub id: u16,
    pub host: HostName,
    pub subsystem: String,
    /// None: a discovery controller.
    pub pool: Option<Uuid>,
    queues: Mutex<Queues>,
    changed: WaitList,
    heard_ns: AtomicU64,
    traffic: Mutex<Flow>,
    /// Reservation notices that its admin queue has not seen: namespace and type (log page 80h).
    notices: Mutex<Vec<(u32, u8)>>,
}

/// The traffic of a controller: of its queues, and of those that have ended.
#[derive(Default)]
struct Flow {
    queues: Vec<Arc<QueueTraffic>>,
    past: Traffic,
}

#[derive(Default)]
struct Queues {
    enabled: bool,
    closed: bool,
    /// Counts how often the I/O queues were closed.
    term: u64,
    /// I/O queues that the host asked for and got.
    granted: u16,
    taken: BTreeSet<u16>,
    /// Connections that have not ended, the admin queue's included.
    seats: usize,
}

/// What went through one queue; written by its core alone.
#[derive(Default)]
pub struct QueueTraffic {
    pub reads: AtomicU64,
    pub writes: AtomicU64,
    pub read: AtomicU64,
    pub written: AtomicU64,
    /// Commands that reservations let pass, and those of them that have ended.
    pub admitted: AtomicU64,
    pub ended: AtomicU64,
}

impl QueueTraffic {
    /// A command is about to look at reservations. Who changes them sees it, or it sees the change.
    pub fn admit(&self) {
        self.admitted.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    pub fn end(&self) {
        self.ended.fetch_add(1, Ordering::SeqCst);
    }

    fn sum(&self) -> Traffic {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic {
            reads: of(&self.reads),
            writes: of(&self.writes),
            read: of(&self.read),
            written: of(&self.written),
        }
    }

    fn is_idle(&self) -> bool {
        let ended = self.ended.load(Ordering::SeqCst);
        self.admitted.load(Ordering::SeqCst) == ended
    }
}

/// A queue's place in its controller, until its connection has ended and nothing of it runs.
pub struct Seat {
    pub controller: Arc<Controller>,
    pub traffic: Arc<QueueTraffic>,
    fabric: Arc<Fabric>,
    queue: u16,
    term: u64,
}

impl Fabric {
    pub fn new(catalog: Arc<Catalog>) -> Fabric {
        Fabric {
            catalog,
            registry: Mutex::default(),
            ended: WaitList::default(),
            portals: Mutex::default(),
            generation: AtomicU64::new(0),
        }
    }

    /// An address that hosts can reach us at.
    pub fn add_portal(&self, address: SocketAddr, wall_ns: u64) {
        lock(&self.portals).push(address);
        // Seconds, with room for the changes of each.
        self.generation.fetch_max((wall_ns / 1_000_000_000) << 20, Ordering::AcqRel);
        self.catalog.note_change();
    }

    pub fn portals(&self) -> Vec<SocketAddr> {
        lock(&self.portals).clone()
    }

    /// Differs whenever the discovery log does.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire) + self.catalog.version()
    }

    /// Makes a controller for the host of an admin queue. `drawn` is a random number: numbers of controllers begin
    /// anywhere, so that a host that outlived a restart does not see one twice.
    ///
    /// # Errors
    /// What the host is to be told.
    pub fn create(
        self: &Arc<Fabric>,
        connect: &Connect,
        drawn: u16,
        now: Instant,
    ) -> Result<(Seat, Arc<Controller>), Refusal> {
        let pool = match connect.subsystem.as_str() {
            DISCOVERY_NQN => None,
            name => Some(self.pool_named(name)?),
        };
        let mut registry = lock(&self.registry);
        let id = registry.free_id(drawn).ok_or(Refusal::new(Status::CONNECT_BUSY).for_now())?;
        let controller = Arc::new(Controller {
            id,
            host: connect.host.clone(),
            subsystem: connect.subsystem.clone(),
            pool,
            queues: Mutex::new(Queues { seats: 1, ..Queues::default() }),
            changed: WaitList::default(),
            heard_ns: AtomicU64::new(now.as_ns()),
            traffic: Mutex::default(),
            notices: Mutex::default(),
        });
        registry.controllers.insert(id, controller.clone());
        Ok((self.seat(&controller, 0, 0), controller))
    }

    /// A subsystem is there while something of its pool is exported. One that is not may come: a pool that is opened.
    fn pool_named(&self, name: &str) -> Result<Uuid, Refusal> {
        let unknown = Refusal::data(field::SUBSYSTEM);
        let pool = pool_of(name).ok_or(unknown)?;
        let is_there = super::subsystem::Subsystem::of(&self.catalog, pool).is_some();
        if is_there { Ok(pool) } else { Err(unknown.for_now()) }
    }

    /// Gives an I/O queue its place.
    ///
    /// # Errors
    /// What the host is to be told, if not now, then for good.
    pub fn join(self: &Arc<Fabric>, connect: &Connect) -> Result<Seat, Refusal> {
        let found = lock(&self.registry).controllers.get(&connect.controller).cloned();
        let is_its = |c: &Arc<Controller>| c.subsystem == connect.subsystem && c.host == connect.host;
        // One that has gone may have been there a moment ago: hosts give up for good what is refused for good.
        let controller = found.filter(is_its).ok_or(Refusal::data(field::CONTROLLER).for_now())?;
        let term = controller.take_queue(connect.queue)?;
        Ok(self.seat(&controller, connect.queue, term))
    }

    fn seat(self: &Arc<Fabric>, controller: &Arc<Controller>, queue: u16, term: u64) -> Seat {
        let traffic: Arc<QueueTraffic> = Arc::default();
        lock(&controller.traffic).queues.push(traffic.clone());
        Seat { controller: controller.clone(), traffic, fabric: self.clone(), queue, term }
    }

    /// Whether requests of associations that this host gave up still run: what it sends again must not overtake them.
    pub fn has_leftovers(&self, controller: &Controller) -> bool {
        let registry = lock(&self.registry);
        let is_its = |c: &Controller| c.host == controller.host && c.pool == controller.pool;
        registry.leaving.iter().any(|c| is_its(c) && c.id != controller.id)
    }

    /// Ends when a queue has ended after this call.
    pub fn queue_ended(&self) -> Ticket<'_> {
        self.ended.ticket()
    }

    /// Ends a controller and all its queues.
    pub fn close(&self, controller: &Arc<Controller>) {
        let mut registry = lock(&self.registry);
        if registry.controllers.remove(&controller.id).is_some() {
            registry.leaving.push(controller.clone());
        }
        drop(registry);
        controller.close();
    }

    /// The controllers of a pool's subsystem, and closed ones of which something still runs.
    pub fn controllers_and_leftovers_of(&self, pool: Option<Uuid>) -> Vec<Arc<Controller>> {
        let registry = lock(&self.registry);
        registry.controllers.values().chain(&registry.leaving).filter(|c| c.pool == pool).cloned().collect()
    }

    /// The controllers of a pool's subsystem, by number.
    pub fn controllers_of(&self, pool: Option<Uuid>) -> Vec<Arc<Controller>> {
        lock(&self.registry).controllers.values().filter(|c| c.pool == pool).cloned().collect()
    }
}

impl Registry {
    fn free_id(&mut self, drawn: u16) -> Option<u16> {
        if self.next == 0 {
            self.next = drawn % CONTROLLER_MAX + 1;
        }
        for _ in 0..CONTROLLER_MAX {
            let id = self.next;
            self.next = id % CONTROLLER_MAX + 1;
            let is_free = !self.controllers.contains_key(&id) && self.leaving.iter().all(|c| c.id != id);
            if is_free {
                return Some(id);
            }
        }
        None
    }
}

impl Controller {
    /// I/O queues may come.
    pub fn enable(&self) {
        lock(&self.queues).enabled = true;
    }

    /// I/O queues are closed, and none may come.
    pub fn disable(&self) {
        let mut queues = lock(&self.queues);
        queues.enabled = false;
        queues.term += 1;
        drop(queues);
        self.changed.wake_all();
    }

    fn close(&self) {
        lock(&self.queues).closed = true;
        self.changed.wake_all();
    }

    /// Grants I/O queues; at least one, and no more than there may be.
    pub fn grant(&self, wanted: u16) -> u16 {
        let granted = wanted.clamp(1, QUEUES_MAX);
        lock(&self.queues).granted = granted;
        granted
    }

    pub fn granted(&self) -> u16 {
        lock(&self.queues).granted.max(1)
    }

    /// Whether only its admin queue is left.
    pub fn is_alone(&self) -> bool {
        lock(&self.queues).seats <= 1
    }

    fn take_queue(&self, id: u16) -> Result<u64, Refusal> {
        let mut queues = lock(&self.queues);
        let wrong = Refusal::command(field::QUEUE);
        if self.pool.is_none() {
            return Err(wrong);
        }
        // Before it is enabled no queue can have been granted: that is not the number's fault.
        if !queues.enabled || queues.closed {
            return Err(Refusal::new(Status::COMMAND_SEQUENCE).for_now());
        }
        if id == 0 || id > queues.granted {
            return Err(wrong);
        }
        if !queues.taken.insert(id) {
            return Err(Refusal::new(Status::INVALID_QUEUE).for_now());
        }
        queues.seats += 1;
        Ok(queues.term)
    }

    /// The host lives.
    pub fn heard(&self, now: Instant) {
        self.heard_ns.store(now.as_ns(), Ordering::Relaxed);
    }

    pub fn last_heard(&self) -> Instant {
        Instant::from_ns(self.heard_ns.load(Ordering::Relaxed))
    }

    /// Whether none of its commands runs that reservations let pass before this call.
    pub fn is_idle(&self) -> bool {
        fence(Ordering::SeqCst);
        lock(&self.traffic).queues.iter().all(|queue| queue.is_idle())
    }

    /// Has its admin queue tell something about reservations.
    pub fn notify(&self, namespace: u32, kind: u8) {
        lock(&self.notices).push((namespace, kind));
        self.changed.wake_all();
    }

    pub fn take_notices(&self) -> Vec<(u32, u8)> {
        std::mem::take(&mut *lock(&self.notices))
    }

    /// Ends when there may be notices, or the controller changes otherwise.
    pub fn changed(&self) -> Ticket<'_> {
        self.changed.ticket()
    }

    /// What its queues read and wrote.
    pub fn traffic(&self) -> Traffic {
        let flow = lock(&self.traffic);
        flow.queues.iter().fold(flow.past, |sum, queue| sum.with(&queue.sum()))
    }
}

impl Seat {
    /// Whether the queue may go on.
    pub fn is_wanted(&self) -> bool {
        let queues = lock(&self.controller.queues);
        !queues.closed && (self.queue == 0 || queues.term == self.term)
    }

    /// Ends when the queue is to end.
    pub async fn unwanted(&self) {
        loop {
            let ticket = self.controller.changed.ticket();
            if !self.is_wanted() {
                return;
            }
            ticket.await;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        {
            let mut flow = lock(&self.controller.traffic);
            flow.queues.retain(|queue| !Arc::ptr_eq(queue, &self.traffic));
            flow.past = flow.past.with(&self.traffic.sum());
        }
        let mut registry = lock(&self.fabric.registry);
        if self.queue == 0 && registry.controllers.remove(&self.controller.id).is_some() {
            registry.leaving.push(self.controller.clone());
        }
        let mut queues = lock(&self.controller.queues);
        queues.taken.remove(&self.queue);
        queues.seats -= 1;
        queues.closed |= self.queue == 0;
        if queues.seats == 0 {
            registry.leaving.retain(|c| !Arc::ptr_eq(c, &self.controller));
        }
        drop((queues, registry));
        self.controller.changed.wake_all();
        self.fabric.ended.wake_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::units::ByteLen;
    use crate::nvmf::subsystem::{all, nqn_of};
    use crate::volume::Volume;
    use crate::volume::memory::MemoryVolume;

    fn fabric() -> (Arc<Fabric>, Connect) {
        let catalog: Arc<Catalog> = Arc::default();
        catalog.insert(Arc::new(Volume::in_memory("data", MemoryVolume::new(ByteLen(1 << 20)))));
        let subsystem = nqn_of(all(&catalog)[0].pool);
        let connect = Connect {
            host: HostName { nqn: "nqn.host".to_owned(), id: [1; 16] },
            subsystem,
            controller: 0xffff,
            queue: 0,
            size: 32,
            no_flow_control: false,
            keep_alive_ms: 0,
        };
        (Arc::new(Fabric::new(catalog)), connect)
    }

    fn create(fabric: &Arc<Fabric>, connect: &Connect) -> (Seat, Arc<Controller>) {
        fabric.create(connect, 40_000, Instant::default()).unwrap_or_else(|why| panic!("{why:?}"))
    }

    fn error<T>(result: Result<T, Refusal>) -> Refusal {
        result.err().expect("it is refused")
    }

    #[test]
    fn numbers_are_unique_and_not_given_again_at_once() {
        let (fabric, connect) = fabric();
        let mut seen = BTreeSet::new();
        let (_kept, first) = create(&fabric, &connect);
        for _ in 0..10_000 {
            let (seat, controller) = create(&fabric, &connect);
            assert!(controller.id != first.id && seen.insert(controller.id) && controller.id <= 0xffef);
            drop(seat);
        }
        assert_eq!(fabric.controllers_of(first.pool).len(), 1);
    }

    #[test]
    fn io_queues_join_their_own_controller_once_it_is_enabled() {
        let (fabric, connect) = fabric();
        let (admin, controller) = create(&fabric, &connect);
        let io = Connect { controller: controller.id, queue: 1, ..connect.clone() };
        controller.grant(2);
        assert_eq!(error(fabric.join(&io)), Refusal::new(Status::COMMAND_SEQUENCE).for_now());
        controller.enable();
        let foreign = |io: Connect| error(fabric.join(&io)).field;
        let other = HostName { nqn: "nqn.other".to_owned(), id: [1; 16] };
        assert_eq!(foreign(Connect { host: other, ..io.clone() }), 16 | 1 << 16);
        assert_eq!(foreign(Connect { controller: controller.id + 1, ..io.clone() }), 16 | 1 << 16);
        assert_eq!(foreign(Connect { queue: 3, ..io.clone() }), 42);
        let seat = fabric.join(&io).unwrap_or_else(|why| panic!("{why:?}"));
        assert!(!error(fabric.join(&io)).for_good, "it may be free in a moment");
        assert!(seat.is_wanted() && admin.is_wanted());
        controller.disable();
        assert!(!seat.is_wanted() && admin.is_wanted(), "a reset ends the I/O queues alone");
    }

    #[test]
    fn what_a_closed_controller_still_does_is_known_until_it_ends() {
        let (fabric, connect) = fabric();
        let (admin, controller) = create(&fabric, &connect);
        controller.grant(1);
        controller.enable();
        let io = Connect { controller: controller.id, queue: 1, ..connect.clone() };
        let seat = fabric.join(&io).unwrap_or_else(|why| panic!("{why:?}"));
        drop(admin);
        assert!(!seat.is_wanted(), "the admin queue takes all with it");
        let (_admin, next) = create(&fabric, &connect);
        assert!(fabric.has_leftovers(&next));
        drop(seat);
        assert!(!fabric.has_leftovers(&next));
    }

    #[test]
    fn discovery_controllers_have_no_io_queues() {
        let (fabric, connect) = fabric();
        let discovery = Connect { subsystem: DISCOVERY_NQN.to_owned(), ..connect.clone() };
        let (_admin, controller) = create(&fabric, &discovery);
        controller.grant(1);
        controller.enable();
        let io = Connect { controller: controller.id, queue: 1, ..discovery };
        assert_eq!(error(fabric.join(&io)).field, 42);
        let nobody = Connect { subsystem: "nqn.nobody".to_owned(), ..connect };
        assert!(error(fabric.create(&nobody, 1, Instant::default())).for_good);
    }
}
