//! What objects compile to.

use serde_json::{Value, json};

use super::*;
use crate::decode::no_lines;
use crate::model::{Marks, Origin};

fn put(inventory: &mut Inventory, kind: Kind, spec: &Value) {
    let marks = Marks::new(Origin::Config);
    let any = Any::decode(kind, "test", spec.as_object().unwrap(), &no_lines, marks).unwrap();
    let any = inventory.number(any).unwrap();
    inventory.admit(&any).unwrap();
    inventory.put(any);
}

/// Two networks with a router, and a port on each.
fn joined() -> Inventory {
    let mut inventory = Inventory::default();
    let remote =
        json!([{"mac": "52:54:00:00:00:09", "remote": "192.0.2.2", "addresses": ["10.0.1.9"]}]);
    for (kind, spec) in [
        (
            Kind::Network,
            json!({"name": "blue", "vni": 100, "mtu": 1450, "static_macs": remote}),
        ),
        (Kind::Network, json!({"name": "red", "vni": 200})),
        (
            Kind::Subnet,
            json!({"name": "blue4", "network": "blue", "prefix": "10.0.1.0/24", "gateway": "10.0.1.254", "dhcp": true, "routes": ["172.16.0.0/12=10.0.1.253"]}),
        ),
        (
            Kind::Subnet,
            json!({"name": "red6", "network": "red", "prefix": "2001:db8:2::/64", "gateway": "2001:db8:2::fe", "dhcp": true, "router_advertisements": true}),
        ),
        (
            Kind::Router,
            json!({"name": "r1", "networks": ["blue", "red"], "routes": ["0.0.0.0/0=10.0.1.253"]}),
        ),
        (
            Kind::Port,
            json!({"name": "p1", "kind": "tap", "ifname": "t1", "network": "blue", "mac": "52:54:00:00:00:01", "addresses": ["192.0.2.7", "10.0.1.1"]}),
        ),
        (
            Kind::Port,
            json!({"name": "p2", "kind": "tap", "ifname": "t2", "network": "red", "mac": "52:54:00:00:00:02", "addresses": ["2001:db8:2::2"]}),
        ),
    ] {
        put(&mut inventory, kind, &spec);
    }
    inventory.check_whole().unwrap();
    inventory
}

#[test]
fn subnets_routers_and_ports_make_services() {
    let inventory = joined();
    let services = compile(&inventory, &ServiceMap::new());
    let (blue, red) = (&services[&100], &services[&200]);
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let place =
        |services: &Services, text: &str| services.hosts.get(&address(text)).map(|host| host.place);
    assert_eq!(place(blue, "10.0.1.1"), Some(Place::Port(0)));
    assert_eq!(place(blue, "10.0.1.254"), Some(Place::Here));
    assert_eq!(
        place(blue, "10.0.1.9"),
        Some(Place::Remote(address("192.0.2.2")))
    );
    assert_eq!(
        place(red, "10.0.1.1"),
        None,
        "addresses are of their network"
    );
    assert_eq!(place(red, "fe80::5054:ff:fe00:2"), Some(Place::Port(1)));
    let lease = blue.leases[&0].v4.as_deref().unwrap();
    assert_eq!(
        (lease.address, lease.server, lease.mtu),
        (
            Ipv4Addr::new(10, 0, 1, 1),
            Ipv4Addr::new(10, 0, 1, 254),
            1450
        )
    );
    assert_eq!(lease.routes.len(), 2, "with the default route");
    assert_eq!(
        red.leases[&1].v6.as_deref().unwrap().address,
        Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 2)
    );
    let advertisement = red.advertisement.as_deref().unwrap();
    assert!(advertisement.managed && !advertisement.prefixes[0].autonomous);
    assert_eq!(advertisement.lifetime, ROUTER_LIFETIME);
    let router = blue.router.as_deref().unwrap();
    let way = |text: &str| router.way(address(text)).0;
    assert_eq!(way("10.0.1.77"), Some(Way::Link(100)));
    assert_eq!(way("10.0.1.254"), Some(Way::Own));
    assert_eq!(way("2001:db8:2::1"), Some(Way::Link(200)));
    assert_eq!(way("8.8.8.8"), Some(Way::Via(100, address("10.0.1.253"))));
    assert_eq!(way("224.0.0.5"), Some(Way::Nowhere));
    assert_eq!(way("2001:db8:3::1"), None);
    // What stays the same is not made again.
    let again = compile(&inventory, &services);
    assert!(
        again
            .iter()
            .all(|(vni, now)| Arc::ptr_eq(now, &services[vni]))
    );
}

