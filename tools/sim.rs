//! `sim`: long campaigns of the simulator, and replays of single seeds.
//!
//! ```text
//! cargo run --release --example sim -- --seeds 1..10000 --minutes 30 --jobs 2
//! cargo run --example sim -- --seed 4711 --trace --log debug
//! cargo run --example sim -- --seed 4711 --without slow,rot --requests 12 --rounds 1 --trace
//! cargo run --release --features planted-bugs --example sim -- --planted all --seeds 0..1000
//! ```
//!
//! A failing seed is run again with fewer faults, rounds and requests as long as the same rule is broken; the
//! command that replays the smallest run found is printed. With `--planted` the program has a bug, and the first seed
//! that finds it is printed. Exit codes: 0 all well, 1 a seed failed or a bug was not found, 2 usage.

#[path = "sim/planted.rs"]
mod planted;

use clap::Parser;
use drystone::pool::planted::Planted;
use drystone::sim::campaign::exhaustive::{self, Extent, SCRIPTS};
use drystone::sim::campaign::{Counts, FAULTS, Failure, Fault, Options, Report, run};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Seeded runs of the pool on simulated drives.
#[derive(Parser)]
struct Args {
    /// One seed
    #[arg(long)]
    seed: Option<u64>,
    /// A range of seeds, first..end
    #[arg(long, default_value = "1..200", value_parser = parse_range)]
    seeds: std::ops::Range<u64>,
    /// Stop after this time
    #[arg(long)]
    minutes: Option<u64>,
    /// Threads
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Requests of one client in one load, at most
    #[arg(long, default_value_t = Options::default().requests_max)]
    requests: u64,
    /// Loads of one seed, at most
    #[arg(long, default_value_t = Options::default().rounds_max)]
    rounds: u64,
    /// Drives of one seed, at most
    #[arg(long, default_value_t = Options::default().drives_max)]
    drives: usize,
    /// Volumes of one seed, at most
    #[arg(long, default_value_t = Options::default().volumes_max)]
    volumes: usize,
    /// What can be tried in full, instead of seeds
    #[arg(long)]
    exhaustive: bool,
    /// Faults to leave out, by name, separated by commas
    #[arg(long, value_delimiter = ',', value_parser = parse_fault)]
    without: Vec<Fault>,
    /// Plant a bug, by name, or each of `all` in turn
    #[arg(long, value_parser = planted::parse)]
    planted: Option<planted::Choice>,
    /// Say each step
    #[arg(long)]
    trace: bool,
    /// What the program itself logs, down to this level: error, warn, info, debug, trace
    #[arg(long)]
    log: Option<tracing::Level>,
    /// Go on after a failing seed
    #[arg(long)]
    keep_going: bool,
    /// Do not look for a smaller run that fails
    #[arg(long)]
    no_shrink: bool,
}

fn parse_range(text: &str) -> Result<std::ops::Range<u64>, String> {
    let (first, end) = text.split_once("..").ok_or("a range is first..end")?;
    let number = |s: &str| s.parse::<u64>().map_err(|e| e.to_string());
    Ok(number(first)?..number(end)?)
}

