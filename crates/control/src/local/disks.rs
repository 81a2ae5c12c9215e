//! Volumes and their controllers on the engine's block devices.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use sumeru_block::{
    Bdev, BdevError, BlkError, BlkMonitor, BlkOptions, Direct, FileDisk, FileOptions, MemoryDisk,
    NullDisk, QueueReport, VirtioBlk,
};

use super::{LiveController, LiveVolume, Local, expose, unknown};
use crate::dataplane::{Done, Refusal, VolumeStats};
use crate::model::{Controller, Volume, VolumeKind};

impl From<BdevError> for Refusal {
    fn from(error: BdevError) -> Self {
        Self::Inner(Box::new(error))
    }
}

impl From<BlkError> for Refusal {
    fn from(error: BlkError) -> Self {
        Self::Inner(Box::new(error))
    }
}

impl Local {
    pub(super) fn open_volume(&mut self, volume: &Volume) -> Done {
        let spec = &volume.spec;
        let (name, uuid, block) = (spec.name.as_str(), volume.uuid, spec.block_size.bytes());
        let bdev: Arc<dyn Bdev> = match &spec.kind {
            VolumeKind::Memory { size } => {
                let disk = MemoryDisk::new(name, uuid, size.bytes(), block)?;
                // All of it now, on this thread: the first touch of a page would stall an lcore.
                disk.populate()?;
                Arc::new(disk)
            }

            VolumeKind::Null { size } => Arc::new(NullDisk::new(name, uuid, size.bytes(), block)?),
            VolumeKind::File {
                path,
                direct,
                size,
                create,
            } => {
                let options = FileOptions {
                    create: size.filter(|_| *create).map(|size| size.bytes()),
                    read_only: spec.read_only,
                    direct: if *direct {
                        Direct::Always
                    } else {
                        Direct::Never
                    },
                    block_size: Some(block),
                };
                let disk = FileDisk::open(name, uuid, Path::new(path), &options)?;
                if let Some(size) = size
                    && disk.info().bytes() != size.bytes()
                {
                    return Err(Refusal::Field {
                        field: "size",
                        found: size.bytes().to_string(),
                        expected: format!("{}, the size of {path}", disk.info().bytes()),
                    });
                }
                Arc::new(disk)
            }
        };
        self.volumes.insert(
            spec.name.clone(),
            LiveVolume {
                bdev,
                past: VolumeStats::default(),
            },
        );
        Ok(())
    }

    pub(super) fn resize(&mut self, new: &Volume) -> Done {
        let name = &new.spec.name;
        let volume = self
            .volumes
            .get(name)
            .ok_or_else(|| unknown("volume", name))?;
        let Some(size) = new.spec.kind.size() else {
            return Ok(());
        };
        Ok(volume.bdev.resize(size.bytes())?)
    }

    pub(super) fn open_controller(&mut self, controller: &Controller, volume: &Volume) -> Done {
        let spec = &controller.spec;
        let bdev = self
            .volumes
            .get(&spec.volume)
            .ok_or_else(|| unknown("volume", &spec.volume))?
            .bdev
            .clone();
        if spec.read_only && !bdev.info().read_only {
            return Err(Refusal::Unsupported {
                what: format!(
                    "a read-only controller on volume {}, which is writable",
                    spec.volume
                ),
                expected: "read_only on the volume".to_owned(),
            });
        }
        // The first lcore has the ports; disks go to the others where there are any.
        let lcores = if self.lcores.len() > 1 {
            &self.lcores[1..]
        } else {
            &self.lcores[..]
        };
        let offset = self.controllers.len() % lcores.len().max(1);
        let lcores: Vec<_> = lcores
            .iter()
            .cycle()
            .skip(offset)
            .take(lcores.len())
            .cloned()
            .collect();
        let cpus = lcores.iter().map(|lcore| lcore.cpu() as u16).collect();
        // 20 bytes of ASCII (virtio 1.2, 5.2.6.1); the UUID without its dashes is longer, its start is unique enough.
        let serial = spec
            .serial
            .clone()
            .unwrap_or_else(|| volume.uuid.simple().to_string()[..20].to_owned());
        let options = BlkOptions {
            name: spec.name.clone(),
            serial,
            queues: spec.queues,
            lcores,
        };
        let device = VirtioBlk::new(bdev, options)?;
        let monitor = device.monitor();
        let endpoint = expose(spec.mode, &spec.socket, Box::new(device))?;
        let live = LiveController {
            endpoint,
            monitor,
            volume: spec.volume.clone(),
            cpus,
        };
        self.controllers.insert(spec.name.clone(), live);
        Ok(())
    }

    pub(super) fn close_controller(&mut self, name: &str) -> Done {
        let live = self
            .controllers
            .remove(name)
            .ok_or_else(|| unknown("controller", name))?;
        let LiveController {
            endpoint,
            monitor,
            volume,
            cpus,
        } = live;
        endpoint.shutdown();
        add_ios(&mut self.past_ios, &monitor, &cpus);
        if let Some(volume) = self.volumes.get_mut(&volume) {
            monitor
                .queues()
                .for_each(|queue| add(&mut volume.past, &queue));
        }
        Ok(())
    }
}

/// Adds what a controller's queues completed to the sums of the CPUs that they are on: queue after queue, round the controller's list.
pub(super) fn add_ios(sums: &mut HashMap<u16, u64>, monitor: &BlkMonitor, cpus: &[u16]) {
    for (queue, cpu) in monitor.queues().zip(cpus.iter().cycle()) {
        *sums.entry(*cpu).or_default() += queue.reads + queue.writes + queue.flushes + queue.unmaps;
    }
}

/// Adds a queue's counts to a volume's.
pub(super) fn add(sum: &mut VolumeStats, queue: &QueueReport) {
    sum.reads += queue.reads;
    sum.read_bytes += queue.read_bytes;
    sum.writes += queue.writes;
    sum.write_bytes += queue.written_bytes;
    sum.flushes += queue.flushes;
    sum.discards += queue.unmaps;
    sum.errors += queue.errors;
}
