//! Ours and other servers in turns: for each workload some rounds, in each of which all have one run.
//!
//! What disturbs the machine for longer than a turn disturbs all of them. All use as many bytes, from their starts. What
//! is not ours is written to only where the user said so, and where ours is written to as well.

use super::figure::{Figure, Figures, Outcome};
use super::limits::link_towards;
use super::listener::listening_on;
use super::load::{self, Run, Subject};
use super::measure_disk::{fill_limit, outcome};
use super::measure_nbd::{Connected, Endpoint, connect, unwritten_share};
use super::measure_volume::{Contents, Opened, TargetMeasured, TargetPlan, failed};
use super::peer::{Peer, ROUNDS, contest, median};
use super::processor::Server;
use super::unwritten_note;
use super::workload::Workload;
use crate::base::size::show_size;
use crate::base::units::{ByteLen, Span, round_down};
use crate::io::driver::Address;
use crate::reactor::Core;
use std::time::Duration;

/// The smallest area that is worth comparing on, bytes.
pub const AREA_MIN: u64 = 4 << 20;

const ONLY_READ: &str =
    "not measured: the other server is only read; --against-write also writes, and destroys what it holds";
const ONE_SIDED: &str = "not measured: drystone's volume is not written to, so there is nothing to compare";
const READ_ONLY: &str = "not measured: the other server's export is read-only";

/// Another server that is to be measured beside ours.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Other {
    /// The address as it was typed.
    pub name: String,
    pub end: Endpoint,
    /// The user said that what it holds may be overwritten.
    pub written: bool,
}

/// What is needed beside ours.
pub struct Beside<'a> {
    /// Where ours is.
    pub address: &'a Address,
    pub others: &'a [Other],
    pub connections: usize,
}

/// One server, ready to be measured.
struct Seat {
    subject: Subject,
    /// Why it is not written to.
    forbidden: Option<&'static str>,
    server: Server,
    /// Of the workload that goes on.
    rounds: Vec<Figure>,
    failed: Option<Outcome>,
}

impl Seat {
    fn new(opened: Opened, forbidden: Option<&'static str>, server: Server) -> Seat {
        let size = round_down(opened.size.0, Workload::SequentialRead.request().0);
        let subject = Subject { ways: opened.ways, region: Span::at(0, size) };
        Seat { subject, forbidden, server, rounds: Vec::new(), failed: None }
    }

    fn shorten(&mut self, area: u64) {
        self.subject.region = Span::at(0, area.min(self.subject.region.len().0));
    }

    async fn fill(&mut self, core: &Core, run: Duration) -> Result<(), String> {
        let filled = load::fill(core, &self.subject, fill_limit(run)).await;
        self.subject.region = filled.map_err(|error| error.to_string())?;
        Ok(())
    }

    async fn take_turn(&mut self, core: &Core, workload: Workload, turn: Duration) {
        if self.failed.is_some() || (workload.is_write() && self.forbidden.is_some()) {
            return;
        }
        let run = Run { workload, time: turn, server: self.server };
        match outcome(load::run(core, std::slice::from_ref(&self.subject), run).await) {
            Outcome::Measured(figure) => self.rounds.push(figure),
            failed => self.failed = Some(failed),
        }
    }

    fn outcome(&self, workload: Workload) -> Outcome {
        match (&self.failed, self.forbidden.filter(|_| workload.is_write())) {
            (_, Some(reason)) => Outcome::not_measured(reason),
            (Some(failed), None) => failed.clone(),
            (None, None) => match median(workload, &self.rounds) {
                Some(figure) => Outcome::Measured(figure),
                None => Outcome::not_measured("not measured: no round was run"),
            },
        }
    }
}

/// Another server with its connections, or why there are none.
struct Guest {
    peer: Peer,
    there: Option<(Seat, Connected)>,
}

/// Runs all workloads on ours and on the others.
pub async fn measure_in_turns(
    core: &Core,
    opened: Opened,
    plan: TargetPlan,
    beside: Beside<'_>,
) -> (TargetMeasured, Vec<Peer>) {
    let mut ours = match seat_ours(core, opened, plan, beside.address).await {
        Ok(seat) => seat,
        Err(reason) => {
            let peers = beside.others.iter().map(|other| Peer::without(&other.name, nothing_beside()));
            return (TargetMeasured { figures: failed(&reason), used: ByteLen(0) }, peers.collect());
        }
    };
    let mut guests = Vec::new();
    for other in beside.others {
        guests.push(seat_guest(core, other, &beside, &ours, plan.run).await);
    }
    let seats = || guests.iter().filter_map(|guest| guest.there.as_ref());
    let areas = seats().map(|(seat, _)| seat.subject.region.len().0);
    let area = areas.fold(ours.subject.region.len().0, u64::min);
    ours.shorten(area);
    guests.iter_mut().filter_map(|guest| guest.there.as_mut()).for_each(|(seat, _)| seat.shorten(area));
    let turn = plan.run / 2;
    let mut figures = Figures::default();
    for workload in Workload::ALL {
        compete(core, &mut ours, &mut guests, workload, turn).await;
        figures.record(workload, ours.outcome(workload));
        guests.iter_mut().for_each(|guest| guest.note(workload, &ours));
        // Ours may fail in one workload and not in the next; a connection that broke fails again at once.
        ours.failed = None;
    }
    let mut peers = Vec::new();
    for (guest, other) in guests.into_iter().zip(beside.others) {
        peers.push(guest.leave(core, other, ByteLen(area), turn).await);
    }
    (TargetMeasured { figures, used: ByteLen(area) }, peers)
}

