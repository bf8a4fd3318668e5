//! Receiving commands and the data that was asked for, and starting commands.

use super::super::admin::ALL_NAMESPACES;
use super::super::command::{Sqe, Status};
use super::super::identify::{CAPSULE_DATA_MAX, TRANSFER_MAX};
use super::super::io_command::{self, Action, Extent, opcode};
use super::super::pdu::{DIGEST_LEN, DataLimits};
use super::super::qpair::{self, Arrival, FABRICS_DATA_MAX, Incoming, Pdu, Progress, Stage};
use super::super::{fabrics, pdu};
use super::{Command, End, Plan, SMALL, Session, Transfer, WAIT_MAX, execute};
use crate::base::planted::{Planted, is_planted};
use crate::base::units::Span;
use crate::block::{Payload, Piece, pieces};
use crate::io::buf::{Buf, BufMut};
use crate::link::{BULK, Chunk, Gone, Head, Inbox, SEND_MAX, Share};
use crate::reactor::sync::yield_now;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

/// Receives and starts commands until no more will come.
pub(super) async fn run(session: &Rc<Session>, inbox: &mut Inbox) -> End {
    let link = &session.link;
    let limits = DataLimits { capsule: session.capsule_max(), data: TRANSFER_MAX };
    loop {
        match qpair::next(inbox.bytes(), Stage::Introduced, session.digests, limits) {
            Ok(Some(pdu)) => {
                inbox.consume(pdu.frame.head_len());
                if let Err(end) = take(session, inbox, &pdu).await {
                    return end;
                }
                if link.outbox_bytes() >= SEND_MAX {
                    yield_now().await;
                }
            }
            Ok(None) => {
                if link.has_replies() {
                    // The sender starts before the next receive does: both reach the kernel in one call.
                    yield_now().await;
                }
                // A PDU that has begun ends in bounded time; between them hosts may be idle.
                let begun = !inbox.bytes().is_empty();
                let received = if begun { inbox.refill().await } else { inbox.fill().await };
                if link.is_dead() || received.is_err() {
                    return End::Eof;
                }
            }
            Err(why) => return End::Fatal(why, inbox.bytes().to_vec()),
        }
    }
}

impl From<Gone> for End {
    fn from(_: Gone) -> End {
        End::Eof
    }
}

async fn take(session: &Rc<Session>, inbox: &mut Inbox, pdu: &Pdu) -> Result<(), End> {
    match &pdu.incoming {
        Incoming::Command(sqe) => take_command(session, inbox, sqe, pdu).await,
        Incoming::Data(transfer) => take_data(session, inbox, transfer, pdu).await,
        Incoming::Termination(status, information) => Err(End::Terminated(*status, *information)),
        Incoming::Introduction(_) => Err(End::Fatal(pdu::Fatal::Sequence, Vec::new())),
    }
}

async fn take_command(session: &Rc<Session>, inbox: &mut Inbox, sqe: &Sqe, pdu: &Pdu) -> Result<(), End> {
    let link = &session.link;
    let size = usize::from(session.queue.size);
    {
        let mut live = session.live.borrow_mut();
        if live.len() >= size {
            return Err(End::Violation("more commands than the queue has entries"));
        }
        if live.contains(&sqe.id()) {
            return Err(End::Violation("a command identifier that is in use"));
        }
        if link.in_flight() >= 2 * size {
            return Err(End::Violation("more commands although replies are not read"));
        }
        live.push(sqe.id());
    }
    session.taken.set((session.taken.get() + 1) % session.queue.size);
    session.hear();
    if link.is_stopping() {
        session.forget(sqe.id());
        return Err(End::Stopping);
    }
    link.begin();
    let judged = session.judge(sqe).and_then(|(plan, data_in, memory)| {
        let arrival = qpair::arrival(sqe, data_in, pdu.frame.data_len, session.capsule_max())?;
        let request = if arrival == Arrival::OnRequest { data_in } else { 0 };
        let memory = if memory > SMALL { memory } else { 0 };
        Ok((Command { sqe: *sqe, plan, memory, request, began: link.core().turn_at() }, arrival))
    });
    let (command, arrival) = match judged {
        Ok(judged) => judged,
        Err(status) => {
            // The data of a command that failed is on the wire all the same.
            inbox.skip(pdu.frame.behind()).await.inspect_err(|_| link.count_sent(1, 0))?;
            session.answer(sqe.id(), Err((status, true)), None);
            return Ok(());
        }
    };
    if arrival != Arrival::Here {
        // Data that is asked for comes next, sooner or later; what is read along with its header has to be copied.
        inbox.bulk =
            u64::from(command.request) >= BULK || session.transfers.borrow().iter().any(|(_, t)| t.is_some());
        admit(session, command);
        return Ok(());
    }
    let behind = receive_behind(session, inbox, &command, pdu).await;
    match behind.inspect_err(|_| link.count_sent(1, 0))? {
        Ok((payload, share)) => execute::start(session, command, payload, share),
        Err((status, share)) => session.answer(sqe.id(), Err((status, false)), share),
    }
    Ok(())
}

