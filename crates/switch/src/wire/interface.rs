//! A network interface of the kernel: its index, MAC address, MTU and state (netdevice(7)).
//!
//! Always that of the network namespace of the thread that opened it. It never creates or removes an interface.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::WireError;
use super::syscall::{interface_request, set_option};

/// Longest name in bytes (`IFNAMSIZ` without the terminating zero).
pub const NAME_MAX: usize = libc::IFNAMSIZ - 1;

const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_GSET: u32 = 1;
const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    receive_max: u32,
    transmit_max: u32,
    other_max: u32,
    combined_max: u32,
    receive: u32,
    transmit: u32,
    other: u32,
    combined: u32,
}

/// `struct ethtool_cmd`, as far as it is looked at; the rest is room for what the kernel writes.
#[repr(C)]
#[derive(Default)]
struct Settings {
    command: u32,
    modes: [u32; 2],
    speed_low: u16,
    kinds: [u8; 6],
    pauses: [u32; 2],
    speed_high: u16,
    crossover: [u8; 2],
    more: [u32; 3],
}
const _: () = assert!(size_of::<Settings>() == 44);

/// What a link does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkState {
    /// It is set up and has a carrier.
    pub up: bool,
    /// Its speed in Mbit/s; 0 while it is down or the driver does not know.
    pub speed: u32,
}

/// An interface that existed when it was opened.
#[derive(Debug)]
pub struct Interface {
    name: String,
    index: u32,
    control: OwnedFd,
}

