//! Receiving requests with their payloads, and starting them.

use super::super::transmission::{Action, ReplyTo, Verdict, judge, judge_query};
use super::super::wire::{Request, WireError};
use super::execute;
use super::{End, Session};
use crate::block::Payload;
use crate::link::{Gone, Inbox, SEND_MAX, Share};
use crate::reactor::sync::yield_now;
use std::rc::Rc;

/// Budget of an answer to BLOCK_STATUS, bytes: its runs and its extents.
const STATUS_BYTES: u64 = 2 << 20;

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
