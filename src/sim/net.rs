//! Sockets of the simulated machines: none yet, every operation ends with EAFNOSUPPORT.

use super::world::{Crash, ProcessId, State};
use crate::base::prng::Prng;
use nix::errno::Errno;

pub(super) struct Net {
    #[expect(dead_code)]
    prng: Prng,
}

pub(super) enum NetEvent {}

impl Net {
    pub(super) fn new(prng: Prng) -> Net {
        Net { prng }
    }
}

impl State {
    pub(super) fn begin_net(&mut self, id: u64) {
        self.refuse(id, Errno::EAFNOSUPPORT);
    }

    pub(super) fn finish_net(&mut self, id: u64) {
        self.fail(id, Errno::EAFNOSUPPORT);
    }

    pub(super) fn net_event(&mut self, event: NetEvent) {
        match event {}
    }

    pub(super) fn net_process_ended(&mut self, _process: ProcessId, _crash: Crash) {}
}