impl Interface {
    /// Finds an interface.
    ///
    /// # Errors
    /// [`WireError::Name`] for what cannot be a name, [`WireError::NoInterface`] when there is none of it.
    pub fn open(name: &str) -> Result<Self, WireError> {
        check_name(name)?;
        let control = rustix::net::socket_with(
            AddressFamily::INET,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|errno| refused("open a control socket", name, errno.into()))?;
        let index = rustix::net::netdevice::name_to_index(&control, name)
            .map_err(|_| WireError::NoInterface(name.to_owned()))?;
        Ok(Self {
            name: name.to_owned(),
            index,
            control,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its index, never 0.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Its MAC address.
    ///
    /// # Errors
    /// [`WireError::System`] when it is gone or no Ethernet interface.
    pub fn mac(&self) -> Result<[u8; 6], WireError> {
        let step = "read the MAC address";
        let ifreq = self.request(step, libc::SIOCGIFHWADDR, self.blank())?;
        // SAFETY: the request wrote this field of the union.
        let address = unsafe { ifreq.ifr_ifru.ifru_hwaddr };
        // Loopback frames have an Ethernet header as well.
        if ![libc::ARPHRD_ETHER, libc::ARPHRD_LOOPBACK].contains(&address.sa_family) {
            let source = io::Error::other(format!(
                "expected an Ethernet interface, it is of ARP hardware type {}",
                address.sa_family
            ));
            return Err(refused(step, &self.name, source));
        }
        let mut mac = [0; 6];
        for (to, from) in mac.iter_mut().zip(address.sa_data) {
            *to = from as u8;
        }
        Ok(mac)
    }

    /// Changes its MAC address.
    ///
    /// # Errors
    /// [`WireError::System`], for a multicast address among others.
    pub fn set_mac(&self, mac: [u8; 6]) -> Result<(), WireError> {
        let mut ifreq = self.blank();
        let mut address = libc::sockaddr {
            sa_family: libc::ARPHRD_ETHER,
            sa_data: [0; 14],
        };
        for (to, from) in address.sa_data.iter_mut().zip(mac) {
            *to = from as libc::c_char;
        }
        ifreq.ifr_ifru.ifru_hwaddr = address;
        self.request("set the MAC address", libc::SIOCSIFHWADDR, ifreq)
            .map(drop)
    }

    /// Its MTU: bytes after the Ethernet header, VLAN tags not counted.
    ///
    /// # Errors
    /// [`WireError::System`] when it is gone.
    pub fn mtu(&self) -> Result<u32, WireError> {
        let ifreq = self.request("read the MTU", libc::SIOCGIFMTU, self.blank())?;
        // SAFETY: the request wrote this field of the union.
        let mtu = unsafe { ifreq.ifr_ifru.ifru_mtu };
        Ok(u32::try_from(mtu).unwrap_or(0))
    }

    /// Changes its MTU.
    ///
    /// # Errors
    /// [`WireError::System`] when the driver does not take it.
    pub fn set_mtu(&self, mtu: u32) -> Result<(), WireError> {
        let mut ifreq = self.blank();
        ifreq.ifr_ifru.ifru_mtu = i32::try_from(mtu).unwrap_or(i32::MAX);
        self.request("set the MTU", libc::SIOCSIFMTU, ifreq)
            .map(drop)
    }

    /// Sets it up or down (administratively).
    ///
    /// # Errors
    /// [`WireError::System`] when the kernel refuses.
    pub fn set_up(&self, up: bool) -> Result<(), WireError> {
        let flags = self.flags()?;
        let bit = libc::IFF_UP as libc::c_short;
        let mut ifreq = self.blank();
        ifreq.ifr_ifru.ifru_flags = if up { flags | bit } else { flags & !bit };
        let step = if up { "set up" } else { "set down" };
        self.request(step, libc::SIOCSIFFLAGS, ifreq).map(drop)
    }

    /// Whether it is up and has a carrier.
    ///
    /// # Errors
    /// [`WireError::System`] when it is gone.
    pub fn link_up(&self) -> Result<bool, WireError> {
        let wanted = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        Ok(self.flags()? & wanted == wanted)
    }

    /// What its link does. One that is gone is down.
    pub fn link(&self) -> LinkState {
        let up = self.link_up().unwrap_or(false);
        let speed = if up { self.speed().unwrap_or(0) } else { 0 };
        LinkState { up, speed }
    }

    /// Its speed in Mbit/s, 0 if the driver does not know (ethtool's settings).
    fn speed(&self) -> Result<u32, WireError> {
        let mut settings = Settings {
            command: ETHTOOL_GSET,
            ..Settings::default()
        };
        let mut ifreq = self.blank();
        ifreq.ifr_ifru.ifru_data = (&raw mut settings).cast();
        self.request("read the speed", SIOCETHTOOL, ifreq)?;
        let speed = u32::from(settings.speed_high) << 16 | u32::from(settings.speed_low);
        Ok(if speed == u32::MAX { 0 } else { speed })
    }

    /// How many receive queues it has now; 1 for a driver that has no say (ethtool's channels).
    ///
    /// # Errors
    /// [`WireError::System`] when it is gone.
    pub fn receive_queues(&self) -> Result<u32, WireError> {
        let mut channels = Channels {
            command: ETHTOOL_GCHANNELS,
            ..Channels::default()
        };
        let mut ifreq = self.blank();
        ifreq.ifr_ifru.ifru_data = (&raw mut channels).cast();
        match self.request("read the number of queues", SIOCETHTOOL, ifreq) {
            Ok(_) => Ok((channels.receive + channels.combined).max(1)),
            Err(WireError::System { source, .. })
                if source.raw_os_error() == Some(libc::EOPNOTSUPP) =>
            {
                Ok(1)
            }
            Err(error) => Err(error),
        }
    }

    /// Lets it receive frames for any address, for as long as the answer lives.
    pub(super) fn promiscuous(&self) -> Result<OwnedFd, WireError> {
        // Protocol 0: it receives nothing itself.
        let socket = rustix::net::socket_with(
            AddressFamily::PACKET,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(|errno| refused("open a packet socket", &self.name, errno.into()))?;
        self.add_promiscuous(&socket)?;
        Ok(socket)
    }

    /// Lets it receive frames for any address, for as long as `packet_socket` (of `AF_PACKET`) lives.
    pub(super) fn add_promiscuous(&self, packet_socket: &OwnedFd) -> Result<(), WireError> {
        let request = libc::packet_mreq {
            mr_ifindex: self.index as i32,
            mr_type: libc::PACKET_MR_PROMISC as u16,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        set_option(
            packet_socket.as_fd(),
            libc::SOL_PACKET,
            libc::PACKET_ADD_MEMBERSHIP,
            &request,
        )
        .map_err(|source| refused("receive frames for other addresses", &self.name, source))
    }

    fn flags(&self) -> Result<libc::c_short, WireError> {
        let ifreq = self.request("read the flags", libc::SIOCGIFFLAGS, self.blank())?;
        // SAFETY: the request wrote this field of the union.
        Ok(unsafe { ifreq.ifr_ifru.ifru_flags })
    }

    fn blank(&self) -> libc::ifreq {
        named_request(&self.name)
    }

    fn request(
        &self,
        step: &'static str,
        request: libc::Ioctl,
        mut ifreq: libc::ifreq,
    ) -> Result<libc::ifreq, WireError> {
        interface_request(self.control.as_fd(), request, &mut ifreq)
            .map_err(|source| refused(step, &self.name, source))?;
        Ok(ifreq)
    }
}

/// An interface request that is zero but for the name, which was checked.
pub(super) fn named_request(name: &str) -> libc::ifreq {
    // SAFETY: integers and a union of integers and a pointer: zero is a value of it.
    let mut ifreq: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in ifreq.ifr_name.iter_mut().zip(name.bytes().take(NAME_MAX)) {
        *to = from as libc::c_char;
    }
    ifreq
}

/// An interface name: 1 to 15 bytes, no `/`, `:`, `%` (a pattern to the kernel), blank or control character.
pub(super) fn check_name(name: &str) -> Result<(), WireError> {
    let bad = |byte: u8| byte <= b' ' || byte == 0x7f || b"/:%".contains(&byte);
    let reserved = name == "." || name == "..";
    if name.is_empty() || name.len() > NAME_MAX || reserved || name.bytes().any(bad) {
        return Err(WireError::Name(name.to_owned()));
    }
    Ok(())
}

/// The error for a step that the kernel refused.
pub(super) fn refused(step: &'static str, interface: &str, source: io::Error) -> WireError {
    WireError::System {
        step,
        interface: interface.to_owned(),
        source,
    }
}
