//! Connections: looking at them, how they are tracked, and keeping them over an orderly restart.
//!
//! The file has a head (what the indexes of ports meant) in front of the connections themselves, both with a version and a checksum. It is used once: read at the
//! next start and removed, or set aside if it is damaged.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::Control;
use crate::dataplane::{
    ConnectionFilter, ConnectionPage, ConnectionStats, KeptConnections, Refusal,
};
use crate::error::Error;
use crate::inventory::Inventory;
use crate::settings::{PortLimit, Settings, TimeoutSetting, ZoneSetting};

const MAGIC: &[u8; 8] = b"SUMERUKC";
/// Version of the head.
const VERSION: u32 = 1;
/// Most bytes of a head: 4096 ports with long names.
const HEAD_MAX: u32 = 4 << 20;

/// What a daemon is started with besides its objects.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// The file's sections that are no objects.
    pub settings: Settings,
    /// Where connections are kept over a restart; nowhere without one.
    pub kept: Option<PathBuf>,
}

/// One change of how connections are tracked.
#[derive(Debug, Clone)]
pub enum Tracking {
    /// A zone's policy.
    Zone(ZoneSetting),
    /// A timeout.
    Timeout(TimeoutSetting),
    /// A port's limit.
    Port(PortLimit),
}

/// Why kept connections are not used.
#[derive(Debug, thiserror::Error)]
enum Damage {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it is no file of connections")]
    Magic,
    #[error("it has version {0}, expected {VERSION}")]
    Version(u32),
    #[error("its head is damaged")]
    Head,
    #[error("{0}")]
    Refused(Refusal),
}

/// FNV-1a, against accidents.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn indexes(inventory: &Inventory) -> BTreeMap<String, u16> {
    let index =
        |port: &std::sync::Arc<crate::model::Port>| (port.spec.name.clone(), port.spec.index());
    inventory.ports().map(index).collect()
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

pub(super) fn write_head(file: &mut File, ports: &BTreeMap<String, u16>) -> io::Result<()> {
    let head = serde_json::to_vec(ports)?;
    let length = u32::try_from(head.len()).map_err(io::Error::other)?;
    file.write_all(MAGIC)?;
    file.write_all(&VERSION.to_le_bytes())?;
    file.write_all(&length.to_le_bytes())?;
    file.write_all(&checksum(&head).to_le_bytes())?;
    file.write_all(&head)
}

fn read_head(file: &mut File) -> Result<BTreeMap<String, u16>, Damage> {
    let (mut magic, mut word, mut sum) = ([0; 8], [0; 4], [0; 8]);
    file.read_exact(&mut magic)?;
    if magic != *MAGIC {
        return Err(Damage::Magic);
    }
    file.read_exact(&mut word)?;
    match u32::from_le_bytes(word) {
        VERSION => {}
        other => return Err(Damage::Version(other)),
    }
    file.read_exact(&mut word)?;
    let length = u32::from_le_bytes(word);
    if length > HEAD_MAX {
        return Err(Damage::Head);
    }
    file.read_exact(&mut sum)?;
    let mut head = vec![0; length as usize];
    file.read_exact(&mut head)?;
    if checksum(&head) != u64::from_le_bytes(sum) {
        return Err(Damage::Head);
    }
    serde_json::from_slice(&head).map_err(|_| Damage::Head)
}

fn refused(action: &'static str) -> impl FnOnce(Refusal) -> Error {
    move |refusal| Error::Refused {
        action,
        object: "connections".to_owned(),
        refusal,
    }
}

impl Control {
    /// The settings that the daemon runs with.
    pub fn settings(&self) -> &Settings {
        &self.setup.settings
    }

    /// Some connections, from `cursor` on, which is 0 at first.
    ///
    /// # Errors
    /// A state that there is not; an lcore that is gone.
    pub fn connections(
        &self,
        filter: &ConnectionFilter,
        cursor: u64,
        limit: usize,
    ) -> Result<ConnectionPage, Error> {
        self.plane
            .connections(filter, cursor, limit)
            .map_err(refused("list"))
    }

    /// Ends connections; answers how many.
    ///
    /// # Errors
    /// As [`Self::connections`].
    pub fn flush_connections(&mut self, filter: &ConnectionFilter) -> Result<u64, Error> {
        self.plane
            .flush_connections(filter)
            .map_err(refused("flush"))
    }

    /// Sums of the connections of every lcore.
    ///
    /// # Errors
    /// An lcore that is gone.
    pub fn connection_stats(&self) -> Result<Vec<ConnectionStats>, Error> {
        self.plane.connection_stats().map_err(refused("count"))
    }

