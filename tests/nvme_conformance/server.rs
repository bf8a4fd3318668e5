//! Servers with volumes in memory that speak NVMe/TCP.

use crate::host::{Conn, Connect, Host};
pub use crate::shared::Server;
use drystone::base::units::{ByteLen, Span};
use drystone::io::driver::Address;
use drystone::target::{Protocol, TargetConfig};
use drystone::volume::Volume;
use drystone::volume::catalog::Catalog;
use drystone::volume::memory::MemoryVolume;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The size of most volumes, bytes.
pub const SIZE: u64 = 64 << 20;

/// The range of "bad" that cannot be read or written: the second MiB.
pub const BAD: (u64, u64) = (1 << 20, 1 << 20);

pub struct Rig {
    pub server: Server,
    pub catalog: Arc<Catalog>,
    /// The name of the subsystem.
    pub subsystem: String,
    /// The namespace "tank": 64 MiB in blocks of 512 bytes.
    pub tank: u32,
}

/// One volume named "tank", one core.
pub fn tank() -> Rig {
    Rig::start(TargetConfig::default(), 1)
}

impl Rig {
    pub fn start(config: TargetConfig, cores: usize) -> Rig {
        let catalog = Arc::new(Catalog::default());
        let volume = Volume::in_memory("tank", MemoryVolume::new(ByteLen(SIZE)));
        let identity = volume.identity();
        catalog.insert(Arc::new(volume));
        let any = Address::Tcp("127.0.0.1:0".parse().unwrap());
        let server = Server::serve(catalog.clone(), config, cores, vec![(any, Protocol::NvmeTcp)]);
        let subsystem = format!("nqn.2014-08.org.nvmexpress:uuid:{}", identity.pool);
        Rig { server, catalog, subsystem, tank: identity.number }
    }

    /// Exports one more volume, or another one in place of it; gives its namespace.
    pub fn export(&self, name: &str, memory: MemoryVolume) -> u32 {
        let volume = Volume::in_memory(name, memory);
        let number = volume.identity().number;
        self.catalog.insert(Arc::new(volume));
        number
    }

    /// A volume that cannot be written to.
    pub fn export_read_only(&self) -> u32 {
        self.export("locked", MemoryVolume::new(ByteLen(SIZE)).read_only())
    }

    /// A volume of which a part is bad.
    pub fn export_bad(&self) -> u32 {
        self.export("bad", MemoryVolume::new(ByteLen(SIZE)).with_bad_range(Span::at(BAD.0, BAD.1)))
    }

    /// Blocks of 4096 bytes.
    pub fn export_large_blocks(&self) -> u32 {
        self.export("large", MemoryVolume::new(ByteLen(SIZE)).with_lba(4096))
    }

    pub fn connect(&self) -> Connect {
        Connect::to(&self.subsystem)
    }

    /// An enabled association.
    pub fn host(&self) -> Host {
        Host::enabled(self.server.address, &self.connect(), 0)
    }

    /// An enabled association with one I/O queue.
    pub fn session(&self, digests: u8) -> (Host, Conn) {
        let host = Host::enabled(self.server.address, &self.connect(), digests);
        let queue = host.queue(1);
        (host, queue)
    }

    /// An I/O queue, with the admin queue that it needs.
    pub fn queue(&self, digests: u8) -> Conn {
        let (host, mut queue) = self.session(digests);
        queue.admin = Some(Box::new(host.admin));
        queue
    }

    /// A connection that was introduced, and nothing else.
    pub fn introduced(&self, digests: u8) -> Conn {
        Conn::introduced(self.server.address, digests)
    }

    /// Waits until so many connections are left.
    pub fn wait_for_connections(&self, count: usize) {
        wait_until("connections end", || self.server.target.loads().iter().sum::<usize>() == count);
    }
}

pub fn wait_until(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
