//! The command `bench`: what was typed becomes ends to measure, and the report is printed.
//!
//! Ctrl-C and SIGTERM end the measurement early, so that a scratch volume is always taken away again. A server that was
//! to be compared with and could not be measured fails the command only after the rest was reported.

use super::daemon_ends::{self, Borrowed};
use super::measure_nbd::tells_names_apart;
use super::measure_nvme::Which;
use super::{
    Endpoint, Ends, NETWORK_EXPORT, NamespaceEnd, Other, Plan, Report, connect, measure, report_json,
    report_table, write_files,
};
use crate::base::limits::BENCH_OTHERS_MAX;
use crate::cli::args::{BenchArgs, Globals};
use crate::control::api::Failure;
use crate::control::refusal::not_inspected;
use crate::disk::inspect::resolve;
use crate::io::driver::{Address, Driver};
use crate::io::uring::{Handles, SetupError, UringConfig, UringDriver};
use crate::reactor::threads::{CorePlan, DriverFactory, build};
use crate::reactor::{Core, CoreIndex};
use crate::{nbd, nvmf};
use futures_util::future::{Either, select};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::io::Write;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

/// Memory of the core that makes the load, bytes.
const ARENA: usize = 64 << 20;

/// How often a signal is looked for.
const SIGNAL_EVERY: Duration = Duration::from_millis(100);

/// Measures, and prints the report.
pub fn run(globals: &Globals, args: &BenchArgs) -> Result<(), Failure> {
    let typed = sort(&args.targets)?;
    let plan = Plan::per_layer(Duration::from_secs(u64::from(args.seconds)));
    // Held until the end: dropping it gives back what the daemon lent.
    let others = others(args)?;
    let (mut ends, borrowed) = find_ends(globals, &typed, &plan)?;
    ends.others = allowed(others, &ends)?;
    let core = make_core()?;
    let signals = hold_signals()?;
    let report = core.run_until({
        let core = core.clone();
        async move {
            let measured = async {
                know_server(&core, &mut ends).await?;
                Ok(measure(&core, &ends, &plan).await)
            };
            match select(pin!(measured), pin!(interrupted(&core, &signals))).await {
                Either::Left((report, _)) => report,
                Either::Right(_) => {
                    Err(Failure::failed("BENCH_STOPPED", "the measurement was stopped before its end"))
                }
            }
        }
    });
    core.drain();
    let kept = borrowed.map_or(Ok(()), Borrowed::give_back);
    let report = report?;
    print(globals, &report)?;
    if let Some(directory) = &args.out {
        let written = write_files(&report, directory).map_err(|e| {
            Failure::failed("SYSTEM", format!("the report cannot be written to {}: {e}", directory.display()))
        })?;
        let names: Vec<String> = written.iter().map(|path| path.display().to_string()).collect();
        eprintln!("{}", names.join("  "));
    }
    kept?;
    compared(&report)
}

/// The servers to compare with, as they were typed.
fn others(args: &BenchArgs) -> Result<Vec<Other>, Failure> {
    if args.against.len() > BENCH_OTHERS_MAX {
        let message = format!("--against takes at most {BENCH_OTHERS_MAX} servers");
        return Err(Failure::failed("TOO_MANY_OTHERS", message));
    }
    let other = |text: &String| match parse(text)? {
        Uri::Nbd(uri) => {
            let end = Endpoint { address: resolve_place(text, &uri)?, export: uri.export };
            Ok(Other { name: text.clone(), end, written: args.against_write })
        }
        Uri::Nvme(_) => {
            let message = format!("`{text}` cannot be used: --against takes NBD servers");
            Err(Failure::failed("BAD_ADDRESS", message)
                .with("such as nbd://stonebox/data or nbd+unix:///data?socket=/run/nbd.sock"))
        }
    };
    args.against.iter().map(other).collect()
}

