//! A run from the command line's words to its report: checks, connects, reconnects, ends.

use crate::args::{Common, FillArgs, Mode, RunArgs, VerifyArgs};
use crate::content::mix;
use crate::journal::{Journal, Subject};
use crate::ledger::{Ledger, Rules};
use crate::report::{End, Stats, Summary};
use crate::session::{Options, Run, SessionEnd, run_session};
use crate::wire::{self, Export, Socket, Target};
use crate::workload::{Mix, Order, Plan, Workload};
use anyhow::{Context, Result, bail, ensure};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// A pause before reconnecting, so that a server that is still dying lets go of its port.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

/// How to come back after a loss; `patience` of None is not to.
struct Connector<'a> {
    target: &'a Target,
    connections: u16,
    obey: bool,
    patience: Option<Duration>,
}

impl Connector<'_> {
    fn connect(&self) -> Result<(Vec<Socket>, Export)> {
        let mut sockets = Vec::new();
        let mut known = None;
        for _ in 0..self.connections {
            let (socket, export) = wire::connect(self.target, self.obey)?;
            ensure!(known.is_none_or(|k| k == export), "two connections see different exports");
            known = Some(export);
            sockets.push(socket);
        }
        Ok((sockets, known.context("at least one connection")?))
    }

    fn reconnect(&self, size: u64, patience: Duration) -> Result<(Vec<Socket>, Export)> {
        let until = Instant::now() + patience;
        loop {
            std::thread::sleep(RECONNECT_PAUSE);
            match self.connect() {
                Ok((_, export)) if export.size != size => bail!("the export came back with another size"),
                Ok(connected) => return Ok(connected),
                Err(error) if Instant::now() >= until => return Err(error.context("did not come back")),
                Err(_) => {}
            }
        }
    }
}

/// `load run`.
pub fn run(args: &RunArgs) -> Result<Summary> {
    let patience = args.reconnect.then(|| Duration::from_secs(args.reconnect_for));
    let connector = Connector {
        target: &args.common.uri,
        connections: args.common.connections,
        obey: !args.unaligned,
        patience,
    };
    let (sockets, export) = connector.connect()?;
    let shift = if args.unaligned { (64 + mix(args.seed) % 384) | 1 } else { 0 };
    let subject = subject(args.seed, export, shift)?;
    let plan = plan_of(args, export, subject)?;
    let journal = match &args.journal {
        Some(path) => Journal::open_or_create(path, subject)?,
        None => Journal::in_memory(subject)?,
    };
    let ledger = Ledger::new(journal, Rules { overlap: args.overlap, unknown: args.unknown });
    let seconds = args.seconds.or(args.count.is_none().then_some(10.0));
    let options = Options {
        flush_every: args.flush_every,
        flush_last: !args.no_last_flush && plan.mix.read < 100,
        judge: !args.no_verify,
        end: seconds.map(|s| Instant::now() + Duration::from_secs_f64(s)),
        ..options(&args.common, plan.length.1)
    };
    // Places differ from run to run with one journal, or a second run would only repeat the first.
    let drawn_from = mix(args.seed ^ u64::from(ledger.journal().next_stamp()));
    let work = Workload::new(plan, subject.sectors, drawn_from);
    execute("run", &connector, (sockets, export), options, ledger, work)
}

/// `load verify`.
pub fn verify(args: &VerifyArgs) -> Result<Summary> {
    let journal = Journal::open(&args.journal)?;
    let subject = journal.subject();
    let mut ledger = Ledger::new(journal, Rules { overlap: false, unknown: args.unknown });
    if !args.alive {
        ledger.crashed();
    }
    let obey = subject.shift == 0;
    scan("verify", &args.common, args.block, obey, args.passes, |export| {
        ensure!(
            export.size == subject.size,
            "the journal is about {} bytes, not {}",
            subject.size,
            export.size
        );
        Ok(ledger)
    })
}

/// `load check`.
pub fn check(args: &FillArgs) -> Result<Summary> {
    scan("check", &args.common, args.block, true, 1, |export| {
        let mut ledger = Ledger::new(Journal::in_memory(subject(args.seed, export, 0)?)?, Rules::default());
        ledger.expect_fill();
        Ok(ledger)
    })
}

/// `load fill`.
pub fn fill(args: &FillArgs) -> Result<Summary> {
    let connector = connector(&args.common, true);
    let (sockets, export) = connector.connect()?;
    let subject = subject(args.seed, export, 0)?;
    let ledger = Ledger::with_fixed_stamp(Journal::in_memory(subject)?, Rules::default());
    let plan = passes(args.block, 1, Mix { read: 0, zero: 0, trim: 0 }, export, subject)?;
    let work = Workload::new(plan, subject.sectors, args.seed);
    let options = Options { flush_last: true, ..options(&args.common, plan.length.1) };
    execute("fill", &connector, (sockets, export), options, ledger, work)
}

