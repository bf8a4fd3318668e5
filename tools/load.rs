//! `load`: makes load over NBD and proves what came back, without sharing a line with the server.
//!
//! ```text
//! cargo run --release --example load -- run nbd://127.0.0.1:10809/data \
//!     --mode randwrite -b 4k -q 16 -c 4 --seconds 5 --seed 7 --journal F --flush-every 64
//! cargo run --release --example load -- verify nbd://127.0.0.1:10809/data --journal F
//! ```
//!
//! - `run` makes requests (`--mode randread|randwrite|read|write|randrw`, `-b 4k` or `-b 512-64k`, `-q` requests in
//!   flight on each of `-c` connections, `--zero-percent`, `--trim-percent`, `--fua-every`, `--flush-every`,
//!   `--unaligned`, `--overlap`) for `--seconds` or `--count`, and judges every read as it comes. With
//!   `--reconnect` it outlives crashes of the server.
//! - `verify` reads everything twice after a crash and judges it by the journal of the runs before: every flushed
//!   block is what was flushed or newer, every other block is old or new as a whole, never-written blocks are
//!   zeros, and both readings agree. What it read is then the answer for the next `verify` too (`--alive` if the
//!   server did not crash: then a later crash may still undo it).
//! - `fill` and `check` write and check a whole export without a journal; both need the same `--seed`.
//! - `ghost` cuts connections with writes in flight and watches that none takes effect after a later write.
//! - `speed` makes requests as cheaply as a client can and looks at no data; it tells how busy it was itself. `ceiling`
//!   is the cheapest server to compare with. Both are for measuring, `tools/peers` uses them.
//!
//! Each 512-byte sector that is written says which run, sector and write it is from (`content`). A journal knows
//! of every sector what was issued, answered and flushed (`ledger`, `journal`); it is mapped memory of a file, so
//! it is up to date also when this process is killed. A journal belongs to one export from its empty beginning, or
//! use `--unknown`. One JSON object goes to standard output, one line for people and all mismatches to standard
//! error. Exit codes: 0 all well, 1 wrong data, failed requests or a hang, 2 usage, 4 no connection or lost it.

#[path = "load/args.rs"]
mod args;
#[path = "load/ceiling.rs"]
mod ceiling;
#[path = "load/content.rs"]
mod content;
#[path = "load/ghost.rs"]
mod ghost;
#[path = "load/journal.rs"]
mod journal;
#[path = "load/ledger.rs"]
mod ledger;
#[path = "load/report.rs"]
mod report;
#[path = "load/run.rs"]
mod run;
#[path = "load/session.rs"]
mod session;
#[path = "load/speed.rs"]
mod speed;
#[path = "load/wire.rs"]
mod wire;
#[path = "load/workload.rs"]
mod workload;

use args::{Cli, Sub};
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let summary = match Cli::parse().command {
        Sub::Speed(args) => return shown(speed::speed(&args).map(|speed| speed.print())),
        Sub::Ceiling(args) => return shown(ceiling::ceiling(&args)),
        Sub::Run(args) => run::run(&args),
        Sub::Verify(args) => run::verify(&args),
        Sub::Fill(args) => run::fill(&args),
        Sub::Check(args) => run::check(&args),
        Sub::Ghost(args) => ghost::ghost(&args),
    };
    match summary {
        Ok(summary) => {
            summary.print();
            summary.exit_code()
        }
        Err(error) => {
            eprintln!("load: {error:#}");
            ExitCode::from(4)
        }
    }
}

fn shown(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error:#}");
            ExitCode::from(4)
        }
    }
}
