//! What the way to the target can carry in theory: which interface leads there, its speed and MTU. Parsing and
//! arithmetic are pure; `link_towards` reads a few files of /proc and /sys.

use crate::io::driver::Address;
use serde::Serialize;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Of an MTU, bytes taken by the IPv4 header (20), the TCP header (20) and its timestamps (12).
const HEADERS: u64 = 52;

/// On an Ethernet wire, bytes around each packet: preamble 8, header 14, checksum 4, gap 12.
const FRAMING: u64 = 38;

/// What lies between the two ends.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Link {
    /// Both ends on one machine: no link limits.
    Local,
    Interface {
        name: String,
        /// Megabits a second, where the interface has a speed.
        megabits: Option<u32>,
        mtu: u32,
    },
    Unknown,
}

impl Link {
    /// Payload that one direction carries at most, bytes a second. None: no limit known.
    pub fn payload_limit(&self) -> Option<f64> {
        match self {
            Link::Interface { megabits: Some(megabits), mtu, .. } => tcp_payload_limit(*megabits, *mtu),
            Link::Interface { megabits: None, .. } | Link::Local | Link::Unknown => None,
        }
    }

    /// One phrase for people.
    pub fn describe(&self) -> String {
        match self {
            Link::Local => "this machine (no link)".to_owned(),
            Link::Interface { name, megabits: Some(megabits), mtu } => {
                format!("{name}, {} Gb/s, MTU {mtu}", f64::from(*megabits) / 1000.0)
            }
            Link::Interface { name, megabits: None, mtu } => format!("{name}, speed unknown, MTU {mtu}"),
            Link::Unknown => "unknown link".to_owned(),
        }
    }
}

/// TCP payload of an Ethernet link with timestamps on, bytes a second; None where the MTU has no room for any.
pub fn tcp_payload_limit(megabits: u32, mtu: u32) -> Option<f64> {
    let payload = u64::from(mtu).checked_sub(HEADERS).filter(|p| *p > 0)?;
    // Rounding is meant; both are below 2^33.
    Some(f64::from(megabits) * 125_000.0 * payload as f64 / (u64::from(mtu) + FRAMING) as f64)
}

/// The link that packets to this address leave by.
pub fn link_towards(address: &Address) -> Link {
    match address {
        Address::Unix(_) => Link::Local,
        Address::Tcp(target) => tcp_link(*target).unwrap_or(Link::Unknown),
    }
}

fn tcp_link(target: SocketAddr) -> Option<Link> {
    let local = local_address(target)?;
    if local == target.ip() || target.ip().is_loopback() {
        return Some(Link::Local);
    }
    let name = match target.ip() {
        IpAddr::V4(ip) => interface_of_route(&std::fs::read_to_string("/proc/net/route").ok()?, ip)?,
        IpAddr::V6(_) => {
            let IpAddr::V6(local) = local else { return None };
            interface_of_address(&std::fs::read_to_string("/proc/net/if_inet6").ok()?, local)?
        }
    };
    let fact = |file: &str| std::fs::read_to_string(format!("/sys/class/net/{name}/{file}")).ok();
    // An interface without a speed says -1 or fails to be read.
    let megabits = fact("speed").and_then(|text| text.trim().parse().ok()).filter(|speed| *speed > 0);
    let mtu = fact("mtu")?.trim().parse().ok()?;
    Some(Link::Interface { name, megabits, mtu })
}

/// The address that the kernel would send from; connecting a UDP socket sends nothing.
fn local_address(target: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = match target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(target).ok()?;
    socket.local_addr().ok().map(|local| local.ip())
}

/// The interface of the longest matching prefix in /proc/net/route; of equal ones the lowest metric.
fn interface_of_route(table: &str, target: Ipv4Addr) -> Option<String> {
    let route = |line: &str| -> Option<(u32, u32, String)> {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        // Addresses are printed as the machine's own integer of the bytes in network order.
        let hex = |at: usize| u32::from_str_radix(fields.get(at)?, 16).ok();
        let (destination, mask) = (hex(1)?, hex(7)?);
        let metric: u32 = fields.get(6)?.parse().ok()?;
        let wanted = u32::from_ne_bytes(target.octets());
        (wanted & mask == destination).then(|| (mask.count_ones(), metric, (*fields[0]).to_owned()))
    };
    let best =
        table.lines().skip(1).filter_map(route).max_by_key(|(bits, metric, _)| (*bits, u32::MAX - metric));
    best.map(|(_, _, name)| name)
}

/// The interface that has an address, from /proc/net/if_inet6.
fn interface_of_address(table: &str, address: Ipv6Addr) -> Option<String> {
    let wanted = format!("{:032x}", address.to_bits());
    let line = table.lines().find(|line| line.starts_with(&wanted))?;
    line.split_ascii_whitespace().last().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gigabit_carries_what_the_arithmetic_says() {
        let megabytes = |mtu| tcp_payload_limit(1000, mtu).unwrap() / 1e6;
        assert_eq!(format!("{:.2}", megabytes(1500)), "117.69");
        assert_eq!(format!("{:.2}", megabytes(9000)), "123.76");
        assert_eq!(tcp_payload_limit(1000, 52), None);
        assert_eq!(format!("{:.1}", tcp_payload_limit(2500, 1500).unwrap() / 1e6), "294.2");
    }

    #[test]
    fn the_longest_prefix_and_then_the_lowest_metric_wins() {
        let le = |a: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(a));
        let line = |iface: &str, to: [u8; 4], mask: [u8; 4], metric: u32| {
            format!("{iface}\t{}\t00000000\t0001\t0\t0\t{metric}\t{}\t0\t0\t0\n", le(to), le(mask))
        };
        let mut table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\n".to_owned();
        table += &line("slow", [0, 0, 0, 0], [0, 0, 0, 0], 600);
        table += &line("eno1", [0, 0, 0, 0], [0, 0, 0, 0], 100);
        table += &line("lan", [10, 1, 2, 0], [255, 255, 255, 0], 100);
        let towards = |ip: [u8; 4]| interface_of_route(&table, ip.into());
        assert_eq!(towards([10, 1, 2, 7]).as_deref(), Some("lan"));
        assert_eq!(towards([10, 1, 3, 7]).as_deref(), Some("eno1"));
        assert_eq!(interface_of_route("Iface\nrubbish\n", [1, 2, 3, 4].into()), None);
    }

    #[test]
    fn an_ipv6_address_names_its_interface() {
        let table = "00000000000000000000000000000001 01 80 10 80       lo\n\
                     fe80000000000000021122fffe334455 02 40 20 80     eno1\n";
        let eno1 = "fe80::211:22ff:fe33:4455".parse().unwrap();
        assert_eq!(interface_of_address(table, eno1).as_deref(), Some("eno1"));
        assert_eq!(interface_of_address(table, "fe80::1".parse().unwrap()), None);
    }

    #[test]
    fn loopback_and_unix_sockets_have_no_link() {
        assert_eq!(link_towards(&Address::Tcp("127.0.0.1:10809".parse().unwrap())), Link::Local);
        assert_eq!(link_towards(&Address::Unix("/tmp/x".into())), Link::Local);
        assert_eq!(Link::Local.payload_limit(), None);
    }
}
