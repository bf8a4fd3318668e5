//! The ghost check: once a connection is dead and a later write was answered, nothing of the dead one takes effect.
//!
//! Each round sends writes on one connection, cuts it (sometimes in the middle of a payload), writes the same
//! sectors on a new connection, waits for the answers, and then reads them again and again.

use crate::args::GhostArgs;
use crate::content::{self, SECTOR, Value, mix};
use crate::ledger::Mismatch;
use crate::report::{Class, End, Stats, Summary};
use crate::wire::{self, Command, REPLY_LEN, Reply, Request, Socket};
use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::time::{Duration, Instant};

/// Sectors of each write.
const LENGTH: u64 = 128;
/// How long a round watches.
const WATCH: Duration = Duration::from_millis(50);

/// `load ghost`. Overwrites the beginning of the export.
pub fn ghost(args: &GhostArgs) -> Result<Summary> {
    let begun = Instant::now();
    let mut stats = Stats::new();
    for round in 0..args.rounds {
        one_round(args, round, begun, &mut stats).with_context(|| format!("round {round}"))?;
    }
    Ok(stats.summary("ghost", begun.elapsed(), End::Finished))
}

fn one_round(args: &GhostArgs, round: u32, begun: Instant, stats: &mut Stats) -> Result<()> {
    let dice = mix(args.seed ^ u64::from(round) << 32);
    let (dead, alive) = (2 * round + 1, 2 * round + 2);
    cut_with_writes_in_flight(args, dead, dice)?;
    let (mut socket, export) = wire::connect(&args.common.uri, true)?;
    let writes = u64::from(args.common.depth);
    ensure!(export.size >= writes * LENGTH * 512, "the export is smaller than the writes of one round");
    socket.set_timeout(Some(Duration::from_secs(args.common.timeout)))?;
    for index in 0..writes {
        let issued = Instant::now();
        socket.write_all(&write_bytes(args.seed, index, alive))?;
        read_reply(&mut socket)?;
        stats.count(Class::Write, LENGTH * 512, issued.elapsed());
    }
    let until = Instant::now() + WATCH;
    while Instant::now() < until {
        for index in 0..writes {
            let found = read_and_compare(&mut socket, args.seed, index, alive, stats)?;
            stats.mismatches(&found, begun.elapsed());
        }
    }
    Ok(())
}

fn cut_with_writes_in_flight(args: &GhostArgs, stamp: u32, dice: u64) -> Result<()> {
    let (mut socket, _) = wire::connect(&args.common.uri, true)?;
    let mut bytes: Vec<u8> =
        (0..u64::from(args.common.depth)).flat_map(|index| write_bytes(args.seed, index, stamp)).collect();
    // In half of the rounds the last payload does not arrive whole.
    if dice.is_multiple_of(2) {
        let cut = usize::try_from(dice >> 8 & 0x7fff).expect("fifteen bits");
        bytes.truncate(bytes.len() - cut);
    }
    socket.set_timeout(Some(Duration::from_secs(args.common.timeout)))?;
    socket.write_all(&bytes)?;
    std::thread::sleep(Duration::from_micros(dice >> 32 & 0x3ff));
    if let Socket::Tcp(stream) = &socket {
        // A zero linger makes the close a reset.
        socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO))?;
    }
    drop(socket);
    Ok(())
}

fn write_bytes(seed: u64, index: u64, stamp: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    request(Command::Write, index).emit(&mut bytes);
    (0..LENGTH).for_each(|sector| content::emit(seed, index * LENGTH + sector, stamp, &mut bytes));
    bytes
}

fn request(command: Command, index: u64) -> Request {
    let length = u32::try_from(LENGTH * 512).expect("a constant");
    Request { command, flags: 0, cookie: index, offset: index * LENGTH * 512, length }
}

fn read_reply(socket: &mut Socket) -> Result<()> {
    let mut header = [0; REPLY_LEN];
    socket.read_exact(&mut header)?;
    let reply = Reply::parse(&header).context("what came is not a simple reply")?;
    ensure!(reply.error == 0, "request {} failed: error {}", reply.cookie, reply.error);
    Ok(())
}

fn read_and_compare(
    socket: &mut Socket,
    seed: u64,
    index: u64,
    stamp: u32,
    stats: &mut Stats,
) -> Result<Vec<Mismatch>> {
    let issued = Instant::now();
    let mut bytes = Vec::new();
    request(Command::Read, index).emit(&mut bytes);
    socket.write_all(&bytes)?;
    read_reply(socket)?;
    let mut payload = vec![0; SECTOR * usize::try_from(LENGTH)?];
    socket.read_exact(&mut payload)?;
    stats.count(Class::Read, LENGTH * 512, issued.elapsed());
    let judge = |(sector, bytes)| {
        let found = content::inspect(seed, sector, bytes, 0)[0];
        let why = format!("must be stamp {stamp}: a write of a dead connection took effect");
        (found != Value::Stamp(stamp)).then_some(Mismatch { sector, offset: sector * 512, found, why })
    };
    Ok((index * LENGTH..).zip(payload.chunks_exact(SECTOR)).filter_map(judge).collect())
}
