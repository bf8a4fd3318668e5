//! Which process listens on an address of this machine, so that its processor time can be counted. Parsing is pure;
//! `listening_on` reads /proc.

use super::limits::{Link, link_towards};
use super::processor::Server;
use crate::io::driver::Address;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// The state of a listening socket in /proc/net/tcp.
const LISTEN: &str = "0A";

/// The flag of a listening socket in /proc/net/unix.
const ACCEPTS: u32 = 0x10000;

/// The server there, where it is one other process that this one may look at. A server with several processes on one
/// socket is not told: the time of one of them would say nothing.
pub fn listening_on(address: &Address) -> Server {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let inodes = match address {
        Address::Unix(path) => {
            let whole = std::fs::canonicalize(path).unwrap_or_else(|_| path.clone());
            unix_inodes(&read("/proc/net/unix"), &[path, &whole])
        }
        Address::Tcp(_) if link_towards(address) != Link::Local => return Server::default(),
        Address::Tcp(address) => tcp_inodes(&(read("/proc/net/tcp") + &read("/proc/net/tcp6")), *address),
    };
    let holders = holders(&inodes);
    match holders.as_slice() {
        // In one process the client's time cannot be told from the server's.
        [pid] if *pid != std::process::id() => Server { pid: Some(*pid) },
        _ => Server::default(),
    }
}

/// Inodes of the listening sockets that a connection to this address may reach (proc_net_tcp).
fn tcp_inodes(table: &str, address: SocketAddr) -> Vec<u64> {
    let inode = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let (ip, port) = local.split_once(':')?;
        let ip = parse_ip(ip)?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let reached = ip.is_unspecified() || ip.to_canonical() == address.ip().to_canonical();
        (*state == LISTEN && port == address.port() && reached).then(|| inode.parse().ok())?
    };
    table.lines().filter_map(inode).collect()
}

/// An address in hexadecimal, each 32 bits of it in the machine's order.
fn parse_ip(text: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let digits = text.get(at..at + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

/// Inodes of the listening sockets with one of these paths (proc_net_unix).
fn unix_inodes(table: &str, paths: &[&Path]) -> Vec<u64> {
    let inode = |line: &str| {
        let mut fields = line.splitn(8, ' ').filter(|field| !field.is_empty());
        let flags = u32::from_str_radix(fields.nth(3)?, 16).ok()?;
        // The inode is padded to five places, so the path is what comes after the next spaces.
        let rest = line.split_ascii_whitespace().nth(6)?;
        let path = line.split_once(&format!(" {rest} "))?.1;
        let meant = paths.iter().any(|meant| meant.as_os_str() == path);
        (flags & ACCEPTS != 0 && meant).then(|| rest.parse().ok())?
    };
    table.lines().filter_map(inode).collect()
}

/// Processes that have one of these sockets open.
fn holders(inodes: &[u64]) -> Vec<u32> {
    let wanted: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let holds = |pid: u32| {
        // Of processes of other users the open files are not told.
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let mut links = files.filter_map(|file| std::fs::read_link(file.path()).ok());
        links.any(|link| wanted.iter().any(|socket| link.as_os_str() == socket.as_str()))
    };
    if wanted.is_empty() {
        return Vec::new();
    }
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| holds(*pid)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
         \x20  0: 0100007F:2A39 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 101 1 0 100 0 0 10 0\n\
         \x20  1: 0100007F:2A39 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 102 1 0 20 4 30 10 -1\n\
         \x20  2: 0200007F:2A39 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 103 1 0 100 0 0 10 0\n\
         \x20  0: 00000000000000000000000000000000:2A3A 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 104 1 0 100 0 0 10 0\n";

    #[test]
    fn listening_sockets_are_found_by_address_and_port() {
        let found = |address: &str| tcp_inodes(TCP, address.parse().unwrap());
        assert_eq!(found("127.0.0.1:10809"), [101]);
        assert_eq!(found("127.0.0.1:10810"), [104], "the wildcard of IPv6 takes IPv4 as well");
        assert_eq!(found("127.0.0.3:10809"), [0u64; 0]);
        assert!((0..TCP.len()).all(|len| tcp_inodes(&TCP[..len], "1.2.3.4:1".parse().unwrap()).is_empty()));
    }

    #[test]
    fn unix_sockets_are_found_by_path_also_with_spaces() {
        let table = "Num       RefCount Protocol Flags    Type St Inode Path\n\
                     0000000000000000: 00000002 00000000 00010000 0001 01 12345 /run/a b.sock\n\
                     0000000000000000: 00000003 00000000 00000000 0001 03   777 /run/a b.sock\n\
                     0000000000000000: 00000002 00000000 00010000 0001 01   778 /run/c.sock\n\
                     0000000000000000: 00000003 00000000 00000000 0001 03 12346\n";
        assert_eq!(unix_inodes(table, &[Path::new("/run/a b.sock")]), [12345]);
        assert_eq!(unix_inodes(table, &[Path::new("/run/c.sock")]), [778]);
        assert_eq!(unix_inodes(table, &[Path::new("/run/none")]), [0u64; 0]);
    }

    #[test]
    fn a_socket_of_this_process_is_found_and_not_taken_for_a_server() {
        use std::os::fd::AsRawFd;
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let link = std::fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        let inode = link.to_str().unwrap().trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
        assert!(holders(&[inode]).contains(&std::process::id()));
        assert_eq!(listening_on(&Address::Tcp(socket.local_addr().unwrap())), Server::default());
    }
}
