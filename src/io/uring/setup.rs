//! Making a ring, and saying in the user's words why there is none.

use super::UringConfig;
use crate::io::buf::BufPool;
use io_uring::{IoUring, Probe, opcode};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use std::io;

/// The largest piece that the kernel registers as one buffer, bytes.
pub(super) const PIECE_MAX: usize = 1 << 30;

/// Why there is no driver.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    #[error("this kernel refuses io_uring (io_uring_setup: {})", .errno.desc())]
    Blocked {
        errno: Errno,
        /// The value of kernel.io_uring_disabled, where the kernel has it.
        disabled: Option<u8>,
    },
    #[error("this kernel ({running}) is too old: it lacks {missing}")]
    KernelTooOld { missing: String, running: String },
    #[error("io_uring could not be started ({step}: {})", .errno.desc())]
    Failed { step: &'static str, errno: Errno },
}

impl SetupError {
    /// The error's name in messages, journal and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            SetupError::Blocked { .. } => "URING_BLOCKED",
            SetupError::KernelTooOld { .. } => "KERNEL_TOO_OLD",
            SetupError::Failed { .. } => "URING_FAILED",
        }
    }

    /// The lines that follow the sentence: what is the case, and what to do.
    pub fn facts(&self) -> Vec<String> {
        match self {
            SetupError::Blocked { disabled, .. } => {
                let sysctl = match disabled {
                    None => {
                        "kernel.io_uring_disabled does not exist here, so it is not the reason".to_owned()
                    }
                    Some(0) => "kernel.io_uring_disabled = 0, so it is not the reason".to_owned(),
                    Some(n) => {
                        format!("kernel.io_uring_disabled = {n} -> sudo sysctl kernel.io_uring_disabled=0")
                    }
                };
                let container =
                    "in a container? Docker's default seccomp profile blocks io_uring -> run on the host";
                vec![sysctl, container.to_owned()]
            }
            SetupError::KernelTooOld { .. } => vec!["Linux 6.1 or newer is needed".to_owned()],
            SetupError::Failed { errno: Errno::EMFILE | Errno::ENFILE, .. } => {
                vec![
                    "too many open files: raise the limit (LimitNOFILE= in the unit, `ulimit -n`)".to_owned(),
                ]
            }
            SetupError::Failed { errno: Errno::ENOMEM, .. } => {
                vec!["memory that may be locked is short: `ulimit -l unlimited` as root".to_owned()]
            }
            SetupError::Failed { .. } => Vec::new(),
        }
    }
}

/// Something that makes the driver slower than it could be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    #[error("{} of buffers cannot be locked (limit {})", mib(*.arena), mib_or_unknown(*.limit))]
    MemlockLow {
        /// The size of the arena, bytes.
        arena: u64,
        /// The limit on locked memory, bytes; None if it is not known.
        limit: Option<u64>,
    },
    #[error("files cannot be registered with io_uring ({})", .errno.desc())]
    FilesUnregistered { errno: Errno },
}

impl Warning {
    pub fn code(&self) -> &'static str {
        match self {
            Warning::MemlockLow { .. } => "MEMLOCK_LOW",
            Warning::FilesUnregistered { .. } => "FILES_UNREGISTERED",
        }
    }

    /// The lines that follow the sentence.
    pub fn facts(&self) -> Vec<String> {
        let fact = match self {
            Warning::MemlockLow { .. } => {
                "the packaged unit sets LimitMEMLOCK=infinity; started by hand? `ulimit -l unlimited` as root"
            }
            Warning::FilesUnregistered { .. } => "everything works, each operation costs a little more",
        };
        vec![fact.to_owned()]
    }
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

fn mib_or_unknown(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "unknown".to_owned(), mib)
}

/// Makes a ring that this thread alone will use.
pub(super) fn make_ring(config: UringConfig) -> Result<IoUring, SetupError> {
    let made = IoUring::builder()
        .dontfork()
        .setup_clamp()
        .setup_cqsize(config.completions)
        // One thread submits; the kernel finishes operations only when that thread asks, which batches them.
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        // Tells in shared memory that there is something to finish, so that asking is free when there is not.
        .setup_taskrun_flag()
        .setup_submit_all()
        .build(config.entries);
    let uring = made.map_err(|error| refusal(errno_of(&error)))?;
    check_features(&uring)?;
    check_opcodes(&uring)?;
    Ok(uring)
}

fn refusal(errno: Errno) -> SetupError {
    match errno {
        Errno::EPERM | Errno::ENOSYS | Errno::EACCES => {
            let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
            SetupError::Blocked { errno, disabled: disabled.ok().and_then(|text| text.trim().parse().ok()) }
        }
        // An unknown flag. All the others are older than this one.
        Errno::EINVAL => too_old("IORING_SETUP_DEFER_TASKRUN (Linux 6.1)"),
        other => SetupError::Failed { step: "io_uring_setup", errno: other },
    }
}