#[test]
fn floating_ips_stand_for_ports() {
    let mut inventory = joined();
    for (kind, spec) in [
        (Kind::Network, json!({"name": "outside", "vni": 300})),
        (
            Kind::Subnet,
            json!({"name": "o4", "network": "outside", "prefix": "198.51.100.0/24", "gateway": "198.51.100.1", "dhcp": true, "dhcp_server": "198.51.100.2"}),
        ),
        (
            Kind::Port,
            json!({"name": "p3", "kind": "tap", "ifname": "t3", "network": "outside", "mac": "52:54:00:00:00:03", "addresses": ["198.51.100.3"]}),
        ),
        (
            Kind::FloatingIp,
            json!({"name": "f1", "network": "outside", "address": "198.51.100.11", "port": "p1", "port_address": "10.0.1.1"}),
        ),
    ] {
        put(&mut inventory, kind, &spec);
    }
    inventory.check_whole().unwrap();
    let services = compile(&inventory, &ServiceMap::new());
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let floating = services[&300].floating[&address("198.51.100.11")].clone();
    assert_eq!(services[&100].outside[&address("10.0.1.1")], floating);
    assert_eq!((floating.port, floating.inside_network), (0, 100));
    assert_eq!(
        floating.next_hop(address("198.51.100.9")),
        Some(address("198.51.100.9"))
    );
    assert_eq!(
        floating.next_hop(address("8.8.8.8")),
        Some(address("198.51.100.1"))
    );
    assert!(services[&300].is_here(floating.mac));
    for (spec, part) in [
        (
            json!({"name": "f2", "network": "outside", "address": "198.51.100.11", "port": "p2"}),
            "floating-ip f1",
        ),
        (
            json!({"name": "f2", "network": "outside", "address": "198.51.100.12", "port": "p2"}),
            "no such address",
        ),
        (
            json!({"name": "f2", "network": "outside", "address": "192.0.2.1", "port": "p1"}),
            "subnet of network outside",
        ),
        (
            json!({"name": "f2", "network": "outside", "address": "198.51.100.255", "port": "p1"}),
            "subnet of network outside",
        ),
        (
            json!({"name": "f2", "network": "outside", "address": "198.51.100.2", "port": "p1"}),
            "subnet of network outside",
        ),
        (
            json!({"name": "f2", "network": "outside", "address": "198.51.100.3", "port": "p1"}),
            "port p3",
        ),
        (
            json!({"name": "f2", "network": "outside", "address": "198.51.100.12", "port": "p9"}),
            "p9",
        ),
    ] {
        let marks = Marks::new(Origin::Config);
        let map = spec.as_object().unwrap();
        let any = Any::decode(Kind::FloatingIp, "test", map, &no_lines, marks).unwrap();
        let before = inventory.clone();
        let refused = inventory.admit(&any).and_then(|()| {
            inventory.put(any);
            inventory.check_whole()
        });
        inventory = before;
        let text = refused.unwrap_err().to_string();
        assert!(text.contains(part), "{text}");
    }
    let port = inventory.get(Kind::Port, "p1").unwrap().clone();
    assert_eq!(inventory.users_of(&port), ["floating-ip f1"]);
}

#[test]
fn what_is_stored_is_read_back() {
    for any in joined().all() {
        let marks = Marks::new(Origin::Config);
        let read = Any::decode(any.kind(), "stored", &any.spec_map(), &no_lines, marks).unwrap();
        assert_eq!(read.spec_map(), any.spec_map());
    }
}

/// So many routes of nine bytes each in a lease.
fn long_routes(count: usize) -> Vec<String> {
    let route = |n| format!("10.8.0.{n}/32=10.9.0.2");
    (0..count).map(route).collect()
}

