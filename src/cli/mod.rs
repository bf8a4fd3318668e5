//! The command line: one file per command group.
//!
//! Data goes to stdout, talk to stderr. A command asks the daemon through the control socket, or does the same in
//! this process when none runs (`session`). How a command ended is an `Exit`; failures carry a code of `codes`.

pub mod args;
mod bench;
mod check;
pub mod codes;
mod confirm;
mod demo;
mod disk;
mod disks;
mod events;
mod exit;
mod explain;
mod export;
mod interrupt;
mod plan;
mod pool;
mod recipe;
mod removal;
mod salvage;
mod screen;
mod serve;
mod session;
mod status;
mod survey;
mod top;
mod volume;
mod words;

pub use exit::{Ended, Exit};

use args::{Cli, Command};
use clap::Parser;
use session::Session;
use std::ffi::OsString;
use std::process::ExitCode;

/// Runs one command line, program name first.
pub fn run(line: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(line) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let session = Session::new(cli.globals);
    match execute(&session, &cli.command) {
        Ok(exit) => exit.code(),
        Err(ended) => {
            session.screen.failure(&ended.failure);
            ended.exit.code()
        }
    }
}

/// Help and version are answers (0), everything else that clap says is a usage error (2).
fn usage(error: &clap::Error) -> ExitCode {
    // Nobody is left to be told when the terminal is gone.
    let _ = error.print();
    if error.use_stderr() { Exit::Usage.code() } else { Exit::Done.code() }
}

fn execute(session: &Session, command: &Command) -> Result<Exit, Ended> {
    match command {
        Command::Plan(args) => plan::run(session, args),
        Command::Pool(command) => pool::run(session, command),
        Command::Volume(command) => volume::run(session, command),
        Command::Disk(command) => disk::run(session, command),
        Command::Serve(args) => serve::run(session, args),
        Command::Export(command) => export::run(session, command),
        Command::Status(args) => status::run(session, args),
        Command::Bench(args) => bench::run(session, args),
        Command::Check(args) => Ok(check::run(session, args)),
        Command::Demo(args) => demo::run(session, args),
        Command::Explain(args) => explain::run(session, args),
        Command::Events(args) => events::run(session, args),
        Command::Top(args) => top::run(session, args),
    }
}
