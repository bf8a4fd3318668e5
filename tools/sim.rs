//! `sim`: long campaigns of the simulator, and replays of single seeds.
//!
//! ```text
//! cargo run --release --example sim -- --seeds 1..10000 --minutes 30 --jobs 2
//! cargo run --example sim -- --seed 4711 --trace
//! cargo run --example sim -- --seed 4711 --without slow,rot --requests 12 --rounds 1 --trace
//! ```
//!
//! A failing seed is run again with fewer faults, rounds and requests as long as the same rule is broken; the
//! command that replays the smallest run found is printed. Exit codes: 0 all well, 1 a seed failed, 2 usage.

use clap::Parser;
use drystone::sim::campaign::{Counts, FAULTS, Fault, Options, Report, run};
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
    /// Faults to leave out, by name, separated by commas
    #[arg(long, value_delimiter = ',', value_parser = parse_fault)]
    without: Vec<Fault>,
    /// Say each step
    #[arg(long)]
    trace: bool,
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
    let options = Options {
        without: args.without.clone(),
        requests_max: args.requests,
        rounds_max: args.rounds,
        trace: args.trace,
        ..Options::default()
    };
    let failed = match args.seed {
        Some(seed) => one(seed, &args, &options),
        None => many(&args, &options),
    };
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
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
    println!("  {command} --requests {} --rounds {}", small.requests_max, small.rounds_max);
}

/// Leaves out what the failure does not need: faults first, then rounds, then requests.
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
    for share in [8, 4, 2] {
        let fewer = Options { requests_max: (best.requests_max / share).max(1), ..best.clone() };
        if fails(&fewer) {
            best = fewer;
        }
    }
    best
}
