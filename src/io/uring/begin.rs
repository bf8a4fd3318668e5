//! The start of every operation.

use super::handles::{FileTraits, Handles, Held};
use super::slots::{Allocating, Reading, Receiving, Sending, Stating, Work, Writing};
use super::{INLINE_BYTES_PER_TURN, UringDriver, memory, open, sockets};
use crate::base::units::Span;
use crate::io::driver::{Access, Address, Direction, Done, FileId, FileKind, Op, Opened, SocketId, Token};
use nix::errno::Errno;
use std::path::Path;

/// Gives space back to the file system.
const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
/// On a file: zeros without writing. On a block device: the fastest way the device has, and writing
/// otherwise.
const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;

/// A file keeps its space if the file system can do that.
const ZERO_FILE: &[i32] = &[ZERO, PUNCH];
/// On a block device a punched hole reads as zeros too: the device's command for that, and no fallback.
const ZERO_DEVICE: &[i32] = &[PUNCH, ZERO];
const DISCARD_FILE: &[i32] = &[PUNCH];

/// Where an admitted operation is carried out.
enum Route {
    Ring,
    /// On the spot: a copy.
    Memory,
    /// There is nothing to do.
    Over,
}

impl UringDriver {
    pub(super) fn begin(&mut self, token: Token, op: Op) {
        match op {
            Op::Open { path, access } => {
                let opened = open_shared(&self.shared, &path, access);
                self.complete(token, Done::Opened(opened));
            }
            Op::Size { file } => self.size(token, file),
            Op::Close { file } => self.close(token, file.0, Held::file),
            Op::CloseSocket { socket } => self.close(token, socket.0, Held::socket),
            Op::Listen { address } => {
                let socket =
                    sockets::listen(&address).and_then(|held| self.shared.insert(held)).map(SocketId);
                self.complete(token, Done::Socket(socket));
            }
            Op::LocalAddress { socket } => {
                let address = local_address(&self.shared, socket);
                self.complete(token, Done::LocalAddress(address));
            }
            Op::Shutdown { socket, direction } => {
                let ended = self.shutdown(socket, direction);
                self.complete(token, Done::Finished(ended));
            }
            Op::Connect { address } => match sockets::connecting(&address) {
                Ok(connecting) => self.launch_new(token, Work::Connect(Box::new(connecting))),
                Err(errno) => self.complete(token, Done::Socket(Err(errno))),
            },
            Op::Discard { file, span } => self.discard(token, file, span),
            Op::Zero { file, span } => self.zero(token, file, span),
            Op::Read { .. }
            | Op::Write { .. }
            | Op::Flush { .. }
            | Op::Accept { .. }
            | Op::Recv { .. }
            | Op::Send { .. } => {
                let work = transfer(op);
                self.start(token, work);
            }
        }
    }

    /// A device's size is known to the kernel; a file's may have to be asked for, and nobody waits for that here.
    fn size(&mut self, token: Token, file: FileId) {
        let held = match self.locals.begin(file.0, &mut self.ring, &self.peer) {
            Ok(held) => held,
            Err(errno) => return self.complete(token, Done::Size(Err(errno))),
        };
        match held.file().map(|traits| traits.kind) {
            Some(FileKind::RegularFile) => self.launch_new(token, Work::Stat(Box::new(Stating::new(file.0)))),
            Some(FileKind::BlockDevice) => {
                let size = open::size(held, FileKind::BlockDevice);
                self.locals.end(file.0, &mut self.ring);
                self.complete(token, Done::Size(size));
            }
            None => {
                self.locals.end(file.0, &mut self.ring);
                self.complete(token, Done::Size(Err(Errno::EBADF)));
            }
        }
    }

    /// Puts admitted work in a slot and queues its first entry.
    pub(super) fn launch_new(&mut self, token: Token, work: Work) {
        let key = self.slots.insert(token, work);
        self.launch(key);
    }

    /// Carries out what was put off, up to this turn's share.
    pub(super) fn perform_deferred(&mut self) {
        self.inline_bytes_left = INLINE_BYTES_PER_TURN;
        while self.inline_bytes_left > 0 {
            let Some(key) = self.deferred.pop_front() else { break };
            let work = self.slots.take(key);
            let token = self.slots.free(key);
            self.perform(token, work);
        }
    }

    fn start(&mut self, token: Token, mut work: Work) {
        let id = work.handle().expect("transfers have a handle");
        let held = match self.locals.begin(id, &mut self.ring, &self.peer) {
            Ok(held) => held,
            Err(errno) => return self.complete(token, refusal(work, errno)),
        };
        if let Work::Read(reading) = &mut work {
            reading.direct = held.file().and_then(|traits| traits.direct);
        }
        match route(&work, held) {
            Ok(Route::Ring) => self.launch_new(token, work),
            Ok(Route::Memory) if self.inline_bytes_left > 0 => self.perform(token, work),
            Ok(Route::Memory) => {
                let key = self.slots.insert(token, work);
                self.deferred.push_back(key);
            }
            Ok(Route::Over) => {
                self.locals.end(id, &mut self.ring);
                self.complete(token, nothing_to_do(work));
            }
            Err(errno) => {
                self.locals.end(id, &mut self.ring);
                self.complete(token, refusal(work, errno));
            }
        }
    }

