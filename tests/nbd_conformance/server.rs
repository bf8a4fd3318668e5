//! A real server on the production driver, on threads of the test.

use drystone::base::units::ByteLen;
use drystone::io::driver::{Address, Driver};
use drystone::io::uring::{Handles, UringConfig, UringDriver};
use drystone::reactor::mailbox::{Sender, mailbox};
use drystone::reactor::threads::{CorePlan, DriverFactory, launch};
use drystone::reactor::{Core, CoreIndex};
use drystone::target::{Desk, Protocol, Stopped, Target, TargetConfig};
use drystone::volume::Volume;
use drystone::volume::catalog::Catalog;
use drystone::volume::memory::MemoryVolume;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

/// The size of the volume that most tests use.
pub const SIZE: u64 = 64 << 20;

type CoreThread<T> = JoinHandle<Result<T, std::io::Error>>;

pub struct Server {
    pub address: SocketAddr,
    pub target: Target,
    stop: Sender<Duration>,
    first: Option<CoreThread<Stopped>>,
    others: Vec<CoreThread<()>>,
}

/// One volume of `SIZE` bytes named "tank", one core.
pub fn tank() -> Server {
    Server::start(vec![("tank", MemoryVolume::new(ByteLen(SIZE)))])
}

impl Server {
    pub fn start(volumes: Vec<(&str, MemoryVolume)>) -> Server {
        Server::start_with(volumes, TargetConfig::default(), 1, None)
    }

    pub fn start_with(
        volumes: Vec<(&str, MemoryVolume)>,
        config: TargetConfig,
        cores: usize,
        unix: Option<&Path>,
    ) -> Server {
        let catalog = Arc::new(Catalog::default());
        for (name, memory) in volumes {
            catalog.insert(Arc::new(Volume::in_memory(name, memory)));
        }
        let (target, mut desks) = Target::new(catalog, config, cores);
        let factory = factory();
        let others = desks
            .split_off(1)
            .into_iter()
            .map(|desk| launch(plan(desk.index()), factory.clone(), |core| desk.attend(core)).unwrap())
            .collect();
        let (stop, mut stops) = mailbox::<Duration>();
        let (address_out, address_in) = mpsc::channel();
        let first: Desk = desks.pop().expect("at least one core");
        let (of_thread, unix) = (target.clone(), unix.map(Path::to_owned));
        let first = launch(plan(0), factory, move |core: Core| async move {
            let any = Address::Tcp("127.0.0.1:0".parse().unwrap());
            let address = of_thread.listen(&core, any, Protocol::Nbd).await.expect("a free port");
            if let Some(path) = unix {
                of_thread.listen(&core, Address::Unix(path), Protocol::Nbd).await.expect("a free path");
            }
            address_out.send(address).expect("the test waits for it");
            core.spawn(first.attend(core.clone()));
            let grace = stops.receive().await.expect("sent by stop");
            of_thread.stop(&core, grace).await
        })
        .unwrap();
        let address = match address_in.recv_timeout(Duration::from_secs(20)).expect("the server starts") {
            Address::Tcp(address) => address,
            Address::Unix(path) => panic!("asked for TCP, got {path:?}"),
        };
        Server { address, target, stop, first: Some(first), others }
    }

    /// Asks the server to stop; `stopped` has what came of it.
    pub fn begin_stop(&self, grace: Duration) {
        self.stop.send(grace).expect("the first core runs");
    }

    /// Waits for the end of a server that was asked to stop.
    pub fn stopped(mut self) -> Stopped {
        self.join()
    }

    pub fn stop(self, grace: Duration) -> Stopped {
        self.begin_stop(grace);
        self.stopped()
    }

    fn join(&mut self) -> Stopped {
        let first = self.first.take().expect("joined once");
        let stopped = first.join().expect("the first core does not panic").expect("it started");
        for other in self.others.drain(..) {
            other.join().expect("no core panics").expect("it started");
        }
        stopped
    }
}

impl Drop for Server {
    /// A server that a test left running is stopped, and must not have panicked.
    fn drop(&mut self) {
        if self.first.is_some() && !std::thread::panicking() {
            self.begin_stop(Duration::ZERO);
            self.join();
        }
    }
}

fn plan(index: usize) -> CorePlan {
    let index = CoreIndex(u16::try_from(index).unwrap());
    CorePlan { index, cpu: None, arena: 32 << 20, seed: u64::from(index.0) }
}

fn factory() -> DriverFactory<std::io::Error> {
    let handles = Handles::new();
    Arc::new(move |buffers| {
        let driver = UringDriver::new(UringConfig::default(), buffers, handles.clone());
        driver.map(|driver| Box::new(driver) as Box<dyn Driver>).map_err(std::io::Error::other)
    })
}
