//! A TCP/IP stack on one network, behind a socket whose other end is a port of the switch.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::socket::tcp;
use smoltcp::time::Instant as Clock;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr};

use super::{SLEEP, Vantage};

/// Connections at a time.
pub const CONNECTIONS_MAX: usize = 64;
/// Frames taken in one turn.
const FRAMES: usize = 64;
/// Longest frame, and longest packet in it.
pub const FRAME_MAX: usize = 1514;
/// Bytes that wait in a connection each way.
const BUFFER: usize = 1024;
/// First of the ports that connections come from (RFC 6335 section 6).
const FIRST_PORT: u16 = 49_152;

/// The socket as a device.
struct Device {
    socket: UnixDatagram,
    left: usize,
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
        self.left = self.left.checked_sub(1)?;
        let mut frame = vec![0; FRAME_MAX];
        let len = self.socket.recv(&mut frame).ok()?;
        frame.truncate(len);
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

fn interface(vantage: &Vantage, device: &mut Device) -> Interface {
    let mac = HardwareAddress::Ethernet(EthernetAddress(vantage.mac()));
    let mut config = Config::new(mac);
    // Sequence numbers are made of it.
    config.random_seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
    Interface::new(config, device, Clock::ZERO)
}

impl Stack {
    /// A stack without connections.
    pub fn new(vantage: &Vantage, socket: UnixDatagram, now: Instant) -> Self {
        let mut device = Device { socket, left: 0 };
        Self {
            interface: interface(vantage, &mut device),
            device,
            sockets: SocketSet::new(Vec::new()),
            ending: Vec::new(),
            open: 0,
            began: now,
            next_port: FIRST_PORT,
        }
    }

    /// Begins again, with the same socket and no connections.
    pub fn renew(&mut self, vantage: &Vantage, now: Instant) {
        self.interface = interface(vantage, &mut self.device);
        self.sockets = SocketSet::new(Vec::new());
        (self.ending, self.open, self.began) = (Vec::new(), 0, now);
        self.configure(vantage);
    }

    /// Takes its address and router.
    pub fn configure(&mut self, vantage: &Vantage) {
        let own = IpCidr::new(vantage.source.into(), vantage.length);
        self.interface.update_ip_addrs(|addresses| {
            addresses.clear();
            // There is room for two.
            let _ = addresses.push(own);
        });
        let routes = self.interface.routes_mut();
        // There is room for two routes.
        match vantage.gateway {
            Some(IpAddr::V4(gateway)) => drop(routes.add_default_ipv4_route(gateway)),
            Some(IpAddr::V6(gateway)) => drop(routes.add_default_ipv6_route(gateway)),
            None => {
                routes.remove_default_ipv4_route();
                routes.remove_default_ipv6_route();
            }
        }
    }

    /// What becomes readable when a frame comes.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.device.socket.as_fd()
    }

    fn clock(&self, now: Instant) -> Clock {
        let since = now.saturating_duration_since(self.began);
        Clock::from_micros(since.as_micros() as i64)
    }

    /// Takes frames in, and sends what there is to send.
    pub fn poll(&mut self, now: Instant) {
        self.device.left = FRAMES;
        let clock = self.clock(now);
        let Self {
            device,
            interface,
            sockets,
            ..
        } = self;
        interface.poll(clock, device, sockets);
    }

    /// Forgets connections that have said that they end.
    pub fn sweep(&mut self) {
        for handle in self.ending.drain(..) {
            self.sockets.remove(handle);
            self.open -= 1;
        }
    }

    /// When there is something to send again.
    pub fn due(&mut self, now: Instant) -> Duration {
        let clock = self.clock(now);
        let delay = self.interface.poll_delay(clock, &self.sockets);
        delay.map_or(SLEEP, |delay| Duration::from_micros(delay.total_micros()))
    }

    /// Begins a connection, unless there are too many.
    pub fn connect(&mut self, address: IpAddr, port: u16) -> Option<SocketHandle> {
        if self.open >= CONNECTIONS_MAX {
            return None;
        }
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
