//! A host as an association: Connect, the admin queue, and the queues that join it.

use crate::host::{Answer, Command, Conn, DISCOVERY, Data, EVERY_NAMESPACE, HOST};
use std::net::SocketAddr;

/// What a host connects with.
#[derive(Clone)]
pub struct Connect {
    pub host: String,
    pub id: [u8; 16],
    pub subsystem: String,
    pub controller: u16,
    pub queue: u16,
    /// Counted from 0.
    pub size: u16,
    pub attributes: u8,
    pub keep_alive_ms: u32,
}

impl Connect {
    /// Of the admin queue of a subsystem.
    pub fn to(subsystem: &str) -> Connect {
        Connect {
            host: HOST.to_owned(),
            id: [7; 16],
            subsystem: subsystem.to_owned(),
            controller: 0xffff,
            queue: 0,
            size: 31,
            attributes: 0,
            keep_alive_ms: 0,
        }
    }

    pub fn command(&self) -> Command {
        let mut command = Command::fabrics(1)
            .with(42, &self.queue.to_le_bytes())
            .with(44, &self.size.to_le_bytes())
            .with(48, &self.keep_alive_ms.to_le_bytes());
        command.0[46] = self.attributes;
        command
    }

    pub fn data(&self) -> Vec<u8> {
        let mut data = vec![0; 1024];
        data[..16].copy_from_slice(&self.id);
        data[16..18].copy_from_slice(&self.controller.to_le_bytes());
        data[256..256 + self.subsystem.len()].copy_from_slice(self.subsystem.as_bytes());
        data[512..512 + self.host.len()].copy_from_slice(self.host.as_bytes());
        data
    }

    /// Connects on a connection that was introduced.
    pub fn over(&self, conn: &mut Conn) -> Answer {
        conn.ask(&self.command(), Data::Here(&self.data()))
    }

    /// Connects on a new connection, or says how it is refused.
    pub fn attempt(&self, address: SocketAddr) -> Result<(Conn, u16), Answer> {
        let mut conn = Conn::introduced(address, 0);
        let answer = self.over(&mut conn);
        match answer.status {
            0 => Ok((conn, u16::try_from(answer.result & 0xffff).unwrap())),
            _ => Err(answer),
        }
    }
}

/// An association: a host with its admin queue.
pub struct Host {
    pub admin: Conn,
    pub address: SocketAddr,
    pub connect: Connect,
    pub controller: u16,
}

impl Host {
    /// Connected, and not enabled.
    pub fn connected(address: SocketAddr, connect: &Connect, digests: u8) -> Host {
        let mut admin = Conn::introduced(address, digests);
        let controller = u16::try_from(connect.over(&mut admin).ok()).unwrap();
        Host { admin, address, connect: connect.clone(), controller }
    }

    /// Enabled, with as many I/O queues granted as there may be.
    pub fn enabled(address: SocketAddr, connect: &Connect, digests: u8) -> Host {
        let mut host = Host::connected(address, connect, digests);
        host.configure(0x0046_0001);
        assert_eq!(host.property(0x1c, false) & 1, 1, "ready");
        if host.connect.subsystem != DISCOVERY {
            let queues = Command::new(0x09, 0).dword(10, 7).dword(11, 127 | 127 << 16);
            assert_eq!(host.admin.ask(&queues, Data::None).ok(), 127 | 127 << 16);
        }
        host
    }

    pub fn configure(&mut self, value: u32) {
        let command = Command::fabrics(0).dword(11, 0x14).dword(12, value);
        self.admin.ask(&command, Data::None).ok();
    }

    pub fn property(&mut self, offset: u32, is_long: bool) -> u64 {
        let command = Command::fabrics(4).with(40, &[u8::from(is_long)]).dword(11, offset);
        self.admin.ask(&command, Data::None).ok()
    }

    /// What the Connect of an I/O queue of this association says.
    pub fn connect_of(&self, queue: u16) -> Connect {
        Connect { controller: self.controller, queue, keep_alive_ms: 0, ..self.connect.clone() }
    }

    pub fn queue(&self, number: u16) -> Conn {
        self.queue_with(number, self.admin.digests)
    }

    pub fn queue_with(&self, number: u16, digests: u8) -> Conn {
        let mut conn = Conn::introduced(self.address, digests);
        let connect = Connect { size: 127, ..self.connect_of(number) };
        assert_eq!(connect.over(&mut conn).ok(), u64::from(self.controller));
        conn
    }

    pub fn identify(&mut self, structure: u8, namespace: u32) -> Answer {
        let command = Command::new(0x06, namespace).dword(10, u32::from(structure));
        self.admin.ask(&command, Data::Back(4096))
    }

    /// A part of a log page; `retain`: its event is not told again.
    pub fn log(&mut self, page: u8, offset: u64, len: u32, retain: bool) -> Answer {
        self.admin.ask(&log_command(page, offset, len, retain), Data::Back(len))
    }

    pub fn feature(&mut self, id: u8, select: u32) -> Answer {
        let command = Command::new(0x0a, 0).dword(10, u32::from(id) | select << 8);
        self.admin.ask(&command, Data::None)
    }

    pub fn set_feature(&mut self, id: u8, value: u32) -> Answer {
        let command = Command::new(0x09, 0).dword(10, u32::from(id)).dword(11, value);
        self.admin.ask(&command, Data::None)
    }

    /// Asks for an event, and does not wait for it.
    pub fn listen(&mut self) -> u16 {
        self.admin.start(&Command::new(0x0c, 0), Data::None)
    }
}

pub fn log_command(page: u8, offset: u64, len: u32, retain: bool) -> Command {
    let dwords = (len / 4).wrapping_sub(1);
    Command::new(0x02, EVERY_NAMESPACE)
        .dword(10, u32::from(page) | u32::from(retain) << 15 | (dwords & 0xffff) << 16)
        .dword(11, dwords >> 16)
        .with(48, &offset.to_le_bytes())
}

pub fn read(namespace: u32, first: u64, count: u32) -> Command {
    Command::new(0x02, namespace).blocks(first, count)
}

pub fn write(namespace: u32, first: u64, count: u32) -> Command {
    Command::new(0x01, namespace).blocks(first, count)
}
