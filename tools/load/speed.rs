//! `load speed`: a closed loop that costs as little as a client can, so that the server is what is measured.
//!
//! One thread and plain blocking sockets: everything that has arrived on a connection is taken with one receive, and the
//! requests that replace it leave with one vectored send. Several connections are waited for with epoll. Payloads are neither made
//! nor looked at; those of 32 KiB and more are dropped inside the kernel (MSG_TRUNC), which costs the server what it
//! would cost otherwise. Data is proved by `load run`.

use crate::args::{Mode, SpeedArgs};
use crate::content::mix;
use crate::wire::{self, Command, Export, REPLY_LEN, Reply, Request, Socket};
use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::socket::{MsgFlags, recv};
use nix::sys::time::TimeValLike;
use serde::Serialize;
use std::io::{IoSlice, Read, Write};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// Payload bytes from which a read's data is dropped in the kernel.
const DROP_MIN: usize = 32 << 10;
const RECEIVE_BYTES: usize = 256 << 10;
/// A vectored send takes 1024 pieces, and a write has two.
pub const DEPTH_MAX: u16 = 512;
const LATENCY_MAX_NS: u64 = 60_000_000_000;
/// Without an answer for so long the server hangs.
const PATIENCE: Duration = Duration::from_secs(30);
const PATIENCE_MS: u16 = 30_000;

/// What one connection did after the warm-up, and requests of all the time.
struct Tally {
    latencies: Histogram<u64>,
    measured: u64,
    all: u64,
}

/// The result; times in microseconds or seconds as named.
#[derive(Clone, Debug, Serialize)]
pub struct Speed {
    pub schema: &'static str,
    pub seconds: f64,
    pub requests: u64,
    /// With the warm-up and the end: what the server's processor time of the whole run is divided by.
    pub requests_all: u64,
    pub iops: f64,
    pub mb_per_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
    /// Processor time of this process for each second of the whole run: close to 1, one core of the client is the limit.
    pub client_busy: f64,
    pub client_us_per_request: f64,
}

impl Speed {
    pub fn print(&self) {
        println!("{}", serde_json::to_string(self).expect("plain data"));
        eprintln!(
            "load: {:.0} IOPS, {:.1} MB/s; p50/p99/p99.9 {:.0}/{:.0}/{:.0} us; client busy {:.0} %",
            self.iops,
            self.mb_per_second,
            self.p50_us,
            self.p99_us,
            self.p999_us,
            self.client_busy * 100.0
        );
    }
}

/// When a run begins to count and when it stops, the same for all connections.
#[derive(Clone, Copy)]
struct Clock {
    count_from: Instant,
    end: Instant,
}

pub fn speed(args: &SpeedArgs) -> Result<Speed> {
    let depth = args.common.depth;
    ensure!((1..=DEPTH_MAX).contains(&depth), "1 to {DEPTH_MAX} requests can be in flight");
    ensure!(args.common.connections > 0, "at least one connection");
    let mut sockets = Vec::new();
    for _ in 0..args.common.connections {
        let (socket, export) = wire::connect(&args.common.uri, true)?;
        socket.set_timeout(Some(PATIENCE))?;
        sockets.push((socket, size_used(args, export)?));
    }
    let (begun, used) = (Instant::now(), processor_time()?);
    let clock = Clock {
        count_from: begun + Duration::from_secs_f64(args.warmup),
        end: begun + Duration::from_secs_f64(args.warmup + args.seconds),
    };
    let mut connections = Vec::new();
    for (index, (socket, size)) in sockets.into_iter().enumerate() {
        connections.push(Connection::new(socket, Places::new(args, index, size), usize::from(depth), args)?);
    }
    run(&mut connections, clock)?;
    let (elapsed, used) = (begun.elapsed(), processor_time()? - used);
    let tallies: Vec<Tally> = connections.into_iter().map(|connection| connection.tally).collect();
    Ok(summary(args, &tallies, elapsed.as_secs_f64(), used))
}

/// Keeps all connections busy to the end.
fn run(connections: &mut [Connection], clock: Clock) -> Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::empty())?;
    for (index, connection) in (0..).zip(&mut *connections) {
        epoll.add(&connection.socket, EpollEvent::new(EpollFlags::EPOLLIN, index))?;
        connection.issue_all(Instant::now())?;
    }
    let mut events = vec![EpollEvent::empty(); connections.len()];
    while connections.iter().any(Connection::busy) {
        if let [only] = connections {
            only.step(clock)?;
            continue;
        }
        let count = epoll.wait(&mut events, EpollTimeout::from(PATIENCE_MS))?;
        ensure!(count > 0, "no answer for {} s", PATIENCE.as_secs());
        for event in &events[..count] {
            connections[usize::try_from(event.data())?].step(clock)?;
        }
    }
    connections.iter_mut().for_each(Connection::disconnect);
    Ok(())
}