    fn perform(&mut self, token: Token, work: Work) {
        let id = work.handle().expect("transfers have a handle");
        self.inline_bytes_left = self.inline_bytes_left.saturating_sub(bytes(&work).max(1));
        let done = memory::perform(self.locals.held(id), work);
        self.locals.end(id, &mut self.ring);
        self.complete(token, done);
    }

    fn discard(&mut self, token: Token, file: FileId, span: Span) {
        self.begin_on_span(token, file, span, |kind| match kind {
            FileKind::RegularFile => Work::Allocate(Allocating { file: file.0, span, modes: DISCARD_FILE }),
            FileKind::BlockDevice => Work::Discard { file: file.0, span },
        });
    }

    fn zero(&mut self, token: Token, file: FileId, span: Span) {
        self.begin_on_span(token, file, span, |kind| {
            let modes = match kind {
                FileKind::RegularFile => ZERO_FILE,
                FileKind::BlockDevice => ZERO_DEVICE,
            };
            Work::Allocate(Allocating { file: file.0, span, modes })
        });
    }

    fn begin_on_span(&mut self, token: Token, file: FileId, span: Span, work: impl Fn(FileKind) -> Work) {
        let admitted = self.locals.begin(file.0, &mut self.ring, &self.peer);
        let kind = admitted.map(|held| held.file().map(|traits| traits.kind));
        let kind = match kind {
            Ok(Some(kind)) if !span.is_empty() && fits(span.offset().0, span.len().0) => kind,
            Ok(found) => {
                self.locals.end(file.0, &mut self.ring);
                let end = match found {
                    Some(_) if span.is_empty() => Ok(()),
                    Some(_) => Err(Errno::EINVAL),
                    None => Err(Errno::EBADF),
                };
                return self.complete(token, Done::Finished(end));
            }
            Err(errno) => return self.complete(token, Done::Finished(Err(errno))),
        };
        if let Some(mapped) = self.locals.held(file.0).mapped() {
            mapped.forget(span.offset().0, span.len().0);
        }
        let key = self.slots.insert(token, work(kind));
        if matches!(self.slots.at(key).work, Work::Discard { .. }) && !self.commands {
            self.offload(key);
        } else {
            self.launch(key);
        }
    }

    fn shutdown(&mut self, socket: SocketId, direction: Direction) -> Result<(), Errno> {
        let held = self.shared.peek(socket.0).ok_or(Errno::EBADF)?;
        held.socket().ok_or(Errno::ENOTSOCK)?;
        // What was submitted before comes before: hand it to the kernel first.
        self.ring.submit();
        sockets::shutdown(&held, direction)
    }

    /// Ends with `Note::Closed`, when every core has let go.
    fn close<T>(&mut self, token: Token, id: u32, is_that: impl Fn(&Held) -> Option<&T>) {
        let known = self.shared.peek(id).is_some_and(|held| is_that(&held).is_some());
        let removed = if known { self.shared.remove(id, &self.peer, token) } else { None };
        let Some(held) = removed else {
            return self.complete(token, Done::Finished(Err(Errno::EBADF)));
        };
        if held.socket().is_some() {
            // Operations that wait for the peer would keep the socket open: they end now, on every core. What
            // was submitted before the close is handed over first.
            self.ring.submit();
            // Not connected any more: then nothing waits.
            let _ = sockets::shutdown(&held, Direction::Both);
        }
        self.locals.release(id, &mut self.ring);
    }
}

fn open_shared(shared: &Handles, path: &Path, access: Access) -> Result<Opened, Errno> {
    let (held, facts) = open::open_file(path, access)?;
    Ok(Opened { file: FileId(shared.insert(held)?), facts })
}

fn local_address(shared: &Handles, socket: SocketId) -> Result<Address, Errno> {
    let held = shared.peek(socket.0).ok_or(Errno::EBADF)?;
    let traits = held.socket().ok_or(Errno::ENOTSOCK)?;
    sockets::local_address(&held, traits)
}

