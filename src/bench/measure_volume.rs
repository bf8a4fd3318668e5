//! All workloads on a volume, by whatever protocol its ways lead there.

use super::figure::{Figures, Outcome};
use super::load::{self, Run, Subject, Way};
use super::measure_disk::{fill_limit, outcome};
use super::processor::Server;
use super::workload::Workload;
use crate::base::units::{ByteLen, Span, round_down};
use crate::reactor::Core;
use std::time::Duration;

/// One or more ways to a volume, and what its server said about it.
pub struct Opened {
    pub ways: Vec<Way>,
    pub size: ByteLen,
    pub read_only: bool,
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

/// Runs all workloads.
pub async fn measure_target(core: &Core, opened: Opened, plan: TargetPlan) -> TargetMeasured {
    let size = round_down(opened.size.0.min(plan.region.0), Workload::SequentialRead.request().0);
    let (ways, read_only) = (opened.ways, opened.read_only);
    let mut subject = Subject { ways, region: Span::at(0, size) };
    if plan.contents == Contents::Scratch && !read_only {
        match load::fill(core, &subject, fill_limit(plan.run)).await {
            Ok(region) => subject.region = region,
            Err(error) => return TargetMeasured { figures: failed(&error.to_string()), used: ByteLen(0) },
        }
    }
    let forbidden = match plan.contents {
        Contents::Precious(reason) => Some(reason),
        Contents::Scratch | Contents::Memory => read_only.then_some("the volume is read-only"),
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
