//! A floating IP: an address of an outside network that stands for a port's own, one for one, whichever node the port is on.

use std::net::IpAddr;

use serde::Serialize;

use super::{Kind, Spec};
use crate::decode::{Field, Fields, Name, optional, required};

/// What is configured of a floating IP.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FloatingIpSpec {
    /// Name.
    pub name: String,
    /// The outside network, which has a subnet with the address.
    pub network: String,
    /// The address.
    pub address: IpAddr,
    /// The port that it stands for.
    pub port: String,
    /// Which of the port's addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port_address: Option<IpAddr>,
}

impl Spec for FloatingIpSpec {
    const KIND: Kind = Kind::FloatingIp;
    const FIXED: &'static [&'static str] = &[];
    const FIELDS: &'static [Field] = &[
        required("name", "name", "name of the floating IP"),
        required(
            "network",
            "network name",
            "outside network, with a subnet that has the address",
        ),
        required("address", "address", "the address outside"),
        required(
            "port",
            "port name",
            "port that it stands for; its network needs a router",
        ),
        optional(
            "port_address",
            "address",
            "which of the port's addresses (default: the first of the same family)",
        ),
    ];

    fn name(&self) -> String {
        self.name.clone()
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let name = fields.required::<Name>("name");
        let network = fields.required::<Name>("network");
        let address = fields.required::<IpAddr>("address");
        let port = fields.required::<Name>("port");
        let port_address = fields.optional::<IpAddr>("port_address");
        let address = address?;
        let other = port_address.filter(|own| own.is_ipv4() != address.is_ipv4());
        if let Some(own) = other {
            fields.fault(
                "port_address",
                own.to_string(),
                "an address of the same family",
            );
        }
        Some(Self {
            name: name?.0,
            network: network?.0,
            address,
            port: port?.0,
            port_address,
        })
    }
}