fn resolve_place(text: &str, uri: &nbd::uri::Uri) -> Result<Address, Failure> {
    uri.place
        .resolve()
        .map_err(|error| Failure::failed("BAD_ADDRESS", format!("`{text}` leads nowhere: {error}")))
}

/// Refuses comparisons that have nothing to compare with, or would overwrite the volume that is asked about.
fn allowed(others: Vec<Other>, ends: &Ends) -> Result<Vec<Other>, Failure> {
    let volume = ends.scratch.as_ref().or(ends.volume.as_ref());
    if !others.is_empty() && volume.is_none() && ends.namespace.is_none() {
        let message = "--against needs a volume to compare with, and there is none";
        return Err(Failure::failed("NOTHING_TO_COMPARE", message)
            .with("name a volume, or an address such as nbd://stonebox/data"));
    }
    if let Some(other) = others.iter().find(|o| o.written && Some(&o.end) == ends.volume.as_ref()) {
        let message = format!("--against-write would overwrite the volume that is measured: {}", other.name);
        return Err(Failure::refused("AGAINST_ITSELF", message));
    }
    Ok(others)
}

/// Fails where another server has no figure at all.
fn compared(report: &Report) -> Result<(), Failure> {
    let missing = report.measured.peers.iter().filter(|peer| peer.contests.is_empty());
    let names: Vec<&str> = missing.map(|peer| peer.name.as_str()).collect();
    match names.as_slice() {
        [] => Ok(()),
        names => {
            let message = format!("not compared with {}: the report says why", names.join(" and "));
            Err(Failure::failed("NOT_COMPARED", message))
        }
    }
}

/// What was typed, by kind.
#[derive(Debug, Default, PartialEq)]
struct Typed {
    uri: Option<(String, Uri)>,
    volume: Option<String>,
    disks: Vec<PathBuf>,
}

/// An address that was typed.
#[derive(Debug, PartialEq)]
enum Uri {
    Nbd(nbd::uri::Uri),
    Nvme(nvmf::uri::Uri),
}

fn parse(text: &str) -> Result<Uri, Failure> {
    let refused = |error: String| Failure::failed("BAD_ADDRESS", format!("`{text}` cannot be used: {error}"));
    if nvmf::uri::is_meant(text) {
        let uri = nvmf::uri::parse(text).map_err(|error| refused(error.to_string()));
        return uri.map(Uri::Nvme).map_err(|failure| failure.with("such as nvme://stonebox/NQN/1"));
    }
    let uri = nbd::uri::parse(text).map_err(|error| refused(error.to_string()));
    uri.map(Uri::Nbd).map_err(|failure| {
        failure.with("such as nbd://stonebox/data or nbd+unix:///data?socket=/run/nbd.sock")
    })
}

fn sort(targets: &[String]) -> Result<Typed, Failure> {
    let mut typed = Typed::default();
    for text in targets {
        if text.contains("://") {
            let uri = parse(text)?;
            one_volume(typed.uri.replace((text.clone(), uri)).is_some() || typed.volume.is_some())?;
        } else if let Some(disk) = disk(text)? {
            typed.disks.push(disk);
        } else {
            one_volume(typed.volume.replace(text.clone()).is_some() || typed.uri.is_some())?;
        }
    }
    Ok(typed)
}

/// A disk, where the text names one: what has no slash in it and no disk behind it is a volume.
fn disk(text: &str) -> Result<Option<PathBuf>, Failure> {
    match resolve(text) {
        Ok(path) => Ok(Some(path)),
        Err(_) if !text.contains('/') => Ok(None),
        Err(error) => Err(not_inspected(&error)),
    }
}

fn one_volume(second: bool) -> Result<(), Failure> {
    match second {
        false => Ok(()),
        true => Err(Failure::failed("ONE_AT_A_TIME", "one volume or address is measured at a time")
            .with("disks may be named beside it, as many as there are")),
    }
}

