//! A message to a task on another core and its answer: two threads with a ring each, both asleep in between.
//!
//! With one CPU for both it is two switches of threads; with two, two wakings of a sleeping CPU.

use criterion::{Criterion, criterion_group, criterion_main};
use drystone::io::driver::Driver;
use drystone::io::uring::{Handles, UringConfig, UringDriver};
use drystone::reactor::mailbox::mailbox;
use drystone::reactor::threads::{CorePlan, DriverFactory, build, launch};
use drystone::reactor::{Core, CoreIndex};
use std::sync::Arc;

fn factory() -> DriverFactory<std::io::Error> {
    let handles = Handles::new();
    Arc::new(move |buffers| {
        let driver = UringDriver::new(UringConfig::default(), buffers, handles.clone());
        driver.map(|driver| Box::new(driver) as Box<dyn Driver>).map_err(std::io::Error::other)
    })
}

fn plan(index: u16, cpu: usize) -> CorePlan {
    CorePlan { index: CoreIndex(index), cpu: Some(cpu), arena: 4 << 20, seed: u64::from(index) }
}

fn hop(c: &mut Criterion, name: &str, other_cpu: usize) {
    let (to_other, mut inbox) = mailbox::<u64>();
    let (to_us, answers) = mailbox::<u64>();
    let mut answers = Some(answers);
    let other = launch(plan(1, other_cpu), factory(), move |_core: Core| async move {
        while let Some(message) = inbox.receive().await {
            // The receiver lives as long as the benchmark.
            let _ = to_us.send(message + 1);
        }
    });
    let core = build(plan(0, 0), &factory()).expect("a ring");
    c.bench_function(name, |b| {
        b.iter(|| {
            assert!(to_other.send(1).is_ok());
            // What runs on a core owns what it uses: the receiver goes in and comes back.
            let mut ours = answers.take().expect("given back");
            let (back, answer) = core.run_until(async move {
                let answer = ours.receive().await;
                (ours, answer)
            });
            answers = Some(back);
            answer.expect("the other core runs")
        })
    });
    drop(to_other);
    other.expect("a thread").join().expect("no panic").expect("a ring");
    core.drain();
}

fn hops(c: &mut Criterion) {
    hop(c, "mailbox: to another core on the same CPU and back", 0);
    if std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1) {
        hop(c, "mailbox: to another CPU and back", 1);
    }
}

criterion_group!(hopping, hops);
criterion_main!(hopping);
