//! A router between networks of a tenant. Every node with ports on them is its own part of it: frames are routed where they come in.

use serde::Serialize;

use super::blocklist::read_names;
use super::subnet::{RouteSpec, read_routes};
use super::{Kind, Spec};
use crate::decode::{Field, Fields, Name, optional, required};

/// What is configured of a router.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RouterSpec {
    /// Name.
    pub name: String,
    /// The networks that it joins. On each it has the gateways of the network's subnets.
    pub networks: Vec<String>,
    /// Where packets go that are for none of them.
    pub routes: Vec<RouteSpec>,
}

impl Spec for RouterSpec {
    const KIND: Kind = Kind::Router;
    const FIXED: &'static [&'static str] = &[];
    const FIELDS: &'static [Field] = &[
        required("name", "name", "name of the router"),
        required(
            "networks",
            "list of network names",
            "networks that it joins; on each it has the gateways of the subnets",
        ),
        optional(
            "routes",
            "list of PREFIX=ADDRESS",
            "where packets go that are for none of its networks: the next router, a host of one of them",
        ),
    ];

    fn name(&self) -> String {
        self.name.clone()
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let name = fields.required::<Name>("name");
        let networks = read_names(fields, "networks");
        if !fields.has("networks") {
            fields.fault("networks", "missing", "at least one network");
        } else if networks.is_empty() {
            fields.fault("networks", "empty", "at least one network");
        }
        let routes = read_routes(fields);
        Some(Self {
            name: name?.0,
            networks,
            routes,
        })
    }
}