/// The lease with most to tell that is taken still fits the shortest message, with an identifier as long as clients usually have.
#[test]
fn what_a_subnet_may_say_fits_a_lease() {
    use sumeru_packet::dhcp4::{Answer, Reply, Request, reply};

    let mut inventory = joined();
    let spec = json!({"name": "g4", "network": "green", "prefix": "10.9.0.0/16", "gateway": "10.9.0.1", "dhcp": true,
        "routes": long_routes(23), "dns_servers": ["10.9.0.3", "10.9.0.4"], "domain": "example.org"});
    for (kind, spec) in [
        (Kind::Network, json!({"name": "green", "vni": 300})),
        (Kind::Subnet, spec),
        (
            Kind::Port,
            json!({"name": "p3", "kind": "tap", "ifname": "t3", "network": "green", "mac": "52:54:00:00:00:03", "addresses": ["10.9.0.9"]}),
        ),
    ] {
        put(&mut inventory, kind, &spec);
    }
    let services = compile(&inventory, &ServiceMap::new());
    let lease = services[&300].leases[&2].v4.clone().unwrap();
    let mut message = vec![0; 240];
    message[..3].copy_from_slice(&[1, 1, 6]);
    message[236..].copy_from_slice(&[99, 130, 83, 99]);
    message.extend([53, 1, 1, 61, 19]);
    message.extend([255; 19]);
    message.push(255);
    let answer = Reply {
        answer: Answer::Offer,
        server_mac: lease.server_mac,
        server: lease.server,
        sender_mac: [2, 0, 0, 0, 0, 1],
        address: lease.address,
        lease: lease.lease_s,
        mask: Ipv4Addr::new(255, 255, 0, 0),
        routers: &lease.routers,
        dns_servers: &lease.dns_servers,
        ntp_servers: &[],
        routes: &lease.routes,
        domain: lease.domain.as_bytes(),
        hostname: &[],
        mtu: Some(lease.mtu),
    };
    let request = Request::parse(&message).unwrap();
    reply(&mut [0; 2048], &request, &answer).unwrap();
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let mut inventory = joined();
    let refused = |inventory: &mut Inventory, kind, spec: Value| {
        let marks = Marks::new(Origin::Config);
        let decoded = Any::decode(kind, "test", spec.as_object().unwrap(), &no_lines, marks);
        let any = match decoded {
            Ok(any) => any,
            Err(faults) => return faults[0].field.clone(),
        };
        let before = inventory.clone();
        let error = inventory.admit(&any).and_then(|()| {
            inventory.put(any);
            inventory.check_whole()
        });
        *inventory = before;
        error.unwrap_err().to_string()
    };
    let says = |text: String, part: &str| assert!(text.contains(part), "{text}");
    let overlapping = json!({"name": "x", "network": "blue", "prefix": "10.0.0.0/16"});
    says(
        refused(&mut inventory, Kind::Subnet, overlapping),
        "subnet blue4",
    );
    let elsewhere = json!({"name": "x", "network": "red", "prefix": "10.0.0.0/16"});
    says(refused(&mut inventory, Kind::Subnet, elsewhere), "overlap");
    let unknown = json!({"name": "x", "network": "green", "prefix": "10.9.0.0/16"});
    says(refused(&mut inventory, Kind::Subnet, unknown), "green");
    let narrow = json!({"name": "red", "vni": 200, "mtu": 1279});
    says(
        refused(&mut inventory, Kind::Network, narrow),
        "IPv6 subnet red6",
    );
    let second = json!({"name": "x", "networks": ["red"]});
    says(refused(&mut inventory, Kind::Router, second), "router r1");
    let outside = json!({"name": "r1", "networks": ["blue"], "routes": ["0.0.0.0/0=192.0.2.1"]});
    says(refused(&mut inventory, Kind::Router, outside), "192.0.2.1");
    let itself = json!({"name": "r1", "networks": ["blue"], "routes": ["0.0.0.0/0=10.0.1.254"]});
    says(refused(&mut inventory, Kind::Router, itself), "10.0.1.254");
    let long_domain = ["a"; 4].map(|letter| letter.repeat(60)).join(".");
    for (spec, field) in [
        (
            json!({"name": "x", "network": "red", "prefix": "10.9.0.0/16", "gateway": "10.8.0.1"}),
            "gateway",
        ),
        (
            json!({"name": "x", "network": "red", "prefix": "10.9.0.0/16", "gateway": "10.9.255.255"}),
            "gateway",
        ),
        (
            json!({"name": "x", "network": "red", "prefix": "10.9.0.0/16", "dhcp": true}),
            "dhcp_server",
        ),
        (
            json!({"name": "x", "network": "red", "prefix": "10.9.0.0/16", "router_advertisements": true}),
            "router_advertisements",
        ),
        (
            json!({"name": "x", "network": "red", "prefix": "2001:db8:9::/48", "router_advertisements": true}),
            "prefix",
        ),
        (
            json!({"name": "x", "network": "red", "prefix": "10.9.0.0/16", "dns_servers": ["::1"]}),
            "dns_servers",
        ),
        (
            json!({"name": "x", "network": "red", "prefix": "10.9.0.0/16", "domain": "a..b"}),
            "domain",
        ),
        (
            json!({"name": "x", "network": "red", "prefix": "10.9.0.0/16", "routes": ["10.0.0.0/8"]}),
            "routes",
        ),
        (
            json!({"name": "x", "network": "red", "prefix": "10.9.0.0/16", "gateway": "10.9.0.1", "dhcp": true, "routes": long_routes(32)}),
            "routes",
        ),
        (
            json!({"name": "x", "network": "red", "prefix": "10.9.0.0/16", "gateway": "10.9.0.1", "dhcp": true, "routes": long_routes(26), "dns_servers": ["10.9.0.3"]}),
            "routes",
        ),
        (
            json!({"name": "x", "network": "red", "prefix": "10.9.0.0/16", "gateway": "10.9.0.1", "dhcp": true, "domain": long_domain}),
            "domain",
        ),
    ] {
        assert_eq!(
            refused(&mut inventory, Kind::Subnet, spec.clone()),
            field,
            "{spec}"
        );
    }
    let network = inventory.get(Kind::Network, "blue").unwrap().clone();
    assert!(
        inventory
            .users_of(&network)
            .contains(&"subnet blue4".to_owned())
    );
    assert!(
        inventory
            .users_of(&network)
            .contains(&"router r1".to_owned())
    );
}

