//! Our own NVMe/TCP host against our own target, on real sockets: everything that a host asks for, once.

use super::{Protocol, Target, TargetConfig};
use crate::base::units::{ByteLen, Span};
use crate::block::Payload;
use crate::io::driver::{Address, Driver};
use crate::io::uring::{Handles, UringConfig, UringDriver};
use crate::nvmf::command::Status;
use crate::nvmf::host::discovery::Kind;
use crate::nvmf::host::{Host, HostError, HostOptions, Queue, Refusal, ZeroWish};
use crate::nvmf::pdu::Digests;
use crate::nvmf::subsystem::nqn_of;
use crate::reactor::threads::{CorePlan, DriverFactory, build};
use crate::reactor::{Core, CoreIndex};
use crate::volume::Volume;
use crate::volume::catalog::Catalog;
use crate::volume::memory::MemoryVolume;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

const SIZE: u64 = 8 << 20;

/// A target with two volumes, and where it is.
struct Served {
    core: Core,
    target: Target,
    address: Address,
    subsystem: String,
    volumes: [Arc<Volume>; 2],
}

impl Served {
    async fn start(core: &Core) -> Served {
        let volume = |name| Arc::new(Volume::in_memory(name, MemoryVolume::new(ByteLen(SIZE))));
        let volumes = [volume("data"), volume("more")];
        let catalog = Arc::new(Catalog::default());
        volumes.iter().for_each(|volume| catalog.insert(volume.clone()));
        let (target, desks) = Target::new(catalog, TargetConfig::default(), 1);
        desks.into_iter().for_each(|desk| core.spawn(desk.attend(core.clone())));
        let any = Address::Tcp("127.0.0.1:0".parse().unwrap());
        let address = target.listen(core, any, Protocol::NvmeTcp).await.unwrap();
        let subsystem = nqn_of(volumes[0].identity().pool);
        Served { core: core.clone(), target, address, subsystem, volumes }
    }

    async fn connect(&self, options: HostOptions) -> Result<Host, HostError> {
        Host::connect(&self.core, self.address.clone(), &self.subsystem, options).await
    }

    /// A host, and a queue to the first volume.
    async fn queue(&self, options: HostOptions) -> (Host, Queue) {
        let host = self.connect(options).await.unwrap();
        let namespace = host.namespace(self.volumes[0].identity().number).await.unwrap();
        let queue = host.queue(&namespace).await.unwrap();
        (host, queue)
    }

    async fn stop(self) {
        let stopped = self.target.stop(&self.core, Duration::from_secs(2)).await;
        assert_eq!(stopped.stuck, 0);
    }
}

fn with_target<F: Future<Output = ()> + 'static>(work: impl FnOnce(Served) -> F + 'static) {
    let handles = Handles::new();
    let factory: DriverFactory<std::io::Error> = Arc::new(move |buffers| {
        let driver = UringDriver::new(UringConfig::default(), buffers, handles.clone());
        Ok(Box::new(driver.map_err(std::io::Error::other)?) as Box<dyn Driver>)
    });
    let plan = CorePlan { index: CoreIndex(0), cpu: None, arena: 32 << 20, seed: 1 };
    let core = build(plan, &factory).unwrap();
    core.run_until({
        let core = core.clone();
        async move { work(Served::start(&core).await).await }
    });
    core.drain();
}

fn options(digests: Digests) -> HostOptions {
    HostOptions { digests, ..HostOptions::of(Uuid::from_u128(7)) }
}

fn pattern(core: &Core, len: u64, seed: u8) -> Payload {
    let mut parts = Payload::default();
    let mut left = ByteLen(len).as_usize();
    while left > 0 {
        let mut buf = core.buffers().take(left.min(1 << 20));
        let at = ByteLen(len).as_usize() - left;
        let byte = |(i, b): (usize, &mut u8)| *b = ((at + i) % 251) as u8 ^ seed;
        buf.as_mut_slice().iter_mut().enumerate().for_each(byte);
        left -= buf.len();
        parts.parts.push(buf.freeze());
    }
    parts
}

/// Sizes below and above what lies behind a command, and above what one command may move.
const LENGTHS: [u64; 7] = [512, 4096, 8192, 8704, 16_384, 1 << 20, 3 << 20];

async fn write_and_read(served: &Served, queue: &Queue, other: &Queue) {
    for (seed, len) in (1..).zip(LENGTHS) {
        let span = Span::at(512 * u64::from(seed), len);
        queue.write(span, pattern(&served.core, len, seed), seed % 2 == 0).await.unwrap();
        let read = other.read(span).await.unwrap();
        assert!(read.to_vec() == pattern(&served.core, len, seed).to_vec(), "{len}");
        assert_eq!(other.compare(span, pattern(&served.core, len, seed)).await, Ok(true), "{len}");
        assert_eq!(other.compare(span, pattern(&served.core, len, seed + 1)).await, Ok(false), "{len}");
    }
    queue.flush().await.unwrap();
}

#[test]
fn what_one_queue_writes_another_reads_with_every_digest() {
    with_target(|served| async move {
        for bits in 0..4u8 {
            let digests = Digests { header: bits & 1 == 1, data: bits & 2 == 2 };
            let (host, queue) = served.queue(options(digests)).await;
            let other = host.queue(queue.namespace()).await.unwrap();
            write_and_read(&served, &queue, &other).await;
            drop((queue, other));
            assert_eq!(host.disconnect().await, Ok(()), "{digests:?}");
        }
        served.stop().await;
    });
}