    /// Changes how connections are tracked, until the daemon ends.
    ///
    /// # Errors
    /// A port that there is not; an lcore that is gone. Nothing has changed then.
    pub fn set_tracking(&mut self, change: Tracking) -> Result<(), Error> {
        let mut settings = self.setup.settings.clone();
        let switch = &mut settings.switch;
        match change {
            Tracking::Zone(zone) => {
                switch.zones.retain(|known| known.zone != zone.zone);
                switch.zones.push(zone);
            }
            Tracking::Timeout(new) => {
                switch
                    .timeouts
                    .retain(|known| (known.policy, known.state) != (new.policy, new.state));
                switch.timeouts.push(new);
            }
            Tracking::Port(mut limit) => {
                limit.port = self.inventory.port_by(&limit.port)?.spec.name.clone();
                switch.port_limits.retain(|known| known.port != limit.port);
                switch.port_limits.push(limit);
            }
        }
        self.use_settings(settings)
    }

    /// Takes over the settings of a file that is loaded.
    ///
    /// # Errors
    /// A setting that cannot change while the daemon runs.
    pub fn use_settings(&mut self, new: Settings) -> Result<(), Error> {
        let old = &self.setup.settings;
        let fixed = [
            (
                "daemon",
                "metrics",
                old.daemon.metrics != new.daemon.metrics,
            ),
            (
                "switch",
                "connections",
                old.switch.connections != new.switch.connections,
            ),
            (
                "switch",
                "early_drop",
                old.switch.early_drop != new.switch.early_drop,
            ),
        ];
        if let Some((section, field, _)) = fixed.iter().find(|(.., differs)| *differs) {
            return Err(Error::Fixed {
                object: (*section).to_owned(),
                fields: vec![(*field).to_owned()],
                expected: "the daemon to be restarted with it",
            });
        }
        if old.switch != new.switch {
            let ports = indexes(&self.inventory);
            let done = self.plane.set_tracking(&new.switch, &ports);
            done.map_err(refused("set"))?;
        }
        self.setup.settings = new;
        Ok(())
    }

    /// Limits of ports follow ports that come and go.
    pub(super) fn follow_ports(&mut self) {
        if self.setup.settings.switch.port_limits.is_empty() {
            return;
        }
        let ports = indexes(&self.inventory);
        if let Err(error) = self.plane.set_tracking(&self.setup.settings.switch, &ports) {
            tracing::error!(%error, "the limits of ports are not in force");
        }
    }

    /// Tells a data plane that has no port yet how to track connections, and gives it those of the last run. `wanted` has the ports that will be made.
    pub(super) fn start_tracking(&mut self, wanted: &Inventory) -> Result<(), Error> {
        let ports = indexes(wanted);
        let done = self.plane.set_tracking(&self.setup.settings.switch, &ports);
        done.map_err(refused("set"))?;
        let Some(path) = self.setup.kept.clone() else {
            return Ok(());
        };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "the connections of the last run cannot be read");
                return Ok(());
            }
        };
        let done = match self.revive(file, &ports) {
            Ok(kept) => {
                tracing::info!(
                    restored = kept.restored,
                    skipped = kept.skipped,
                    "connections of the last run live on"
                );
                // What they were is over as soon as frames come.
                fs::remove_file(&path)
            }
            Err(damage) => {
                let aside = beside(&path, ".damaged");
                tracing::error!(path = %path.display(), %damage, set_aside = %aside.display(), "the connections of the last run are lost");
                fs::rename(&path, &aside)
            }
        };
        if let Err(error) = done {
            tracing::warn!(path = %path.display(), %error, "the file of connections stays");
        }
        Ok(())
    }

    fn revive(
        &mut self,
        mut file: File,
        now: &BTreeMap<String, u16>,
    ) -> Result<KeptConnections, Damage> {
        let then = read_head(&mut file)?;
        let ports = then
            .iter()
            .filter_map(|(name, index)| Some((*index, *now.get(name)?)))
            .collect();
        let done = self.plane.restore_connections(file, ports);
        done.map_err(Damage::Refused)
    }

    /// Keeps the connections for the next start. Called when nothing else will be asked of the data plane.
    pub(super) fn keep_connections(&mut self) {
        let Some(path) = self.setup.kept.clone() else {
            return;
        };
        let new = beside(&path, ".new");
        let kept = self.write_connections(&new).and_then(|count| {
            if count == 0 {
                fs::remove_file(&new)?;
            } else {
                fs::rename(&new, &path)?;
            }
            Ok(count)
        });
        match kept {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, path = %path.display(), "connections are kept"),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "connections are not kept");
                let _ = fs::remove_file(&new);
            }
        }
    }

    fn write_connections(&mut self, path: &Path) -> io::Result<u64> {
        let mut file = File::create(path)?;
        write_head(&mut file, &indexes(&self.inventory))?;
        let done = self.plane.save_connections(file);
        done.map_err(|refusal| io::Error::other(refusal.to_string()))
    }
}