/// The data behind a command and its room, or what the command is answered.
async fn receive_behind(
    session: &Session,
    inbox: &mut Inbox,
    command: &Command,
    pdu: &Pdu,
) -> Result<Result<(Payload, Option<Share>), (Status, Option<Share>)>, Gone> {
    let share = match room(session, command).await? {
        Ok(share) => share,
        Err(status) => {
            inbox.skip(pdu.frame.behind()).await?;
            return Ok(Err((status, None)));
        }
    };
    let received = data_here(session, inbox, command, pdu).await?;
    Ok(match received {
        Some(payload) => Ok((payload, share)),
        None => Err((Status::TRANSIENT_TRANSPORT, share)),
    })
}

/// Room for the data behind a command; small data has its own. Nothing else is received while room is waited for, so it is
/// not waited for while data of other commands, which have theirs, may be next in line: the host is to try again.
async fn room(session: &Session, command: &Command) -> Result<Result<Option<Share>, Status>, Gone> {
    if command.memory == 0 {
        return Ok(Ok(None));
    }
    if let Some(share) = session.room_now(command) {
        return Ok(Ok(Some(share)));
    }
    let asks = session.waiting.borrow().iter().any(|command| command.request > 0);
    if asks || !session.transfers.borrow().is_empty() {
        return Ok(Err(Status::INTERRUPTED));
    }
    let share = session.link.hold(u64::from(command.memory)).await.ok_or(Gone)?;
    if session.waited_too_long(command) {
        return Err(Gone);
    }
    Ok(Ok(Some(share)))
}

/// The data behind a command; None if it does not fit its digest.
async fn data_here(
    session: &Session,
    inbox: &mut Inbox,
    command: &Command,
    pdu: &Pdu,
) -> Result<Option<Payload>, Gone> {
    let payload = match &command.plan {
        Plan::Io(_, Action::Write { span, .. } | Action::Compare { span }, _) => inbox.payload(*span).await?,
        Plan::Io(..) | Plan::FlushAll | Plan::Admin => {
            let len = usize::try_from(pdu.frame.data_len).map_err(|_| Gone)?;
            let bytes = inbox.small_payload(len).await?;
            Payload::one(session.link.core().buffers().copy_of(&bytes).freeze())
        }
    };
    if !pdu.frame.has_data_digest {
        return Ok(Some(payload));
    }
    let found = inbox.small_payload(DIGEST_LEN).await?;
    let sum = payload.parts.iter().fold(0, |sum, part| crc32c::crc32c_append(sum, part.as_slice()));
    Ok((sum.to_le_bytes()[..] == found[..]).then_some(payload))
}

impl Session {
    /// Bytes of data that may lie behind a command.
    fn capsule_max(&self) -> u32 {
        if self.queue.id == 0 { FABRICS_DATA_MAX } else { CAPSULE_DATA_MAX }
    }

