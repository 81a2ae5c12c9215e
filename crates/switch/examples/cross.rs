//! Two vhost-user ports cross-connected by two rules on one lcore, for measuring the switch alone:
//! `cargo run --release -p sumeru-switch --example cross -- CPU SOCKET SOCKET`. Prints packets and busy cycles per packet each second.

use std::path::Path;
use std::sync::Arc;

use sumeru_engine::{IdlePolicy, Lcore, LcoreConfig};
use sumeru_flow::syntax::{Command, parse};
use sumeru_switch::snapshot::PortView;
use sumeru_switch::stats::{DropReason, Stage};
use sumeru_switch::switch::Switch;
use sumeru_virtio::vhost_user::Endpoint;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let cpu = args.next().ok_or("CPU")?.parse()?;
    let lcore = Arc::new(Lcore::start(LcoreConfig {
        cpu,
        idle: IdlePolicy { spin: None },
    })?);
    let mut switch = Switch::new(std::slice::from_ref(&lcore))?;
    let mut endpoints = Vec::new();
    for (index, socket) in args.enumerate() {
        let index = index as u16;
        let view = PortView {
            index,
            name: format!("p{index}").into(),
            network: None,
            mtu: 9000,
            uplink: false,
            lldp: false,
            shield: None,
        };
        let (device, _) = switch.add_guest(view, 1, [2, 0, 0, 0, 0, index as u8])?;
        endpoints.push(Endpoint::listen(Path::new(&socket), Box::new(device))?);
    }
    for port in 0..2_u16 {
        let text = format!(
            "create {port} ingress pattern eth / end actions represented_port ethdev_port_id {} / end",
            1 - port
        );
        let Command::Create { rule, .. } = parse(&text)? else {
            return Err("not a rule".into());
        };
        switch.insert_rule(port, 0, &rule)?;
    }
    let mut before = lcore.report()?;
    loop {
        std::thread::sleep(std::time::Duration::from_secs(1));
        let now = lcore.report()?;
        let (packets, busy) = (now.work - before.work, now.busy - before.busy);
        let drops: Vec<String> = DropReason::all()
            .filter(|reason| switch.drops(*reason) > 0)
            .map(|reason| format!("{} {}", reason.as_str(), switch.drops(reason)))
            .collect();
        println!(
            "{:.3} Mpps, {:.1} busy cycles per packet, {:.1} % busy, {:.1} packets per batch, exact {} slow {} drops {drops:?}",
            packets as f64 / 1e6,
            busy as f64 / packets.max(1) as f64,
            100.0 * busy as f64 / (now.elapsed - before.elapsed) as f64,
            packets as f64 / (now.busy_loops - before.busy_loops).max(1) as f64,
            switch.stage(Stage::Known) + switch.stage(Stage::ExactHit),
            switch.stage(Stage::SlowPath),
        );
        before = now;
    }
}
