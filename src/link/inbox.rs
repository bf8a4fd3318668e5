//! Receiving: many headers in one receive; payloads go into buffers that the volume takes as they are.
//!
//! The bytes of a payload that came along with its header are copied. The rest is received in place, and what
//! follows it goes into the header buffer in the same operation. While payloads are large, little is received
//! behind them, so that little of the next one needs copying.

use super::Link;
use crate::base::units::Span;
use crate::block::{Payload, pieces};
use crate::io::buf::BufMut;
use crate::io::driver::RecvInto;
use crate::io::time::Instant;
use futures_util::future::{Either, select};
use std::ops::Range;
use std::pin::pin;
use std::rc::Rc;

/// Header buffers: small ones while they suffice, so that a thousand idle connections cost little.
const SMALL: usize = 8 << 10;
const LARGE: usize = 128 << 10;

/// Receives in a row that would have fitted a small buffer before a large one is given back.
const QUIET: u32 = 64;

/// Payloads from this length on are received in place, with only `BULK_WINDOW` bytes behind them.
pub const BULK: u64 = 32 << 10;
const BULK_WINDOW: usize = 512;

/// A payload received in place is taken in pieces of this size at least: fewer wakings, and still in the processor's
/// caches when it is copied on.
const LEAST: usize = 256 << 10;

/// The connection has ended in the middle of something.
pub struct Gone;

/// What was received and not taken yet.
pub struct Inbox {
    link: Rc<Link>,
    /// None only while a receive holds it.
    buf: Option<BufMut>,
    data: Range<usize>,
    /// Receives in a row that a small buffer would have held.
    quiet: u32,
    /// The last payload was large, so the next one probably is.
    pub bulk: bool,
}

impl Inbox {
    pub fn new(link: Rc<Link>, early: &[u8]) -> Inbox {
        let size = if early.len() < SMALL { SMALL } else { LARGE };
        let mut buf = link.core().buffers().take(size);
        buf.as_mut_slice()[..early.len()].copy_from_slice(early);
        Inbox { link, buf: Some(buf), data: 0..early.len(), quiet: 0, bulk: false }
    }

    fn buf(&mut self) -> &mut BufMut {
        self.buf.as_mut().expect("no receive is running")
    }

    pub fn bytes(&mut self) -> &[u8] {
        let data = self.data.clone();
        let buf = self.buf();
        buf.set_window(data);
        buf.as_slice()
    }

    pub fn consume(&mut self, count: usize) {
        self.data.start += count;
        assert!(self.data.start <= self.data.end, "only what is there is consumed");
    }

    /// Receives into the header buffer, behind what is left in it. There is no hurry: clients may be idle.
    pub async fn fill(&mut self) -> Result<(), Gone> {
        let first = self.buf_for_fill();
        let (received, into) = self.link.stream().receive(RecvInto { first, second: None }).await;
        self.buf = Some(into.first);
        let count = received.ok().filter(|count| *count > 0).ok_or(Gone)?;
        self.data.end += count;
        self.quiet = if count < SMALL / 2 { self.quiet.saturating_add(1) } else { 0 };
        Ok(())
    }

    /// The header buffer with what is left at its start, and the window behind that. Its size follows the use.
    fn buf_for_fill(&mut self) -> BufMut {
        let left = self.data.len();
        let capacity = self.buf().capacity();
        let was_full = self.data.end == capacity; // whatever of it was consumed since
        let wanted = match capacity {
            SMALL if was_full => LARGE,
            LARGE if self.quiet >= QUIET => SMALL,
            other => other,
        };
        if wanted != capacity {
            let mut next = self.link.core().buffers().take(wanted);
            next.as_mut_slice()[..left].copy_from_slice(self.bytes());
            self.buf = Some(next);
        } else if left > 0 && self.data.start > 0 {
            let data = self.data.clone();
            let buf = self.buf();
            buf.set_window(0..data.end);
            buf.as_mut_slice().copy_within(data, 0);
        }
        self.data = 0..left;
        let mut buf = self.buf.take().expect("no receive is running");
        let end = if self.bulk { (left + BULK_WINDOW).min(wanted) } else { wanted };
        buf.set_window(left..end);
        buf
    }

