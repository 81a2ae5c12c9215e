//! A TCP/IP stack for one neighbour on a network: a member, or the router on the way to others. Each neighbour has its own, since one stack resolves one
//! address a second only, and one that does not answer must not keep others waiting.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::socket::tcp;
use smoltcp::time::Instant as Clock;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr};

use super::{SLEEP, Vantage};

/// Frames that wait for a stack.
const WAITING: usize = 32;
/// Longest frame.
pub const FRAME_MAX: usize = 1514;
/// Bytes that wait in a connection each way.
const BUFFER: usize = 1024;
/// First of the ports that connections come from (RFC 6335 section 6).
const FIRST_PORT: u16 = 49_152;

/// What came for the stack, and the socket that its frames leave by.
struct Device {
    socket: Arc<UnixDatagram>,
    waiting: VecDeque<Vec<u8>>,
}

struct Incoming(Vec<u8>);

struct Outgoing<'a>(&'a UnixDatagram);

impl phy::RxToken for Incoming {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

impl phy::TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut frame = vec![0; len];
        let result = write(&mut frame);
        // A frame that does not pass is lost, as on any wire.
        let _ = self.0.send(&frame);
        result
    }
}

impl phy::Device for Device {
    type RxToken<'a> = Incoming;
    type TxToken<'a> = Outgoing<'a>;

    fn receive(&mut self, _: Clock) -> Option<(Incoming, Outgoing<'_>)> {
        let frame = self.waiting.pop_front()?;
        Some((Incoming(frame), Outgoing(&self.socket)))
    }

    fn transmit(&mut self, _: Clock) -> Option<Outgoing<'_>> {
        Some(Outgoing(&self.socket))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME_MAX;
        capabilities
    }
}

/// The stack.
pub struct Stack {
    device: Device,
    interface: Interface,
    sockets: SocketSet<'static>,
    /// Connections that are given up, but have not said so yet.
    ending: Vec<SocketHandle>,
    open: usize,
    began: Instant,
    next_port: u16,
}

impl Stack {
    /// A stack without connections.
    pub fn new(vantage: &Vantage, socket: Arc<UnixDatagram>, now: Instant) -> Self {
        let mut device = Device {
            socket,
            waiting: VecDeque::new(),
        };
        let mac = HardwareAddress::Ethernet(EthernetAddress(vantage.mac()));
        let mut config = Config::new(mac);
        // Sequence numbers are made of it.
        let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut device, Clock::ZERO);
        let own = IpCidr::new(vantage.source.into(), vantage.length);
        // There is room for two addresses, and for two routes.
        interface.update_ip_addrs(|addresses| _ = addresses.push(own));
        let routes = interface.routes_mut();
        match vantage.gateway {
            Some(IpAddr::V4(gateway)) => drop(routes.add_default_ipv4_route(gateway)),
            Some(IpAddr::V6(gateway)) => drop(routes.add_default_ipv6_route(gateway)),
            None => {}
        }
        Self {
            device,
            interface,
            sockets: SocketSet::new(Vec::new()),
            ending: Vec::new(),
            open: 0,
            began: now,
            // Those of a stack that was here before are not taken again at once.
            next_port: FIRST_PORT + (seed % 8192) as u16,
        }
    }

    /// A frame came for it. When too many wait already it is lost.
    pub fn hear(&mut self, frame: Vec<u8>) {
        if self.device.waiting.len() < WAITING {
            self.device.waiting.push_back(frame);
        }
    }

    fn clock(&self, now: Instant) -> Clock {
        let since = now.saturating_duration_since(self.began);
        Clock::from_micros(since.as_micros() as i64)
    }

    /// Takes frames in, and sends what there is to send.
    pub fn poll(&mut self, now: Instant) {
        if self.open == 0 && self.device.waiting.is_empty() {
            return;
        }
        let clock = self.clock(now);
        self.interface
            .poll(clock, &mut self.device, &mut self.sockets);
    }

    /// Sends what there is to send, and forgets connections that have said that they end. When there is something to send again.
    pub fn settle(&mut self, now: Instant) -> Duration {
        self.poll(now);
        for handle in self.ending.drain(..) {
            self.sockets.remove(handle);
            self.open -= 1;
        }
        if self.open == 0 {
            return SLEEP;
        }
        let delay = self.interface.poll_delay(self.clock(now), &self.sockets);
        delay.map_or(SLEEP, |delay| Duration::from_micros(delay.total_micros()))
    }

    /// Begins a connection.
    pub fn connect(&mut self, address: IpAddr, port: u16) -> Option<SocketHandle> {
        let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        self.next_port = self.next_port.wrapping_add(1).max(FIRST_PORT);
        let to = (IpAddress::from(address), port);
        socket
            .connect(self.interface.context(), to, self.next_port)
            .ok()?;
        self.open += 1;
        Some(self.sockets.add(socket))
    }

    /// A connection.
    pub fn connection(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Gives a connection up, with a reset.
    pub fn end(&mut self, handle: SocketHandle) {
        self.connection(handle).abort();
        self.ending.push(handle);
    }
}
