//! A switch between vhost-user ports, the same for every switch: what it is set up to do, and its counters.
//!
//! Busy cycles per packet = TSC of whole iterations of the switch's loop that received at least one packet, divided by
//! packets received; from the switch's own counters, checked against our TSC and against the generator's counters.
//! [`crate::lane`] measures, [`crate::cases`] are the cases.

use crate::generator::frame::Mac;
use anyhow::Result;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

/// Counters of a switch's polling thread since some fixed moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// Our TSC when they were read.
    pub tsc: u64,
    /// Cycles of iterations that received packets.
    pub busy: u64,
    /// Cycles of iterations that received none.
    pub idle: u64,
    /// Packets received, all ports.
    pub rx_packets: u64,
}

/// A switch with vhost-user ports in server mode that does what a [`Setup`] says.
pub trait Switch: Send {
    /// Name in reports.
    fn name(&self) -> &'static str;
    /// Where the ports listen, at least two.
    fn sockets(&self) -> &[PathBuf];
    /// The process whose busiest thread does the work.
    fn pid(&self) -> u32;
    /// The polling thread's counters now.
    ///
    /// # Errors
    /// If the switch does not answer.
    fn counters(&mut self) -> Result<Counters>;
    /// Decisions in the cache of wildcarded flows now; none if the switch does not tell.
    ///
    /// # Errors
    /// If the switch does not answer.
    fn cached_decisions(&mut self) -> Result<Option<u64>>;
    /// Removes every tracked connection.
    ///
    /// # Errors
    /// If the switch does not answer, or refuses.
    fn forget_connections(&mut self) -> Result<()>;
}

/// What a switch is set up to do. Ports count from 0.
#[derive(Debug, Clone)]
pub enum Setup {
    /// All that comes in at port 0 goes to port 1, and back.
    PortToPort,
    /// A learning bridge of all ports, without a rule.
    Learning,
    /// These rules; what none of them matches is dropped.
    Rules(Arc<[Rule]>),
    /// Stateful forwarding: port 0 may open connections to port 1, port 1 may answer.
    Conntrack,
    /// Port 0 is a guest in network [`Overlay::VNI`], port 1 the wire to the other nodes: VXLAN over IPv4.
    Overlay,
}

impl Setup {
    /// Whether a switch that is set up as this is so as `other` too.
    pub fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Rules(own), Self::Rules(other)) => Arc::ptr_eq(own, other) || own == other,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

/// The addresses of [`Setup::Overlay`].
#[derive(Debug, Clone, Copy)]
pub struct Overlay;

impl Overlay {
    /// The network's identifier on the wire.
    pub const VNI: u32 = 100;
    /// The switch's tunnel end point, in a network of 24 bits.
    pub const LOCAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    /// The generator's tunnel end point.
    pub const REMOTE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
    /// The switch's tunnel end point on the link.
    pub const LOCAL_MAC: Mac = [2, 0, 0, 1, 0, 1];
    /// The generator's tunnel end point on the link.
    pub const REMOTE_MAC: Mac = [2, 0, 0, 1, 0, 2];
    /// The guest at port 0.
    pub const GUEST_MAC: Mac = [2, 0, 0, 2, 0, 1];
    /// The guest behind the generator's tunnel end point.
    pub const REMOTE_GUEST_MAC: Mac = [2, 0, 0, 2, 0, 2];
}

/// Text of an address on the link.
pub fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// A rule that every switch can carry out, by IPv4 addresses and UDP ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rule {
    /// 0 is looked at first, up to 1000.
    pub priority: u16,
    /// Where the frame came in.
    pub from: u16,
    /// Source network: address and bits.
    pub src: Option<(u32, u8)>,
    /// Destination network: address and bits.
    pub dst: Option<(u32, u8)>,
    /// UDP source port.
    pub udp_src: Option<u16>,
    /// UDP destination port.
    pub udp_dst: Option<u16>,
    /// Where it goes; dropped if none.
    pub to: Option<u16>,
}

impl Rule {
    /// As `ovs-ofctl add-flows` reads it; ports count from 1 there and the greatest priority is looked at first.
    pub fn openflow(&self) -> String {
        let udp = self.udp_src.is_some() || self.udp_dst.is_some();
        let (priority, port) = (2000 - u32::from(self.priority), self.from + 1);
        let mut text = format!(
            "priority={priority},in_port={port},{}",
            if udp { "udp" } else { "ip" }
        );
        for (name, network) in [("nw_src", self.src), ("nw_dst", self.dst)] {
            if let Some((address, bits)) = network {
                let _ = write!(text, ",{name}={}/{bits}", Ipv4Addr::from(address));
            }
        }
        for (name, port) in [("tp_src", self.udp_src), ("tp_dst", self.udp_dst)] {
            if let Some(port) = port {
                let _ = write!(text, ",{name}={port}");
            }
        }
        match self.to {
            Some(port) => {
                let _ = write!(text, ",actions=output:{}", port + 1);
            }
            None => text.push_str(",actions=drop"),
        }
        text
    }

    /// As rte_flow's rules are written, without the port of `from`.
    pub fn rte_flow(&self) -> String {
        let mut text = format!("priority {} ingress pattern eth / ipv4", self.priority);
        for (name, network) in [("src", self.src), ("dst", self.dst)] {
            match network {
                Some((address, 32)) => {
                    let _ = write!(text, " {name} is {}", Ipv4Addr::from(address));
                }
                Some((address, bits)) => {
                    let _ = write!(
                        text,
                        " {name} spec {} {name} prefix {bits}",
                        Ipv4Addr::from(address)
                    );
                }
                None => {}
            }
        }
        if self.udp_src.is_some() || self.udp_dst.is_some() {
            text.push_str(" / udp");
        }
        for (name, port) in [("src", self.udp_src), ("dst", self.udp_dst)] {
            if let Some(port) = port {
                let _ = write!(text, " {name} is {port}");
            }
        }
        text.push_str(" / end actions count / ");
        match self.to {
            Some(port) => {
                let _ = write!(text, "port_id id {port}");
            }
            None => text.push_str("drop"),
        }
        text.push_str(" / end");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_says_the_same_in_both_languages() {
        let rule = Rule {
            priority: 3,
            from: 0,
            src: Some((0x0a00_0000, 8)),
            dst: Some((0x0a01_0005, 32)),
            udp_src: None,
            udp_dst: Some(53),
            to: Some(1),
        };
        assert_eq!(
            rule.openflow(),
            "priority=1997,in_port=1,udp,nw_src=10.0.0.0/8,nw_dst=10.1.0.5/32,tp_dst=53,actions=output:2"
        );
        assert_eq!(
            rule.rte_flow(),
            "priority 3 ingress pattern eth / ipv4 src spec 10.0.0.0 src prefix 8 dst is 10.1.0.5 / udp dst is 53 / end \
             actions count / port_id id 1 / end"
        );
        let drop = Rule {
            from: 1,
            ..Rule::default()
        };
        assert_eq!(drop.openflow(), "priority=2000,in_port=2,ip,actions=drop");
        assert_eq!(
            drop.rte_flow(),
            "priority 0 ingress pattern eth / ipv4 / end actions count / drop / end"
        );
    }
}
