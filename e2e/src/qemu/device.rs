//! A guest's network and disk devices and the arguments by which QEMU makes them.
//! Property lists are QEMU's (`qemu -device virtio-net-pci,help`); vhost-user needs the guest's memory shared.

use std::path::{Path, PathBuf};

use super::Accelerator;
use crate::peers::QemuVersion;

/// Which side of a vhost-user socket listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SocketRole {
    /// QEMU connects to a back end that listens, and connects again within a second whenever it is lost.
    #[default]
    QemuConnects,
    /// QEMU listens and waits for the back end before it starts the guest.
    QemuListens,
}

/// A virtio-net device whose back end is behind a vhost-user socket.
#[derive(Debug, Clone)]
pub struct Nic {
    socket: PathBuf,
    mac: String,
    queues: u16,
    role: SocketRole,
    properties: Vec<String>,
}

impl Nic {
    /// One queue pair, all of QEMU's default features. `mac` as `52:54:00:...`.
    pub fn new(socket: impl Into<PathBuf>, mac: &str) -> Self {
        Self {
            socket: socket.into(),
            mac: mac.to_owned(),
            queues: 1,
            role: SocketRole::default(),
            properties: Vec::new(),
        }
    }

    /// The number of queue pairs.
    #[must_use]
    pub fn queues(mut self, pairs: u16) -> Self {
        self.queues = pairs.max(1);
        self
    }

    /// Which side listens.
    #[must_use]
    pub fn role(mut self, role: SocketRole) -> Self {
        self.role = role;
        self
    }

    /// A property of virtio-net-pci, such as `packed=on` or `host_mtu=9000`.
    #[must_use]
    pub fn property(mut self, property: &str) -> Self {
        self.properties.push(property.to_owned());
        self
    }

    pub(super) fn arguments(
        &self,
        index: usize,
        version: QemuVersion,
        accelerator: Accelerator,
    ) -> Vec<String> {
        let Self { mac, queues, .. } = self;
        // Without an option ROM: the guest never boots from the network, and the firmware saves a second.
        let mut device =
            format!("virtio-net-pci,id=nic{index},netdev=net{index},mac={mac},romfile=");
        if (version, accelerator) == (QemuVersion::V7_2, Accelerator::Tcg) {
            // QEMU 7.2 takes KVM's interrupt routes for granted when a guest unmasks an MSI-X vector of a vhost-user
            // NIC, and crashes without KVM. Later generations ask first. Without vectors the guest uses INTx.
            device += if *queues > 1 {
                ",mq=on,vectors=0"
            } else {
                ",vectors=0"
            };
        } else if *queues > 1 {
            // One vector for each ring, one for configuration and one for the control queue.
            device += &format!(",mq=on,vectors={}", 2 * queues + 2);
        }
        for property in &self.properties {
            device += &format!(",{property}");
        }
        vec![
            "-chardev".into(),
            chardev(&format!("netsock{index}"), &self.socket, self.role, version),
            "-netdev".into(),
            format!("vhost-user,id=net{index},chardev=netsock{index},queues={queues}"),
            "-device".into(),
            device,
        ]
    }
}

/// A virtio-blk device whose back end is behind a vhost-user socket.
#[derive(Debug, Clone)]
pub struct Disk {
    socket: PathBuf,
    queues: u16,
    role: SocketRole,
    properties: Vec<String>,
}

impl Disk {
    /// One request queue.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            queues: 1,
            role: SocketRole::default(),
            properties: Vec::new(),
        }
    }

    /// The number of request queues.
    #[must_use]
    pub fn queues(mut self, queues: u16) -> Self {
        self.queues = queues.max(1);
        self
    }

    /// Which side listens.
    #[must_use]
    pub fn role(mut self, role: SocketRole) -> Self {
        self.role = role;
        self
    }

    /// A property of vhost-user-blk-pci, such as `config-wce=off`.
    #[must_use]
    pub fn property(mut self, property: &str) -> Self {
        self.properties.push(property.to_owned());
        self
    }

    pub(super) fn arguments(&self, index: usize, version: QemuVersion) -> Vec<String> {
        let mut device = format!(
            "vhost-user-blk-pci,id=disk{index},chardev=blksock{index},num-queues={}",
            self.queues
        );
        for property in &self.properties {
            device += &format!(",{property}");
        }
        vec![
            "-chardev".into(),
            chardev(&format!("blksock{index}"), &self.socket, self.role, version),
            "-device".into(),
            device,
        ]
    }
}

fn chardev(id: &str, socket: &Path, role: SocketRole, version: QemuVersion) -> String {
    let role = match (role, version) {
        (SocketRole::QemuListens, _) => "server=on,wait=on",
        (SocketRole::QemuConnects, QemuVersion::V7_2) => "server=off,reconnect=1",
        // QEMU 9.2 renamed it, QEMU 10 removed the old name.
        (SocketRole::QemuConnects, QemuVersion::V11_1) => "server=off,reconnect-ms=1000",
    };
    format!("socket,id={id},path={},{role}", socket.display())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_version_gets_its_own_reconnect_option() {
        let disk = Disk::new("/s").queues(4).property("config-wce=off");
        let old = disk.arguments(0, QemuVersion::V7_2);
        assert_eq!(old[1], "socket,id=blksock0,path=/s,server=off,reconnect=1");
        assert_eq!(
            old[3],
            "vhost-user-blk-pci,id=disk0,chardev=blksock0,num-queues=4,config-wce=off"
        );
        assert!(disk.arguments(0, QemuVersion::V11_1)[1].ends_with("reconnect-ms=1000"));
    }

    #[test]
    fn several_queue_pairs_get_their_vectors() {
        let nic = Nic::new("/n", "52:54:00:00:00:01")
            .queues(2)
            .role(SocketRole::QemuListens);
        let arguments = nic.arguments(3, QemuVersion::V7_2, Accelerator::Kvm);
        assert_eq!(arguments[1], "socket,id=netsock3,path=/n,server=on,wait=on");
        assert_eq!(arguments[3], "vhost-user,id=net3,chardev=netsock3,queues=2");
        assert!(arguments[5].ends_with(",mq=on,vectors=6"));
        let emulated = nic.arguments(3, QemuVersion::V7_2, Accelerator::Tcg);
        assert!(emulated[5].ends_with(",mq=on,vectors=0"));
    }
}