fn find_ends(globals: &Globals, typed: &Typed, plan: &Plan) -> Result<(Ends, Option<Borrowed>), Failure> {
    let mut ends = Ends { drives: typed.disks.clone(), ..Ends::default() };
    if let Some((text, uri)) = &typed.uri {
        ends.target = text.clone();
        match uri {
            Uri::Nbd(uri) => {
                let address = resolve_place(text, uri)?;
                ends.volume = Some(Endpoint { address, export: uri.export.clone() });
            }
            Uri::Nvme(uri) => {
                let address = uri.resolve().map_err(|error| {
                    Failure::failed("BAD_ADDRESS", format!("`{text}` leads nowhere: {error}"))
                })?;
                let (subsystem, which) = (uri.subsystem.clone(), Which::Number(uri.namespace));
                ends.namespace = Some(NamespaceEnd { address, subsystem, which });
            }
        }
        return Ok((ends, None));
    }
    if typed.volume.is_none() && !typed.disks.is_empty() {
        let names: Vec<String> = typed.disks.iter().map(|path| path.display().to_string()).collect();
        ends.target = names.join(", ");
        return Ok((ends, None));
    }
    let borrowed = daemon_ends::borrow(globals, typed.volume.as_deref(), plan, &mut ends)?;
    Ok((ends, Some(borrowed)))
}

/// Makes sure that nothing is written to, and nothing taken for the network, that only has the right name.
///
/// What the daemon lent is looked for under an address, where something else may listen (in another network
/// namespace, say); a server that gives one export under every name would then let us write into it. An address of
/// another machine may have the export in memory because somebody measures there: it is read, never written.
async fn know_server(core: &Core, ends: &mut Ends) -> Result<(), Failure> {
    let lent = ends.scratch.as_ref().or(ends.network.as_ref());
    let Some(end) = lent.or(ends.volume.as_ref()).cloned() else { return Ok(()) };
    let ours = tells_names_apart(core, &end.address).await;
    if lent.is_some() {
        return match ours {
            true => Ok(()),
            false => Err(Failure::failed(
                "ANSWER_UNEXPECTED",
                "what listens on the daemon's NBD address is not the daemon",
            )
            .with("Nothing was written to it.")),
        };
    }
    let network = Endpoint { address: end.address, export: NETWORK_EXPORT.to_owned() };
    if ours && connect(core, &network, 1).await.is_ok() {
        ends.network = Some(network);
    }
    Ok(())
}

fn print(globals: &Globals, report: &Report) -> Result<(), Failure> {
    let text = match globals.json {
        true => {
            let json = serde_json::to_string_pretty(&report_json::render(report));
            json.expect("a value without maps of other keys than text") + "\n"
        }
        false => report_table::render(report),
    };
    let mut out = std::io::stdout().lock();
    // A reader that has seen enough (`| head`) is no error.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    Ok(())
}

