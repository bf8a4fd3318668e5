//! NBD as this tool speaks it: fixed newstyle, GO, simple replies, compact requests. All integers big-endian.
//!
//! Negotiation blocks and is done before a socket enters the ring; transmission is bytes only.

use anyhow::{Context, Result, bail, ensure};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

const NBDMAGIC: u64 = 0x4e42_444d_4147_4943;
const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const REQUEST: u32 = 0x2560_9513;
const SIMPLE_REPLY: u32 = 0x6744_6698;
const OPT_ABORT: u32 = 2;
const OPT_INFO: u32 = 6;
const OPT_GO: u32 = 7;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const REP_ERROR: u32 = 1 << 31;
const INFO_EXPORT: u16 = 0;
const INFO_BLOCK_SIZE: u16 = 3;
const NEGOTIATION_TIMEOUT: Duration = Duration::from_secs(10);
const OPTION_REPLY_MAX: u32 = 64 << 10;

pub const REPLY_LEN: usize = 16;
pub const REQUEST_LEN: usize = 28;

pub const HAS_READ_ONLY: u16 = 1 << 1;
pub const HAS_FLUSH: u16 = 1 << 2;
pub const HAS_FUA: u16 = 1 << 3;
pub const HAS_TRIM: u16 = 1 << 5;
pub const HAS_WRITE_ZEROES: u16 = 1 << 6;
pub const HAS_MULTI_CONN: u16 = 1 << 8;

pub const COMMAND_FUA: u16 = 1;

/// The other end, as far as `load ceiling` needs it: the greeting.
pub fn greeting() -> Vec<u8> {
    [&NBDMAGIC.to_be_bytes()[..], &IHAVEOPT.to_be_bytes(), &3u16.to_be_bytes()].concat()
}

/// What comes after an option.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    Options,
    Transmission,
    Close,
}

/// The answer to an option: GO and INFO tell of one export, ABORT ends, others are not known.
pub fn answer_option(option: u32, size: u64) -> (Vec<u8>, Next) {
    let reply = |kind: u32, data: &[u8]| {
        let length = u32::try_from(data.len()).expect("a few bytes");
        let head = [option.to_be_bytes(), kind.to_be_bytes(), length.to_be_bytes()].concat();
        [&OPTION_REPLY.to_be_bytes()[..], &head, data].concat()
    };
    let flags = 1 | HAS_FLUSH | HAS_FUA | HAS_MULTI_CONN;
    let export = [&INFO_EXPORT.to_be_bytes()[..], &size.to_be_bytes(), &flags.to_be_bytes()].concat();
    let told = || [reply(REP_INFO, &export), reply(REP_ACK, &[])].concat();
    match option {
        OPT_GO => (told(), Next::Transmission),
        OPT_INFO => (told(), Next::Options),
        OPT_ABORT => (reply(REP_ACK, &[]), Next::Close),
        _unknown => (reply(REP_ERROR | 1, &[]), Next::Options),
    }
}

pub fn request_magic() -> [u8; 4] {
    REQUEST.to_be_bytes()
}

/// The header of a simple reply without an error.
pub fn reply_header(cookie: [u8; 8]) -> [u8; REPLY_LEN] {
    let mut header = [0; REPLY_LEN];
    header[..4].copy_from_slice(&SIMPLE_REPLY.to_be_bytes());
    header[8..].copy_from_slice(&cookie);
    header
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    Read,
    Write,
    Disconnect,
    Flush,
    Trim,
    WriteZeroes,
}

impl Command {
    fn code(self) -> u16 {
        match self {
            Command::Read => 0,
            Command::Write => 1,
            Command::Disconnect => 2,
            Command::Flush => 3,
            Command::Trim => 4,
            Command::WriteZeroes => 6,
        }
    }
}

/// Where a server listens and which export is meant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    pub address: Address,
    pub export: String,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    Tcp(String),
    Unix(PathBuf),
}

impl std::str::FromStr for Target {
    type Err = anyhow::Error;

    /// Parses `nbd://host[:port][/export]` and `nbd+unix:///[export]?socket=PATH`.
    fn from_str(uri: &str) -> Result<Target> {
        if let Some(rest) = uri.strip_prefix("nbd+unix:///") {
            let (export, socket) = rest.split_once("?socket=").context("nbd+unix needs ?socket=PATH")?;
            let address = Address::Unix(PathBuf::from(unescape(socket)?));
            return Ok(Target { address, export: unescape(export)? });
        }
        let rest = uri.strip_prefix("nbd://").context("a URI is nbd://host:port/export")?;
        let (host, export) = rest.split_once('/').unwrap_or((rest, ""));
        ensure!(!host.is_empty(), "a URI is nbd://host:port/export");
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let host = if has_port { host.to_owned() } else { format!("{host}:10809") };
        Ok(Target { address: Address::Tcp(host), export: unescape(export)? })
    }
}

