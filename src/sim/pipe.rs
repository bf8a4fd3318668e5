//! One direction of a simulated connection: bytes wait at the sender, travel, and wait at the receiver.
//!
//! The bytes on the way and at the receiver never exceed the window, so a receiver that stops reading stops the
//! sender. Segments of one pipe arrive in order.

use std::collections::VecDeque;

#[derive(Default)]
pub(super) struct Pipe {
    window: usize,
    /// Sends that have not been taken by the receiving end in full, oldest first.
    sends: VecDeque<Sending>,
    /// Receives that wait for bytes, oldest first.
    pub(super) receives: VecDeque<u64>,
    arrived: VecDeque<u8>,
    travelling: usize,
    departed_total: u64,
    arrived_total: u64,
    /// When the last segment arrives.
    pub(super) last_arrival: u64,
    pub(super) fin: Fin,
    /// The receiving end wants no more: receives end with 0 once the arrived bytes are taken.
    pub(super) read_shut: bool,
    /// The receiving end is closed: what still arrives resets the connection.
    pub(super) reader_closed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) enum Fin {
    #[default]
    Open,
    /// The sender has ended; the end follows its bytes.
    Queued,
    Travelling,
    Arrived,
}

struct Sending {
    op: u64,
    len: usize,
    departed: usize,
    /// The stream position of its end, once all of it has departed.
    end: Option<u64>,
}

/// What leaves next.
pub(super) enum Departure {
    /// `len` bytes of a send, from `start` on.
    Bytes {
        op: u64,
        start: usize,
        len: usize,
    },
    Fin,
}

impl Pipe {
    pub(super) fn new(window: usize) -> Pipe {
        Pipe { window, ..Pipe::default() }
    }

    pub(super) fn push_send(&mut self, op: u64, len: usize) {
        self.sends.push_back(Sending { op, len, departed: 0, end: None });
    }

    /// The next segment of at most `len_max` bytes, if the window has room for a quarter of itself or for all that is left
    /// of a send (RFC 1122, 4.2.3.4: no silly windows); it travels from now on.
    pub(super) fn depart(&mut self, len_max: usize) -> Option<Departure> {
        let room = self.window.saturating_sub(self.arrived.len() + self.travelling);
        let quarter = self.quarter();
        let Some(send) = self.sends.iter_mut().find(|s| s.departed < s.len) else {
            let ends = self.fin == Fin::Queued;
            return ends.then(|| {
                self.fin = Fin::Travelling;
                Departure::Fin
            });
        };
        let (start, left) = (send.departed, send.len - send.departed);
        if room < left.min(quarter) {
            return None;
        }
        let len = left.min(room).min(len_max);
        send.departed += len;
        self.travelling += len;
        self.departed_total += len as u64; // widening
        if send.departed == send.len {
            send.end = Some(self.departed_total);
        }
        Some(Departure::Bytes { op: send.op, start, len })
    }

    /// A segment arrives; returns the sends that have arrived in full.
    pub(super) fn arrive(&mut self, bytes: &[u8]) -> Vec<u64> {
        self.travelling -= bytes.len();
        self.arrived_total += bytes.len() as u64; // widening
        self.arrived.extend(bytes);
        let mut ended = Vec::new();
        while let Some(send) = self.sends.front() {
            if send.end.is_none_or(|end| end > self.arrived_total) {
                break;
            }
            ended.push(send.op);
            self.sends.pop_front();
        }
        ended
    }

    /// Bytes that wait for a receive.
    pub(super) fn unread(&self) -> usize {
        self.arrived.len()
    }

    fn quarter(&self) -> usize {
        self.window.div_ceil(4)
    }

    /// Whether a receive that waits for `least` bytes can end now. What fills the window, up to a quarter, is all that can
    /// come.
    pub(super) fn is_readable(&self, least: usize) -> bool {
        let enough = least.min(self.window - self.quarter()).max(1);
        self.arrived.len() >= enough || self.read_shut || self.fin == Fin::Arrived
    }

    /// Moves arrived bytes into a window.
    pub(super) fn take(&mut self, into: &mut [u8]) {
        let len = into.len();
        let bytes = self.arrived.drain(..len);
        into.iter_mut().zip(bytes).for_each(|(slot, byte)| *slot = byte);
    }

    /// Removes the sends that have not departed in full (`all`: every send); returns them.
    pub(super) fn give_up_sends(&mut self, all: bool) -> Vec<u64> {
        let given_up = |s: &Sending| all || s.departed < s.len;
        let ops = self.sends.iter().filter(|s| given_up(s)).map(|s| s.op).collect();
        self.sends.retain(|s| !given_up(s));
        ops
    }

    /// The connection is no more: nothing is left here but what still travels.
    pub(super) fn clear(&mut self) -> Vec<u64> {
        self.arrived.clear();
        let mut ops = self.give_up_sends(true);
        ops.extend(self.receives.drain(..));
        ops
    }
}