fn too_old(missing: &str) -> SetupError {
    let running = nix::sys::utsname::uname()
        .map_or_else(|_| "unknown".to_owned(), |name| name.release().to_string_lossy().into_owned());
    SetupError::KernelTooOld { missing: missing.to_owned(), running }
}

fn check_features(uring: &IoUring) -> Result<(), SetupError> {
    let params = uring.params();
    let needed = [
        (params.is_feature_nodrop(), "IORING_FEAT_NODROP"),
        (params.is_feature_ext_arg(), "IORING_FEAT_EXT_ARG"),
        (params.is_feature_fast_poll(), "IORING_FEAT_FAST_POLL"),
        (params.is_feature_submit_stable(), "IORING_FEAT_SUBMIT_STABLE"),
    ];
    match needed.iter().find(|(there, _)| !there) {
        Some((_, name)) => Err(too_old(name)),
        None => Ok(()),
    }
}

fn check_opcodes(uring: &IoUring) -> Result<(), SetupError> {
    let probe = probe(uring)?;
    let needed = [
        (opcode::Read::CODE, "IORING_OP_READ"),
        (opcode::Write::CODE, "IORING_OP_WRITE"),
        (opcode::ReadFixed::CODE, "IORING_OP_READ_FIXED"),
        (opcode::WriteFixed::CODE, "IORING_OP_WRITE_FIXED"),
        (opcode::Fsync::CODE, "IORING_OP_FSYNC"),
        (opcode::Fallocate::CODE, "IORING_OP_FALLOCATE"),
        (opcode::Accept::CODE, "IORING_OP_ACCEPT"),
        (opcode::Connect::CODE, "IORING_OP_CONNECT"),
        (opcode::Recv::CODE, "IORING_OP_RECV"),
        (opcode::RecvMsg::CODE, "IORING_OP_RECVMSG"),
        (opcode::Send::CODE, "IORING_OP_SEND"),
        (opcode::SendMsg::CODE, "IORING_OP_SENDMSG"),
        (opcode::AsyncCancel2::CODE, "IORING_OP_ASYNC_CANCEL"),
    ];
    match needed.iter().find(|(code, _)| !probe.is_supported(*code)) {
        Some((_, name)) => Err(too_old(name)),
        None => Ok(()),
    }
}

fn probe(uring: &IoUring) -> Result<Probe, SetupError> {
    let mut probe = Probe::new();
    let probed = uring.submitter().register_probe(&mut probe);
    probed.map_err(|error| SetupError::Failed { step: "register_probe", errno: errno_of(&error) })?;
    Ok(probe)
}

/// Whether block devices may take commands through the ring (discard since Linux 6.12).
pub(super) fn has_commands(uring: &IoUring) -> bool {
    probe(uring).is_ok_and(|probe| probe.is_supported(opcode::UringCmd16::CODE))
}

/// Registers the arena as fixed buffers 0, 1, … of `PIECE_MAX` each.
pub(super) fn register_arena(uring: &IoUring, buffers: &BufPool) -> Result<(), Warning> {
    let (base, size) = buffers.arena();
    let pieces: Vec<libc::iovec> = (0..size)
        .step_by(PIECE_MAX)
        .map(|at| libc::iovec { iov_base: base.wrapping_add(at).cast(), iov_len: (size - at).min(PIECE_MAX) })
        .collect();
    if pieces.is_empty() {
        return Ok(());
    }
    // SAFETY: the pieces lie within the arena's mapping. The driver keeps a handle to the pool until the ring
    // is gone, and the kernel pins the pages for as long as it uses them.
    let registered = unsafe { uring.submitter().register_buffers(&pieces) };
    registered.map_err(|_| {
        let soft = getrlimit(Resource::RLIMIT_MEMLOCK).ok().map(|(soft, _)| soft);
        Warning::MemlockLow {
            arena: size as u64, // usize to u64: widening
            limit: soft,
        }
    })
}

/// Registers an empty table of files; returns how many it holds.
pub(super) fn register_files(uring: &IoUring, wanted: u32) -> Result<u32, Warning> {
    // The kernel refuses a table larger than the limit on open files.
    let allowed =
        getrlimit(Resource::RLIMIT_NOFILE).map_or(wanted, |(soft, _)| u32::try_from(soft).unwrap_or(wanted));
    let count = wanted.min(allowed);
    match uring.submitter().register_files_sparse(count) {
        Ok(()) => Ok(count),
        Err(error) => Err(Warning::FilesUnregistered { errno: errno_of(&error) }),
    }
}

pub(super) fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