/// Reads everything so many times and judges it.
fn scan(
    what: &'static str,
    common: &Common,
    block: u64,
    obey: bool,
    times: u32,
    ledger: impl FnOnce(Export) -> Result<Ledger>,
) -> Result<Summary> {
    let connector = connector(common, obey);
    let (sockets, export) = connector.connect()?;
    let ledger = ledger(export)?;
    let subject = ledger.journal().subject();
    let plan = passes(block, times, Mix { read: 100, zero: 0, trim: 0 }, export, subject)?;
    let work = Workload::new(plan, subject.sectors, subject.seed);
    let options = Options { judge: true, ..options(common, plan.length.1) };
    execute(what, &connector, (sockets, export), options, ledger, work)
}

fn connector(common: &Common, obey: bool) -> Connector<'_> {
    Connector { target: &common.uri, connections: common.connections, obey, patience: None }
}

fn options(common: &Common, sectors_max: u64) -> Options {
    Options {
        depth: usize::from(common.depth),
        flush_every: 0,
        flush_last: false,
        judge: false,
        payload_max: usize::try_from(sectors_max * 512).expect("bounded by the payload limit"),
        patience: Duration::from_secs(common.timeout),
        end: None,
    }
}

fn subject(seed: u64, export: Export, shift: u64) -> Result<Subject> {
    let sectors = export.size.saturating_sub(shift) / 512;
    ensure!(sectors > 0, "the export is too small");
    Ok(Subject { seed, size: export.size, shift, sectors })
}

/// The whole export, so many times in order.
fn passes(block: u64, times: u32, mix: Mix, export: Export, subject: Subject) -> Result<Plan> {
    let length = lengths((block, block), export, subject)?;
    let order = Order::Sequential { passes: Some(u64::from(times)) };
    Ok(Plan { order, mix, length, fua_every: 0, count: None, overlap: false })
}

fn plan_of(args: &RunArgs, export: Export, subject: Subject) -> Result<Plan> {
    let (order, read) = match args.mode {
        Mode::Randread => (Order::Random, 100),
        Mode::Randwrite => (Order::Random, 0),
        Mode::Read => (Order::Sequential { passes: None }, 100),
        Mode::Write => (Order::Sequential { passes: None }, 0),
        Mode::Randrw => (Order::Random, args.read_percent),
    };
    let mix = Mix { read, zero: args.zero_percent, trim: args.trim_percent };
    ensure!(mix.read + mix.zero + mix.trim <= 100, "the percentages add up to more than 100");
    ensure!(read == 100 || !export.has(wire::HAS_READ_ONLY), "the export is read-only");
    ensure!(mix.zero == 0 || export.has(wire::HAS_WRITE_ZEROES), "the server has no WRITE_ZEROES");
    ensure!(mix.trim == 0 || export.has(wire::HAS_TRIM), "the server has no TRIM");
    let length = lengths(args.block, export, subject)?;
    Ok(Plan { order, mix, length, fua_every: args.fua_every, count: args.count, overlap: args.overlap })
}

/// Block sizes as sectors, checked against what the server takes.
fn lengths(block: (u64, u64), export: Export, subject: Subject) -> Result<(u64, u64)> {
    let unit = u64::from(export.block_min).max(512);
    let aligned = block.0.is_multiple_of(unit) && block.1.is_multiple_of(unit);
    ensure!(aligned && (block.0 == block.1 || unit == 512), "the server takes multiples of {unit} bytes");
    ensure!(block.0 > 0 && block.0 <= block.1, "block sizes are at least 512, the smaller first");
    let (min, max) = (block.0 / 512, block.1 / 512);
    ensure!(max <= subject.sectors, "a request is longer than the export");
    ensure!(
        max * 512 <= u64::from(export.payload_max),
        "the server takes at most {} bytes",
        export.payload_max
    );
    Ok((min, max))
}

/// Runs sessions until the work is done or the server stays away.
fn execute(
    what: &'static str,
    connector: &Connector<'_>,
    first: (Vec<Socket>, Export),
    options: Options,
    ledger: Ledger,
    work: Workload,
) -> Result<Summary> {
    let run = Rc::new(Run {
        options,
        begun: Instant::now(),
        ledger: RefCell::new(ledger),
        work: RefCell::new(work),
        stats: RefCell::new(Stats::new()),
        stopping: Cell::new(false),
    });
    let end = tokio_uring::builder().entries(1024).start(run_sessions(&run, connector, first))?;
    run.ledger.borrow().journal().sync()?;
    let summary = run.stats.borrow().summary(what, run.begun.elapsed(), end);
    Ok(summary)
}

async fn run_sessions(run: &Rc<Run>, connector: &Connector<'_>, first: (Vec<Socket>, Export)) -> Result<End> {
    let (mut sockets, mut export) = first;
    let size = export.size;
    loop {
        match (run_session(run, sockets, export).await?, connector.patience) {
            (SessionEnd::Finished, _) => return Ok(End::Finished),
            (SessionEnd::Hung(why), _) => return Ok(End::Hung(why)),
            (SessionEnd::Lost(why), None) => return Ok(End::Lost(why)),
            (SessionEnd::Lost(why), Some(patience)) => {
                eprintln!("load: {why}; reconnecting");
                run.ledger.borrow_mut().crashed();
                (sockets, export) = match connector.reconnect(size, patience) {
                    Ok(connected) => connected,
                    Err(error) => return Ok(End::Lost(format!("{why}; {error:#}"))),
                };
                run.stats.borrow_mut().reconnects += 1;
            }
        }
    }
}
