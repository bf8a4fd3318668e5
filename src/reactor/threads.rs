//! Starting cores: one pinned thread each, with its own driver, arena and executor.

use super::core::{Core, CoreIndex};
use crate::base::prng::Prng;
use crate::io::buf::BufPool;
use crate::io::driver::Driver;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::future::Future;
use std::sync::Arc;
use std::thread::JoinHandle;

/// What one core is started with.
#[derive(Clone, Copy, Debug)]
pub struct CorePlan {
    pub index: CoreIndex,
    /// The CPU to pin the thread to; None leaves it to the kernel.
    pub cpu: Option<usize>,
    /// The size of its buffer arena, bytes.
    pub arena: usize,
    pub seed: u64,
}

/// Makes the driver of a core, on the core's own thread. Shared by the cores, with what their drivers share.
pub type DriverFactory<E> = Arc<dyn Fn(&BufPool) -> Result<Box<dyn Driver>, E> + Send + Sync>;

/// Builds a core on the calling thread.
pub fn build<E: From<std::io::Error>>(plan: CorePlan, driver: &DriverFactory<E>) -> Result<Core, E> {
    if let Some(cpu) = plan.cpu {
        pin(cpu)?;
    }
    let buffers = BufPool::new(plan.arena)?;
    let driver = driver(&buffers)?;
    Ok(Core::new(plan.index, driver, buffers, Prng::from_seed(plan.seed)))
}

/// Starts a thread that builds a core and runs `main` on it until it ends. All operations have ended when the
/// thread ends.
pub fn launch<E, M, F, T>(
    plan: CorePlan,
    driver: DriverFactory<E>,
    main: M,
) -> std::io::Result<JoinHandle<Result<T, E>>>
where
    E: From<std::io::Error> + Send + 'static,
    M: FnOnce(Core) -> F + Send + 'static,
    F: Future<Output = T> + 'static,
    T: Send + 'static,
{
    std::thread::Builder::new().name(format!("core-{}", plan.index.0)).spawn(move || {
        let core = build(plan, &driver)?;
        let value = core.run_until(main(core.clone()));
        core.drain();
        Ok(value)
    })
}

fn pin(cpu: usize) -> std::io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set)?;
    Ok(())
}