/// Seconds of processor time of this process.
fn processor_time() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    // Microseconds of a run are far below 2^53.
    Ok((usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1e6)
}

fn size_used(args: &SpeedArgs, export: Export) -> Result<u64> {
    let size = args.size.unwrap_or(export.size).min(export.size);
    let blocks = size / args.block;
    ensure!(blocks > 0, "a request is longer than the export");
    ensure!(args.block <= u64::from(export.payload_max), "the server takes at most {}", export.payload_max);
    ensure!(args.block.is_multiple_of(u64::from(export.block_min)), "multiples of {}", export.block_min);
    let reads_only = matches!(args.mode, Mode::Randread | Mode::Read);
    ensure!(reads_only || !export.has(wire::HAS_READ_ONLY), "the export is read-only");
    Ok(size)
}

fn summary(args: &SpeedArgs, tallies: &[Tally], elapsed: f64, used: f64) -> Speed {
    let mut latencies = histogram();
    tallies.iter().for_each(|tally| latencies.add(&tally.latencies).expect("the same bounds"));
    let requests: u64 = tallies.iter().map(|tally| tally.measured).sum();
    let requests_all: u64 = tallies.iter().map(|tally| tally.all).sum();
    // Counts and sizes are far below 2^53: rates for people.
    let iops = requests as f64 / args.seconds;
    let us = |quantile: f64| latencies.value_at_quantile(quantile) as f64 / 1e3;
    Speed {
        schema: "drystone.load.speed/1",
        seconds: args.seconds,
        requests,
        requests_all,
        iops,
        mb_per_second: iops * args.block as f64 / 1e6,
        p50_us: us(0.5),
        p99_us: us(0.99),
        p999_us: us(0.999),
        max_us: us(1.0),
        client_busy: used / elapsed,
        client_us_per_request: used * 1e6 / requests_all as f64,
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3).expect("constant bounds are valid")
}

/// Where the requests of one connection go: anywhere, or through its own share of the export again and again.
struct Places {
    mode: Mode,
    read_percent: u64,
    block: u64,
    first: u64,
    count: u64,
    next: u64,
    random: u64,
}

impl Places {
    fn new(args: &SpeedArgs, index: usize, size: u64) -> Places {
        let (index, connections) = (index as u64, u64::from(args.common.connections)); // below 2^16
        let blocks = size / args.block;
        let sequential = matches!(args.mode, Mode::Read | Mode::Write);
        let share = (blocks / connections).max(1);
        let (first, count) = if sequential { (index * share % blocks, share) } else { (0, blocks) };
        let random = mix(args.seed ^ (index << 32));
        Places {
            mode: args.mode,
            read_percent: args.read_percent,
            block: args.block,
            first,
            count,
            next: 0,
            random,
        }
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let wide = u128::from(mix(self.random)) * u128::from(below);
        u64::try_from(wide >> 64).expect("the high half of a product fits")
    }

    /// Whether the next request reads, and where it is.
    fn next(&mut self) -> (bool, u64) {
        let read = match self.mode {
            Mode::Randread | Mode::Read => true,
            Mode::Randwrite | Mode::Write => false,
            Mode::Randrw => self.draw(100) < self.read_percent,
        };
        let place = match self.mode {
            Mode::Read | Mode::Write => {
                self.next += 1;
                (self.next - 1) % self.count
            }
            Mode::Randread | Mode::Randwrite | Mode::Randrw => self.draw(self.count),
        };
        (read, (self.first + place) * self.block)
    }
}

#[derive(Clone, Copy)]
struct Slot {
    in_flight: bool,
    read: bool,
    issued: Instant,
}

struct Connection {
    socket: Socket,
    places: Places,
    block: usize,
    slots: Vec<Slot>,
    /// Slots that nothing is in flight for; their number is the cookie.
    idle: Vec<usize>,
    headers: Vec<u8>,
    payload: Vec<u8>,
    received: Vec<u8>,
    filled: usize,
    /// Whether the kernel drops payloads that are not wanted; it does for TCP.
    drops: bool,
    tally: Tally,
}

impl Connection {
    fn new(socket: Socket, places: Places, depth: usize, args: &SpeedArgs) -> Result<Connection> {
        let block = usize::try_from(args.block)?;
        let drops = matches!(socket, Socket::Tcp(_)) && block >= DROP_MIN;
        let slot = Slot { in_flight: false, read: false, issued: Instant::now() };
        let payload = (0..block).map(|at| (at * 131 % 251) as u8).collect(); // below 251
        Ok(Connection {
            socket,
            places,
            block,
            slots: vec![slot; depth],
            idle: (0..depth).rev().collect(),
            headers: Vec::new(),
            payload,
            received: vec![0; RECEIVE_BYTES.max(block)],
            filled: 0,
            drops,
            tally: Tally { latencies: histogram(), measured: 0, all: 0 },
        })
    }

