//! The start of a connection: introductions, then Connect, in bounded time.

use super::super::admin::{Admin, World};
use super::super::command::{Cqe, Sqe, Status};
use super::super::controller::{Fabric, Seat};
use super::super::fabrics::{self, ANY_CONTROLLER, CONNECT_LEN, Connect, Refusal, field, kind};
use super::super::identify::TRANSFER_MAX;
use super::super::pdu::{
    DIGEST_LEN, DataLimits, Digests, Fatal, IcResp, Transfer, digest, emit_response, emit_termination,
};
use super::super::qpair::{self, Arrival, FABRICS_DATA_MAX, Incoming, Pdu, Progress, Stage};
use super::{Queue, SMALL, Session};
use crate::base::limits::HANDSHAKE_DEADLINE_NS;
use crate::io::driver::{Address, Done, Op};
use crate::link::{Gone, Inbox, Link};
use futures_util::future::{Either, select};
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Tries that a host has on one connection.
const CONNECTS: u32 = 2;

/// How long a queue whose number is still taken waits for the old connection to end.
const QUEUE_WAIT: Duration = Duration::from_secs(1);

/// Commands that a host without flow control may have sent before it reads, and what this side can be asked for.
const LIMITS: DataLimits = DataLimits { capsule: FABRICS_DATA_MAX, data: TRANSFER_MAX };

/// A connection that has become a queue pair.
pub struct Opened {
    pub(super) inbox: Inbox,
    pub(super) session: Rc<Session>,
}

/// Why a start was given up.
enum Stop {
    Gone,
    Fatal(Fatal),
}

impl From<Gone> for Stop {
    fn from(_: Gone) -> Stop {
        Stop::Gone
    }
}

impl From<Fatal> for Stop {
    fn from(why: Fatal) -> Stop {
        Stop::Fatal(why)
    }
}

/// Opens a connection; None if it is over.
pub async fn open(link: &Rc<Link>, fabric: &Arc<Fabric>) -> Option<Opened> {
    let out_of_time = async {
        let deadline = link.core().sleep(Duration::from_nanos(HANDSHAKE_DEADLINE_NS));
        select(pin!(deadline), pin!(link.stopped())).await;
    };
    let mut inbox = Inbox::new(link.clone(), &[]);
    let started = {
        let starting = pin!(start(link, fabric, &mut inbox));
        match select(starting, pin!(out_of_time)).await {
            Either::Left((started, _)) => started,
            Either::Right(((), starting)) => {
                tracing::debug!(peer = link.peer(), "closed: no Connect in time, or stopping");
                link.kill();
                starting.await
            }
        }
    };
    match started {
        Ok(session) if !link.is_dead() => return Some(Opened { inbox, session }),
        Ok(_) | Err(Stop::Gone) => {}
        Err(Stop::Fatal(why)) => {
            tracing::warn!(peer = link.peer(), %why, "closed: the host broke the protocol");
            let offending = inbox.bytes().to_vec();
            if link.send_all(&emit_termination(why, &offending)).await.is_some() {
                link.linger().await;
            }
        }
    }
    link.kill();
    None
}