/// No figures of another server, because there are none of ours.
pub fn nothing_beside() -> Figures {
    Figures::not_measured("not measured: there are no figures of drystone to compare with")
}

async fn seat_ours(core: &Core, opened: Opened, plan: TargetPlan, address: &Address) -> Result<Seat, String> {
    let read_only = opened.read_only;
    let forbidden = match plan.contents {
        Contents::Precious(reason) => Some(reason),
        Contents::Scratch | Contents::Memory => read_only.then_some("the volume is read-only"),
    };
    let server = if plan.server.pid.is_some() { plan.server } else { listening_on(address) };
    let mut seat = Seat::new(opened, forbidden, server);
    seat.shorten(round_down(plan.region.0, Workload::SequentialRead.request().0));
    if plan.contents == Contents::Scratch && !read_only {
        seat.fill(core, plan.run).await?;
    }
    Ok(seat)
}

async fn seat_guest(core: &Core, other: &Other, beside: &Beside<'_>, ours: &Seat, run: Duration) -> Guest {
    let without = |figures| Guest { peer: Peer::without(&other.name, figures), there: None };
    let connected = match connect(core, &other.end, beside.connections).await {
        Ok(connected) => connected,
        Err(error) => return without(failed(&error.to_string())),
    };
    let opened = connected.opened();
    let forbidden = match (ours.forbidden, other.written) {
        (Some(_), _) => Some(ONE_SIDED),
        (None, false) => Some(ONLY_READ),
        (None, true) => opened.read_only.then_some(READ_ONLY),
    };
    let size = opened.size;
    let mut seat = Seat::new(opened, forbidden, listening_on(&other.end.address));
    seat.shorten(ours.subject.region.len().0);
    if seat.subject.region.len().0 < AREA_MIN.min(ours.subject.region.len().0) {
        connected.close().await;
        let (size, least) = (show_size(size), show_size(ByteLen(AREA_MIN)));
        let reason = format!("not measured: its size is {size}, and less than {least} say nothing");
        return without(Figures::not_measured(&reason));
    }
    if forbidden.is_none()
        && let Err(reason) = seat.fill(core, run).await
    {
        return without(failed(&reason));
    }
    let mut peer = Peer::without(&other.name, Figures::default());
    peer.link = link_towards(&other.end.address);
    peer.same_way = same_way(beside.address, &other.end.address);
    peer.connections = connected.clients.len();
    Guest { peer, there: Some((seat, connected)) }
}

/// Whether two servers are on the same machine and reached over the same kind of socket.
fn same_way(a: &Address, b: &Address) -> bool {
    match (a, b) {
        (Address::Tcp(a), Address::Tcp(b)) => a.ip() == b.ip(),
        (Address::Unix(_), Address::Unix(_)) => true,
        (Address::Tcp(_), Address::Unix(_)) | (Address::Unix(_), Address::Tcp(_)) => false,
    }
}

/// All rounds of one workload. Another server begins each, so that none always follows the same one.
async fn compete(core: &Core, ours: &mut Seat, guests: &mut [Guest], workload: Workload, turn: Duration) {
    let guests = guests.iter_mut().filter_map(|guest| guest.there.as_mut().map(|(seat, _)| seat));
    let mut seats: Vec<&mut Seat> = std::iter::once(ours).chain(guests).collect();
    seats.iter_mut().for_each(|seat| seat.rounds.clear());
    for _ in 0..ROUNDS {
        for seat in &mut seats {
            seat.take_turn(core, workload, turn).await;
        }
        seats.rotate_left(1);
    }
}

impl Guest {
    /// Keeps what a workload gave.
    fn note(&mut self, workload: Workload, ours: &Seat) {
        let Some((seat, _)) = &mut self.there else { return };
        let outcome = seat.outcome(workload);
        let both = outcome.figure().is_some() && ours.outcome(workload).figure().is_some();
        if both && let Some(contest) = contest(workload, &ours.rounds, &seat.rounds) {
            self.peer.contests.insert(workload, contest);
        }
        self.peer.figures.record(workload, outcome);
        seat.failed = None;
    }

    /// Closes the connections and says what came out.
    async fn leave(mut self, core: &Core, other: &Other, used: ByteLen, turn: Duration) -> Peer {
        let Some((seat, connected)) = self.there else { return self.peer };
        connected.close().await;
        self.peer.used = used;
        self.peer.turn_ns = u64::try_from(turn.as_nanos()).unwrap_or(u64::MAX);
        if seat.forbidden.is_some() {
            // Only after the measurement: some servers end with their first connection.
            let share = unwritten_share(core, &other.end, used).await;
            self.peer.notes.extend(share.and_then(|share| unwritten_note("what was read", share)));
        }
        self.peer
    }
}
