//! Serving: listeners, spreading connections over cores, limits, and stopping with grace.
//!
//! Rank 8. One task per listener accepts, on any core, and hands each socket to the core with the fewest
//! connections through its `Desk`; from then on the connection lives on that core. Nothing here touches the
//! system but through the core's driver, so it runs in the simulator as it runs in a daemon, on one core or many.
//!
//! Stopping: listeners end, options are answered ERR_SHUTDOWN and new requests ESHUTDOWN, what is in flight is
//! finished and answered, then connections close. What is left when the grace has passed is cut.

mod accept;
mod desk;

pub use desk::Desk;

use crate::base::limits::{CONNECTIONS_MAX, HANDSHAKES_MAX, MEMORY_DEFAULT};
use crate::io::driver::{Address, Direction, SocketId};
use crate::link::House;
use crate::nvmf::controller::Fabric;
use crate::reactor::Core;
use crate::reactor::mailbox::{Sender, mailbox};
use crate::reactor::net::{Listener, stop};
use crate::reactor::sync::{WaitList, lock};
use crate::volume::catalog::Catalog;
use desk::{Message, Order};
use futures_util::future::select;
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use uuid::Uuid;

/// How long connections that were cut may take to end: their requests may hang on a drive.
const CUT_PATIENCE: Duration = Duration::from_secs(5);

/// What a target may use.
#[derive(Clone, Copy, Debug)]
pub struct TargetConfig {
    /// Bytes of payloads and replies, all connections together; at least twice the largest request.
    pub budget_bytes: u64,
    pub connections_max: usize,
    /// Negotiations at the same time; while there are so many, no further connection is accepted.
    pub handshakes_max: usize,
    /// How long a client may take to send a mebibyte of payload, or to read 256 KiB of replies.
    pub patience: Duration,
}

impl Default for TargetConfig {
    fn default() -> TargetConfig {
        TargetConfig {
            budget_bytes: MEMORY_DEFAULT,
            connections_max: CONNECTIONS_MAX,
            handshakes_max: HANDSHAKES_MAX,
            patience: Duration::from_secs(60),
        }
    }
}

/// What came of stopping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stopped {
    /// Connections that did not end by themselves in time.
    pub cut: usize,
    /// Of these, connections whose requests are still running.
    pub stuck: usize,
}

/// What is spoken at a listener.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    Nbd,
    NvmeTcp,
    /// The same, at an address that hosts only ask at.
    NvmeDiscovery,
}

/// A running target; clones are handles to the same.
#[derive(Clone)]
pub struct Target {
    shared: Arc<Shared>,
}

/// What listeners, desks and handles share.
struct Shared {
    house: Arc<House>,
    fabric: Arc<Fabric>,
    config: TargetConfig,
    desks: Vec<Sender<Message>>,
    /// Connections of each desk.
    loads: Vec<AtomicUsize>,
    handshakes: AtomicUsize,
    served: Mutex<BTreeMap<String, u32>>,
    listeners: Mutex<Vec<SocketId>>,
    stopping: AtomicBool,
    /// A connection or a handshake has ended, or stopping began.
    changed: WaitList,
}

impl Target {
    /// A target with a desk for each of `cores` cores; each core is to run `Desk::attend`.
    pub fn new(catalog: Arc<Catalog>, config: TargetConfig, cores: usize) -> (Target, Vec<Desk>) {
        assert!(cores > 0, "somebody has to serve");
        let (desks, receivers): (Vec<_>, Vec<_>) = (0..cores).map(|_| mailbox()).unzip();
        let shared = Arc::new(Shared {
            fabric: Arc::new(Fabric::new(catalog.clone())),
            house: Arc::new(House::new(catalog, config.budget_bytes, config.patience)),
            config,
            desks,
            loads: (0..cores).map(|_| AtomicUsize::new(0)).collect(),
            handshakes: AtomicUsize::new(0),
            served: Mutex::default(),
            listeners: Mutex::default(),
            stopping: AtomicBool::new(false),
            changed: WaitList::default(),
        });
        let attended = receivers.into_iter().enumerate();
        let desks = attended.map(|(index, receiver)| Desk::new(index, receiver, shared.clone())).collect();
        (Target { shared }, desks)
    }

    /// Listens on an address; a task of this core accepts. Returns the address with the port that it got.
    pub async fn listen(&self, core: &Core, address: Address, protocol: Protocol) -> Result<Address, Errno> {
        let listener = Listener::bind(core, address).await?;
        let address = listener.local_address().await?;
        if let (Address::Tcp(address), Protocol::NvmeTcp) = (&address, protocol) {
            self.shared.fabric.add_portal(*address, core.wall_ns());
        }
        lock(&self.shared.listeners).push(listener.socket());
        core.spawn(accept::run(core.clone(), listener, protocol, self.shared.clone()));
        Ok(address)
    }

    /// NVMe hosts that have the subsystem of a pool.
    pub fn hosts_of(&self, pool: Uuid) -> usize {
        self.shared.fabric.controllers_of(Some(pool)).len()
    }

    /// Connections that have an export of this name open.
    pub fn connections_of(&self, volume: &str) -> u32 {
        lock(&self.shared.served).get(volume).copied().unwrap_or(0)
    }

    /// Connections of each core, negotiating ones included.
    pub fn loads(&self) -> Vec<usize> {
        self.shared.loads.iter().map(|load| load.load(Ordering::Relaxed)).collect()
    }

    /// Bytes of the budget that nothing holds.
    pub fn budget_free(&self) -> u64 {
        self.shared.house.budget.free()
    }

    /// Stops serving; ends when every connection has ended, or some time after `grace` has passed. The desks' tasks
    /// end too.
    pub async fn stop(&self, core: &Core, grace: Duration) -> Stopped {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.shared.changed.wake_all();
        let listeners = std::mem::take(&mut *lock(&self.shared.listeners));
        for socket in listeners {
            stop(core, socket, Direction::Both).await;
        }
        self.shared.tell_desks(Order::Stop);
        let cut = self.shared.wait_for_ends(core, grace).await;
        self.shared.tell_desks(Order::Cut);
        let stuck = if cut > 0 { self.shared.wait_for_ends(core, CUT_PATIENCE).await } else { 0 };
        self.shared.tell_desks(Order::Close);
        Stopped { cut, stuck }
    }
}

impl Shared {
    fn connections(&self) -> usize {
        self.loads.iter().map(|load| load.load(Ordering::SeqCst)).sum()
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    fn tell_desks(&self, order: Order) {
        for desk in &self.desks {
            // A desk that is gone has no connections either.
            let _ = desk.send(Message::Order(order));
        }
    }

    /// Waits until there are no connections, `patience` at most; returns how many are left.
    async fn wait_for_ends(&self, core: &Core, patience: Duration) -> usize {
        let deadline = core.now() + patience;
        loop {
            let ticket = self.changed.ticket();
            let left = self.connections();
            if left == 0 || core.now() >= deadline {
                return left;
            }
            select(pin!(ticket), pin!(core.sleep_until(deadline))).await;
        }
    }

    /// Counts a connection that has a volume open, until the guard is dropped.
    fn serve_volume(self: &Arc<Shared>, name: &str) -> Served {
        *lock(&self.served).entry(name.to_owned()).or_insert(0) += 1;
        Served { shared: self.clone(), name: name.to_owned() }
    }
}

/// Counts a connection among those of its volume while it lives.
struct Served {
    shared: Arc<Shared>,
    name: String,
}

impl Drop for Served {
    fn drop(&mut self) {
        let mut served = lock(&self.shared.served);
        if let Some(count) = served.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                served.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
mod host_tests;