/// The work of an operation that moves bytes.
pub(super) fn transfer(op: Op) -> Work {
    match op {
        Op::Read { file, offset, into } => {
            Work::Read(Reading { file: file.0, offset: offset.0, into, done: 0, direct: None })
        }
        Op::Write { file, offset, from, durable } => {
            Work::Write(Writing { file: file.0, offset: offset.0, from, done: 0, durable })
        }
        Op::Flush { file } => Work::Flush { file: file.0 },
        Op::Accept { socket } => Work::Accept { socket: socket.0 },
        Op::Recv { socket, into, least } => Work::Receive(Receiving { socket: socket.0, into, least }),
        Op::Send { socket, from } => Work::Send(Sending { socket: socket.0, from, at: 0, within: 0 }),
        Op::Open { .. }
        | Op::Close { .. }
        | Op::Size { .. }
        | Op::Discard { .. }
        | Op::Zero { .. }
        | Op::Listen { .. }
        | Op::LocalAddress { .. }
        | Op::Connect { .. }
        | Op::Shutdown { .. }
        | Op::CloseSocket { .. } => unreachable!("these are begun otherwise"),
    }
}

/// Checks a transfer against its handle and says where it is carried out.
fn route(work: &Work, held: &Held) -> Result<Route, Errno> {
    match work {
        Work::Read(Reading { offset, into, .. }) => {
            file_route(held.file().ok_or(Errno::EBADF)?, *offset, into.len())
        }
        Work::Write(Writing { offset, from, .. }) => {
            file_route(held.file().ok_or(Errno::EBADF)?, *offset, from.len())
        }
        Work::Flush { .. } => {
            let traits = held.file().ok_or(Errno::EBADF)?;
            Ok(if traits.in_memory { Route::Memory } else { Route::Ring })
        }
        Work::Accept { .. } => held.socket().map(|_| Route::Ring).ok_or(Errno::ENOTSOCK),
        Work::Receive(Receiving { into, least, .. }) => {
            let traits = held.socket().ok_or(Errno::ENOTSOCK)?;
            let room = into.room();
            // Without room the result could not be told from the end of the stream.
            if room == 0 {
                return Err(Errno::EINVAL);
            }
            sockets::wake_at(held, traits, (*least).min(room));
            Ok(Route::Ring)
        }
        Work::Send(sending) => {
            held.socket().ok_or(Errno::ENOTSOCK)?;
            Ok(if sending.is_over() { Route::Over } else { Route::Ring })
        }
        Work::Idle
        | Work::Stat(_)
        | Work::Allocate(_)
        | Work::Discard { .. }
        | Work::Offloaded { .. }
        | Work::Connect(_) => {
            unreachable!("not a transfer")
        }
    }
}

fn file_route(traits: &FileTraits, offset: u64, len: usize) -> Result<Route, Errno> {
    match len {
        _ if !fits(offset, len as u64) => Err(Errno::EINVAL), // usize to u64: widening
        0 => Ok(Route::Over),
        _ if traits.in_memory => Ok(Route::Memory),
        _ => Ok(Route::Ring),
    }
}

/// Whether the kernel can count that far: file offsets are signed.
pub(super) fn fits(offset: u64, len: u64) -> bool {
    offset.checked_add(len).is_some_and(|end| i64::try_from(end).is_ok())
}

fn bytes(work: &Work) -> usize {
    match work {
        Work::Read(reading) => reading.into.len(),
        Work::Write(writing) => writing.from.len(),
        Work::Idle
        | Work::Flush { .. }
        | Work::Allocate(_)
        | Work::Stat(_)
        | Work::Discard { .. }
        | Work::Offloaded { .. }
        | Work::Accept { .. }
        | Work::Connect(_)
        | Work::Receive(_)
        | Work::Send(_) => 0,
    }
}

/// The end of a transfer of no bytes.
fn nothing_to_do(work: Work) -> Done {
    match work {
        Work::Read(reading) => Done::Read(Ok(0), reading.into),
        Work::Send(sending) => Done::Sent(Ok(()), sending.from),
        Work::Write(_) => Done::Finished(Ok(())),
        Work::Idle
        | Work::Flush { .. }
        | Work::Allocate(_)
        | Work::Stat(_)
        | Work::Discard { .. }
        | Work::Offloaded { .. }
        | Work::Accept { .. }
        | Work::Connect(_)
        | Work::Receive(_) => unreachable!("only reads, writes and sends may have nothing to do"),
    }
}

/// The end of work that was not started, with its buffers.
fn refusal(work: Work, errno: Errno) -> Done {
    match work {
        Work::Read(reading) => Done::Read(Err(errno), reading.into),
        Work::Accept { .. } => Done::Accepted(Err(errno)),
        Work::Connect(_) => Done::Socket(Err(errno)),
        Work::Stat(_) => Done::Size(Err(errno)),
        Work::Receive(receiving) => Done::Received(Err(errno), receiving.into),
        Work::Send(sending) => Done::Sent(Err(errno), sending.from),
        Work::Write(_)
        | Work::Flush { .. }
        | Work::Allocate(_)
        | Work::Discard { .. }
        | Work::Offloaded { .. }
        | Work::Idle => Done::Finished(Err(errno)),
    }
}
