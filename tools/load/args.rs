//! The command line.

use crate::wire::Target;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

#[derive(Parser, Debug)]
#[command(name = "load", about = "NBD load generator and verifier; independent of the server's code")]
pub struct Cli {
    #[command(subcommand)]
    pub command: Sub,
}

#[derive(Subcommand, Debug)]
pub enum Sub {
    /// Makes requests for a time or a count, and checks what is read.
    Run(RunArgs),
    /// Reads everything back, twice, and checks it against the journal of earlier runs.
    Verify(VerifyArgs),
    /// Writes the whole export with seeded content.
    Fill(FillArgs),
    /// Reads the whole export and checks that it holds what `fill` wrote.
    Check(FillArgs),
    /// Cuts connections with writes in flight and watches that none of them takes effect later.
    Ghost(GhostArgs),
    /// Makes requests as cheaply as possible and looks at no data: what the server can do.
    Speed(SpeedArgs),
    /// Serves memory as cheaply as possible: what client and machine can do.
    Ceiling(CeilingArgs),
}

#[derive(Args, Debug, Clone)]
pub struct Common {
    /// nbd://host:port/export or nbd+unix:///export?socket=PATH.
    pub uri: Target,
    /// Connections.
    #[arg(short = 'c', long, default_value_t = 1)]
    pub connections: u16,
    /// Requests in flight on each connection.
    #[arg(short = 'q', long, default_value_t = 16)]
    pub depth: u16,
    /// Seconds without any answer that count as a hang.
    #[arg(long, default_value_t = 30)]
    pub timeout: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Mode {
    Randread,
    Randwrite,
    Read,
    Write,
    Randrw,
}

#[derive(Args, Debug)]
pub struct RunArgs {
    #[command(flatten)]
    pub common: Common,
    #[arg(long, value_enum, default_value_t = Mode::Randrw)]
    pub mode: Mode,
    /// Bytes of a request, or a range of them: 4k, 512-64k.
    #[arg(short = 'b', long = "block", default_value = "4k", value_parser = parse_blocks)]
    pub block: (u64, u64),
    /// Stop after so many seconds (10 if there is no count either).
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Stop after so many requests.
    #[arg(long)]
    pub count: Option<u64>,
    /// What content, places and kinds are drawn from.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Keeps what was issued, answered and flushed in this file; goes on with it if it is there.
    #[arg(long)]
    pub journal: Option<PathBuf>,
    /// A flush after so many writes of a connection.
    #[arg(long, default_value_t = 0)]
    pub flush_every: u64,
    /// FUA on every n-th write.
    #[arg(long, default_value_t = 0)]
    pub fua_every: u64,
    /// Reads among the requests of randrw.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(0..=100))]
    pub read_percent: u64,
    /// WRITE_ZEROES among the requests.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=100))]
    pub zero_percent: u64,
    /// TRIM among the requests.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=100))]
    pub trim_percent: u64,
    /// Moves all requests off the server's sectors by an odd number of bytes drawn from the seed.
    #[arg(long)]
    pub unaligned: bool,
    /// Lets several writers meet in a sector.
    #[arg(long)]
    pub overlap: bool,
    /// Sectors that were never written may hold anything, instead of zeros.
    #[arg(long)]
    pub unknown: bool,
    /// Does not look at what is read (for speed).
    #[arg(long)]
    pub no_verify: bool,
    /// Leaves out the flush at the end.
    #[arg(long)]
    pub no_last_flush: bool,
    /// When the server goes away, takes that for a crash, waits for it to come back, and goes on.
    #[arg(long)]
    pub reconnect: bool,
    /// Seconds to wait for a server to come back.
    #[arg(long, default_value_t = 30)]
    pub reconnect_for: u64,
}

#[derive(Args, Debug)]
pub struct VerifyArgs {
    #[command(flatten)]
    pub common: Common,
    #[arg(long)]
    pub journal: PathBuf,
    /// Bytes of a request.
    #[arg(short = 'b', long = "block", default_value = "128k", value_parser = parse_size)]
    pub block: u64,
    /// As for `run`.
    #[arg(long)]
    pub unknown: bool,
    /// The server did not crash since the last run: what it says now may still be undone by a crash.
    #[arg(long)]
    pub alive: bool,
    /// Times to read everything; the second reading must agree with the first.
    #[arg(long, default_value_t = 2)]
    pub passes: u32,
}

#[derive(Args, Debug)]
pub struct FillArgs {
    #[command(flatten)]
    pub common: Common,
    /// Bytes of a request.
    #[arg(short = 'b', long = "block", default_value = "128k", value_parser = parse_size)]
    pub block: u64,
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

#[derive(Args, Debug)]
pub struct GhostArgs {
    #[command(flatten)]
    pub common: Common,
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Connections to cut.
    #[arg(long, default_value_t = 50)]
    pub rounds: u32,
}

#[derive(Args, Debug)]
pub struct SpeedArgs {
    #[command(flatten)]
    pub common: Common,
    #[arg(long, value_enum, default_value_t = Mode::Randread)]
    pub mode: Mode,
    /// Bytes of a request.
    #[arg(short = 'b', long = "block", default_value = "4k", value_parser = parse_size)]
    pub block: u64,
    /// Uses only so many bytes from the start of the export.
    #[arg(long, value_parser = parse_size)]
    pub size: Option<u64>,
    /// Reads among the requests of randrw.
    #[arg(long, default_value_t = 70, value_parser = clap::value_parser!(u64).range(0..=100))]
    pub read_percent: u64,
    /// Seconds that count.
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    /// Seconds before that.
    #[arg(long, default_value_t = 0.1)]
    pub warmup: f64,
    /// What places and kinds are drawn from.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

#[derive(Args, Debug)]
pub struct CeilingArgs {
    /// HOST:PORT or unix:PATH.
    pub listen: String,
    /// Bytes of the export, of which 64 MiB are kept.
    #[arg(long, default_value = "512M", value_parser = parse_size)]
    pub size: u64,
}

/// Parses a size in bytes with an optional binary suffix: 512, 4k, 1M, 2G.
fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim_end_matches(['B', 'b']);
    let (digits, shift) = match text.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&text[..at], 10),
        Some((at, 'm' | 'M')) => (&text[..at], 20),
        Some((at, 'g' | 'G')) => (&text[..at], 30),
        _plain => (text, 0),
    };
    let number: u64 = digits.parse().map_err(|_| format!("{text:?} is not a size such as 512, 4k or 1M"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("{text:?} is too large"))
}

fn parse_blocks(text: &str) -> Result<(u64, u64), String> {
    match text.split_once('-') {
        None => parse_size(text).map(|size| (size, size)),
        Some((min, max)) => Ok((parse_size(min)?, parse_size(max)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("4k"), Ok(4096));
        assert_eq!(parse_size("1M"), Ok(1 << 20));
        assert_eq!(parse_blocks("512-64k"), Ok((512, 65536)));
        assert!(
            parse_size("").is_err() && parse_size("k").is_err() && parse_size("99999999999999G").is_err()
        );
    }
}
