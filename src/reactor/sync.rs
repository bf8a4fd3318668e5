//! What tasks wait on besides operations: wait lists, counted budgets, one-shot answers.
//!
//! All of them work between cores. Their locks are held for a few instructions and never across an await.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

/// Locks a mutex that no code holds while it can panic half-way through a change.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A list of tasks that wait for something to change. The condition itself lives with the user, who checks it
/// again after every wake.
#[derive(Default)]
pub struct WaitList {
    state: Mutex<WaitState>,
}

#[derive(Default)]
struct WaitState {
    generation: u64,
    wakers: Vec<Waker>,
}

impl WaitList {
    /// A ticket for changes from now on. Take it *before* checking the condition, await it after.
    pub fn ticket(&self) -> Ticket<'_> {
        Ticket { list: self, generation: lock(&self.state).generation }
    }

    /// Wakes everybody who holds a ticket.
    pub fn wake_all(&self) {
        let wakers = {
            let mut state = lock(&self.state);
            state.generation += 1;
            std::mem::take(&mut state.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// Resolves at the first `wake_all` after it was taken.
pub struct Ticket<'a> {
    list: &'a WaitList,
    generation: u64,
}

impl Future for Ticket<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = lock(&self.list.state);
        if state.generation != self.generation {
            return Poll::Ready(());
        }
        state.wakers.push(cx.waker().clone());
        Poll::Pending
    }
}

/// A budget of units (bytes, slots) given out first come, first served.
#[derive(Clone)]
pub struct Budget {
    state: Arc<Mutex<BudgetState>>,
}

struct BudgetState {
    total: u64,
    free: u64,
    waiting: VecDeque<(u64, u64, Waker)>,
    serial: u64,
}

impl Budget {
    pub fn new(total: u64) -> Budget {
        let state = BudgetState { total, free: total, waiting: VecDeque::new(), serial: 0 };
        Budget { state: Arc::new(Mutex::new(state)) }
    }

    /// Waits for `units` of the budget; they come back when the grant is dropped.
    ///
    /// # Panics
    /// If more is asked for than there can ever be.
    pub fn take(&self, units: u64) -> BudgetTake {
        assert!(units <= lock(&self.state).total, "{units} units exceed the whole budget");
        BudgetTake { budget: self.clone(), units, entry: None, granted: false }
    }

    /// `units` of the budget if they are free now and nobody waits.
    pub fn try_take(&self, units: u64) -> Option<Grant> {
        let mut state = lock(&self.state);
        if !state.waiting.is_empty() || state.free < units {
            return None;
        }
        state.free -= units;
        Some(Grant { budget: self.clone(), units })
    }

    pub fn free(&self) -> u64 {
        lock(&self.state).free
    }

    fn give(&self, units: u64) {
        let next = {
            let mut state = lock(&self.state);
            state.free += units;
            state.waiting.front().filter(|(_, need, _)| *need <= state.free).map(|(_, _, w)| w.clone())
        };
        if let Some(waker) = next {
            waker.wake();
        }
    }
}

/// Resolves to a grant.
pub struct BudgetTake {
    budget: Budget,
    units: u64,
    entry: Option<u64>,
    granted: bool,
}

impl Future for BudgetTake {
    type Output = Grant;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Grant> {
        let this = self.get_mut();
        let mut guard = lock(&this.budget.state);
        let state = &mut *guard;
        let first = match this.entry {
            None => state.waiting.is_empty(),
            Some(serial) => state.waiting.front().is_some_and(|(s, _, _)| *s == serial),
        };
        if first && state.free >= this.units {
            state.free -= this.units;
            if this.entry.take().is_some() {
                state.waiting.pop_front();
            }
            this.granted = true;
            let next =
                state.waiting.front().filter(|(_, need, _)| *need <= state.free).map(|(_, _, w)| w.clone());
            drop(guard);
            if let Some(waker) = next {
                waker.wake();
            }
            return Poll::Ready(Grant { budget: this.budget.clone(), units: this.units });
        }
        match this.entry {
            Some(serial) => {
                if let Some(entry) = state.waiting.iter_mut().find(|(s, _, _)| *s == serial) {
                    entry.2 = cx.waker().clone();
                }
            }
            None => {
                state.serial += 1;
                this.entry = Some(state.serial);
                state.waiting.push_back((state.serial, this.units, cx.waker().clone()));
            }
        }
        Poll::Pending
    }
}

impl Drop for BudgetTake {
    fn drop(&mut self) {
        if let Some(serial) = self.entry.take() {
            lock(&self.budget.state).waiting.retain(|(s, _, _)| *s != serial);
            self.budget.give(0);
        }
    }
}

/// Units of a budget; dropping it gives them back.
pub struct Grant {
    budget: Budget,
    units: u64,
}

impl Grant {
    pub fn units(&self) -> u64 {
        self.units
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.budget.give(self.units);
    }
}

/// A pair for one answer from one task to another, also between cores.
pub fn oneshot<T>() -> (Answer<T>, Asked<T>) {
    let state = Arc::new(Mutex::new(OneState { value: None, waker: None, closed: false }));
    (Answer { state: state.clone() }, Asked { state })
}

struct OneState<T> {
    value: Option<T>,
    waker: Option<Waker>,
    closed: bool,
}

/// The side that answers.
pub struct Answer<T> {
    state: Arc<Mutex<OneState<T>>>,
}

impl<T> Answer<T> {
    pub fn send(self, value: T) {
        lock(&self.state).value = Some(value);
    }
}

impl<T> Drop for Answer<T> {
    fn drop(&mut self) {
        let waker = {
            let mut state = lock(&self.state);
            state.closed = true;
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The side that waits: the value, or None if the other side went away without one.
pub struct Asked<T> {
    state: Arc<Mutex<OneState<T>>>,
}

impl<T> Future for Asked<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = lock(&self.state);
        if let Some(value) = state.value.take() {
            return Poll::Ready(Some(value));
        }
        if state.closed {
            return Poll::Ready(None);
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Lets the other tasks of the core run.
pub fn yield_now() -> impl Future<Output = ()> {
    let mut yielded = false;
    poll_fn(move |cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
}