    fn busy(&self) -> bool {
        self.idle.len() < self.slots.len()
    }

    /// Takes what has arrived, and asks for as much again before the end.
    fn step(&mut self, clock: Clock) -> Result<()> {
        self.receive(clock)?;
        let now = Instant::now();
        if now < clock.end { self.issue_all(now) } else { Ok(()) }
    }

    fn disconnect(&mut self) {
        let mut header = Vec::new();
        Request { command: Command::Disconnect, flags: 0, cookie: 0, offset: 0, length: 0 }.emit(&mut header);
        // A server that closes first has had all it needs.
        let _ = self.socket.write_all(&header);
    }

    /// Sends requests until the depth is reached.
    fn issue_all(&mut self, now: Instant) -> Result<()> {
        let headers = &mut self.headers;
        headers.clear();
        let (mut writes, first) = (Vec::new(), self.idle.len());
        while let Some(slot) = self.idle.pop() {
            let (read, offset) = self.places.next();
            self.slots[slot] = Slot { in_flight: true, read, issued: now };
            let command = if read { Command::Read } else { Command::Write };
            let length = u32::try_from(self.block)?;
            Request { command, flags: 0, cookie: slot as u64, offset, length }.emit(headers); // below the depth
            writes.push(!read);
        }
        if first == 0 {
            return Ok(());
        }
        if !writes.contains(&true) {
            return self.socket.write_all(headers).context("sending");
        }
        let mut pieces = Vec::with_capacity(2 * writes.len());
        for (header, write) in headers.chunks_exact(headers.len() / first).zip(&writes) {
            pieces.push(IoSlice::new(header));
            if *write {
                pieces.push(IoSlice::new(&self.payload));
            }
        }
        send_all(&mut self.socket, &mut pieces)
    }

    /// Waits for bytes and takes what replies there are.
    fn receive(&mut self, clock: Clock) -> Result<()> {
        let count = self.socket.read(&mut self.received[self.filled..]).context("receiving")?;
        ensure!(count > 0, "the server closed the connection");
        self.filled += count;
        let now = Instant::now();
        let mut at = 0;
        while let Some(header) = self.received[at..self.filled].first_chunk::<REPLY_LEN>() {
            let reply = Reply::parse(header).context("what came is not a simple reply")?;
            let slot = self.answered(reply)?;
            let wanted = if self.slots[slot].read { self.block } else { 0 };
            let there = self.filled - at - REPLY_LEN;
            if there < wanted {
                if !self.drops && REPLY_LEN + wanted <= self.received.len() {
                    break;
                }
                self.drop_payload(wanted - there)?;
                at = self.filled;
                self.complete(slot, Instant::now(), clock);
                break;
            }
            at += REPLY_LEN + wanted;
            self.complete(slot, now, clock);
        }
        self.received.copy_within(at..self.filled, 0);
        self.filled -= at;
        Ok(())
    }

    fn answered(&self, reply: Reply) -> Result<usize> {
        ensure!(reply.error == 0, "the server answers with error {}", reply.error);
        let slot = usize::try_from(reply.cookie)?;
        match self.slots.get(slot) {
            Some(found) if found.in_flight => Ok(slot),
            Some(_) | None => bail!("a reply to a request that is not in flight (cookie {slot})"),
        }
    }

    fn complete(&mut self, slot: usize, now: Instant, clock: Clock) {
        self.slots[slot].in_flight = false;
        self.idle.push(slot);
        self.tally.all += 1;
        if now >= clock.count_from && now < clock.end {
            self.tally.measured += 1;
            let ns = u64::try_from((now - self.slots[slot].issued).as_nanos()).unwrap_or(u64::MAX);
            self.tally.latencies.saturating_record(ns);
        }
    }

    /// Takes so many bytes off the socket without looking at them.
    fn drop_payload(&mut self, mut left: usize) -> Result<()> {
        while left > 0 {
            let piece = left.min(self.received.len());
            let count = match &self.socket {
                Socket::Tcp(s) if self.drops => {
                    recv(s.as_raw_fd(), &mut self.received[..piece], MsgFlags::MSG_TRUNC)?
                }
                Socket::Tcp(_) | Socket::Unix(_) => self.socket.read(&mut self.received[..piece])?,
            };
            ensure!(count > 0, "the server closed the connection");
            left -= count;
        }
        Ok(())
    }
}

/// Sends all pieces, however often it takes.
pub fn send_all(socket: &mut impl Write, pieces: &mut [IoSlice<'_>]) -> Result<()> {
    let mut rest = pieces;
    while !rest.is_empty() {
        let sent = socket.write_vectored(rest).context("sending")?;
        ensure!(sent > 0, "the other end takes nothing");
        IoSlice::advance_slices(&mut rest, sent);
    }
    Ok(())
}
