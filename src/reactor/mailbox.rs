//! A queue of messages to one task, from any core.

use super::sync::lock;
use crossbeam::queue::SegQueue;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

/// A new mailbox: any number of senders, one receiver.
pub fn mailbox<T: Send>() -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        queue: SegQueue::new(),
        waker: Mutex::new(None),
        senders: AtomicUsize::new(1),
        closed: AtomicBool::new(false),
    });
    (Sender { shared: shared.clone() }, Receiver { shared })
}

struct Shared<T> {
    queue: SegQueue<T>,
    waker: Mutex<Option<Waker>>,
    senders: AtomicUsize,
    closed: AtomicBool,
}

impl<T> Shared<T> {
    fn wake(&self) {
        let waker = lock(&self.waker).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Sender<T> {
    /// Queues a message; gives it back if the receiver is gone.
    pub fn send(&self, message: T) -> Result<(), T> {
        if self.shared.closed.load(Ordering::Acquire) {
            return Err(message);
        }
        self.shared.queue.push(message);
        self.shared.wake();
        Ok(())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        self.shared.senders.fetch_add(1, Ordering::Relaxed);
        Sender { shared: self.shared.clone() }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.shared.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.wake();
        }
    }
}

pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Receiver<T> {
    /// The next message, or None when no sender is left and the queue is empty.
    pub fn receive(&mut self) -> Receive<'_, T> {
        Receive { shared: &self.shared }
    }

    /// The next message if there is one now.
    pub fn try_receive(&mut self) -> Option<T> {
        self.shared.queue.pop()
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
        while self.shared.queue.pop().is_some() {}
    }
}

pub struct Receive<'a, T> {
    shared: &'a Shared<T>,
}

impl<T> Future for Receive<'_, T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        if let Some(message) = self.shared.queue.pop() {
            return Poll::Ready(Some(message));
        }
        *lock(&self.shared.waker) = Some(cx.waker().clone());
        // Looked at again after the waker is in place: a message sent in between would wake nobody.
        match self.shared.queue.pop() {
            Some(message) => Poll::Ready(Some(message)),
            None if self.shared.senders.load(Ordering::Acquire) == 0 => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}
