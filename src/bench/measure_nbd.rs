//! An export over NBD: the reserved one in memory (that is the network alone), or a volume (end to end).

use super::load::Way;
use super::measure_volume::Opened;
use crate::base::units::{ByteLen, Span, round_down};
use crate::io::driver::Address;
use crate::nbd::client::negotiation::Refusal;
use crate::nbd::client::{Client, ClientError, ClientOptions};
use crate::nbd::wire::ReplyMode;
use crate::nbd::wire::number::{allocation, export};
use crate::reactor::Core;

/// BLOCK_STATUS requests that are made to learn what of a volume was ever written.
const STATUS_REQUESTS_MAX: usize = 64;

/// An export and where it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    pub address: Address,
    pub export: String,
}

/// Connections to an export.
pub struct Connected {
    /// At least one.
    pub clients: Vec<Client>,
    size: ByteLen,
    read_only: bool,
}

impl Connected {
    /// What can be measured through them.
    pub fn opened(&self) -> Opened {
        let ways = self.clients.iter().cloned().map(Way::Volume).collect();
        Opened { ways, size: self.size, read_only: self.read_only }
    }

    /// Says goodbye on all of them.
    pub async fn close(self) {
        for client in self.clients {
            // A failed goodbye changes no figure; a failed connection has shown in them already.
            let _ = client.disconnect().await;
        }
    }
}

/// Opens connections to an export: as many as asked for where the server allows several, else one.
pub async fn connect(core: &Core, end: &Endpoint, connections: usize) -> Result<Connected, ClientError> {
    let connect = || Client::connect(core, end.address.clone(), &end.export, ClientOptions::default());
    let first = connect().await?;
    let several = first.export().has(export::CAN_MULTI_CONN);
    let (size, read_only) = (ByteLen(first.export().size), first.export().has(export::READ_ONLY));
    let mut clients = vec![first];
    while several && clients.len() < connections {
        clients.push(connect().await?);
    }
    Ok(Connected { clients, size, read_only })
}

/// Whether the server there tells its exports apart: it says of a name that nobody gave that there is no such
/// export. Many servers give their one export under every name; behind one of those, an export that was found by
/// its name alone may hold anything.
pub async fn tells_names_apart(core: &Core, address: &Address) -> bool {
    let name = format!("{:032x}", core.with_prng(|prng| prng.uuid()).as_u128() ^ u128::from(core.wall_ns()));
    let nobody = Client::connect(core, address.clone(), &name, ClientOptions::default()).await;
    matches!(nobody, Err(ClientError::Refused(Refusal::UnknownExport(_))))
}

/// How much of an export's first bytes was never written, 0 to 1; None where the server does not tell. Reading
/// such bytes needs no drive, so figures of them say nothing about drives.
pub async fn unwritten_share(core: &Core, end: &Endpoint, region: ByteLen) -> Option<f64> {
    let options =
        ClientOptions { replies: ReplyMode::Structured, allocation: true, ..ClientOptions::default() };
    let client = Client::connect(core, end.address.clone(), &end.export, options).await.ok()?;
    let unit = u64::from(client.export().block_min);
    let size = round_down(client.export().size.min(region.0).min(u64::from(u32::MAX)), unit);
    let (mut at, mut unwritten, mut requests) = (0, 0u64, 0);
    while at < size && requests < STATUS_REQUESTS_MAX {
        for extent in client.block_status(Span::at(at, size - at)).await.ok()? {
            let len = extent.len.min(size - at);
            if extent.status & u64::from(allocation::HOLE) != 0 {
                unwritten += len;
            }
            at += len;
        }
        requests += 1;
    }
    // The server closes the connection or the client does: nothing depends on it.
    let _ = client.disconnect().await;
    // Rounding is meant.
    if at == 0 { None } else { Some(unwritten as f64 / at as f64) }
}
