//! Servers with volumes in memory that speak NBD.

pub use crate::shared::Server;
use drystone::base::units::ByteLen;
use drystone::io::driver::Address;
use drystone::target::{Protocol, TargetConfig};
use drystone::volume::Volume;
use drystone::volume::catalog::Catalog;
use drystone::volume::memory::MemoryVolume;
use std::path::Path;
use std::sync::Arc;

/// The size of the volume that most tests use.
pub const SIZE: u64 = 64 << 20;

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
        let any = Address::Tcp("127.0.0.1:0".parse().unwrap());
        let unix = unix.map(|path| Address::Unix(path.to_owned()));
        let listeners = [any].into_iter().chain(unix).map(|address| (address, Protocol::Nbd));
        Server::serve(catalog, config, cores, listeners.collect())
    }
}
