//! Link protocols against real peers in a network namespace of the test's own: LACP with Open vSwitch's bond, LLDP with lldpd.
//!
//! Needs root, `openvswitch-switch` and `lldpd`; without them it fails and says how to install them.
#![allow(clippy::unwrap_used, clippy::expect_used, unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sumeru_switch::link::bond::{Bond, BondConfig, MemberConfig, Mode};
use sumeru_switch::link::hash::HashPolicy;
use sumeru_switch::link::lacp::{AggregatorSelect, LacpConfig};
use sumeru_switch::link::lacp_port::{Mux, Receive};
use sumeru_switch::link::lldp::{Lldp, LldpConfig, LldpPortConfig, LldpSystem};
use sumeru_switch::link::tlv::{Aggregation, Capabilities};

/// Runs a command to its end and returns what it printed.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| {
            panic!(
                "{program}: {error}; install it with apt-get install --no-install-recommends iproute2 openvswitch-switch lldpd"
            )
        });
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A named namespace that this thread lives in, with a folder for its peers.
struct Place {
    name: String,
    folder: PathBuf,
    peers: Vec<Child>,
}

impl Place {
    fn new(label: &str) -> Place {
        let name = format!("sumeru-{label}-{}", std::process::id());
        let folder = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&folder).unwrap();
        run("ip", &["netns", "add", &name]);
        let namespace = File::open(Path::new("/run/netns").join(&name)).unwrap();
        // SAFETY: only this thread changes its network namespace.
        let result = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
        assert_eq!(
            result,
            0,
            "{}: run the test as root",
            io::Error::last_os_error()
        );
        Place {
            name,
            folder,
            peers: Vec::new(),
        }
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).to_str().unwrap().to_owned()
    }

    /// Starts a peer in the namespace; it ends with the place.
    fn start(&mut self, program: &str, arguments: &[&str]) {
        let log = File::create(self.folder.join("peers.log")).unwrap();
        let child = Command::new("ip")
            .args(["netns", "exec", &self.name, program])
            .args(arguments)
            .env("OVS_RUNDIR", &self.folder)
            .env("OVS_LOGDIR", &self.folder)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.peers.push(child);
    }

    fn stop_peers(&mut self) {
        for mut child in self.peers.drain(..).rev() {
            // SAFETY: the child was not waited for, so its number is still its own.
            unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
            child.wait().unwrap();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.stop_peers();
        let _ = Command::new("ip")
            .args(["netns", "delete", &self.name])
            .status();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A raw socket on an interface.
struct Wire(OwnedFd);

impl Wire {
    /// A veth pair `ours`, `theirs`, and a socket on our end.
    fn veth(ours: &str, theirs: &str) -> Wire {
        run(
            "ip",
            &["link", "add", ours, "type", "veth", "peer", "name", theirs],
        );
        for end in [ours, theirs] {
            run("ip", &["link", "set", end, "up"]);
        }
        Wire::open(ours)
    }

    fn open(interface: &str) -> Wire {
        let name = std::ffi::CString::new(interface).unwrap();
        // SAFETY: plain system calls on values that live across them; the descriptor is new and nobody else's.
        unsafe {
            let index = libc::if_nametoindex(name.as_ptr());
            let protocol = (libc::ETH_P_ALL as u16).to_be();
            let fd = libc::socket(
                libc::AF_PACKET,
                libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
                protocol.into(),
            );
            assert!(
                index > 0 && fd >= 0,
                "{interface}: {}",
                io::Error::last_os_error()
            );
            let wire = Wire(OwnedFd::from_raw_fd(fd));
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = protocol;
            address.sll_ifindex = index as i32;
            let len = size_of_val(&address) as u32;
            assert_eq!(libc::bind(fd, (&raw const address).cast(), len), 0);
            let mut groups: libc::packet_mreq = std::mem::zeroed();
            groups.mr_ifindex = index as i32;
            groups.mr_type = libc::PACKET_MR_ALLMULTI as u16;
            let on = 1i32;
            for (option, value, len) in [
                (
                    libc::PACKET_ADD_MEMBERSHIP,
                    (&raw const groups).cast(),
                    size_of_val(&groups),
                ),
                (libc::PACKET_IGNORE_OUTGOING, (&raw const on).cast(), 4),
            ] {
                let set = libc::setsockopt(fd, libc::SOL_PACKET, option, value, len as u32);
                assert_eq!(set, 0, "{}", io::Error::last_os_error());
            }
            wire
        }
    }

    fn receive(&self) -> Option<Vec<u8>> {
        let mut frame = vec![0u8; 2_048];
        // SAFETY: the buffer is as long as it is said to be.
        let len = unsafe {
            libc::recv(
                self.0.as_raw_fd(),
                frame.as_mut_ptr().cast(),
                frame.len(),
                0,
            )
        };
        frame.truncate(usize::try_from(len).ok()?);
        Some(frame)
    }

    /// A link that is down takes nothing, which is what it is to do.
    fn send(&self, frame: &[u8]) {
        // SAFETY: the buffer is as long as it is said to be.
        unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
    }
}

/// Calls `turn` every few milliseconds until it says it is done.
fn until(what: &str, limit: Duration, mut turn: impl FnMut() -> bool) {
    let start = Instant::now();
    while !turn() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Our bond on two cables.
struct Ours {
    bond: Bond,
    wires: [Wire; 2],
    start: Instant,
}

impl Ours {
    fn send(wires: &[Wire; 2], id: u16, frame: &[u8]) {
        wires[usize::from(id) - 1].send(frame);
    }

    fn link(&mut self, id: u16, up: bool) {
        let (now, wires) = (self.start.elapsed(), &self.wires);
        let send = &mut |id, frame: &[u8]| Self::send(wires, id, frame);
        self.bond.link(id, up, 10_000, now, send).unwrap();
    }

    fn turn(&mut self) {
        let (now, wires) = (self.start.elapsed(), &self.wires);
        let send = &mut |id, frame: &[u8]| Self::send(wires, id, frame);
        for (id, wire) in (1..).zip(wires) {
            while let Some(frame) = wire.receive() {
                if frame.get(12..14) == Some(&[0x88, 0x09]) {
                    self.bond.received(id, &frame, now, send).unwrap();
                }
            }
        }
        self.bond.tick(now, send);
    }

    fn until(&mut self, what: &str, limit: u64, mut done: impl FnMut(&Bond) -> bool) {
        until(what, Duration::from_secs(limit), || {
            self.turn();
            done(&self.bond)
        });
    }
}

#[test]
fn lacp_with_open_vswitch() {
    let mut place = Place::new("lacp");
    let wires = [Wire::veth("our0", "ovs0"), Wire::veth("our1", "ovs1")];
    let (database, socket) = (place.path("conf.db"), place.path("db.sock"));
    run(
        "ovsdb-tool",
        &[
            "create",
            &database,
            "/usr/share/openvswitch/vswitch.ovsschema",
        ],
    );
    place.start(
        "ovsdb-server",
        &[&database, &format!("--remote=punix:{socket}")],
    );
    until("ovsdb-server", Duration::from_secs(10), || {
        Path::new(&socket).exists()
    });
    let remote = format!("unix:{socket}");
    let control = place.path("vswitchd.ctl");
    let database = format!("--db={remote}");
    run("ovs-vsctl", &[&database, "--no-wait", "init"]);
    place.start("ovs-vswitchd", &[&remote, &format!("--unixctl={control}")]);
    run(
        "ovs-vsctl",
        &[
            &database,
            "--timeout=20",
            "add-br",
            "peer",
            "--",
            "set",
            "bridge",
            "peer",
            "datapath_type=netdev",
            "--",
            "add-bond",
            "peer",
            "bond0",
            "ovs0",
            "ovs1",
            "bond_mode=balance-tcp",
            "lacp=active",
            "other_config:lacp-time=fast",
            "--",
            "set",
            "interface",
            "ovs0",
            "other_config:lacp-port-id=11",
            "--",
            "set",
            "interface",
            "ovs1",
            "other_config:lacp-port-id=12",
        ],
    );
    let shown = || run("ovs-appctl", &["-t", &control, "lacp/show", "bond0"]);

    let lacp = LacpConfig {
        system: [2, 0, 0, 0, 0x51, 1],
        system_priority: 0x1000,
        key: 77,
        active: true,
        short_timeout: true,
        select: AggregatorSelect::Stable,
        fallback: false,
    };
    let mut bond = Bond::new(BondConfig {
        mode: Mode::Lacp(lacp),
        policy: HashPolicy::Layer34,
        up_delay: Duration::ZERO,
        down_delay: Duration::ZERO,
        min_links: 1,
        announcements: 0,
        announcement_interval: Duration::from_millis(100),
    });
    for id in [1, 2] {
        let member = MemberConfig {
            mac: [2, 0, 0, 0, 0x52, id as u8],
            port_priority: 100 + id,
        };
        bond.add_member(id, &member).unwrap();
    }
    let mut ours = Ours {
        bond,
        wires,
        start: Instant::now(),
    };
    ours.link(1, true);
    ours.link(2, true);
    ours.until("both links carry traffic", 20, |bond| {
        bond.distribution().members() == [1, 2]
    });
    let status = ours.bond.status(2).unwrap().lacp.unwrap();
    assert_eq!(status.mux, Mux::CollectingDistributing);
    assert_eq!(
        (status.partner.port, status.partner.system_priority),
        (12, 0xfffe)
    );
    ours.until("Open vSwitch agrees", 10, |_| {
        shown().matches(": current attached").count() == 2
    });
    let seen = shown();
    assert!(seen.contains("status: active negotiated"), "{seen}");
    for expected in [
        "partner sys_id: 02:00:00:00:51:01",
        "partner sys_priority: 4096",
        "partner port_id: 2",
        "partner port_priority: 102",
        "partner key: 77",
        "partner state: activity timeout aggregation synchronized collecting distributing",
    ] {
        assert!(seen.contains(expected), "{expected} is not in {seen}");
    }
    // For longer than the short timeout: it lasts.
    let end = Instant::now() + Duration::from_secs(5);
    ours.until("a while", 10, |bond| {
        assert_eq!(bond.distribution().members(), [1, 2]);
        Instant::now() > end
    });

    run("ip", &["link", "set", "our0", "down"]);
    ours.link(1, false);
    assert_eq!(ours.bond.distribution().members(), [2], "at once");
    ours.until("Open vSwitch goes on with one", 10, |bond| {
        assert_eq!(bond.distribution().members(), [2]);
        shown().matches(": current attached").count() == 1
    });

    place.stop_peers();
    ours.until("a silent partner is noticed", 6, |bond| !bond.is_up());
    let receive = ours.bond.status(2).unwrap().lacp.unwrap().receive;
    assert_eq!(receive, Receive::Expired);
}

#[test]
fn lldp_with_lldpd() {
    let mut place = Place::new("lldp");
    let wire = Wire::veth("our0", "peer0");
    run(
        "ip",
        &["link", "set", "peer0", "address", "02:00:00:00:0b:01"],
    );
    run("ip", &["address", "add", "192.0.2.11/24", "dev", "peer0"]);
    std::fs::create_dir_all("/run/lldpd").unwrap();
    let socket = place.path("lldpd.sock");
    place.start(
        "lldpd",
        &[
            "-d",
            "-u",
            &socket,
            "-I",
            "peer0",
            "-S",
            "a peer of a test",
            "-m",
            "192.0.2.11",
        ],
    );
    until("lldpd", Duration::from_secs(10), || {
        Path::new(&socket).exists()
    });

    let system = LldpSystem {
        chassis: [2, 0, 0, 0, 0x51, 1],
        name: "sumeru-node".into(),
        description: "Sumeru under test".into(),
        capabilities: Capabilities {
            available: Capabilities::BRIDGE | Capabilities::ROUTER,
            enabled: Capabilities::BRIDGE,
        },
        management: [
            ("192.0.2.1".parse().unwrap(), 3),
            ("fd00::1".parse().unwrap(), 3),
        ]
        .into_iter()
        .collect(),
    };
    let mut agent = Lldp::new(LldpConfig::default(), system).unwrap();
    let port = LldpPortConfig {
        mac: [2, 0, 0, 0, 0x52, 1],
        name: "uplink0".into(),
        description: "to the peer".into(),
        pvid: Some(42),
        aggregation: Some(Aggregation {
            capable: true,
            aggregated: true,
            port: 5,
        }),
        max_frame: Some(9_234),
    };
    agent.add_port(1, port).unwrap();
    let start = Instant::now();
    agent.link(1, true, start.elapsed()).unwrap();
    let lldpcli = |arguments: &[&str]| {
        let arguments = [&["-u", &socket], arguments].concat();
        run("lldpcli", &arguments)
    };
    let turn = |agent: &mut Lldp| {
        while let Some(frame) = wire.receive() {
            if frame.get(12..14) == Some(&[0x88, 0xcc]) {
                agent.received(1, &frame, start.elapsed()).unwrap();
            }
        }
        agent.tick(start.elapsed(), &mut |_, frame| wire.send(frame));
    };
    let neighbours = || lldpcli(&["-f", "keyvalue", "show", "neighbors", "details"]);
    until("lldpd sees us", Duration::from_secs(15), || {
        turn(&mut agent);
        neighbours().contains("lldp.peer0.")
    });
    let seen = neighbours();
    for expected in [
        "chassis.mac=02:00:00:00:51:01",
        "chassis.name=sumeru-node",
        "chassis.descr=Sumeru under test",
        "chassis.mgmt-ip=192.0.2.1",
        "chassis.mgmt-ip=fd00::1",
        "chassis.Bridge.enabled=on",
        "chassis.Router.enabled=off",
        "port.ifname=uplink0",
        "port.descr=to the peer",
        "port.mfs=9234",
        "port.aggregation=5",
        "ttl=121",
        "vlan.vlan-id=42",
    ] {
        let found = seen.lines().any(|line| line.ends_with(expected));
        assert!(found, "{expected} is not in {seen}");
    }

    lldpcli(&["configure", "lldp", "tx-interval", "5"]);
    until("we see lldpd", Duration::from_secs(15), || {
        turn(&mut agent);
        agent.neighbours().next().is_some()
    });
    let (number, neighbour) = agent.neighbours().next().unwrap();
    assert_eq!((number, neighbour.source), (1, [2, 0, 0, 0, 0x0b, 1]));
    let pdu = &neighbour.pdu;
    assert_eq!(pdu.chassis.to_string(), "02:00:00:00:0b:01");
    assert_eq!(
        pdu.system_description.as_ref().unwrap().bytes(),
        b"a peer of a test"
    );
    assert_eq!(
        pdu.management[0].address,
        Some("192.0.2.11".parse().unwrap())
    );
    assert_eq!(pdu.discarded, 0);

    // Both ways of taking leave.
    agent
        .remove_port(1, &mut |_, frame| wire.send(frame))
        .unwrap();
    until("lldpd forgets us", Duration::from_secs(5), || {
        !neighbours().contains("lldp.peer0.")
    });
}