#[test]
fn zeroes_and_deallocated_space_read_as_zeroes() {
    with_target(|served| async move {
        let (_host, queue) = served.queue(options(Digests::default())).await;
        let all = Span::at(0, SIZE);
        for deallocate in [false, true] {
            queue.write(all, pattern(&served.core, SIZE, 9), false).await.unwrap();
            let wish = ZeroWish { fua: true, deallocate };
            queue.write_zeroes(Span::at(4096, SIZE - 8192), wish).await.unwrap();
            let read = queue.read(all).await.unwrap().to_vec();
            let (head, tail) = (4096, read.len() - 4096);
            assert!(read[head..tail].iter().all(|b| *b == 0));
            assert!(read[..head].iter().any(|b| *b != 0) && read[tail..].iter().any(|b| *b != 0));
        }
        queue.write(all, pattern(&served.core, SIZE, 9), false).await.unwrap();
        let ranges: Vec<Span> = (0..300).map(|at| Span::at(at * 8192, 4096)).collect();
        queue.deallocate(&ranges).await.unwrap();
        let read = queue.read(all).await.unwrap().to_vec();
        let zero = |block: usize| read[block * 4096..(block + 1) * 4096].iter().all(|b| *b == 0);
        assert!((0..600).all(|block| zero(block) == (block % 2 == 0)));
        served.stop().await;
    });
}

#[test]
fn volumes_are_namespaces_with_their_identity_and_size() {
    with_target(|served| async move {
        let host = served.connect(options(Digests::default())).await.unwrap();
        let mut numbers = served.volumes.each_ref().map(|volume| volume.identity().number);
        numbers.sort_unstable();
        assert_eq!(host.namespaces().await, Ok(numbers.to_vec()));
        for volume in &served.volumes {
            let namespace = host.namespace(volume.identity().number).await.unwrap();
            assert_eq!((namespace.size, namespace.uuid), (SIZE, Some(volume.identity().volume)));
        }
        let unknown = host.namespace(1_000_000).await.unwrap_err();
        assert_eq!(unknown, HostError::Refused(Refusal::NoNamespace(1_000_000)));
        served.stop().await;
    });
}

#[test]
fn requests_at_the_same_time_get_their_own_data() {
    with_target(|served| async move {
        let (_host, queue) = served.queue(options(Digests { header: true, data: true })).await;
        let writes = (0..64u8).map(|n| {
            let (queue, data) = (queue.clone(), pattern(&served.core, 20_480, n));
            async move { queue.write(Span::at(u64::from(n) * 32_768, 20_480), data, false).await }
        });
        futures_util::future::try_join_all(writes).await.unwrap();
        let reads = (0..64u8).map(|n| {
            let (queue, core) = (queue.clone(), served.core.clone());
            async move {
                let read = queue.read(Span::at(u64::from(n) * 32_768, 20_480)).await?;
                assert!(read.to_vec() == pattern(&core, 20_480, n).to_vec(), "{n}");
                Ok::<(), HostError>(())
            }
        });
        futures_util::future::try_join_all(reads).await.unwrap();
        served.stop().await;
    });
}

#[test]
fn discovery_names_the_subsystem_and_where_it_is() {
    with_target(|served| async move {
        let found = Host::discover(&served.core, served.address.clone(), options(Digests::default())).await;
        let found = found.unwrap();
        let record = found.iter().find(|record| record.kind == Kind::Subsystem).unwrap();
        let Address::Tcp(address) = &served.address else { unreachable!("listens on TCP") };
        assert_eq!(record.subsystem, served.subsystem);
        assert_eq!((record.address.as_str(), &record.service), ("127.0.0.1", &address.port().to_string()));
        assert!(record.tcp && !record.secure);
        served.stop().await;
    });
}

#[test]
fn a_host_is_seen_until_it_ends_in_order_and_an_unknown_subsystem_refuses_it() {
    with_target(|served| async move {
        let pool = served.volumes[0].identity().pool;
        let (host, queue) = served.queue(options(Digests::default())).await;
        assert_eq!(served.target.hosts_of(pool), 1);
        host.disconnect().await.unwrap();
        assert_eq!(queue.flush().await, Err(HostError::Closed));
        served.core.sleep(Duration::from_millis(200)).await;
        assert_eq!(served.target.hosts_of(pool), 0);
        let nobody = nqn_of(Uuid::from_u128(1));
        let refused =
            Host::connect(&served.core, served.address.clone(), &nobody, options(Digests::default())).await;
        let Err(HostError::Refused(Refusal::Command { failure, .. })) = refused else { panic!("refused") };
        assert_eq!(failure.status, Status::CONNECT_PARAMETERS);
        served.stop().await;
    });
}

#[test]
fn an_idle_host_stays_as_long_as_it_sends_keep_alive() {
    with_target(|served| async move {
        let short = HostOptions { keep_alive: Duration::from_secs(1), ..options(Digests::default()) };
        let (_host, queue) = served.queue(short).await;
        served.core.sleep(Duration::from_secs(5)).await;
        assert!(queue.read(Span::at(0, 4096)).await.is_ok());
        served.stop().await;
    });
}

#[test]
fn a_target_that_stops_ends_its_hosts() {
    with_target(|served| async move {
        let (host, queue) = served.queue(options(Digests::default())).await;
        served.stop().await;
        assert!(matches!(queue.end().await, HostError::Closed | HostError::Socket(_)));
        assert!(host.namespaces().await.is_err());
    });
}
