//! Cores of a process: the production driver behind each, seeds from the system, CPUs as asked for.

use super::failures::setup_failure;
use crate::control::api::Failure;
use crate::io::driver::Driver;
use crate::io::uring::{Handles, SetupError, UringConfig, UringDriver};
use crate::reactor::threads::{CorePlan, DriverFactory, build};
use crate::reactor::{Core, CoreIndex};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use std::io::Read;
use std::sync::Arc;

/// Why there is no core.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    #[error("{0}")]
    Driver(#[from] SetupError),
    #[error("the memory for buffers cannot be had: {0}")]
    Memory(#[from] std::io::Error),
}

impl CoreError {
    pub fn to_failure(&self) -> Failure {
        match self {
            CoreError::Driver(setup) => setup_failure(setup),
            CoreError::Memory(_) => Failure::failed("SYSTEM", self.to_string()),
        }
    }
}

/// Makes drivers that share files and sockets.
pub fn drivers() -> DriverFactory<CoreError> {
    let handles = Handles::new();
    Arc::new(move |buffers| {
        let driver = UringDriver::new(UringConfig::default(), buffers, handles.clone())?;
        for warning in driver.warnings() {
            tracing::warn!(code = warning.code(), "{warning}");
        }
        Ok(Box::new(driver) as Box<dyn Driver>)
    })
}

/// The plan of one core.
pub fn plan(index: u16, cpu: Option<usize>, arena: usize) -> std::io::Result<CorePlan> {
    let mut seed = [0; 8];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut seed)?;
    Ok(CorePlan { index: CoreIndex(index), cpu, arena, seed: u64::from_le_bytes(seed) })
}

/// One core on this thread, wherever the kernel runs it.
pub fn here(arena: usize) -> Result<Core, Failure> {
    let plan = plan(0, None, arena).map_err(|e| CoreError::from(e).to_failure())?;
    build(plan, &drivers()).map_err(|error| error.to_failure())
}

/// The CPUs that this process may use.
pub fn cpus() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else { return vec![0] };
    (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect()
}
