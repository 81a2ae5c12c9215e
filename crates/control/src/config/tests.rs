//! Every fault of a file is reported, each with object, field, found, expected and line.

use proptest::prelude::*;

use super::*;

fn faults(text: &str) -> Vec<String> {
    match parse(text) {
        Ok(_) => Vec::new(),
        Err(Error::Invalid(faults)) => faults.iter().map(ToString::to_string).collect(),
        Err(other) => vec![other.to_string()],
    }
}

#[test]
fn every_fault_is_reported_with_its_line() {
    let text = r#"
[node]
lcores = [1, 1]
colour = "blue"
underlay = ["192.0.2.1/24", "198.51.100.1/24"]
uplink = "nowhere"

[[port]]
name = "vm1"
kind = "vhost-user"
mtu = 20
ifname = "tap0"
mac = "zz"

[[port]]
kind = "tap"
ifname = "t0"
network = "blue"

[[port]]
name = "vm3"
kind = "usb"

[[volume]]
name = "d"
kind = "file"
size = "3 parsecs"

[[volume]]
name = "m"
kind = "memory"
size = 1000
block_size = 4096

[[network]]
name = "blue"
vni = 16777216
uuid = "x"

[[controller]]
name = "c"
volume = "none"
socket = "relative.sock"
queue_size = 100

[[gadget]]
"#;
    let found = faults(text);
    let expected = [
        r#"line 3: node: lcores is CPU 1 twice, expected each CPU once"#,
        r#"line 4: node: colour is not a known field, expected one of name, lcores, poll, spin_us, underlay, uplink, vxlan_port, residence, lldp"#,
        r#"line 5: node: underlay is 198.51.100.1/24, expected at most one address of each family"#,
        r#"line 8: port vm1: socket is missing, expected an absolute path of at most 107 bytes"#,
        r#"line 11: port vm1: mtu is 20, expected an integer from 68 to 9216"#,
        r#"line 12: port vm1: ifname is "tap0", expected to be left out (the port is vhost-user)"#,
        r#"line 13: port vm1: mac is "zz", expected a MAC address such as 52:54:00:12:34:56"#,
        r#"line 15: port #2: name is missing, expected a name of 1 to 63 letters, digits, '.', '_', '-' or ':', not a number"#,
        r#"line 22: port vm3: kind is "usb", expected one of "vhost-user", "tap", "af-packet", "af-xdp", "bond""#,
        r#"line 24: volume d: path is missing, expected an absolute path"#,
        r#"line 27: volume d: size is "3 parsecs", expected a size such as 64MiB, 10GiB or a number of bytes, from 1 byte to 8 EiB - 1"#,
        r#"line 32: volume m: size is 1000, expected a multiple of the block size, 4096 bytes"#,
        r#"line 37: network blue: vni is 16777216, expected a VXLAN network identifier from 1 to 16777215"#,
        r#"line 38: network blue: uuid is "x", expected a UUID such as 6ba7b810-9dad-41d1-80b4-00c04fd430c8"#,
        r#"line 43: controller c: socket is "relative.sock", expected an absolute path of at most 107 bytes"#,
        r#"line 44: controller c: queue_size is 100, expected a power of two from 2 to 32768"#,
        r#"line 46: configuration: gadget is not a known section, expected one of node, network, subnet, router, volume, address-set, security-group, port, controller, blocklist, isolation, floating-ip, load-balancer, mirror, exporter, flow, daemon, switch"#,
    ];
    for line in expected {
        assert!(
            found.iter().any(|f| f == line),
            "missing: {line}\nin: {found:#?}"
        );
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[test]
fn references_and_doubles_are_checked_over_the_whole_file() {
    let text = r#"
[node]
uplink = "up"

[[port]]
name = "up"
kind = "af-packet"
interface = "eth0"

[[port]]
name = "up"
kind = "tap"
ifname = "t"

[[port]]
name = "other"
kind = "tap"
ifname = "eth0"
network = "green"

[[flow]]
port = "absent"
rule = "ingress pattern eth / end actions drop / end"
"#;
    assert_eq!(
        faults(text),
        [
            r#"line 2: node node: uplink is "up", expected a port with uplink = true"#,
            r#"line 10: port up: name is used twice, expected a name of its own for every port"#,
            r#"line 15: port other: network is "green", expected the name of a network of this file"#,
            r#"line 21: flow absent/0: port is "absent", expected the name of a port of this file"#,
        ]
    );
}

#[test]
fn what_is_not_toml_is_refused_with_its_line() {
    let error = parse("[node]\nname = \"a\"\nlcores = [1,\n")
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("line "), "{error}");
    assert!(error.contains("not TOML"), "{error}");
    for (text, expected) in [
        (
            "[[node]]\n",
            "line 1: configuration: node is not a table, expected one section [node]",
        ),
        (
            "[port]\nname = \"x\"",
            "line 1: configuration: port is a single table, expected sections [[port]]",
        ),
        (
            "port = 3",
            "line 1: configuration: port is not a list of tables, expected sections [[port]]",
        ),
    ] {
        assert_eq!(faults(text), [expected]);
    }
}

#[test]
fn numbers_may_be_written_as_toml_has_them() {
    let text = "[[network]]\nname = \"n\"\nvni = 0xff_ff\nflood_limit = 1_000\n";
    let entries = parse(text).unwrap();
    let Any::Network(network) = &entries[0].object else {
        panic!("not a network")
    };
    assert_eq!(
        (network.spec.vni.get(), network.spec.flood_limit),
        (0xffff, 1000)
    );
    assert_eq!(faults("[[network]]\nname = \"n\"\nvni = 1.0").len(), 1);
    assert_eq!(
        faults("[[network]]\nname = \"n\"\nvni = 99999999999999999999999").len(),
        1
    );
    assert_eq!(
        faults("[[network]]\nname = \"n\"\nvni = 1979-05-27").len(),
        1
    );
}

proptest! {
    #[test]
    fn any_text_is_answered(text in "(\\[\\[?(port|node|flow)\\]\\]?\n|[a-z]{1,6} = [\"\\[{]?[a-z0-9\"\\]},]{0,8}\n|.{0,12}\n){0,12}") {
        let _ = parse(&text);
    }

    #[test]
    fn any_string_value_survives_being_written_as_toml(text in any::<String>()) {
        let line = format!("a = {}", inline(&Value::from(text.clone())));
        let document = DeTable::parse(&line).map_err(|e| TestCaseError::fail(format!("{line:?}: {e}")))?;
        prop_assert_eq!(document.get_ref()["a"].get_ref().as_str(), Some(text.as_str()));
    }
}