    /// Room for a command, if there is some and nobody waits for it.
    fn room_now(&self, command: &Command) -> Option<Share> {
        if !self.waiting.borrow().is_empty() {
            return None;
        }
        self.link.try_hold(u64::from(command.memory))
    }

    /// Whether a command waited for memory for so long that it is not begun any more: then the connection ends.
    fn waited_too_long(&self, command: &Command) -> bool {
        let too_long = self.link.core().now() > command.began + WAIT_MAX;
        if too_long {
            tracing::warn!(peer = self.link.peer(), "closed: too little memory for what the host asks for");
            self.link.kill();
        }
        too_long
    }

    /// What a command asks for, the bytes that it brings, and the memory that it takes.
    fn judge(&self, sqe: &Sqe) -> Result<(Plan, u32, u32), Status> {
        if let Some(admin) = &self.admin {
            let data_in = admin.borrow().data_in(sqe)?;
            return Ok((Plan::Admin, data_in, sqe.data()?.len().min(super::super::identify::TRANSFER_MAX)));
        }
        if sqe.opcode() == fabrics::OPCODE {
            let is_connect = sqe.fabrics_type() == fabrics::kind::CONNECT;
            return Err(if is_connect { Status::COMMAND_SEQUENCE } else { Status::INVALID_OPCODE });
        }
        if sqe.opcode() == opcode::FLUSH && sqe.namespace() == ALL_NAMESPACES {
            sqe.data()?;
            return Ok((Plan::FlushAll, 0, 0));
        }
        let handle = self.handle(sqe.namespace()).ok_or(Status::INVALID_NAMESPACE)?;
        let volume = handle.volume();
        let extent =
            Extent { size: volume.size().0, lba: volume.lba_bytes(), read_only: volume.is_read_only() };
        let action = io_command::judge(sqe, &extent)?;
        Ok((Plan::Io(handle, action, extent), action.data_in(), action.memory()))
    }
}

/// Begins a command that brought no data, now or when there is memory for it.
fn admit(session: &Rc<Session>, command: Command) {
    if command.memory == 0 {
        return begin(session, command, None);
    }
    if let Some(share) = session.room_now(&command) {
        return begin(session, command, Some(share));
    }
    session.waiting.borrow_mut().push_back(command);
    if !session.is_beginning.replace(true) {
        session.link.core().spawn(begin_waiting(session.clone()));
    }
}

/// Begins what waits, in order.
async fn begin_waiting(session: Rc<Session>) {
    loop {
        let wanted = session.waiting.borrow().front().map(|command| command.memory);
        let Some(wanted) = wanted else { break };
        let Some(share) = session.link.hold(u64::from(wanted)).await else { break };
        let Some(command) = session.waiting.borrow_mut().pop_front() else { break };
        if session.waited_too_long(&command) {
            session.waiting.borrow_mut().push_front(command);
            break;
        }
        begin(&session, command, Some(share));
    }
    session.is_beginning.set(false);
}

/// Asks for a command's data, or executes it.
fn begin(session: &Rc<Session>, command: Command, share: Option<Share>) {
    if command.request == 0 {
        return execute::start(session, command, Payload::default(), share);
    }
    let progress = Progress { command: command.sqe.id(), len: command.request, received: 0 };
    let (id, len) = (command.sqe.id(), command.request);
    let asked = session.link.core().now();
    let transfer =
        Transfer { command, share, parts: VecDeque::new(), at: (0, 0), progress, is_bad: false, asked };
    let key = session.transfers.borrow_mut().insert(Some(transfer));
    let tag = u16::try_from(key).expect("fewer transfers than commands");
    let head = pdu::Transfer { command: id, tag, offset: 0, len }.emit_r2t(session.digests);
    session.watch_transfers();
    let head = Some(Head::new(&head));
    session.link.push(Chunk { head, parts: SmallVec::new(), next: 0, last: false, share: None });
}

