//! The life of an operation: submitted when its future is first polled, claimed when it has ended. One that the
//! driver carries out on the spot is over with the first poll.
//!
//! A future that is dropped early leaves its operation running; the driver keeps the buffers, and what comes back
//! is dropped when the completion is collected.

use super::core::Core;
use crate::io::driver::{Completion, Done, Op, Token};
use slab::Slab;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// The operations of one core between submission and claim.
#[derive(Default)]
pub(super) struct Ops {
    entries: Slab<Entry>,
    /// Entries that ended and wait for their future.
    ended: usize,
}

enum Entry {
    Waiting(Waker),
    Abandoned,
    Ended(Done),
}

impl Ops {
    fn begin(&mut self, waker: Waker) -> Token {
        Token(self.entries.insert(Entry::Waiting(waker)) as u64) // widening
    }

    pub(super) fn begin_detached(&mut self) -> Token {
        Token(self.entries.insert(Entry::Abandoned) as u64) // widening
    }

    pub(super) fn in_flight(&self) -> usize {
        self.entries.len() - self.ended
    }

    /// Records the end of an operation; returns what nobody waits for, to be dropped with no borrow held.
    pub(super) fn complete(&mut self, completion: Completion) -> Option<Done> {
        let key = key_of(completion.token);
        let entry = self.entries.get_mut(key).expect("the driver completes each token once");
        match std::mem::replace(entry, Entry::Abandoned) {
            Entry::Waiting(waker) => {
                *entry = Entry::Ended(completion.done);
                self.ended += 1;
                waker.wake();
                None
            }
            Entry::Abandoned => {
                self.entries.remove(key);
                Some(completion.done)
            }
            Entry::Ended(_) => unreachable!("the driver completes each token once"),
        }
    }

    fn claim(&mut self, token: Token, waker: &Waker) -> Option<Done> {
        let key = key_of(token);
        match &mut self.entries[key] {
            Entry::Waiting(known) => {
                if !known.will_wake(waker) {
                    known.clone_from(waker);
                }
                None
            }
            Entry::Ended(_) => {
                self.ended -= 1;
                match self.entries.remove(key) {
                    Entry::Ended(done) => Some(done),
                    Entry::Waiting(_) | Entry::Abandoned => unreachable!("matched above"),
                }
            }
            Entry::Abandoned => unreachable!("only a dropped future abandons"),
        }
    }

    fn abandon(&mut self, token: Token) -> Option<Done> {
        let key = key_of(token);
        match std::mem::replace(&mut self.entries[key], Entry::Abandoned) {
            Entry::Ended(done) => {
                self.ended -= 1;
                self.entries.remove(key);
                Some(done)
            }
            Entry::Waiting(_) | Entry::Abandoned => None,
        }
    }
}

fn key_of(token: Token) -> usize {
    usize::try_from(token.0).expect("tokens are slab keys")
}

/// Resolves to the end of an operation.
pub struct OpFuture {
    core: Core,
    state: State,
}

enum State {
    New(Op),
    Submitted(Token),
    Claimed,
}

impl OpFuture {
    pub(super) fn new(core: Core, op: Op) -> OpFuture {
        OpFuture { core, state: State::New(op) }
    }
}

impl Future for OpFuture {
    type Output = Done;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Done> {
        let this = self.get_mut();
        match std::mem::replace(&mut this.state, State::Claimed) {
            State::New(op) => {
                let op = match this.core.with_driver(|driver| driver.try_now(op)) {
                    Ok(done) => return Poll::Ready(done),
                    Err(op) => op,
                };
                let token = this.core.with_ops(|ops| ops.begin(cx.waker().clone()));
                this.state = State::Submitted(token);
                this.core.with_driver(|driver| driver.submit(token, op));
                Poll::Pending
            }
            State::Submitted(token) => match this.core.with_ops(|ops| ops.claim(token, cx.waker())) {
                Some(done) => Poll::Ready(done),
                None => {
                    this.state = State::Submitted(token);
                    Poll::Pending
                }
            },
            State::Claimed => panic!("an operation's end is claimed once"),
        }
    }
}

impl Drop for OpFuture {
    fn drop(&mut self) {
        if let State::Submitted(token) = self.state {
            let done = self.core.with_ops(|ops| ops.abandon(token));
            drop(done);
        }
    }
}
