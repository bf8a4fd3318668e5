//! Receiving requests: many headers in one receive; payloads go into buffers that the volume takes as they are.
//!
//! The bytes of a payload that came along with its header are copied. The rest is received in place, and what
//! follows it goes into the header buffer in the same operation. While payloads are large, little is received
//! behind them, so that little of the next one needs copying.

use super::super::transmission::{Action, ReplyTo, Verdict, judge, judge_query};
use super::super::wire::{Request, WireError};
use super::execute::{self, yield_now};
use super::link::{Link, Share};
use super::send::SEND_MAX;
use super::{End, Session};
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
const BULK: u64 = 32 << 10;
const BULK_WINDOW: usize = 512;

/// Budget of an answer to BLOCK_STATUS, bytes: its runs and its extents.
const STATUS_BYTES: u64 = 2 << 20;

/// The connection has ended in the middle of something.
struct Gone;

/// Receives and starts requests until no more will come.
pub(super) async fn run(session: &Rc<Session>, inbox: &mut Inbox) -> End {
    let mode = session.terms.mode;
    loop {
        match Request::parse(mode, inbox.bytes()) {
            Ok(request) => {
                inbox.consume(mode.request_len());
                match take(session, inbox, &request).await {
                    Ok(None) => {}
                    Ok(Some(end)) => return end,
                    Err(Gone) => return End::Eof,
                }
                if session.link.outbox_bytes() >= SEND_MAX {
                    yield_now().await;
                }
            }
            Err(WireError::Truncated) => {
                if session.link.has_replies() {
                    // The sender starts before the next receive does: both reach the kernel in one call.
                    yield_now().await;
                }
                if session.link.is_dead() || inbox.fill().await.is_err() {
                    return End::Eof;
                }
            }
            Err(WireError::Magic | WireError::Length | WireError::TooLong | WireError::Text) => {
                return End::Violation("wrong request magic");
            }
        }
    }
}

/// Takes one request with its payload, and starts it.
async fn take(session: &Rc<Session>, inbox: &mut Inbox, request: &Request) -> Result<Option<End>, Gone> {
    let link = &session.link;
    let size = session.handle.volume().size();
    let mut verdict = judge(request, &session.terms, size, link.is_stopping());
    if let Verdict::Query { payload } = verdict {
        let query = inbox.small_payload(payload).await?;
        verdict = judge_query(request, &query, &session.terms, size);
    }
    let reply = ReplyTo::new(session.terms.mode, request);
    match verdict {
        Verdict::Run(Action::Write { span, flags }) => {
            let share = link.admit(span.len().0).await.ok_or(Gone)?;
            let received = inbox.payload(span).await;
            let Ok(payload) = received else {
                // Nothing of a cut payload is applied (R13).
                link.count_sent(1, 0);
                return Err(Gone);
            };
            execute::start(session, reply, Action::Write { span, flags }, payload, share);
        }
        Verdict::Run(action) => {
            inbox.bulk = false;
            let share: Option<Share> = link.admit(bytes_of(&action)).await.ok_or(Gone)?;
            execute::start(session, reply, action, Payload::default(), share);
        }
        Verdict::Refuse { error, payload } => {
            link.admit(0).await.ok_or(Gone)?;
            let skipped = inbox.skip(payload).await;
            link.push_head(reply.error(error));
            skipped?;
        }
        Verdict::Disconnect => return Ok(Some(End::Disconnect)),
        Verdict::Query { .. } => unreachable!("judge_query leaves no query"),
        Verdict::Close => return Ok(Some(End::Violation("payload too long"))),
    }
    Ok(None)
}

/// Bytes that the answer to a request without payload takes.
fn bytes_of(action: &Action) -> u64 {
    match action {
        Action::Read { span, .. } => span.len().0,
        Action::Status { one: false, .. } => STATUS_BYTES,
        Action::Status { one: true, .. }
        | Action::Nothing
        | Action::Write { .. }
        | Action::Flush
        | Action::Trim { .. }
        | Action::Zero { .. } => 0,
    }
}

/// What was received and not taken yet.
pub(super) struct Inbox {
    link: Rc<Link>,
    /// None only while a receive holds it.
    buf: Option<BufMut>,
    data: Range<usize>,
    /// Receives in a row that a small buffer would have held.
    quiet: u32,
    /// The last payload was large, so the next one probably is.
    bulk: bool,
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

    fn bytes(&mut self) -> &[u8] {
        let data = self.data.clone();
        let buf = self.buf();
        buf.set_window(data);
        buf.as_slice()
    }

    fn consume(&mut self, count: usize) {
        self.data.start += count;
        assert!(self.data.start <= self.data.end, "only what is there is consumed");
    }

    /// Receives into the header buffer, behind what is left in it. There is no hurry: clients may be idle.
    async fn fill(&mut self) -> Result<(), Gone> {
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
    async fn payload(&mut self, span: Span) -> Result<Payload, Gone> {
        self.bulk = span.len().0 >= BULK;
        let mut payload = Payload::default();
        for piece in pieces(span) {
            let window = piece.skew..piece.skew + piece.span.len().as_usize();
            let mut buf = self.link.core().buffers().take(window.end);
            buf.set_window(window.clone());
            let here = self.data.len().min(window.len());
            buf.as_mut_slice()[..here].copy_from_slice(&self.bytes()[..here]);
            self.consume(here);
            let last = piece.span.end() == span.end();
            buf = self.receive_rest(buf, window, here, last).await?;
            payload.parts.push(buf.freeze());
        }
        Ok(payload)
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
            let (count, first) = self.receive_until(deadline, RecvInto { first: buf, second }).await?;
            buf = first;
            let missing = window.end - at;
            at += count.min(missing);
            self.data = 0..count.saturating_sub(missing);
        }
        buf.set_window(window);
        Ok(buf)
    }

    /// One receive that must have ended by a deadline; the header buffer is taken back from it.
    async fn receive_until(&mut self, deadline: Instant, into: RecvInto) -> Result<(usize, BufMut), Gone> {
        let link = self.link.clone();
        let receiving = pin!(link.stream().receive(into));
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
    async fn skip(&mut self, mut count: u64) -> Result<(), Gone> {
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
    async fn small_payload(&mut self, count: usize) -> Result<Vec<u8>, Gone> {
        while self.data.len() < count {
            self.refill().await?;
        }
        let payload = self.bytes()[..count].to_vec();
        self.consume(count);
        Ok(payload)
    }

    /// Receives more of a payload into the header buffer.
    async fn refill(&mut self) -> Result<(), Gone> {
        let deadline = self.link.core().now() + self.link.house().patience();
        let first = self.buf_for_fill();
        let (count, buf) = self.receive_until(deadline, RecvInto { first, second: None }).await?;
        self.buf = Some(buf);
        self.data.end += count;
        Ok(())
    }
}
