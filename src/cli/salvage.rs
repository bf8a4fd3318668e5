//! `volume salvage`: a volume's bytes out of whatever drives are left, into a new file. Needs no daemon and asks none.

use super::args::VolumeSalvageArgs;
use super::disks;
use super::exit::{Ended, Exit};
use super::session::Session;
use super::survey::member_word;
use super::words::{bytes, count, percent};
use crate::base::units::{ByteLen, ByteOffset, Span, VolumeId};
use crate::control::api::Failure;
use crate::daemon::cores;
use crate::pool::salvage::{DriveFacts, Facts, Fate, Remains, SalvageError, SalvagePlan, Sink, find};
use crate::reactor::Core;
use serde::Serialize;
use std::cell::RefCell;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufWriter, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Memory for buffers, bytes: a stripe's regions, a mebibyte of each at a time, and the copies of single blocks.
const ARENA: usize = 48 << 20;

/// Ranges that are listed on the screen; all are in the map.
const LISTED_MAX: usize = 50;

/// How often the progress is told.
const PROGRESS: Duration = Duration::from_secs(5);

pub fn run(session: &Session, args: &VolumeSalvageArgs) -> Result<Exit, Ended> {
    for path in std::iter::once(&args.to).chain(&args.map) {
        if path.symlink_metadata().is_ok() {
            return Err(exists(path).into());
        }
    }
    let mut paths = disks::paths(&args.disks)?;
    paths.sort();
    paths.dedup();
    for path in paths.iter().filter(|path| is_in_use(path)) {
        let drive = path.display();
        let warning =
            format!("warning: {drive} is in use: what is written meanwhile may be half in the file");
        session.screen.say(&warning);
    }
    let core = cores::here(ARENA)?;
    let plan =
        SalvagePlan { disks: paths, pool: args.pool.clone(), witness_folder: session.globals.state.clone() };
    let inner = core.clone();
    let found = core.run_until(async move { find(&inner, &plan).await });
    let done =
        found.map_err(|error| failure(&error)).and_then(|remains| salvage(session, args, &core, remains));
    core.drain();
    Ok(done?)
}

fn salvage(
    session: &Session,
    args: &VolumeSalvageArgs,
    core: &Core,
    remains: Remains,
) -> Result<Exit, Failure> {
    let facts = remains.facts.clone();
    let Some((id, volume)) = remains.volume(&args.volume) else { return Err(no_volume(args, &remains)) };
    let (uuid, size) = (volume.uuid.to_string(), volume.size);
    if !session.screen.json {
        session.screen.print(&facts_screen(&facts));
    }
    let output = Output::make(args, size, session.screen.json)?;
    let output = copy(core, remains, id, output).map_err(|(path, error)| unwritable(&path, &error))?;
    let report = report(args, &facts, &uuid, size, &output);
    if session.screen.json {
        session.screen.document("drystone.salvage/1", &report);
    } else {
        session.screen.print(&result_screen(&report));
    }
    Ok(if report.missing_bytes == 0 { Exit::Done } else { Exit::Failed })
}

/// Copies the volume; gives the output back, on the medium.
fn copy(
    core: &Core,
    remains: Remains,
    id: VolumeId,
    output: Output,
) -> Result<Output, (PathBuf, std::io::Error)> {
    let path = output.path.clone();
    let output = Rc::new(RefCell::new(output));
    let (inner, sink) = (core.clone(), output.clone());
    let copied = core.run_until(async move {
        let copied = remains.copy(&inner, id, &sink).await;
        remains.close(&inner).await;
        copied
    });
    let ended = copied.and_then(|()| output.borrow_mut().finish());
    ended.map_err(|error| (path, error))?;
    Ok(Rc::into_inner(output).expect("the task that shared it has ended").into_inner())
}

