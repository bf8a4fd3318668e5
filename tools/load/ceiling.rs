//! `load ceiling`: the least that an NBD server can do, as the yardstick for servers and for `load speed` itself.
//!
//! One thread, 64 MiB of memory instead of a disk, every request of a receive answered with one vectored send, reads sent
//! straight from the memory. It lacks what a server needs, and many offsets share a place in the memory: for measurements
//! on one machine only.

use crate::args::CeilingArgs;
use crate::speed::send_all;
use crate::wire::{self, REPLY_LEN, Socket};
use anyhow::{Context, Result, bail, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use slab::Slab;
use std::io::{IoSlice, Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;

const STORE_BYTES: usize = 64 << 20;
const RECEIVE_BYTES: usize = 256 << 10;
/// A vectored send takes 1024 pieces, and a read's answer has two.
const BATCH_MAX: usize = 512;
/// The listener among the events; connections have small numbers.
const LISTENER: u64 = u64::MAX;
const OPTION_MAX: usize = 4096;

/// Serves for ever.
pub fn ceiling(args: &CeilingArgs) -> Result<()> {
    let listener = Listener::bind(&args.listen)?;
    let epoll = Epoll::new(EpollCreateFlags::empty())?;
    epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    let mut store = vec![0x5a; STORE_BYTES];
    let mut connections: Slab<Connection> = Slab::new();
    let mut events = [EpollEvent::empty(); 64];
    loop {
        let count = epoll.wait(&mut events, EpollTimeout::NONE)?;
        for event in &events[..count] {
            if event.data() == LISTENER {
                accept(&listener, &epoll, &mut connections, args.size)?;
                continue;
            }
            let key = usize::try_from(event.data())?;
            let served = connections[key].serve(&mut store);
            if !served.unwrap_or(false) {
                connections.remove(key);
            }
        }
    }
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    fn bind(address: &str) -> Result<Listener> {
        match address.strip_prefix("unix:") {
            Some(path) => UnixListener::bind(path).map(Listener::Unix),
            None => TcpListener::bind(address).map(Listener::Tcp),
        }
        .context("cannot listen")
    }

    fn accept(&self) -> Result<Socket> {
        match self {
            Listener::Unix(listener) => Ok(Socket::Unix(listener.accept()?.0)),
            Listener::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                Ok(Socket::Tcp(stream))
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Tcp(listener) => listener.as_fd(),
            Listener::Unix(listener) => listener.as_fd(),
        }
    }
}

fn accept(listener: &Listener, epoll: &Epoll, connections: &mut Slab<Connection>, size: u64) -> Result<()> {
    let mut socket = listener.accept()?;
    // Whoever only asks for the size, or leaves, is no connection.
    if greet(&mut socket, size).unwrap_or(false) {
        let entry = connections.vacant_entry();
        epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, u64::try_from(entry.key())?))?;
        entry.insert(Connection::new(socket));
    }
    Ok(())
}

/// Negotiates; false when the client only asked or went away.
fn greet(socket: &mut Socket, size: u64) -> Result<bool> {
    socket.write_all(&wire::greeting())?;
    let mut flags = [0; 4];
    socket.read_exact(&mut flags)?;
    loop {
        let mut header = [0; 16];
        if socket.read_exact(&mut header).is_err() {
            return Ok(false);
        }
        let option = u32::from_be_bytes(*header[8..].first_chunk().expect("sixteen bytes"));
        let length = usize::try_from(u32::from_be_bytes(*header[12..].first_chunk().expect("four bytes")))?;
        ensure!(length <= OPTION_MAX, "an option of {length} bytes");
        socket.read_exact(&mut vec![0; length])?;
        let (reply, next) = wire::answer_option(option, size);
        socket.write_all(&reply)?;
        match next {
            wire::Next::Options => {}
            wire::Next::Transmission => return Ok(true),
            wire::Next::Close => return Ok(false),
        }
    }
}

/// One request as it matters here.
struct Asked {
    command: u16,
    cookie: [u8; 8],
    offset: u64,
    length: usize,
}

fn parse(bytes: &[u8; wire::REQUEST_LEN]) -> Result<Asked> {
    ensure!(bytes[..4] == wire::request_magic(), "what came is not a request");
    let number = |at: usize| u64::from_be_bytes(*bytes[at..].first_chunk().expect("inside the header"));
    Ok(Asked {
        command: u16::from_be_bytes([bytes[6], bytes[7]]),
        cookie: *bytes[8..].first_chunk().expect("inside the header"),
        offset: number(16),
        length: usize::try_from(number(20) & 0xffff_ffff)?,
    })
}

struct Connection {
    socket: Socket,
    received: Vec<u8>,
    filled: usize,
    /// Answers to give: the header, and where the data of a read lies.
    answers: Vec<([u8; REPLY_LEN], std::ops::Range<usize>)>,
}

impl Connection {
    fn new(socket: Socket) -> Connection {
        Connection { socket, received: vec![0; RECEIVE_BYTES], filled: 0, answers: Vec::new() }
    }

    /// Answers what has arrived; false when the client has left.
    fn serve(&mut self, store: &mut [u8]) -> Result<bool> {
        let count = self.socket.read(&mut self.received[self.filled..])?;
        self.filled += count;
        while self.take_requests(store)? {
            self.answer(store)?;
        }
        Ok(count > 0)
    }

    /// Takes what is whole; true when there is something to answer.
    fn take_requests(&mut self, store: &mut [u8]) -> Result<bool> {
        let mut at = 0;
        while self.answers.len() < BATCH_MAX {
            let Some(header) = self.received[at..self.filled].first_chunk() else { break };
            let asked = parse(header)?;
            at += wire::REQUEST_LEN;
            let place = place(&asked)?;
            let mut data = 0..0;
            match asked.command {
                0 => data = place,
                1 => {
                    let there = (self.filled - at).min(asked.length);
                    let (now, later) = store[place].split_at_mut(there);
                    now.copy_from_slice(&self.received[at..at + there]);
                    self.socket.read_exact(later)?;
                    at += there;
                }
                2 => bail!("the client has left"),
                _flush_or_trim => {}
            }
            self.answers.push((wire::reply_header(asked.cookie), data));
        }
        self.received.copy_within(at..self.filled, 0);
        self.filled -= at;
        Ok(!self.answers.is_empty())
    }

    fn answer(&mut self, store: &[u8]) -> Result<()> {
        let mut pieces = Vec::with_capacity(2 * self.answers.len());
        for (header, data) in &self.answers {
            pieces.push(IoSlice::new(header));
            if !data.is_empty() {
                pieces.push(IoSlice::new(&store[data.clone()]));
            }
        }
        send_all(&mut self.socket, &mut pieces)?;
        self.answers.clear();
        Ok(())
    }
}

fn place(asked: &Asked) -> Result<std::ops::Range<usize>> {
    ensure!(asked.length <= 32 << 20, "a request of {} bytes", asked.length);
    let from = (usize::try_from(asked.offset)? % (STORE_BYTES - asked.length)) & !4095;
    Ok(from..from + asked.length)
}
