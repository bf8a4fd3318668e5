//! Making sockets, and their addresses. What may wait (accept, connect) goes through the ring.

use super::handles::{BoundPath, Descriptor, Held, SocketTraits, Traits};
use super::setup::errno_of;
use super::slots::Connecting;
use crate::io::driver::{Address, Direction};
use nix::errno::Errno;
use nix::sys::stat::{Mode, fchmod, lstat};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Connections that wait for an accept; the kernel clamps it to net.core.somaxconn.
const BACKLOG: i32 = 1024;

/// Unacknowledged data older than this ends a connection: a peer that lost power is not waited for longer.
const PEER_SILENCE_MAX: Duration = Duration::from_secs(30);

/// A connection without traffic for this long is asked whether its peer is still there, and how often.
const IDLE_MAX: Duration = Duration::from_secs(60);
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// Who may connect to a listening local socket: its owner and group.
const LOCAL_MODE: u32 = 0o660;

/// A socket that listens on this address.
pub(super) fn listen(address: &Address) -> Result<Held, Errno> {
    let (socket, traits) = match address {
        Address::Tcp(address) => (listen_tcp(*address), SocketTraits { tcp: true, ..Default::default() }),
        Address::Unix(path) => match listen_unix(path) {
            Ok((socket, bound)) => (Ok(socket), SocketTraits { bound: Some(bound), ..Default::default() }),
            Err(error) => (Err(error), SocketTraits::default()),
        },
    };
    let socket = socket.map_err(|error| errno_of(&error))?;
    Ok(Held::new(Descriptor::Plain(socket.into()), Traits::Socket(traits)))
}

fn listen_tcp(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of an earlier run that linger in TIME_WAIT do not keep the port.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn listen_unix(path: &Path) -> io::Result<(Socket, BoundPath)> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // The mode before bind is the mode of the file that bind makes, less the umask: nobody gets in too early.
    fchmod(&socket, Mode::from_bits_truncate(LOCAL_MODE))?;
    let address = SockAddr::unix(path)?;
    match socket.bind(&address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path, &address) => {
            std::fs::remove_file(path)?;
            socket.bind(&address)?;
        }
        other => other?,
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(LOCAL_MODE))?;
    let found = lstat(path)?;
    socket.listen(BACKLOG)?;
    Ok((socket, BoundPath { path: path.to_owned(), device: found.st_dev, inode: found.st_ino }))
}

/// Whether this is a socket file on which nobody answers.
fn is_stale(path: &Path, address: &SockAddr) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    let refused = || -> io::Result<bool> {
        let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // A listener with a full backlog answers EAGAIN, and is alive.
        probe.set_nonblocking(true)?;
        let answer = probe.connect(address);
        Ok(answer.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused))
    };
    is_socket && refused().unwrap_or(false)
}

/// A socket that is about to connect to this address.
pub(super) fn connecting(address: &Address) -> Result<Connecting, Errno> {
    let made = match address {
        Address::Tcp(address) => {
            Socket::new(Domain::for_address(*address), Type::STREAM, Some(Protocol::TCP)).map(|socket| {
                tune(&socket);
                Connecting { socket: socket.into(), address: (*address).into(), tcp: true }
            })
        }
        Address::Unix(path) => SockAddr::unix(path).and_then(|address| {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            Ok(Connecting { socket: socket.into(), address, tcp: false })
        }),
    };
    made.map_err(|error| errno_of(&error))
}

/// A connected socket, tuned if it was accepted from a TCP listener.
pub(super) fn connected(socket: OwnedFd, tcp: bool) -> Held {
    if tcp {
        tune(&socket);
    }
    Held::new(Descriptor::Plain(socket), Traits::Socket(SocketTraits { tcp, ..Default::default() }))
}

/// Has the kernel wake a receive only when so many bytes are there, or no more fit. A wish: what is there at once is
/// received whatever it is, and local sockets know nothing of this.
pub(super) fn wake_at(held: &Held, traits: &SocketTraits, least: usize) {
    let is_new = traits.wakes_at.load(Ordering::Relaxed).max(1) != least.max(1);
    if !traits.tcp || !is_new {
        return;
    }
    let bytes = libc::c_int::try_from(least).unwrap_or(libc::c_int::MAX);
    let len = size_of_val(&bytes) as libc::socklen_t; // 4
    // SAFETY: the kernel reads an integer of this length, which lives through the call.
    let set = unsafe {
        libc::setsockopt(held.raw(), libc::SOL_SOCKET, libc::SO_RCVLOWAT, (&raw const bytes).cast(), len)
    };
    if set == 0 {
        traits.wakes_at.store(least, Ordering::Relaxed);
    }
}

/// No waiting for more to send; notice dead peers. A connection works without, so errors do not matter.
fn tune(socket: &impl AsFd) {
    let socket = SockRef::from(socket);
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(IDLE_MAX).with_interval(PROBE_INTERVAL));
    let _ = socket.set_tcp_user_timeout(Some(PEER_SILENCE_MAX));
}

/// The address that a socket has got.
pub(super) fn local_address(held: &Held, traits: &SocketTraits) -> Result<Address, Errno> {
    if let Some(bound) = &traits.bound {
        return Ok(Address::Unix(bound.path.clone()));
    }
    let address = SockRef::from(held).local_addr().map_err(|error| errno_of(&error))?;
    match (address.as_socket(), address.as_pathname()) {
        (Some(address), _) => Ok(Address::Tcp(address)),
        (None, Some(path)) => Ok(Address::Unix(path.to_owned())),
        // A local socket that never got a name.
        (None, None) => Err(Errno::EADDRNOTAVAIL),
    }
}

/// The other end of an accepted connection, for logs.
pub(super) fn peer_text(address: &libc::sockaddr_storage, len: libc::socklen_t, tcp: bool) -> String {
    if !tcp {
        return "unix".to_owned();
    }
    let length = len as usize; // u32 to usize
    assert!(length <= size_of::<libc::sockaddr_storage>(), "the kernel wrote a longer address than there is");
    // SAFETY: the kernel wrote `len` bytes of an address of the family that it also wrote.
    let address = unsafe { SockAddr::new(to_storage(address), len) };
    match address.as_socket() {
        // `1.2.3.4` and not `::ffff:1.2.3.4` when a socket serves both families.
        Some(address) => SocketAddr::new(address.ip().to_canonical(), address.port()).to_string(),
        None => "unknown".to_owned(),
    }
}

fn to_storage(address: &libc::sockaddr_storage) -> socket2::SockAddrStorage {
    let mut storage = socket2::SockAddrStorage::zeroed();
    // SAFETY: `SockAddrStorage` is a transparent `sockaddr_storage`.
    unsafe { *storage.view_as::<libc::sockaddr_storage>() = *address };
    storage
}

/// Ends a direction; what waits for it ends too.
pub(super) fn shutdown(held: &Held, direction: Direction) -> Result<(), Errno> {
    let how = match direction {
        Direction::Read => std::net::Shutdown::Read,
        Direction::Write => std::net::Shutdown::Write,
        Direction::Both => std::net::Shutdown::Both,
    };
    SockRef::from(held).shutdown(how).map_err(|error| errno_of(&error))
}