/// Why there is no core to make the load on.
#[derive(Debug, thiserror::Error)]
enum CoreError {
    #[error("{0}")]
    Driver(#[from] SetupError),
    #[error("the memory for buffers cannot be had: {0}")]
    Memory(#[from] std::io::Error),
}

fn make_core() -> Result<Core, Failure> {
    let handles = Handles::new();
    let factory: DriverFactory<CoreError> = Arc::new(move |buffers| {
        let driver = UringDriver::new(UringConfig::default(), buffers, handles.clone())?;
        Ok(Box::new(driver) as Box<dyn Driver>)
    });
    // Where random requests go changes from run to run; nothing else depends on it.
    let seed = u64::from(std::process::id());
    let plan = CorePlan { index: CoreIndex(0), cpu: None, arena: ARENA, seed };
    build(plan, &factory).map_err(|error| match error {
        CoreError::Driver(setup) => {
            let failure = Failure::failed(setup.code(), setup.to_string());
            setup.facts().into_iter().fold(failure, Failure::with)
        }
        CoreError::Memory(_) => Failure::failed("SYSTEM", error.to_string()),
    })
}

fn hold_signals() -> Result<SignalFd, Failure> {
    let mask = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    let held = mask.thread_block();
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    held.and_then(|()| SignalFd::with_flags(&mask, flags))
        .map_err(|errno| Failure::failed("SYSTEM", format!("signals cannot be held back: {}", errno.desc())))
}

/// Ends when a signal has come.
async fn interrupted(core: &Core, signals: &SignalFd) {
    while !matches!(signals.read_signal(), Ok(Some(_))) {
        core.sleep(SIGNAL_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(targets: &[&str]) -> Result<Typed, Failure> {
        sort(&targets.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn addresses_disks_and_volumes_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("a.img");
        std::fs::write(&disk, [0; 4096]).unwrap();
        let disk = disk.to_str().unwrap();
        let sorted = typed(&["nbd://h/data", disk]).unwrap();
        assert!(matches!(sorted.uri, Some((_, Uri::Nbd(uri))) if uri.export == "data"));
        let sorted = typed(&["nvme://h/nqn.x/7", disk]).unwrap();
        assert!(matches!(sorted.uri, Some((_, Uri::Nvme(uri))) if uri.namespace == 7));
        assert_eq!(sorted.disks.len(), 1);
        assert_eq!(typed(&["no-such-disk"]).unwrap().volume.as_deref(), Some("no-such-disk"));
    }

    #[test]
    fn what_cannot_be_measured_is_refused_by_name() {
        let code = |targets: &[&str]| typed(targets).unwrap_err().code;
        assert_eq!(code(&["nbds://h/data"]), "BAD_ADDRESS");
        assert_eq!(code(&["nvme://h/data"]), "BAD_ADDRESS");
        assert_eq!(code(&["nbd://h/data", "nvme://h/nqn.x/7"]), "ONE_AT_A_TIME");
        assert_eq!(code(&["/no/such/disk"]), "DISK_NOT_FOUND");
        assert_eq!(code(&["nbd://h/data", "nbd://h/other"]), "ONE_AT_A_TIME");
        assert_eq!(code(&["nbd://h/data", "volume-x"]), "ONE_AT_A_TIME");
    }

    fn against(texts: &[&str], against_write: bool) -> Result<Vec<Other>, Failure> {
        let against = texts.iter().map(|text| (*text).to_owned()).collect();
        others(&BenchArgs { targets: Vec::new(), against, against_write, seconds: 1, out: None })
    }

    #[test]
    fn other_servers_are_nbd_servers_and_few() {
        let one = "nbd+unix:///x?socket=/run/s";
        let found = against(&[one, one], false).unwrap();
        assert_eq!((found.len(), found[0].end.export.as_str(), found[0].written), (2, "x", false));
        assert_eq!(against(&["nvme://h/nqn.x/7"], false).unwrap_err().code, "BAD_ADDRESS");
        assert_eq!(against(&["stonebox"], false).unwrap_err().code, "BAD_ADDRESS");
        assert_eq!(against(&[one; 5], false).unwrap_err().code, "TOO_MANY_OTHERS");
    }

    #[test]
    fn the_measured_volume_is_compared_with_itself_but_never_overwritten_by_that() {
        let one = "nbd+unix:///x?socket=/run/s";
        let end = against(&[one], true).unwrap().remove(0).end;
        let ends = Ends { volume: Some(end), ..Ends::default() };
        assert!(allowed(against(&[one], false).unwrap(), &ends).is_ok());
        let refused = allowed(against(&[one], true).unwrap(), &ends).unwrap_err();
        assert_eq!((refused.code.as_str(), refused.refused), ("AGAINST_ITSELF", true));
        let nothing = allowed(against(&[one], false).unwrap(), &Ends::default()).unwrap_err();
        assert_eq!(nothing.code, "NOTHING_TO_COMPARE");
        assert!(allowed(Vec::new(), &Ends::default()).is_ok());
    }
}