/// The buffers of a transfer, cut as the volume wants them. They are taken when its data begins to come, so that few are
/// in use at the same time and these stay in the processor's caches; their room in the budget was there before.
fn buffers_of(session: &Session, command: &Command) -> VecDeque<(BufMut, Range<usize>)> {
    let span = match &command.plan {
        Plan::Io(_, Action::Write { span, .. } | Action::Compare { span }, _) => *span,
        Plan::Io(..) | Plan::FlushAll | Plan::Admin => Span::at(0, u64::from(command.request)),
    };
    let part = |piece: Piece| {
        let window = piece.skew..piece.skew + piece.span.len().as_usize();
        (session.link.core().buffers().take(window.end), window)
    };
    pieces(span).map(part).collect()
}

/// Receives a piece of data that was asked for; the last one starts its command.
async fn take_data(
    session: &Rc<Session>,
    inbox: &mut Inbox,
    piece: &pdu::Transfer,
    pdu: &Pdu,
) -> Result<(), End> {
    session.hear();
    let key = usize::from(piece.tag);
    let taken = session.transfers.borrow_mut().get_mut(key).and_then(Option::take);
    // The header was taken from the inbox already; this is what it was.
    let blame = |why| End::Fatal(why, piece.emit_h2c(pdu.frame.last, session.digests).to_vec());
    let Some(mut transfer) = taken else { return Err(blame(pdu::Fatal::InvalidField(10))) };
    if transfer.parts.is_empty() {
        transfer.parts = buffers_of(session, &transfer.command);
    }
    let received = match transfer.progress.accepts(piece, pdu.frame.last) {
        Ok(()) => receive_piece(inbox, &mut transfer, piece.len, pdu).await.map_err(End::from),
        Err(why) => Err(blame(why)),
    };
    if let Err(end) = received {
        session.link.count_sent(1, 0);
        return Err(end);
    }
    if transfer.progress.received < transfer.progress.len {
        session.transfers.borrow_mut()[key] = Some(transfer);
        return Ok(());
    }
    session.transfers.borrow_mut().remove(key);
    let Transfer { command, share, mut parts, is_bad, .. } = transfer;
    if is_planted(session.link.core(), Planted::NvmeDataShifted) {
        parts.iter_mut().for_each(|(buf, _)| buf.as_mut_slice().rotate_right(512));
    }
    if is_bad {
        session.answer(command.sqe.id(), Err((Status::TRANSIENT_TRANSPORT, false)), share);
        return Ok(());
    }
    let parts: SmallVec<[Buf; 2]> = parts.into_iter().map(|(buf, _)| buf.freeze()).collect();
    execute::start(session, command, Payload { parts }, share);
    Ok(())
}

/// Receives `len` bytes into a transfer's buffers, and looks at their digest.
async fn receive_piece(inbox: &mut Inbox, transfer: &mut Transfer, len: u32, pdu: &Pdu) -> Result<(), Gone> {
    let mut left = usize::try_from(len).map_err(|_| Gone)?;
    let mut sum = 0;
    inbox.bulk = u64::from(transfer.progress.len) >= BULK;
    while left > 0 {
        let (index, filled) = transfer.at;
        let Some((buf, whole)) = transfer.parts.remove(index) else { return Err(Gone) };
        let start = whole.start + filled;
        let end = whole.end.min(start + left);
        left -= end - start;
        let mut buf = inbox.fill_window(buf, start..end, left == 0).await?;
        if pdu.frame.has_data_digest {
            sum = crc32c::crc32c_append(sum, buf.as_slice());
        }
        buf.set_window(whole.clone());
        transfer.at = if end == whole.end { (index + 1, 0) } else { (index, end - whole.start) };
        transfer.parts.insert(index, (buf, whole));
    }
    transfer.progress.received += len;
    if pdu.frame.has_data_digest {
        let found = inbox.small_payload(DIGEST_LEN).await?;
        transfer.is_bad |= sum.to_le_bytes()[..] != found[..];
    }
    Ok(())
}