/// Whether some process has a disk for itself. Asked for a moment only, and without writing.
fn is_in_use(path: &Path) -> bool {
    let device = path.metadata().is_ok_and(|m| m.file_type().is_block_device());
    if device {
        let alone = OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(path);
        return alone.is_err_and(|e| e.raw_os_error() == Some(libc::EBUSY));
    }
    File::open(path).is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

fn exists(path: &Path) -> Failure {
    Failure::refused("FILE_EXISTS", format!("{} exists already", path.display()))
        .with("it is not overwritten: give another name")
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed("FILE_UNWRITABLE", format!("{}: {error}", path.display()))
        .with("what was written so far is left there; it is not the whole volume")
}

fn failure(error: &SalvageError) -> Failure {
    let text = error.to_string();
    match error {
        SalvageError::NoMembers { left_out } => {
            let failure = Failure::failed("NO_MEMBERS", text);
            left_out.iter().fold(failure, |f, (path, why)| f.with(format!("{}: {why}", path.display())))
        }
        SalvageError::NotOfPool(_) => Failure::failed("NO_POOL", text),
        SalvageError::SeveralPools(_) => {
            Failure::refused("SEVERAL_POOLS", text).with("say which one is meant: --pool NAME or --pool UUID")
        }
        SalvageError::Twins(_, _) => Failure::refused("TWINS", text)
            .with("nobody can tell which one is right: give only one of them, the one that was used last"),
        SalvageError::NoLog(_) => Failure::failed("NO_LOG", text)
            .with("without one nothing says where the volumes lie; are there more drives of this pool?"),
    }
}

fn no_volume(args: &VolumeSalvageArgs, remains: &Remains) -> Failure {
    let pool = &remains.facts.pool_name;
    let message = format!("pool {pool} has no volume {}", args.volume);
    let failure = Failure::failed("NO_VOLUME", message);
    let mut names: Vec<String> =
        remains.volumes().map(|(_, v)| format!("{} ({}, {})", v.name, bytes(v.size.0), v.uuid)).collect();
    if names.is_empty() {
        names.push("none".to_owned());
    }
    failure
        .with(format!("its volumes: {}", names.join(", ")))
        .with("one that was destroyed is not among them, and is not salvaged")
}

/// The file that is made, the map, and what became of everything.
struct Output {
    path: PathBuf,
    file: File,
    map: Option<BufWriter<File>>,
    size: u64,
    sums: [u64; Fate::ALL.len()],
    /// Ranges that are missing: how many, and the first of them.
    missing: u64,
    listed: Vec<(Span, Fate)>,
    quiet: bool,
    told: Instant,
}

impl Output {
    fn make(args: &VolumeSalvageArgs, size: ByteLen, quiet: bool) -> Result<Output, Failure> {
        let new = |path: &Path| {
            OpenOptions::new().write(true).create_new(true).open(path).map_err(|error| match error.kind() {
                std::io::ErrorKind::AlreadyExists => exists(path),
                _ => unwritable(path, &error),
            })
        };
        let file = new(&args.to)?;
        file.set_len(size.0).map_err(|error| unwritable(&args.to, &error))?;
        let map = args.map.as_deref().map(new).transpose()?.map(BufWriter::new);
        Ok(Output {
            path: args.to.clone(),
            file,
            map,
            size: size.0,
            sums: [0; Fate::ALL.len()],
            missing: 0,
            listed: Vec::new(),
            quiet,
            told: Instant::now(),
        })
    }

    fn finish(&mut self) -> std::io::Result<()> {
        if let Some(map) = &mut self.map {
            map.flush()?;
            map.get_ref().sync_all()?;
        }
        self.file.sync_all()
    }

    fn sum(&self, fate: Fate) -> u64 {
        Fate::ALL.iter().zip(self.sums).find(|(f, _)| **f == fate).map_or(0, |(_, sum)| sum)
    }
}

impl Sink for Output {
    fn put(&mut self, at: ByteOffset, bytes: &[u8]) -> std::io::Result<()> {
        if !self.quiet && self.told.elapsed() >= PROGRESS {
            self.told = Instant::now();
            eprintln!("{} % of {}", percent(at.0, self.size), super::words::bytes(self.size));
        }
        self.file.write_all_at(bytes, at.0)
    }

    fn tell(&mut self, span: Span, fate: Fate) -> std::io::Result<()> {
        for (known, sum) in Fate::ALL.iter().zip(&mut self.sums) {
            *sum += if *known == fate { span.len().0 } else { 0 };
        }
        if fate.is_missing() {
            self.missing += 1;
            if self.listed.len() < LISTED_MAX {
                self.listed.push((span, fate));
            }
        }
        match &mut self.map {
            Some(map) => writeln!(map, "{} {} {}", span.offset().0, span.len().0, fate.word()),
            None => Ok(()),
        }
    }
}

#[derive(Serialize)]
struct Report {
    volume: String,
    volume_uuid: String,
    size_bytes: u64,
    file: PathBuf,
    pool: String,
    pool_uuid: String,
    log: LogReport,
    drives: Vec<DriveShown>,
    left_out: Vec<LeftOut>,
    missing_drives: Vec<String>,
    hole_bytes: u64,
    sound_bytes: u64,
    unchecked_bytes: u64,
    old_bytes: u64,
    lost_bytes: u64,
    /// Old and lost together.
    missing_bytes: u64,
    missing_ranges: u64,
    /// The first of them.
    ranges: Vec<Range>,
}

#[derive(Serialize)]
struct LogReport {
    path: PathBuf,
    epoch: u64,
    sequence: u64,
    clean: bool,
    votes_present: usize,
    votes_total: usize,
}

#[derive(Serialize)]
struct DriveShown {
    path: PathBuf,
    name: String,
    state: &'static str,
    in_sync: bool,
    remarks: Vec<String>,
}

#[derive(Serialize)]
struct LeftOut {
    path: PathBuf,
    reason: String,
}

#[derive(Serialize)]
struct Range {
    offset_bytes: u64,
    length_bytes: u64,
    status: &'static str,
}

fn report(args: &VolumeSalvageArgs, facts: &Facts, uuid: &str, size: ByteLen, output: &Output) -> Report {
    let drive = |d: &DriveFacts| DriveShown {
        path: d.path.clone(),
        name: d.name.clone(),
        state: member_word(d.state),
        in_sync: d.in_sync,
        remarks: d.remarks.clone(),
    };
    let range = |(span, fate): &(Span, Fate)| Range {
        offset_bytes: span.offset().0,
        length_bytes: span.len().0,
        status: fate.word(),
    };
    let left_out =
        facts.left_out.iter().map(|(path, reason)| LeftOut { path: path.clone(), reason: reason.clone() });
    Report {
        volume: args.volume.clone(),
        volume_uuid: uuid.to_owned(),
        size_bytes: size.0,
        file: args.to.clone(),
        pool: facts.pool_name.clone(),
        pool_uuid: facts.pool.to_string(),
        log: LogReport {
            path: facts.source.clone(),
            epoch: facts.position.epoch,
            sequence: facts.position.sequence,
            clean: facts.clean,
            votes_present: facts.votes.present,
            votes_total: facts.votes.total,
        },
        drives: facts.drives.iter().map(drive).collect(),
        left_out: left_out.collect(),
        missing_drives: facts.missing.iter().map(|(name, _)| name.clone()).collect(),
        hole_bytes: output.sum(Fate::Hole),
        sound_bytes: output.sum(Fate::Sound),
        unchecked_bytes: output.sum(Fate::Unchecked),
        old_bytes: output.sum(Fate::Old),
        lost_bytes: output.sum(Fate::Lost),
        missing_bytes: output.sum(Fate::Old) + output.sum(Fate::Lost),
        missing_ranges: output.missing,
        ranges: output.listed.iter().map(range).collect(),
    }
}

/// Which log is gone by, which drives are used, and what is known to be missing.
fn facts_screen(facts: &Facts) -> String {
    let position = facts.position;
    let clean = if facts.clean { "closed in order" } else { "not closed in order" };
    let mut text = format!(
        "pool      {} ({})\nlog       of {}, the newest here: epoch {}, commit {}, {clean}\n",
        facts.pool_name,
        facts.pool,
        facts.source.display(),
        position.epoch,
        position.sequence
    );
    if !facts.votes.is_majority() {
        text.push_str(&format!(
            "          only {} of {} votes are here: what is missing may know of later changes\n",
            facts.votes.present, facts.votes.total
        ));
    }
    for drive in &facts.drives {
        let state = if drive.in_sync { "in sync" } else { "not in sync" };
        text.push_str(&format!("drive     {}: {state}\n", drive.path.display()));
        drive.remarks.iter().for_each(|remark| text.push_str(&format!("          {remark}\n")));
    }
    for (name, state) in &facts.missing {
        text.push_str(&format!("missing   {name}, {} when last heard of\n", member_word(*state)));
    }
    for (path, why) in &facts.left_out {
        text.push_str(&format!("left out  {}: {why}\n", path.display()));
    }
    text
}

fn result_screen(report: &Report) -> String {
    let mut text = format!(
        "volume    {}, {} ({} B), in {}\n",
        report.volume,
        bytes(report.size_bytes),
        report.size_bytes,
        report.file.display()
    );
    let amounts = [
        ("sound", report.sound_bytes, "checksums are right"),
        ("unchecked", report.unchecked_bytes, "taken without a checksum that could prove it"),
        ("hole", report.hole_bytes, "never written: zeros"),
        ("old", report.old_bytes, "from a copy that may lack what was written last"),
        ("lost", report.lost_bytes, "no copy has it: zeros"),
    ];
    for (word, amount, meaning) in amounts.iter().filter(|(_, amount, _)| *amount > 0) {
        text.push_str(&format!("{word:<10}{} ({amount} B): {meaning}\n", bytes(*amount)));
    }
    if report.missing_ranges == 0 {
        return text + "everything is there\n";
    }
    let ranges = count(usize::try_from(report.missing_ranges).unwrap_or(usize::MAX), "range");
    text.push_str(&format!("MISSING   {} B in {ranges}:\n", report.missing_bytes));
    for Range { offset_bytes, length_bytes, status } in &report.ranges {
        text.push_str(&format!("          offset {offset_bytes}, {length_bytes} B: {status}\n"));
    }
    let more = report.missing_ranges.saturating_sub(report.ranges.len() as u64); // widening
    if more > 0 {
        text.push_str(&format!("          and {more} more; --map FILE has them all\n"));
    }
    text
}