fn balancer_of(
    services: &ServiceMap,
    vni: u32,
    address: &str,
) -> Arc<sumeru_switch::balance::Balancer> {
    let address: IpAddr = address.parse().unwrap();
    services[&vni].virtual_addresses[&address].balancers[0].clone()
}

#[test]
fn load_balancers_are_reached_by_all_networks_of_a_router() {
    let mut inventory = joined();
    let web = json!({
        "name": "web", "network": "blue", "address": "10.0.1.100", "protocol": "tcp", "port": 80,
        "members": ["10.0.1.1:8080", "10.0.1.9:8080 weight 3", "10.0.1.7:8080 drain"],
    });
    put(&mut inventory, Kind::LoadBalancer, &web);
    inventory.check_whole().unwrap();
    let services = compile(&inventory, &ServiceMap::new());
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let (blue, red) = (&services[&100], &services[&200]);
    let balancer = balancer_of(&services, 100, "10.0.1.100");
    assert!(Arc::ptr_eq(
        &balancer,
        &balancer_of(&services, 200, "10.0.1.100")
    ));
    assert_eq!((balancer.zone, balancer.proto), (0xe000, 6));
    assert_eq!(blue.hosts[&address("10.0.1.100")].place, Place::Here);
    assert!(!red.hosts.contains_key(&address("10.0.1.100")));
    let members = balancer
        .members
        .iter()
        .map(|m| (m.slot, m.weight, m.draining, m.network));
    let expected = [(1, 1, false, 100), (2, 3, false, 100), (3, 1, true, 100)];
    assert_eq!(members.collect::<Vec<_>>(), expected);
    // One is at a port, one behind a tunnel, of one nobody knows.
    assert!(blue.answering.ports.contains(&0) && blue.answering.remote && blue.answering.anywhere);
    assert!(red.answering.remote && !red.answering.anywhere && red.answering.ports.is_empty());
    assert!(red.answering.members.contains_key(&address("10.0.1.9")));
    assert!(!red.answering.members.contains_key(&address("10.0.1.1")));

    // What is known of members stays with them; those that go are told.
    balancer.members[1].state.set_up(false);
    let mut changed = web.clone();
    changed["index"] = json!(0);
    changed["members"] = json!(["10.0.1.9:8080 weight 7", "10.0.1.8:8080", "10.0.1.1:8080"]);
    let marks = Marks::new(Origin::Config);
    let map = changed.as_object().unwrap();
    inventory.put(Any::decode(Kind::LoadBalancer, "test", map, &no_lines, marks).unwrap());
    let after = compile(&inventory, &services);
    let members = balancer_of(&after, 100, "10.0.1.100").members.clone();
    let slots: Vec<u16> = members.iter().map(|member| member.slot).collect();
    assert_eq!(slots, [2, 4, 1]);
    assert_eq!((members[0].state.is_up(), members[0].weight), (false, 7));
    assert_eq!(departed(&services, &after), [3]);
    let again = compile(&inventory, &after);
    assert!(again.iter().all(|(vni, now)| Arc::ptr_eq(now, &after[vni])));
    let network = inventory.get(Kind::Network, "blue").unwrap().clone();
    assert!(
        inventory
            .users_of(&network)
            .contains(&"load-balancer web".to_owned())
    );
}

