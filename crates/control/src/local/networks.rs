//! What a network means to the switch.

use sumeru_switch::snapshot::{NetworkView, OuterHeaders, Policy};

use crate::model::{NetworkSpec, OuterField, Overlay};

/// What the switch knows of a network.
pub fn view(spec: &NetworkSpec) -> NetworkView {
    NetworkView {
        id: spec.vni.get(),
        name: spec.name.as_str().into(),
        overlay: match spec.overlay {
            Overlay::Vxlan => sumeru_switch::snapshot::Overlay::Vxlan,
            Overlay::Geneve => sumeru_switch::snapshot::Overlay::Geneve,
            Overlay::Gre => sumeru_switch::snapshot::Overlay::Gre,
        },
        remotes: spec.remotes.clone(),
        ports: Vec::new(),
        flood_limit: spec.flood_limit,
        ageing_s: spec.ageing_s,
        static_macs: spec
            .static_macs
            .iter()
            .map(|known| (known.mac.0, known.remote))
            .collect(),
        outer: outer_headers(spec),
    }
}

fn outer_headers(spec: &NetworkSpec) -> OuterHeaders {
    let policy = |field: OuterField, default| match field {
        OuterField::Fixed(value) => Policy::Fixed(value),
        OuterField::Copy => Policy::Copied(default),
    };
    let default = OuterHeaders::default();
    let mut options = Vec::new();
    spec.geneve_options
        .iter()
        .for_each(|option| option.encode(&mut options));
    OuterHeaders {
        udp_checksum: spec.udp_checksum,
        ttl: policy(spec.ttl, default.ttl.value(None)),
        dscp: policy(spec.dscp, default.dscp.value(None)),
        ecn: spec.ecn,
        geneve_options: options.into(),
    }
}
