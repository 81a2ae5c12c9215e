//! The text of compiled rules, so that a change of what operators see and of what is programmed is noticed.

use super::*;

fn texts(policy: &Policy, object: &str) -> Vec<String> {
    let of = policy
        .rules()
        .filter(|placed| placed.origin.object == object);
    of.map(|placed| format!("{}: {}", placed.origin.line, placed.rule.rule))
        .collect()
}

#[test]
fn a_group_with_a_set_and_itself_as_remote() {
    let policy = settled(&inventory([
        object(
            Kind::AddressSet,
            json!({"name": "office", "prefixes": ["192.0.2.0/24", "2001:db8:1::/48"]}),
        ),
        object(
            Kind::SecurityGroup,
            json!({"name": "web", "rules": [
                "ingress tcp 80-90 from 10.0.0.0/8", "ingress ipv4 tcp 22 from set office", "ingress ipv6 from group web", "egress",
            ]}),
        ),
        port(
            "vm1",
            1,
            json!({"security_groups": ["web"], "port_security": true, "addresses": ["2001:db8::1"]}),
        ),
    ]));
    assert_eq!(texts(&policy, "security-group web"), GROUP);
    assert_eq!(texts(&policy, "address-set office"), SET);
    let vm1: Vec<String> = texts(&policy, "port vm1")
        .into_iter()
        .filter(|line| line.starts_with("frames") || line.starts_with("security_groups"))
        .collect();
    assert_eq!(vm1, PORT);
}

const GROUP: &[&str] = &[
    "rule 1: ingress tcp 80-90 from 10.0.0.0/8: group 9025 priority 2 transfer pattern tag data spec 32769 data mask 0xffff index is 1 / eth / ipv4 src spec 10.0.0.0 src prefix 8 / tcp dst is 80 dst last 90 / end actions jump group 9026 / end",
    "rule 2: ingress ipv4 tcp 22 from set office: group 9025 priority 2 transfer pattern tag data spec 32769 data mask 0xffff index is 1 / tag data spec 1 data mask 0xffff index is 2 / eth / ipv4 / tcp dst is 22 / end actions jump group 9026 / end",
    "rule 3: ingress ipv6 from group web: group 9025 priority 2 transfer pattern tag data spec 32769 data mask 0xffff index is 1 / tag data spec 65536 data prefix 16 index is 2 / eth / ipv6 / end actions jump group 9026 / end",
    "rule 4: egress: group 9007 priority 2 transfer pattern tag data spec 32769 data mask 0xffff index is 1 / eth / ipv4 / end actions jump group 9008 / end",
    "rule 4: egress: group 9007 priority 2 transfer pattern tag data spec 32769 data mask 0xffff index is 1 / eth / ipv6 / end actions jump group 9008 / end",
    "2001:db8::1: group 9022 transfer pattern tag data spec 100 data mask 0xffffff index is 0 / eth / ipv6 src is 2001:db8::1 / end actions set_tag data 65536 index 2 mask 4294901760 / jump group 9023 / end",
];
const SET: &[&str] = &[
    "192.0.2.0/24: group 9021 priority 8 transfer pattern eth / ipv4 src spec 192.0.2.0 src prefix 24 / end actions set_tag data 1 index 2 mask 65535 / jump group 9022 / end",
    "2001:db8:1::/48: group 9021 priority 80 transfer pattern eth / ipv6 src spec 2001:db8:1:: src prefix 48 / end actions set_tag data 1 index 2 mask 65535 / jump group 9022 / end",
];
const PORT: &[&str] = &[
    "frames from the port: priority 1 ingress pattern eth / end actions set_tag data 100 index 0 mask 4294967295 / set_tag data 32769 index 1 mask 4294967295 / jump group 9001 / end",
    "frames to the port: egress pattern eth / end actions set_tag data 100 index 0 mask 4294967295 / set_tag data 32769 index 1 mask 4294967295 / set_tag data 0 index 2 mask 4294967295 / set_tag data 0 index 3 mask 4294901760 / jump group 9021 / end",
    "security_groups: group 9006 priority 2 ingress pattern eth / ipv4 / end actions ct zone 32769 group 9007 / end",
    "security_groups: group 9008 ingress pattern eth / ipv4 / end actions ct commit zone 32769 group 9009 / end",
    "security_groups: group 9024 priority 2 egress pattern eth / ipv4 / end actions ct zone 32769 group 9025 / end",
    "security_groups: group 9026 egress pattern eth / ipv4 / end actions ct commit zone 32769 group 9027 / end",
    "security_groups: group 9006 priority 2 ingress pattern eth / ipv6 / end actions ct zone 32769 group 9007 / end",
    "security_groups: group 9008 ingress pattern eth / ipv6 / end actions ct commit zone 32769 group 9009 / end",
    "security_groups: group 9024 priority 2 egress pattern eth / ipv6 / end actions ct zone 32769 group 9025 / end",
    "security_groups: group 9026 egress pattern eth / ipv6 / end actions ct commit zone 32769 group 9027 / end",
];
