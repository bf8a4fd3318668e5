//! What a queue is to send next. Pure.
//!
//! Commands go before data that the controller asked for: it can ask for theirs while that is under way, and does not
//! run dry between one round of writes and the next. Data is passed by so many commands at most.

use crate::block::Payload;
use crate::nvmf::pdu::{SQE_LEN, Transfer};
use std::collections::VecDeque;

/// Commands that may pass waiting data in a row.
const PASSED_MAX: usize = 16;

/// One PDU to send.
pub(super) enum Outgoing {
    Command { entry: [u8; SQE_LEN], data: Payload },
    Data { transfer: Transfer, last: bool, data: Payload },
}

/// PDUs that wait to be sent.
#[derive(Default)]
pub(super) struct Outbox {
    commands: VecDeque<Outgoing>,
    data: VecDeque<Outgoing>,
    /// Commands taken since data was, while there was some.
    passed: usize,
}

impl Outbox {
    pub fn push(&mut self, pdu: Outgoing) {
        match pdu {
            Outgoing::Command { .. } => self.commands.push_back(pdu),
            Outgoing::Data { .. } => self.data.push_back(pdu),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.commands.is_empty() && self.data.is_empty()
    }

    pub fn clear(&mut self) {
        *self = Outbox::default();
    }

    /// The next PDU; those of one kind leave in the order in which they came.
    pub fn pop(&mut self) -> Option<Outgoing> {
        if self.data.is_empty() || (self.passed < PASSED_MAX && !self.commands.is_empty()) {
            self.passed = if self.data.is_empty() { 0 } else { self.passed + 1 };
            return self.commands.pop_front();
        }
        self.passed = 0;
        self.data.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(number: u8) -> Outgoing {
        Outgoing::Command { entry: [number; SQE_LEN], data: Payload::default() }
    }

    fn data(number: u16) -> Outgoing {
        let transfer = Transfer { command: number, tag: 0, offset: 0, len: 0 };
        Outgoing::Data { transfer, last: true, data: Payload::default() }
    }

    /// Numbers of commands, negative ones of data.
    fn order(outbox: &mut Outbox) -> Vec<i32> {
        let number = |pdu| match pdu {
            Outgoing::Command { entry, .. } => i32::from(entry[0]),
            Outgoing::Data { transfer, .. } => -i32::from(transfer.command),
        };
        std::iter::from_fn(|| outbox.pop().map(number)).collect()
    }

    #[test]
    fn commands_go_before_data_and_each_kind_keeps_its_order() {
        let mut outbox = Outbox::default();
        [data(1), command(1), data(2), command(2)].into_iter().for_each(|pdu| outbox.push(pdu));
        assert_eq!(order(&mut outbox), [1, 2, -1, -2]);
        assert!(outbox.is_empty());
    }

    #[test]
    fn data_is_passed_by_so_many_commands_and_no_more() {
        let mut outbox = Outbox::default();
        [data(1), data(2)].into_iter().for_each(|pdu| outbox.push(pdu));
        (0..40).for_each(|number| outbox.push(command(number)));
        let found = order(&mut outbox);
        let places: Vec<usize> =
            [-1, -2].map(|n| found.iter().position(|m| *m == n).expect("it was sent")).to_vec();
        assert_eq!(places, [PASSED_MAX, 2 * PASSED_MAX + 1]);
        assert_eq!(found.len(), 42);
        // Commands that no data waited behind are not counted.
        outbox.push(data(3));
        (0..PASSED_MAX).for_each(|_| outbox.push(command(7)));
        assert_eq!(order(&mut outbox).last(), Some(&-3));
    }
}
