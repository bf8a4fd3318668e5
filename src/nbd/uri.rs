//! NBD URIs (section 18): `nbd://host:port/export` and `nbd+unix:///export?socket=PATH`. Pure but for `resolve`.

use crate::base::limits::NBD_STRING_MAX;
use crate::base::uri::{Unreadable, decode, host_and_port};
use crate::io::driver::Address;
use std::net::ToSocketAddrs;
use std::path::PathBuf;

/// The port of NBD.
pub const PORT: u16 = 10809;

/// Bytes of a URI that are looked at.
const URI_MAX: usize = 3 * NBD_STRING_MAX + 1024;

/// Why a text is not a URI that can be used here.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UriError {
    #[error("not an NBD URI: it begins with nbd:// or nbd+unix://")]
    Scheme,
    #[error("this client does not speak TLS; use nbd:// or nbd+unix://")]
    Tls,
    #[error("vsock is not supported")]
    Vsock,
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error("nbd+unix needs ?socket=PATH, and no host or port")]
    Socket,
    #[error("it is too long")]
    TooLong,
}

/// Where a server is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

/// An export of a server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Uri {
    pub place: Place,
    /// Empty for the default export.
    pub export: String,
}

/// Reads a URI.
pub fn parse(text: &str) -> Result<Uri, UriError> {
    if text.len() > URI_MAX {
        return Err(UriError::TooLong);
    }
    let (scheme, rest) = text.split_once("://").ok_or(UriError::Scheme)?;
    let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let export = decode(path)?;
    if export.len() > NBD_STRING_MAX {
        return Err(UriError::TooLong);
    }
    let place = match scheme.to_ascii_lowercase().as_str() {
        "nbd" => tcp(authority)?,
        "nbd+unix" => unix(authority, query)?,
        "nbds" | "nbds+unix" => return Err(UriError::Tls),
        "nbd+vsock" | "nbds+vsock" => return Err(UriError::Vsock),
        _ => return Err(UriError::Scheme),
    };
    Ok(Uri { place, export })
}

fn tcp(authority: &str) -> Result<Place, UriError> {
    let (host, port) = host_and_port(authority, PORT)?;
    Ok(Place::Tcp { host, port })
}

fn unix(authority: &str, query: &str) -> Result<Place, UriError> {
    let socket = query.split('&').find_map(|pair| pair.strip_prefix("socket=")).ok_or(UriError::Socket)?;
    let path = decode(socket)?;
    // An abstract socket begins with a zero byte; those are not supported by the driver's addresses.
    if !authority.is_empty() || path.is_empty() || path.contains('\0') {
        return Err(UriError::Socket);
    }
    Ok(Place::Unix(path.into()))
}

impl Place {
    /// The address, by asking the system's resolver; the first answer counts.
    pub fn resolve(&self) -> std::io::Result<Address> {
        match self {
            Place::Unix(path) => Ok(Address::Unix(path.clone())),
            Place::Tcp { host, port } => {
                let mut found = (host.as_str(), *port).to_socket_addrs()?;
                found.next().map(Address::Tcp).ok_or_else(|| std::io::ErrorKind::NotFound.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16, export: &str) -> Result<Uri, UriError> {
        Ok(Uri { place: Place::Tcp { host: host.to_owned(), port }, export: export.to_owned() })
    }

    #[test]
    fn section_18_tcp_uris() {
        assert_eq!(parse("nbd://stonebox/data"), tcp("stonebox", PORT, "data"));
        assert_eq!(parse("nbd://stonebox"), tcp("stonebox", PORT, ""));
        assert_eq!(parse("nbd://stonebox/"), tcp("stonebox", PORT, ""));
        assert_eq!(parse("nbd://h:1//x"), tcp("h", 1, "/x"));
        assert_eq!(parse("NBD://h/a%20b%2fc?x-y=1#z"), tcp("h", PORT, "a b/c"));
        assert_eq!(parse("nbd://[::1]:7/e"), tcp("::1", 7, "e"));
        assert_eq!(parse("nbd://[fe80::1]/e"), tcp("fe80::1", PORT, "e"));
        assert_eq!(parse("nbd://me@h/e"), tcp("h", PORT, "e"));
    }

    #[test]
    fn section_18_unix_uris() {
        let uri = parse("nbd+unix:///data?socket=/run/a%20b.sock").unwrap();
        assert_eq!(uri, Uri { place: Place::Unix("/run/a b.sock".into()), export: "data".into() });
        assert_eq!(parse("nbd+unix://?socket=s").unwrap().export, "");
        for bad in [
            "nbd+unix:///data",
            "nbd+unix://h/data?socket=s",
            "nbd+unix:///?socket=",
            "nbd+unix:///?socket=%00a",
        ] {
            assert_eq!(parse(bad), Err(UriError::Socket), "{bad}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_its_reason() {
        for (text, error) in [
            ("stonebox/data", UriError::Scheme),
            ("http://h/x", UriError::Scheme),
            ("nbds://h/x", UriError::Tls),
            ("nbd+vsock://2/x", UriError::Vsock),
            ("nbd:///x", Unreadable::NoHost.into()),
            ("nbd://h:0/x", Unreadable::Port.into()),
            ("nbd://h:65536/x", Unreadable::Port.into()),
            ("nbd://[::1]x/y", Unreadable::Port.into()),
            ("nbd://h/%4", Unreadable::Encoding.into()),
            ("nbd://h/%+4", Unreadable::Encoding.into()),
            ("nbd://h/%ff", Unreadable::Encoding.into()),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
        assert_eq!(parse(&format!("nbd://h/{}", "a".repeat(NBD_STRING_MAX + 1))), Err(UriError::TooLong));
    }
}
