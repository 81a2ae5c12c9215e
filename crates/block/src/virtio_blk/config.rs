//! The configuration space of a block device (Virtio 1.2, section 5.2.4) and the features that go with it (5.2.3).

use sumeru_virtio::features::{blk, ring};
use zerocopy::{FromZeros, Immutable, IntoBytes, little_endian as le};

use crate::bdev::BdevInfo;

use super::request::SECTOR;

/// Most pieces of a request's data that the device announces: with header and status they fill a queue of 128.
pub const SEG_MAX: u32 = 126;
/// Where `writeback` lies: the one field that a driver may write.
pub const WRITEBACK_AT: u32 = 32;
/// Largest value of a 32-bit number of sectors that is a whole number of 64 KiB blocks.
const MAX_SECTORS: u64 = 0xffff_ff80;

/// `struct virtio_blk_config`, all of it.
#[derive(Clone, Copy, Debug, FromZeros, IntoBytes, Immutable)]
#[repr(C)]
pub struct BlkConfig {
    /// In sectors of 512 bytes.
    pub capacity: le::U64,
    /// Not offered: zero.
    pub size_max: le::U32,
    /// Most pieces of a request's data.
    pub seg_max: le::U32,
    /// Not offered: zero.
    pub geometry: [u8; 4],
    /// Logical block in bytes.
    pub blk_size: le::U32,
    /// Logical blocks per physical block, as a power of two.
    pub physical_block_exp: u8,
    /// Zero: logical block 0 begins a physical block.
    pub alignment_offset: u8,
    /// Best smallest I/O in logical blocks.
    pub min_io_size: le::U16,
    /// Best I/O in logical blocks; 0: no preference.
    pub opt_io_size: le::U32,
    /// 1: write-back, 0: write-through.
    pub writeback: u8,
    /// Zero.
    pub unused0: u8,
    /// Request queues.
    pub num_queues: le::U16,
    /// Largest discard in sectors.
    pub max_discard_sectors: le::U32,
    /// One.
    pub max_discard_seg: le::U32,
    /// Best alignment of a discard in sectors.
    pub discard_sector_alignment: le::U32,
    /// Largest write-zeroes in sectors.
    pub max_write_zeroes_sectors: le::U32,
    /// One.
    pub max_write_zeroes_seg: le::U32,
    /// Whether write-zeroes may give space back.
    pub write_zeroes_may_unmap: u8,
    /// Zero.
    pub unused1: [u8; 3],
}
const _: () = assert!(size_of::<BlkConfig>() == 60);

/// Largest range in bytes that the configuration space can say.
pub fn range_limit(bytes: u64) -> u64 {
    (bytes / SECTOR).min(MAX_SECTORS) * SECTOR
}

/// The features that a device over such a disk offers.
pub fn features(info: &BdevInfo, queues: u16) -> u64 {
    let mut features = ring::VERSION_1
        | ring::INDIRECT_DESC
        | ring::EVENT_IDX
        | blk::SEG_MAX
        | blk::BLK_SIZE
        | blk::FLUSH
        | blk::TOPOLOGY
        | blk::CONFIG_WCE;
    if queues > 1 {
        features |= blk::MQ;
    }
    if info.read_only {
        return features | blk::RO;
    }
    if info.discard.is_some() {
        features |= blk::DISCARD;
    }
    if info.write_zeroes.is_some() {
        features |= blk::WRITE_ZEROES;
    }
    features
}

impl BlkConfig {
    /// What the space says of a disk as it is now.
    pub fn of(info: &BdevInfo, queues: u16, writeback: bool) -> Self {
        let block = info.block_size;
        let sectors = |bytes: u64| le::U32::new((range_limit(bytes) / SECTOR) as u32);
        let mut config = Self::new_zeroed();
        config.capacity = (info.bytes() / SECTOR).into();
        config.seg_max = SEG_MAX.into();
        config.blk_size = block.into();
        let per_physical = (info.physical_block_size / block).max(1);
        config.physical_block_exp = per_physical.ilog2() as u8;
        config.min_io_size = u16::try_from(per_physical).unwrap_or(u16::MAX).into();
        config.opt_io_size = (info.optimal_io / block).into();
        config.writeback = writeback.into();
        config.num_queues = queues.into();
        if let Some(limit) = info.discard {
            config.max_discard_sectors = sectors(limit.max_bytes);
            config.max_discard_seg = 1.into();
            config.discard_sector_alignment = sectors(limit.alignment);
        }
        if let Some(limit) = info.write_zeroes {
            config.max_write_zeroes_sectors = sectors(limit.max_bytes);
            config.max_write_zeroes_seg = 1.into();
            config.write_zeroes_may_unmap = 1;
        }
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bdev::RangeLimit;

    #[test]
    fn the_space_has_the_standards_layout() {
        let info = BdevInfo {
            name: "disk".into(),
            uuid: uuid::Uuid::nil(),
            block_size: 512,
            blocks: 0x1_0000_0002,
            physical_block_size: 4096,
            optimal_io: 65536,
            read_only: false,
            volatile_cache: true,
            discard: Some(RangeLimit {
                max_bytes: u64::MAX,
                alignment: 4096,
            }),
            write_zeroes: Some(RangeLimit {
                max_bytes: 1 << 20,
                alignment: 512,
            }),
        };
        let config = BlkConfig::of(&info, 4, true);
        let bytes = config.as_bytes();
        assert_eq!(bytes[0..8], [2, 0, 0, 0, 1, 0, 0, 0], "capacity");
        assert_eq!(bytes[12..16], [126, 0, 0, 0], "seg_max");
        assert_eq!(bytes[20..24], [0, 2, 0, 0], "blk_size");
        assert_eq!(bytes[24..32], [3, 0, 8, 0, 128, 0, 0, 0], "topology");
        assert_eq!(bytes[32..36], [1, 0, 4, 0], "writeback, num_queues");
        assert_eq!(
            bytes[36..40],
            [0x80, 0xff, 0xff, 0xff],
            "max_discard_sectors"
        );
        assert_eq!(
            bytes[40..48],
            [1, 0, 0, 0, 8, 0, 0, 0],
            "discard seg, alignment"
        );
        assert_eq!(
            bytes[48..60],
            [0, 8, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0],
            "write zeroes"
        );
        let read_only = BdevInfo {
            read_only: true,
            ..info
        };
        let offered = features(&read_only, 1);
        assert_eq!(
            offered & (blk::RO | blk::DISCARD | blk::WRITE_ZEROES | blk::MQ),
            blk::RO
        );
    }
}