async fn start(link: &Rc<Link>, fabric: &Arc<Fabric>, inbox: &mut Inbox) -> Result<Rc<Session>, Stop> {
    let pdu = next(inbox, Stage::New, Digests::default()).await?;
    let Incoming::Introduction(asked) = pdu.incoming else { return Err(Fatal::Sequence.into()) };
    if asked.alignment != 0 {
        // Data would need padding, which no host in use asks for.
        return Err(Fatal::Unsupported(10).into());
    }
    inbox.consume(pdu.frame.head_len());
    let digests = asked.digests;
    let answer = IcResp { alignment: 0, digests, data_max: TRANSFER_MAX };
    link.send_all(&answer.emit()).await.ok_or(Stop::Gone)?;
    for _ in 0..CONNECTS {
        let pdu = next(inbox, Stage::Introduced, digests).await?;
        let sqe = match pdu.incoming {
            Incoming::Command(sqe) => sqe,
            // That is never answered.
            Incoming::Termination(..) => return Err(Stop::Gone),
            Incoming::Introduction(_) | Incoming::Data(_) => return Err(Fatal::Sequence.into()),
        };
        inbox.consume(pdu.frame.head_len());
        let is_connect = sqe.opcode() == fabrics::OPCODE && sqe.fabrics_type() == kind::CONNECT;
        let data = match is_connect {
            true => connect_data(link, inbox, &sqe, &pdu, digests).await?,
            false => {
                inbox.skip(pdu.frame.behind()).await?;
                Err(Refusal::new(Status::COMMAND_SEQUENCE))
            }
        };
        let connect = data.and_then(|data| Connect::parse(&sqe, &data));
        let seated = match connect {
            Ok(connect) => take_seat(link, fabric, &connect).await.map(|seat| (seat, connect)),
            Err(refusal) => Err(refusal),
        };
        let (seat, connect) = match seated {
            Ok(seated) => seated,
            Err(refusal) => {
                refuse(link, &sqe, refusal, digests).await?;
                continue;
            }
        };
        let id = u64::from(seat.controller.id);
        let Some(room) = link.try_hold(u64::from(connect.size) * u64::from(SMALL)) else {
            refuse(link, &sqe, Refusal::new(Status::CONNECT_BUSY).for_now(), digests).await?;
            continue;
        };
        let queue = Queue { id: connect.queue, size: connect.size, no_flow_control: connect.no_flow_control };
        let head = if queue.no_flow_control { u16::MAX } else { 1 };
        let done =
            Cqe { result: id, queue_head: head, command: sqe.id(), status: Status::SUCCESS, no_retry: false };
        link.send_all(&emit_response(&done.emit(), digests)).await.ok_or(Stop::Gone)?;
        tracing::debug!(
            peer = link.peer(),
            host = connect.host.nqn,
            queue = queue.id,
            controller = id,
            "connected"
        );
        return Ok(session(link, fabric, seat, queue, digests, room, &connect).await);
    }
    Err(Stop::Gone)
}

async fn session(
    link: &Rc<Link>,
    fabric: &Arc<Fabric>,
    seat: Seat,
    queue: Queue,
    digests: Digests,
    room: crate::link::Share,
    connect: &Connect,
) -> Rc<Session> {
    let local = match link.core().op(Op::LocalAddress { socket: link.stream().socket() }).await {
        Done::LocalAddress(Ok(Address::Tcp(address))) => Some(address),
        _ => None,
    };
    let admin = (queue.id == 0).then(|| {
        let world = World { fabric, controller: &seat.controller, wall_ns: link.core().wall_ns(), local };
        RefCell::new(Admin::new(connect.keep_alive_ms, &world))
    });
    Rc::new(Session {
        link: link.clone(),
        fabric: fabric.clone(),
        seat,
        queue,
        digests,
        taken: Cell::new(1 % queue.size),
        live: RefCell::default(),
        transfers: RefCell::default(),
        waiting: RefCell::default(),
        is_beginning: Cell::new(false),
        is_watching: Cell::new(false),
        heard: Cell::new(link.core().now()),
        known: RefCell::default(),
        admin,
        local: local.map(canonical),
        is_over: Cell::new(false),
        _room: Some(room),
    })
}

/// IPv4 addresses as such, also on a socket for both.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The next PDU's head; it is still in the inbox.
async fn next(inbox: &mut Inbox, stage: Stage, digests: Digests) -> Result<Pdu, Stop> {
    loop {
        if let Some(pdu) = qpair::next(inbox.bytes(), stage, digests, LIMITS)? {
            return Ok(pdu);
        }
        inbox.fill().await?;
    }
}

async fn refuse(link: &Link, sqe: &Sqe, refusal: Refusal, digests: Digests) -> Result<(), Stop> {
    let Refusal { status, field, for_good } = refusal;
    tracing::info!(peer = link.peer(), status = status.0, field, "a Connect was refused");
    let cqe = Cqe { result: field, queue_head: 1, command: sqe.id(), status, no_retry: for_good };
    link.send_all(&emit_response(&cqe.emit(), digests)).await.ok_or(Stop::Gone)
}