#[test]
fn load_balancers_that_do_not_fit_are_refused() {
    let mut inventory = joined();
    let web = json!({
        "name": "web", "network": "blue", "address": "10.0.1.100", "protocol": "tcp", "port": 80,
        "members": ["10.0.1.1:8080"], "monitor": "http", "monitor_source": "10.0.1.253",
        "http_path": "/health", "http_codes": [200, 204],
    });
    put(&mut inventory, Kind::LoadBalancer, &web);
    inventory.check_whole().unwrap();
    let with = |changes: &Value| {
        let mut other = web.clone();
        other["name"] = json!("other");
        other["port"] = json!(81);
        let map = other.as_object_mut().unwrap();
        map.extend(changes.as_object().unwrap().clone());
        map.clone()
    };
    // Faults of the object itself.
    for (changes, part) in [
        (json!({"protocol": "sctp"}), "one of"),
        (json!({"port": 0}), "1 to 65535"),
        (json!({"members": ["10.0.1.1"]}), "ADDRESS:PORT"),
        (
            json!({"members": ["10.0.1.1:80 weight 257"]}),
            "ADDRESS:PORT",
        ),
        (
            json!({"members": ["10.0.1.1:80", "10.0.1.1:80 drain"]}),
            "each member once",
        ),
        (json!({"members": ["[2001:db8::1]:80"]}), "family"),
        (json!({"members": ["10.0.1.100:80"]}), "virtual"),
        (json!({"monitor_source": null}), "probes come from"),
        (json!({"monitor_source": "2001:db8::1"}), "subnet"),
        (json!({"monitor": "none"}), "nothing is probed"),
        (json!({"monitor": "tcp"}), "monitor = \"http\""),
        (json!({"timeout_ms": 6000}), "at most the interval"),
        (json!({"http_path": "/a b"}), "a path such as"),
        (json!({"http_path": "/a\r\nX: y"}), "a path such as"),
        (json!({"http_host": "a\nb"}), "a host name"),
        (json!({"http_codes": [99]}), "100..599"),
        (json!({"algorithm": "random"}), "source-hash"),
    ] {
        let marks = Marks::new(Origin::Config);
        let faults = Any::decode(
            Kind::LoadBalancer,
            "test",
            &with(&changes),
            &no_lines,
            marks,
        );
        let faults = faults.expect_err(&changes.to_string());
        let said = faults
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("; ");
        assert!(said.contains(part), "{changes}: {said}");
    }
    // Faults among objects.
    for (changes, part) in [
        (json!({"network": "green"}), "green"),
        (json!({"port": 80}), "load-balancer web"),
        (json!({"index": 0}), "load-balancer web"),
        (json!({"address": "10.0.1.254"}), "a host of a subnet"),
        (json!({"address": "10.0.1.1", "members": []}), "port p1"),
        (json!({"address": "10.9.1.1"}), "a host of a subnet"),
        (json!({"members": ["10.8.1.1:80"]}), "that its router joins"),
        (json!({"monitor_source": "10.0.1.1"}), "port p1"),
        (
            json!({"monitor_source": "10.0.1.254"}),
            "a host of a subnet",
        ),
    ] {
        let mut inventory = inventory.clone();
        let marks = Marks::new(Origin::Config);
        let any = Any::decode(
            Kind::LoadBalancer,
            "test",
            &with(&changes),
            &no_lines,
            marks,
        );
        let refused = inventory
            .number(any.unwrap())
            .and_then(|any| {
                inventory.admit(&any)?;
                inventory.put(any);
                inventory.check_whole()
            })
            .expect_err(&changes.to_string());
        assert!(refused.to_string().contains(part), "{changes}: {refused}");
    }
}