fn unescape(text: &str) -> Result<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (code, rest) = part.split_at_checked(2).context("% needs two digits")?;
        bytes.push(u8::from_str_radix(code, 16).context("% needs two hexadecimal digits")?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).context("not UTF-8 after unescaping")
}

/// A connected socket, before it enters the ring.
#[derive(Debug)]
pub enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    fn connect(address: &Address) -> std::io::Result<Socket> {
        match address {
            Address::Tcp(host) => {
                let stream = TcpStream::connect(host)?;
                stream.set_nodelay(true)?;
                Ok(Socket::Tcp(stream))
            }
            Address::Unix(path) => UnixStream::connect(path).map(Socket::Unix),
        }
    }

    pub fn set_timeout(&self, timeout: Option<Duration>) -> std::io::Result<()> {
        match self {
            Socket::Tcp(s) => s.set_read_timeout(timeout).and_then(|()| s.set_write_timeout(timeout)),
            Socket::Unix(s) => s.set_read_timeout(timeout).and_then(|()| s.set_write_timeout(timeout)),
        }
    }

    /// A second handle of the same socket, to shut it down from elsewhere.
    pub fn try_clone(&self) -> std::io::Result<Socket> {
        match self {
            Socket::Tcp(s) => s.try_clone().map(Socket::Tcp),
            Socket::Unix(s) => s.try_clone().map(Socket::Unix),
        }
    }

    pub fn shutdown(&self) {
        // The peer may have ended the connection already: then there is nothing to shut down.
        let _ = match self {
            Socket::Tcp(s) => s.shutdown(std::net::Shutdown::Both),
            Socket::Unix(s) => s.shutdown(std::net::Shutdown::Both),
        };
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Tcp(s) => s.as_fd(),
            Socket::Unix(s) => s.as_fd(),
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Socket::Tcp(s) => s.read(buf),
            Socket::Unix(s) => s.read(buf),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        match self {
            Socket::Tcp(s) => s.write(buf),
            Socket::Unix(s) => s.write(buf),
        }
    }

    fn write_vectored(&mut self, pieces: &[std::io::IoSlice<'_>]) -> std::io::Result<usize> {
        match self {
            Socket::Tcp(s) => s.write_vectored(pieces),
            Socket::Unix(s) => s.write_vectored(pieces),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What GO told about the export.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Export {
    pub size: u64,
    pub flags: u16,
    /// What requests must be aligned to, bytes; 1 if the server was not asked.
    pub block_min: u32,
    pub payload_max: u32,
}

impl Export {
    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// Connects and negotiates. `obey` asks for the block sizes, and thereby promises to keep to them.
pub fn connect(target: &Target, obey: bool) -> Result<(Socket, Export)> {
    let mut socket = Socket::connect(&target.address).context("cannot connect")?;
    socket.set_timeout(Some(NEGOTIATION_TIMEOUT))?;
    let export = negotiate(&mut socket, &target.export, obey).context("negotiation failed")?;
    socket.set_timeout(None)?;
    Ok((socket, export))
}

fn negotiate(stream: &mut (impl Read + Write), name: &str, obey: bool) -> Result<Export> {
    ensure!(read_u64(stream)? == NBDMAGIC && read_u64(stream)? == IHAVEOPT, "not a newstyle NBD server");
    let offered = read_u16(stream)?;
    ensure!(offered & 1 == 1, "the server is not fixed newstyle");
    let flags = u32::from(offered & 3);
    let mut hello = flags.to_be_bytes().to_vec();
    emit_go(name, obey, &mut hello)?;
    stream.write_all(&hello)?;
    let mut export = Export { size: 0, flags: 0, block_min: 1, payload_max: 32 << 20 };
    loop {
        let (kind, data) = read_option_reply(stream)?;
        match kind {
            REP_ACK if export.flags != 0 => return Ok(export),
            REP_ACK => bail!("the server said nothing about the export"),
            REP_INFO => parse_info(&data, &mut export)?,
            error if error & REP_ERROR != 0 => {
                bail!("the server refused export {name:?}: {error:#x} {}", String::from_utf8_lossy(&data))
            }
            other => bail!("unexpected option reply {other:#x}"),
        }
    }
}

fn emit_go(name: &str, obey: bool, out: &mut Vec<u8>) -> Result<()> {
    let wanted: &[u16] = if obey { &[INFO_BLOCK_SIZE] } else { &[] };
    let name_len = u32::try_from(name.len()).context("name too long")?;
    let wanted_len = u16::try_from(wanted.len()).expect("one at most");
    out.extend_from_slice(&IHAVEOPT.to_be_bytes());
    out.extend_from_slice(&OPT_GO.to_be_bytes());
    out.extend_from_slice(&(4 + name_len + 2 + 2 * u32::from(wanted_len)).to_be_bytes());
    out.extend_from_slice(&name_len.to_be_bytes());
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(&wanted_len.to_be_bytes());
    wanted.iter().for_each(|info| out.extend_from_slice(&info.to_be_bytes()));
    Ok(())
}

fn read_option_reply(stream: &mut impl Read) -> Result<(u32, Vec<u8>)> {
    ensure!(read_u64(stream)? == OPTION_REPLY, "not an option reply");
    ensure!(read_u32(stream)? == OPT_GO, "a reply to another option");
    let kind = read_u32(stream)?;
    let length = read_u32(stream)?;
    ensure!(length <= OPTION_REPLY_MAX, "an option reply of {length} bytes");
    let mut data = vec![0; usize::try_from(length)?];
    stream.read_exact(&mut data)?;
    Ok((kind, data))
}

fn parse_info(data: &[u8], export: &mut Export) -> Result<()> {
    let mut rest = data;
    match read_u16(&mut rest)? {
        INFO_EXPORT => {
            export.size = read_u64(&mut rest)?;
            export.flags = read_u16(&mut rest)?;
        }
        INFO_BLOCK_SIZE => {
            export.block_min = read_u32(&mut rest)?;
            let _preferred = read_u32(&mut rest)?;
            export.payload_max = read_u32(&mut rest)?;
        }
        _other => {}
    }
    Ok(())
}

fn read_array<const N: usize>(stream: &mut impl Read) -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn read_u16(stream: &mut impl Read) -> std::io::Result<u16> {
    read_array(stream).map(u16::from_be_bytes)
}

fn read_u32(stream: &mut impl Read) -> std::io::Result<u32> {
    read_array(stream).map(u32::from_be_bytes)
}

fn read_u64(stream: &mut impl Read) -> std::io::Result<u64> {
    read_array(stream).map(u64::from_be_bytes)
}

/// One request's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    pub command: Command,
    pub flags: u16,
    pub cookie: u64,
    pub offset: u64,
    pub length: u32,
}

impl Request {
    pub fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&REQUEST.to_be_bytes());
        out.extend_from_slice(&self.flags.to_be_bytes());
        out.extend_from_slice(&self.command.code().to_be_bytes());
        out.extend_from_slice(&self.cookie.to_be_bytes());
        out.extend_from_slice(&self.offset.to_be_bytes());
        out.extend_from_slice(&self.length.to_be_bytes());
    }
}

/// One reply's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reply {
    pub error: u32,
    pub cookie: u64,
}

