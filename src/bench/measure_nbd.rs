//! An export over NBD: the reserved one in memory (that is the network alone), or a volume (end to end).

use super::figure::{Figures, Outcome};
use super::load::{self, Run, Subject, Way};
use super::measure_disk::{fill_limit, outcome};
use super::processor::Server;
use super::workload::Workload;
use crate::base::units::{ByteLen, Span, round_down};
use crate::io::driver::Address;
use crate::nbd::client::negotiation::Refusal;
use crate::nbd::client::{Client, ClientError, ClientOptions};
use crate::nbd::wire::ReplyMode;
use crate::nbd::wire::number::{allocation, export};
use crate::reactor::Core;
use std::time::Duration;

/// BLOCK_STATUS requests that are made to learn what of a volume was ever written.
const STATUS_REQUESTS_MAX: usize = 64;

/// An export and where it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    pub address: Address,
    pub export: String,
}

/// What may be written, and what it holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Contents {
    /// Not made for this measurement, so somebody's data: it is only read. With the reason to give for writes.
    Precious(&'static str),
    /// Written to first, so that reads find data, then read and written.
    Scratch,
    /// In memory: nothing to prepare, and nothing that is kept.
    Memory,
}

/// How an export is measured.
#[derive(Clone, Copy, Debug)]
pub struct TargetPlan {
    /// Length of one run.
    pub run: Duration,
    /// Bytes from the start of the export that are used, at most.
    pub region: ByteLen,
    pub contents: Contents,
    pub server: Server,
}

/// Figures of an export, and the bytes of it that were used.
pub struct TargetMeasured {
    pub figures: Figures,
    pub used: ByteLen,
}

/// Opens connections to an export: as many as asked for where the server allows several, else one.
pub async fn connect(core: &Core, end: &Endpoint, connections: usize) -> Result<Vec<Client>, ClientError> {
    let connect = || Client::connect(core, end.address.clone(), &end.export, ClientOptions::default());
    let first = connect().await?;
    let several = first.export().has(export::CAN_MULTI_CONN);
    let mut clients = vec![first];
    while several && clients.len() < connections {
        clients.push(connect().await?);
    }
    Ok(clients)
}

/// Whether the server there tells its exports apart: it says of a name that nobody gave that there is no such
/// export. Many servers give their one export under every name; behind one of those, an export that was found by
/// its name alone may hold anything.
pub async fn tells_names_apart(core: &Core, address: &Address) -> bool {
    let name = format!("{:032x}", core.with_prng(|prng| prng.uuid()).as_u128() ^ u128::from(core.wall_ns()));
    let nobody = Client::connect(core, address.clone(), &name, ClientOptions::default()).await;
    matches!(nobody, Err(ClientError::Refused(Refusal::UnknownExport(_))))
}

/// Runs all workloads on one export.
pub async fn measure_target(core: &Core, clients: &[Client], plan: TargetPlan) -> TargetMeasured {
    let Some(first) = clients.first() else {
        return TargetMeasured { figures: Figures::not_measured("no connection"), used: ByteLen(0) };
    };
    let size = round_down(first.export().size.min(plan.region.0), Workload::SequentialRead.request().0);
    let ways: Vec<Way> = clients.iter().cloned().map(Way::Volume).collect();
    let mut subject = Subject { ways, region: Span::at(0, size) };
    let read_only = first.export().has(export::READ_ONLY);
    if plan.contents == Contents::Scratch && !read_only {
        match load::fill(core, &subject, fill_limit(plan.run)).await {
            Ok(region) => subject.region = region,
            Err(error) => return TargetMeasured { figures: failed(&error.to_string()), used: ByteLen(0) },
        }
    }
    let forbidden = match plan.contents {
        Contents::Precious(reason) => Some(reason),
        Contents::Scratch | Contents::Memory => read_only.then_some("the export is read-only"),
    };
    let mut figures = Figures::default();
    for workload in Workload::ALL {
        let outcome = match forbidden.filter(|_| workload.is_write()) {
            Some(reason) => Outcome::not_measured(reason),
            None => {
                let run = Run { workload, time: plan.run, server: plan.server };
                outcome(load::run(core, std::slice::from_ref(&subject), run).await)
            }
        };
        figures.record(workload, outcome);
    }
    TargetMeasured { figures, used: subject.region.len() }
}

/// All workloads failed, for one reason.
pub fn failed(reason: &str) -> Figures {
    let outcome = Outcome::Failed { reason: reason.to_owned() };
    Figures { outcomes: Workload::ALL.iter().map(|w| (*w, outcome.clone())).collect() }
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