fn parse_fault(word: &str) -> Result<Fault, String> {
    let words: Vec<&str> = FAULTS.iter().map(|f| f.word()).collect();
    FAULTS.into_iter().find(|f| f.word() == word).ok_or(format!("one of {}", words.join(", ")))
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(level) = args.log {
        // The time of the machine says nothing about the simulated one.
        tracing_subscriber::fmt()
            .with_max_level(level)
            .without_time()
            .with_target(false)
            .with_ansi(false)
            .init();
    }
    let options = Options {
        without: args.without.clone(),
        requests_max: args.requests,
        rounds_max: args.rounds,
        drives_max: args.drives.max(1),
        volumes_max: args.volumes.max(1),
        trace: args.trace,
        planted: args.planted.map_or(Planted::None, planted::Choice::bug),
    };
    let failed = match (args.seed, args.planted) {
        _ if args.exhaustive => everything(args.seed.unwrap_or(1)),
        (Some(seed), _) => one(seed, &args, &options),
        (None, Some(choice)) => planted::search(choice, args.seeds, &options),
        (None, None) => many(&args, &options),
    };
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs every exhaustive mode; gives how many of them failed.
fn everything(seed: u64) -> u64 {
    let mut failed = 0;
    let mut tell = |what: &str, begun: Instant, result: Result<u64, Failure>| match result {
        Ok(tried) => println!("{what}: {tried} cases in {:.0?}", begun.elapsed()),
        Err(failure) => {
            failed += 1;
            println!("{what} FAILED {failure}");
        }
    };
    tell(
        "a crash at every change, and again: a pool is made",
        Instant::now(),
        exhaustive::crash_creation(seed),
    );
    for script in SCRIPTS {
        tell(
            &format!("a crash at every change, and again: {script:?}"),
            Instant::now(),
            exhaustive::crash_everywhere(script, seed, Extent::Full),
        );
    }
    tell("a failure of every operation", Instant::now(), exhaustive::fail_everywhere(seed));
    for drives in 2..=4 {
        tell(
            &format!("every order of loss and return of {drives} drives"),
            Instant::now(),
            exhaustive::orders_of_loss(drives, seed),
        );
    }
    failed
}

fn one(seed: u64, args: &Args, options: &Options) -> u64 {
    let report = run(seed, options);
    println!("seed {seed}: digest {:016x}; {}", report.digest, report.counts);
    match report.failure.is_some() {
        true => tell(&report, args, options),
        false => return 0,
    }
    1
}

fn many(args: &Args, options: &Options) -> u64 {
    let begun = Instant::now();
    let next = AtomicU64::new(args.seeds.start);
    let stop = AtomicBool::new(false);
    let sum = Mutex::new((Counts::default(), 0, 0));
    let over = || args.minutes.is_some_and(|m| begun.elapsed() > Duration::from_secs(60 * m));
    let work = || {
        while !stop.load(Ordering::Relaxed) && !over() {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= args.seeds.end {
                return;
            }
            let report = run(seed, options);
            let failed = report.failure.is_some();
            let mut sum = sum.lock().expect("no thread panics while it adds");
            sum.0 += report.counts;
            sum.1 += 1;
            sum.2 += u64::from(failed);
            if failed {
                stop.fetch_or(!args.keep_going, Ordering::Relaxed);
                tell(&report, args, options);
            }
        }
    };
    std::thread::scope(|scope| (0..args.jobs.max(1)).for_each(|_| drop(scope.spawn(work))));
    let (counts, seeds, failed) = sum.into_inner().expect("the threads have ended");
    println!("{seeds} seeds, {failed} failed, in {:.0?}: {counts}", begun.elapsed());
    failed
}

/// Says what a seed found, and how to see the smallest run that finds it.
fn tell(report: &Report, args: &Args, options: &Options) {
    let Some(failure) = &report.failure else { return };
    println!("seed {} FAILED {failure}", report.seed);
    let small = if args.no_shrink { options.clone() } else { shrink(report, options) };
    let mut command = format!("cargo run --example sim -- --seed {} --trace", report.seed);
    if !small.without.is_empty() {
        let words: Vec<&str> = small.without.iter().map(|f| f.word()).collect();
        command += &format!(" --without {}", words.join(","));
    }
    let (requests, rounds) = (small.requests_max, small.rounds_max);
    let (drives, volumes) = (small.drives_max, small.volumes_max);
    println!("  {command} --requests {requests} --rounds {rounds} --drives {drives} --volumes {volumes}");
}

/// Leaves out what the failure does not need: faults first, then rounds, drives, volumes, requests.
fn shrink(report: &Report, options: &Options) -> Options {
    let oracle = report.failure.as_ref().map(|f| f.oracle);
    let fails = |o: &Options| run(report.seed, o).failure.map(|f| f.oracle) == oracle;
    let mut best = Options { trace: false, ..options.clone() };
    for fault in FAULTS {
        let mut fewer = best.clone();
        fewer.without.push(fault);
        if !best.without.contains(&fault) && fails(&fewer) {
            best = fewer;
        }
    }
    while best.rounds_max > 1 {
        let fewer = Options { rounds_max: best.rounds_max - 1, ..best.clone() };
        if !fails(&fewer) {
            break;
        }
        best = fewer;
    }
    for fewer in (1..best.drives_max).map(|drives_max| Options { drives_max, ..best.clone() }) {
        if fails(&fewer) {
            best = fewer;
            break;
        }
    }
    for fewer in (1..best.volumes_max).map(|volumes_max| Options { volumes_max, ..best.clone() }) {
        if fails(&fewer) {
            best = fewer;
            break;
        }
    }
    for share in [8, 4, 2] {
        let fewer = Options { requests_max: (best.requests_max / share).max(1), ..best.clone() };
        if fails(&fewer) {
            best = fewer;
        }
    }
    best
}