/// The data of a Connect, from behind it or asked for.
async fn connect_data(
    link: &Link,
    inbox: &mut Inbox,
    sqe: &Sqe,
    pdu: &Pdu,
    digests: Digests,
) -> Result<Result<Vec<u8>, Refusal>, Stop> {
    let arrival = qpair::arrival(sqe, CONNECT_LEN, pdu.frame.data_len, FABRICS_DATA_MAX);
    match arrival {
        Ok(Arrival::Here) => Ok(received(inbox, pdu).await?.ok_or(Refusal::new(Status::TRANSIENT_TRANSPORT))),
        Ok(Arrival::OnRequest) => {
            let asked = Transfer { command: sqe.id(), tag: 0, offset: 0, len: CONNECT_LEN };
            link.send_all(&asked.emit_r2t(digests)).await.ok_or(Stop::Gone)?;
            let mut progress = Progress { command: sqe.id(), len: CONNECT_LEN, received: 0 };
            let mut data = Some(Vec::new());
            while progress.received < progress.len {
                let pdu = next(inbox, Stage::Introduced, digests).await?;
                let Incoming::Data(transfer) = pdu.incoming else { return Err(Fatal::Sequence.into()) };
                if transfer.tag != 0 {
                    return Err(Fatal::InvalidField(10).into());
                }
                progress.accepts(&transfer, pdu.frame.last)?;
                inbox.consume(pdu.frame.head_len());
                let piece = received(inbox, &pdu).await?;
                data = data.zip(piece).map(|(mut all, piece)| {
                    all.extend_from_slice(&piece);
                    all
                });
                progress.received += transfer.len;
            }
            Ok(data.ok_or(Refusal::new(Status::TRANSIENT_TRANSPORT)))
        }
        Ok(Arrival::None) | Err(_) => {
            inbox.skip(pdu.frame.behind()).await?;
            Ok(Err(Refusal::new(arrival.err().unwrap_or(Status::SGL_LENGTH))))
        }
    }
}

/// The data of a PDU; None if it does not fit its digest.
async fn received(inbox: &mut Inbox, pdu: &Pdu) -> Result<Option<Vec<u8>>, Gone> {
    let len = usize::try_from(pdu.frame.data_len).map_err(|_| Gone)?;
    let data = inbox.small_payload(len).await?;
    if !pdu.frame.has_data_digest {
        return Ok(Some(data));
    }
    let found = inbox.small_payload(DIGEST_LEN).await?;
    Ok((digest(&data)[..] == found[..]).then_some(data))
}

/// Makes a controller for an admin queue, or gives an I/O queue its place in one.
async fn take_seat(link: &Rc<Link>, fabric: &Arc<Fabric>, connect: &Connect) -> Result<Seat, Refusal> {
    let core = link.core();
    if connect.queue == 0 {
        if connect.controller != ANY_CONTROLLER {
            return Err(Refusal::data(field::CONTROLLER));
        }
        let drawn = core.with_prng(crate::base::prng::Prng::u64).to_le_bytes();
        let drawn = u16::from_le_bytes([drawn[0], drawn[1]]);
        return fabric.create(connect, drawn, core.now()).map(|(seat, _)| seat);
    }
    let give_up = core.now() + QUEUE_WAIT;
    let seat = loop {
        let ended = fabric.queue_ended();
        match fabric.join(connect) {
            Err(refusal) if refusal.status == Status::INVALID_QUEUE && core.now() < give_up => {
                select(select(pin!(ended), core.sleep_until(give_up)), pin!(link.died())).await;
            }
            seated => break seated?,
        }
    };
    // What this host sends again is not to meet what is left of its first try (section 21 of the protocol notes: late
    // writes). The deadline of the handshake bounds this.
    loop {
        let ended = fabric.queue_ended();
        if !seat.is_wanted() || link.is_dead() {
            return Err(Refusal::data(field::CONTROLLER).for_now());
        }
        if !fabric.has_leftovers(&seat.controller) {
            return Ok(seat);
        }
        let (unwanted, died) = (pin!(seat.unwanted()), pin!(link.died()));
        select(pin!(ended), select(unwanted, died)).await;
    }
}
