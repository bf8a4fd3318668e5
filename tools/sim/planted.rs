//! `sim --planted`: which seed finds a bug that was put there on purpose, and which oracle speaks.

use drystone::pool::planted::{BUGS, Planted};
use drystone::sim::campaign::{Options, run};
use std::ops::Range;
use std::process::Command;
use std::time::Instant;

/// What to plant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Choice {
    All,
    One(Planted),
}

impl Choice {
    pub fn bug(self) -> Planted {
        match self {
            Choice::All => Planted::None,
            Choice::One(bug) => bug,
        }
    }
}

pub fn parse(word: &str) -> Result<Choice, String> {
    if !cfg!(feature = "planted-bugs") {
        return Err("this program was built without the feature planted-bugs".to_owned());
    }
    if word == "all" {
        return Ok(Choice::All);
    }
    let names: Vec<String> = BUGS.iter().map(|bug| format!("{bug:?}")).collect();
    Planted::named(word).map(Choice::One).ok_or_else(|| format!("all, or one of {}", names.join(", ")))
}

/// Runs seeds until one fails; gives the number of bugs that none found.
pub fn search(choice: Choice, seeds: Range<u64>, options: &Options) -> u64 {
    match choice {
        Choice::All => BUGS.iter().map(|bug| search_apart(*bug, &seeds)).sum(),
        Choice::One(bug) => search_one(bug, seeds, options),
    }
}

/// In a process of its own: a bug may end it.
fn search_apart(bug: Planted, seeds: &Range<u64>) -> u64 {
    let seeds = format!("{}..{}", seeds.start, seeds.end);
    let program = std::env::current_exe().expect("this program has a path");
    let ended = Command::new(program).args(["--planted", &format!("{bug:?}"), "--seeds", &seeds]).status();
    u64::from(!ended.is_ok_and(|status| status.success()))
}

fn search_one(bug: Planted, seeds: Range<u64>, options: &Options) -> u64 {
    let begun = Instant::now();
    for seed in seeds.clone() {
        end_well_on_panic(bug, seed, begun);
        if let Some(failure) = run(seed, options).failure {
            tell(bug, seed, begun, &failure.to_string());
            return 0;
        }
    }
    println!("{:<28} NOT FOUND in seeds {seeds:?}, {:.1?}", format!("{bug:?}"), begun.elapsed());
    1
}

/// Where panics do not unwind, a panic is told here: it is a finding.
fn end_well_on_panic(bug: Planted, seed: u64, begun: Instant) {
    if cfg!(panic = "abort") {
        std::panic::set_hook(Box::new(move |panic| {
            tell(bug, seed, begun, &format!("Panic: {panic}").replace('\n', " "));
            std::process::exit(0);
        }));
    } else {
        std::panic::set_hook(Box::new(|_| {}));
    }
}

fn tell(bug: Planted, seed: u64, begun: Instant, what: &str) {
    println!("{:<28} seed {seed:>4}  {:>6.1?}  {what}", format!("{bug:?}"), begun.elapsed());
}
