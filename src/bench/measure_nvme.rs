//! A namespace over NVMe/TCP: the same volume by another way.

use super::load::Way;
use super::measure_volume::Opened;
use crate::base::units::ByteLen;
use crate::io::driver::Address;
use crate::nvmf::host::{Host, HostError, HostOptions, Namespace, Queue};
use crate::reactor::Core;
use uuid::Uuid;

/// A namespace and where it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamespaceEnd {
    pub address: Address,
    /// The NQN of its subsystem.
    pub subsystem: String,
    pub which: Which,
}

/// Which of a subsystem's namespaces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    Number(u32),
    /// The one that is this volume: nobody else has its UUID, so it cannot be mistaken.
    Volume(Uuid),
}

/// An association with a subsystem, and queues to one of its namespaces.
pub struct Associated {
    host: Host,
    /// At least one.
    pub queues: Vec<Queue>,
    namespace: Namespace,
}

impl Associated {
    /// What can be measured through it.
    pub fn opened(&self) -> Opened {
        let ways = self.queues.iter().cloned().map(Way::Namespace).collect();
        Opened { ways, size: ByteLen(self.namespace.size), read_only: self.namespace.read_only }
    }

    /// How much of the namespace takes no space, 0 to 1. Reading such bytes needs no drive.
    pub fn unwritten_share(&self) -> f64 {
        // Rounding is meant; a namespace is never empty.
        1.0 - self.namespace.used as f64 / self.namespace.size as f64
    }

    /// Ends the association in order.
    pub async fn close(self) {
        drop(self.queues);
        // A controller that does not end in order changes no figure.
        let _ = self.host.disconnect().await;
    }
}

/// Associates with a subsystem and opens queues: as many as asked for, or as the controller grants.
pub async fn associate(core: &Core, end: &NamespaceEnd, queues: usize) -> Result<Associated, HostError> {
    // Another host each time: nothing is reserved for it, and nobody else has its name.
    let unique = core.with_prng(|prng| prng.uuid()).as_u128() ^ u128::from(core.wall_ns());
    let queues = u16::try_from(queues).unwrap_or(u16::MAX);
    let options = HostOptions { queues, ..HostOptions::of(Uuid::from_u128(unique)) };
    let host = Host::connect(core, end.address.clone(), &end.subsystem, options).await?;
    let namespace = find(&host, end.which).await?;
    let mut opened = Vec::new();
    for _ in 0..host.controller().queues {
        opened.push(host.queue(&namespace).await?);
    }
    Ok(Associated { host, queues: opened, namespace })
}

async fn find(host: &Host, which: Which) -> Result<Namespace, HostError> {
    let uuid = match which {
        Which::Number(number) => return host.namespace(number).await,
        Which::Volume(uuid) => uuid,
    };
    for number in host.namespaces().await? {
        let namespace = host.namespace(number).await?;
        if namespace.uuid == Some(uuid) {
            return Ok(namespace);
        }
    }
    Err(HostError::NotOffered)
}
