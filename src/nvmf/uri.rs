//! Addresses of namespaces: `nvme://host:port/NQN/NSID`. Pure but for `resolve`.

use crate::base::uri::{Unreadable, decode, encode, host_and_port};
use crate::io::driver::Address;
use crate::nvmf::subsystem::NQN_MAX;
use std::fmt;
use std::net::ToSocketAddrs;

/// The port of NVMe over Fabrics on TCP.
pub const PORT: u16 = 4420;

/// The largest number of a namespace; those above mean something else.
pub const NAMESPACE_MAX: u32 = 0xffff_fffd;

/// Bytes of a URI that are looked at.
const URI_MAX: usize = 3 * NQN_MAX + 1024;

/// Why a text is not a URI that can be used here.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UriError {
    #[error("not an NVMe URI: it begins with nvme://")]
    Scheme,
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error("it names no subsystem: an NQN follows the host")]
    NoSubsystem,
    #[error("the subsystem's name is not an NQN: nqn., and 223 bytes at most")]
    Subsystem,
    #[error("it names no namespace: its number follows the NQN")]
    NoNamespace,
    #[error("the namespace is not a number from 1 to {NAMESPACE_MAX}")]
    Namespace,
    #[error("it is too long, or something follows the namespace")]
    TooLong,
}

/// A namespace of a subsystem.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Uri {
    pub host: String,
    pub port: u16,
    /// The NQN of the subsystem.
    pub subsystem: String,
    pub namespace: u32,
}

/// Whether a text means to be a URI of NVMe.
pub fn is_meant(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("nvme"))
}

/// Reads a URI.
pub fn parse(text: &str) -> Result<Uri, UriError> {
    if text.len() > URI_MAX {
        return Err(UriError::TooLong);
    }
    if !is_meant(text) {
        return Err(UriError::Scheme);
    }
    let (_, rest) = text.split_once("://").ok_or(UriError::Scheme)?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (host, port) = host_and_port(authority, PORT)?;
    let (subsystem, number) = path.split_once('/').map_or((path, None), |(nqn, n)| (nqn, Some(n)));
    let subsystem = decode(subsystem)?;
    if subsystem.is_empty() {
        return Err(UriError::NoSubsystem);
    }
    if !is_nqn(&subsystem) {
        return Err(UriError::Subsystem);
    }
    let number = number.filter(|text| !text.is_empty()).ok_or(UriError::NoNamespace)?;
    if number.contains('/') {
        return Err(UriError::TooLong);
    }
    // `parse` would take a sign.
    let digits = Some(number).filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    let namespace = digits.and_then(|text| text.parse().ok());
    let namespace = namespace.filter(|n| (1..=NAMESPACE_MAX).contains(n)).ok_or(UriError::Namespace)?;
    Ok(Uri { host, port, subsystem, namespace })
}

/// Whether a text can be the name of a subsystem or a host.
pub fn is_nqn(text: &str) -> bool {
    text.len() <= NQN_MAX && text.starts_with("nqn.") && !text.contains('\0')
}

impl Uri {
    /// The address, by asking the system's resolver; the first answer counts.
    pub fn resolve(&self) -> std::io::Result<Address> {
        let mut found = (self.host.as_str(), self.port).to_socket_addrs()?;
        found.next().map(Address::Tcp).ok_or_else(|| std::io::ErrorKind::NotFound.into())
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // An IPv6 address has colons and stands in brackets.
        match self.host.contains(':') {
            true => write!(f, "nvme://[{}]", self.host)?,
            false => write!(f, "nvme://{}", encode(&self.host))?,
        }
        if self.port != PORT {
            write!(f, ":{}", self.port)?;
        }
        write!(f, "/{}/{}", encode(&self.subsystem), self.namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: &str = "nqn.2014-08.org.nvmexpress:uuid:0f3c2b1a-5d4e-4f60-8a7b-9c8d7e6f5a4b";

    fn uri(host: &str, port: u16, subsystem: &str, namespace: u32) -> Uri {
        Uri { host: host.to_owned(), port, subsystem: subsystem.to_owned(), namespace }
    }

    #[test]
    fn addresses_name_a_host_a_subsystem_and_a_namespace() {
        for (text, wanted) in [
            (format!("nvme://stonebox/{POOL}/1"), uri("stonebox", PORT, POOL, 1)),
            (format!("nvme://h:4421/{POOL}/4294967293"), uri("h", 4421, POOL, NAMESPACE_MAX)),
            (format!("nvme://[::1]:7/{POOL}/2"), uri("::1", 7, POOL, 2)),
            ("nvme://h/nqn.2020-01.x%3Aa%2Fb/3".to_owned(), uri("h", PORT, "nqn.2020-01.x:a/b", 3)),
        ] {
            let read = parse(&text).unwrap();
            assert_eq!(read, wanted, "{text}");
            assert_eq!(parse(&read.to_string()).unwrap(), wanted, "{read}");
        }
        assert_eq!(
            parse(&format!("NVME://h:4420/{POOL}/01")).unwrap().to_string(),
            format!("nvme://h/{POOL}/1")
        );
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_its_reason() {
        let long = format!("nqn.{}", "a".repeat(220));
        for (text, error) in [
            ("stonebox", UriError::Scheme),
            ("nbd://h/x", UriError::Scheme),
            ("nvme:///nqn.x/1", Unreadable::NoHost.into()),
            ("nvme://h:0/nqn.x/1", Unreadable::Port.into()),
            ("nvme://h/nqn.%4/1", Unreadable::Encoding.into()),
            ("nvme://h", UriError::NoSubsystem),
            ("nvme://h//1", UriError::NoSubsystem),
            ("nvme://h/data/1", UriError::Subsystem),
            (&format!("nvme://h/{long}/1"), UriError::Subsystem),
            ("nvme://h/nqn.x", UriError::NoNamespace),
            ("nvme://h/nqn.x/", UriError::NoNamespace),
            ("nvme://h/nqn.x/0", UriError::Namespace),
            ("nvme://h/nqn.x/+1", UriError::Namespace),
            ("nvme://h/nqn.x/4294967294", UriError::Namespace),
            ("nvme://h/nqn.x/data", UriError::Namespace),
            ("nvme://h/nqn.x/1/2", UriError::TooLong),
            (&format!("nvme://h/{}", "a".repeat(2000)), UriError::TooLong),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
    }
}
