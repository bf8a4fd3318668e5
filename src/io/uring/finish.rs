//! The end of every operation, or its next step.

use super::entries::entry;
use super::locals::Target;
use super::offload::Job;
use super::settle::{self, Step};
use super::slots::{Connecting, Work, outcome};
use super::wake::Note;
use super::{UringDriver, WAKE, sockets};
use crate::base::units::ByteLen;
use crate::io::driver::{Accepted, Done, SocketId};
use nix::errno::Errno;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

impl UringDriver {
    /// Queues the next entry of the work in a slot.
    pub(super) fn launch(&mut self, key: u32) {
        let slot = self.slots.at(key);
        let target = match &slot.work {
            Work::Connect(connecting) => Target::Fd(connecting.socket.as_raw_fd()),
            // It takes no registered file.
            Work::Stat(stating) => Target::Fd(self.locals.held(stating.file).raw()),
            work => self.locals.target(work.handle().expect("only a connect has no handle")),
        };
        let entry = entry(slot, target, self.arena).user_data(u64::from(key));
        // SAFETY: the entry points into the boxed slot and to buffers that the slot owns; neither is moved,
        // changed or freed before `look_at_results` has seen the entry's result, also when the driver is
        // dropped.
        unsafe { self.ring.push(entry) }
    }

    /// Goes on with everything that the kernel has finished.
    pub(super) fn look_at_results(&mut self) {
        let mut ended = std::mem::take(&mut self.ended);
        self.ring.collect(&mut ended);
        for one in ended.drain(..) {
            match one.user_data {
                WAKE => self.wake_came(),
                key => self.settle(u32::try_from(key).expect("slot numbers"), outcome(one.result)),
            }
        }
        self.ended = ended;
    }

    /// Does what other threads have asked for.
    pub(super) fn read_notes(&mut self) {
        for note in self.peer.take_notes() {
            match note {
                Note::Release(id) => self.locals.release(id, &mut self.ring),
                Note::Closed(token) => self.complete(token, Done::Finished(Ok(()))),
                Note::Offloaded { key, result } => {
                    let work = self.slots.take(key);
                    self.conclude(key, work.handle(), Done::Finished(result));
                }
            }
        }
    }

    /// Gives a discard in a slot to the thread that waits for it.
    pub(super) fn offload(&mut self, key: u32) {
        let work = self.slots.take(key);
        let Work::Discard { file, span } = work else { unreachable!("only discards are offloaded") };
        self.slots.put(key, Work::Offloaded { file });
        let held = self.locals.held(file).clone();
        if let Err(errno) = self.offload.start(Job { key, held, span }, &self.peer) {
            self.slots.take(key);
            self.conclude(key, Some(file), Done::Finished(Err(errno)));
        }
    }

    fn wake_came(&mut self) {
        self.peer.read_completed();
        self.woken = true;
        self.await_wake();
    }

    fn settle(&mut self, key: u32, result: Result<usize, Errno>) {
        let work = self.slots.take(key);
        let id = work.handle();
        let step = match work {
            Work::Read(reading) => settle::read(reading, result),
            Work::Write(writing) => settle::write(writing, result),
            Work::Flush { file } if result == Err(Errno::EINTR) => Step::Again(Work::Flush { file }),
            Work::Flush { .. } => settle::finished(result),
            Work::Allocate(allocating) => settle::allocate(allocating, result),
            Work::Stat(stating) => Step::Done(Done::Size(result.map(|_| ByteLen(stating.answer.stx_size)))),
            Work::Discard { file, span } => {
                if matches!(result, Err(Errno::EINVAL | Errno::EOPNOTSUPP)) {
                    // This kernel has no such command, or the device has none: the ioctl knows which.
                    self.slots.put(key, Work::Discard { file, span });
                    return self.offload(key);
                }
                settle::finished(result)
            }
            Work::Accept { socket } => self.accepted(key, socket, result),
            Work::Connect(connecting) => self.connected(*connecting, result),
            Work::Receive(receiving) => settle::receive(receiving, result),
            Work::Send(sending) => settle::send(sending, result),
            Work::Idle | Work::Offloaded { .. } => unreachable!("such work has no entry in the ring"),
        };
        match step {
            Step::Again(work) => {
                self.slots.put(key, work);
                self.launch(key);
            }
            Step::Done(done) => self.conclude(key, id, done),
        }
    }

    fn conclude(&mut self, key: u32, id: Option<u32>, done: Done) {
        let token = self.slots.free(key);
        if let Some(id) = id {
            self.locals.end(id, &mut self.ring);
        }
        self.complete(token, done);
    }

    fn accepted(&mut self, key: u32, socket: u32, result: Result<usize, Errno>) -> Step {
        if result == Err(Errno::EINTR) {
            return Step::Again(Work::Accept { socket });
        }
        let tcp = self.locals.held(socket).socket().is_some_and(|traits| traits.tcp);
        let accepted = result.and_then(|fd| {
            let fd = RawFd::try_from(fd).expect("descriptors are small");
            // SAFETY: the kernel made this descriptor for this accept, and nobody else knows of it.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            let slot = self.slots.at(key);
            let peer = sockets::peer_text(&slot.address, slot.address_len, tcp);
            let socket = SocketId(self.shared.insert(sockets::connected(fd, tcp))?);
            Ok(Accepted { socket, peer })
        });
        Step::Done(Done::Accepted(accepted))
    }

    fn connected(&mut self, connecting: Connecting, result: Result<usize, Errno>) -> Step {
        let Connecting { socket, tcp, .. } = connecting;
        let shared = Arc::clone(&self.shared);
        let connected = result.and_then(|_| shared.insert(sockets::connected(socket, tcp)).map(SocketId));
        Step::Done(Done::Socket(connected))
    }
}