    /// The payload of a WRITE, in buffers cut as the volume wants them.
    pub async fn payload(&mut self, span: Span) -> Result<Payload, Gone> {
        self.bulk = span.len().0 >= BULK;
        let mut payload = Payload::default();
        for piece in pieces(span) {
            let window = piece.skew..piece.skew + piece.span.len().as_usize();
            let buf = self.link.core().buffers().take(window.end);
            let last = piece.span.end() == span.end();
            payload.parts.push(self.fill_window(buf, window, last).await?.freeze());
        }
        Ok(payload)
    }

    /// Receives the bytes of a buffer's window; `last`: what follows them is no part of the same payload.
    pub async fn fill_window(
        &mut self,
        mut buf: BufMut,
        window: Range<usize>,
        last: bool,
    ) -> Result<BufMut, Gone> {
        buf.set_window(window.clone());
        let here = self.data.len().min(window.len());
        buf.as_mut_slice()[..here].copy_from_slice(&self.bytes()[..here]);
        self.consume(here);
        self.receive_rest(buf, window, here, last).await
    }

    /// Receives what is missing of a buffer's window; behind the last piece also what follows it.
    async fn receive_rest(
        &mut self,
        mut buf: BufMut,
        window: Range<usize>,
        here: usize,
        last: bool,
    ) -> Result<BufMut, Gone> {
        let mut at = window.start + here;
        if at == window.end {
            return Ok(buf);
        }
        // The header buffer is empty: its bytes were copied first.
        let deadline = self.link.core().now() + self.link.house().patience();
        while at < window.end {
            buf.set_window(at..window.end);
            let second = if last { Some(self.buf_for_fill()) } else { None };
            let missing = window.end - at;
            // No more than what has to come: it comes, or the deadline does.
            let least = if missing as u64 >= BULK { missing.min(LEAST) } else { 1 }; // widening
            let (count, first) = self.receive_until(deadline, RecvInto { first: buf, second }, least).await?;
            buf = first;
            at += count.min(missing);
            self.data = 0..count.saturating_sub(missing);
        }
        buf.set_window(window);
        Ok(buf)
    }

    /// One receive that must have ended by a deadline; the header buffer is taken back from it.
    async fn receive_until(
        &mut self,
        deadline: Instant,
        into: RecvInto,
        least: usize,
    ) -> Result<(usize, BufMut), Gone> {
        let link = self.link.clone();
        let receiving = pin!(link.stream().receive_many(into, least));
        let (received, into) = match select(receiving, pin!(link.core().sleep_until(deadline))).await {
            Either::Left((ended, _)) => ended,
            Either::Right(((), receiving)) => {
                tracing::info!(peer = link.peer(), "closed: a payload does not arrive");
                link.kill();
                receiving.await
            }
        };
        if let Some(second) = into.second {
            self.buf = Some(second);
        }
        let count = received.ok().filter(|count| *count > 0 && !link.is_dead()).ok_or(Gone)?;
        Ok((count, into.first))
    }

    /// Drops `count` bytes of payload.
    pub async fn skip(&mut self, mut count: u64) -> Result<(), Gone> {
        loop {
            let here = usize::try_from(count).unwrap_or(usize::MAX).min(self.data.len());
            self.consume(here);
            count -= here as u64; // widening
            if count == 0 {
                return Ok(());
            }
            self.refill().await?;
        }
    }

    /// A payload that is smaller than the header buffer.
    pub async fn small_payload(&mut self, count: usize) -> Result<Vec<u8>, Gone> {
        while self.data.len() < count {
            self.refill().await?;
        }
        let payload = self.bytes()[..count].to_vec();
        self.consume(count);
        Ok(payload)
    }

    /// Receives more of what has begun to come into the header buffer, in bounded time.
    pub async fn refill(&mut self) -> Result<(), Gone> {
        let deadline = self.link.core().now() + self.link.house().patience();
        let first = self.buf_for_fill();
        let (count, buf) = self.receive_until(deadline, RecvInto { first, second: None }, 1).await?;
        self.buf = Some(buf);
        self.data.end += count;
        Ok(())
    }
}
