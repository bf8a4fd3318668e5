//! A real server on the production driver, on threads of the test.

use drystone::io::driver::{Address, Driver};
use drystone::io::uring::{Handles, UringConfig, UringDriver};
use drystone::reactor::mailbox::{Sender, mailbox};
use drystone::reactor::threads::{CorePlan, DriverFactory, launch};
use drystone::reactor::{Core, CoreIndex};
use drystone::target::{Desk, Protocol, Stopped, Target, TargetConfig};
use drystone::volume::catalog::Catalog;
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

type CoreThread<T> = JoinHandle<Result<T, std::io::Error>>;

pub struct Server {
    pub address: SocketAddr,
    pub target: Target,
    stop: Sender<Duration>,
    first: Option<CoreThread<Stopped>>,
    others: Vec<CoreThread<()>>,
}

impl Server {
    /// Serves a catalog at these addresses; the first one is a TCP address.
    pub fn serve(
        catalog: Arc<Catalog>,
        config: TargetConfig,
        cores: usize,
        listeners: Vec<(Address, Protocol)>,
    ) -> Server {
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
        let of_thread = target.clone();
        let first = launch(plan(0), factory, move |core: Core| async move {
            for (address, protocol) in listeners {
                let address = of_thread.listen(&core, address, protocol).await.expect("a free address");
                address_out.send(address).expect("the test waits for it");
            }
            drop(address_out);
            core.spawn(first.attend(core.clone()));
            let grace = stops.receive().await.expect("sent by stop");
            of_thread.stop(&core, grace).await
        })
        .unwrap();
        let address = match address_in.recv_timeout(Duration::from_secs(20)).expect("the server starts") {
            Address::Tcp(address) => address,
            Address::Unix(path) => panic!("asked for TCP, got {path:?}"),
        };
        // Nobody is to find a later listener missing.
        while address_in.recv().is_ok() {}
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