impl Reply {
    /// Parses a simple reply's header; None if it is not one.
    pub fn parse(bytes: &[u8; REPLY_LEN]) -> Option<Reply> {
        let (magic, rest) = bytes.split_first_chunk::<4>().expect("sixteen bytes");
        let (error, rest) = rest.split_first_chunk::<4>().expect("twelve bytes");
        let cookie = rest.first_chunk::<8>().expect("eight bytes");
        (u32::from_be_bytes(*magic) == SIMPLE_REPLY)
            .then(|| Reply { error: u32::from_be_bytes(*error), cookie: u64::from_be_bytes(*cookie) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris() {
        let target = |uri: &str| uri.parse::<Target>().unwrap();
        let tcp = |host: &str, export: &str| Target {
            address: Address::Tcp(host.to_owned()),
            export: export.to_owned(),
        };
        assert_eq!(target("nbd://127.0.0.1:9/data"), tcp("127.0.0.1:9", "data"));
        assert_eq!(target("nbd://barn"), tcp("barn:10809", ""));
        assert_eq!(target("nbd://[::1]/a%20b"), tcp("[::1]:10809", "a b"));
        let unix = target("nbd+unix:///vol?socket=/run/x.sock");
        assert_eq!(unix.address, Address::Unix(PathBuf::from("/run/x.sock")));
        assert!("http://x".parse::<Target>().is_err() && "nbd:///x".parse::<Target>().is_err());
        assert!("nbd://h/%4".parse::<Target>().is_err());
    }

    #[test]
    fn request_and_reply_bytes() {
        let request = Request { command: Command::Write, flags: 1, cookie: 2, offset: 3, length: 4 };
        let mut out = Vec::new();
        request.emit(&mut out);
        let golden =
            [0x25, 0x60, 0x95, 0x13, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 4];
        assert_eq!(out, golden);
        let reply = [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 9];
        assert_eq!(Reply::parse(&reply), Some(Reply { error: 5, cookie: 9 }));
        assert_eq!(Reply::parse(&[0; 16]), None);
    }
}
