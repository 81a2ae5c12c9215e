//! The pass that checks data: writes blocks whose every 8 bytes follow from seed, block number and generation, reads them
//! back and compares. Overwrites some blocks with a later generation first, so that a lost or misplaced write shows.

use super::Random;
use crate::frontend::FrontendError;
use crate::frontend::blk::{BlkDevice, Operation, SECTOR};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);

/// What to check.
#[derive(Debug, Clone, Copy)]
pub struct Verify {
    /// Bytes of a block; a multiple of 512 up to the device's slot size.
    pub block_bytes: u32,
    /// Blocks of the device that are used, from its start; less if it is smaller.
    pub blocks: u64,
    /// Writes to make; a block's last one counts.
    pub writes: u64,
    /// Requests in flight.
    pub depth: u16,
    /// Start of the random sequence, and part of every pattern.
    pub seed: u64,
}

/// What was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// Writes made.
    pub writes: u64,
    /// Different blocks read back, every byte of which was as last written.
    pub blocks: u64,
}

/// Writes, flushes, reads back, compares.
///
/// # Errors
/// [`FrontendError::Block`] names the first wrong block; others as the device's.
pub fn run(device: &mut BlkDevice, verify: &Verify) -> Result<Verified, FrontendError> {
    let sectors = u64::from(verify.block_bytes) / SECTOR;
    let blocks = verify
        .blocks
        .min(device.capacity_sectors() / sectors.max(1));
    let depth = verify.depth.min(device.slots());
    if blocks < u64::from(depth) || depth == 0 || verify.block_bytes > device.slot_bytes() {
        let reason = format!(
            "cannot verify {blocks} blocks of {} bytes at depth {depth}",
            verify.block_bytes
        );
        return Err(FrontendError::Block {
            kind: "write",
            sector: 0,
            reason,
        });
    }
    let mut numbers = Random::new(verify.seed);
    let mut generations = vec![0u32; blocks as usize];
    let mut bytes = vec![0u8; verify.block_bytes as usize];
    let mut pipeline = Pipeline::new(depth, verify.block_bytes);
    for _ in 0..verify.writes {
        // Two writes of one block in flight have no order, so a busy block is passed over.
        let block = loop {
            let block = numbers.below(blocks);
            if !pipeline.has(block) {
                break block;
            }
        };
        let slot = pipeline.slot(device, &mut |_, _, _| Ok(()))?;
        generations[block as usize] += 1;
        fill(&mut bytes, verify.seed, block, generations[block as usize]);
        device.write_data(slot, &bytes);
        pipeline.submit(device, slot, Operation::Write, block)?;
    }
    pipeline.drain(device, &mut |_, _, _| Ok(()))?;
    device.run(Operation::Flush, 0, 0)?;

    let mut checked = 0;
    let mut expected = vec![0u8; verify.block_bytes as usize];
    let mut check = |device: &BlkDevice, slot: u16, block: u64| {
        device.read_data(slot, &mut bytes);
        fill(
            &mut expected,
            verify.seed,
            block,
            generations[block as usize],
        );
        checked += 1;
        match bytes
            .iter()
            .zip(&expected)
            .position(|(got, want)| got != want)
        {
            None => Ok(()),
            Some(at) => {
                let reason = format!(
                    "byte {at} is {:#04x}, {:#04x} was written",
                    bytes[at], expected[at]
                );
                Err(FrontendError::Block {
                    kind: "read",
                    sector: block * sectors,
                    reason,
                })
            }
        }
    };
    let poison = vec![0xa5u8; verify.block_bytes as usize];
    for block in (0..blocks).filter(|&block| generations[block as usize] > 0) {
        let slot = pipeline.slot(device, &mut check)?;
        device.write_data(slot, &poison);
        pipeline.submit(device, slot, Operation::Read, block)?;
    }
    pipeline.drain(device, &mut check)?;
    Ok(Verified {
        writes: verify.writes,
        blocks: checked,
    })
}

/// Fills `bytes` with the pattern of one block: every 8 bytes differ from every other 8 bytes ever written.
pub fn fill(bytes: &mut [u8], seed: u64, block: u64, generation: u32) {
    let mut numbers =
        Random::new(seed ^ block.rotate_left(32) ^ u64::from(generation).rotate_left(8));
    for word in bytes.chunks_exact_mut(8) {
        word.copy_from_slice(&numbers.draw().to_le_bytes());
    }
}

type OnDone<'a> = &'a mut dyn FnMut(&BlkDevice, u16, u64) -> Result<(), FrontendError>;

struct Pipeline {
    free: Vec<u16>,
    busy: Vec<Option<(Operation, u64)>>,
    block_bytes: u32,
}

impl Pipeline {
    fn new(depth: u16, block_bytes: u32) -> Self {
        Self {
            free: (0..depth).collect(),
            busy: vec![None; depth.into()],
            block_bytes,
        }
    }

    fn has(&self, block: u64) -> bool {
        self.busy.iter().flatten().any(|&(_, busy)| busy == block)
    }

    fn slot(&mut self, device: &mut BlkDevice, done: OnDone<'_>) -> Result<u16, FrontendError> {
        loop {
            if let Some(slot) = self.free.pop() {
                return Ok(slot);
            }
            self.reap(device, done)?;
        }
    }

    fn submit(
        &mut self,
        device: &mut BlkDevice,
        slot: u16,
        operation: Operation,
        block: u64,
    ) -> Result<(), FrontendError> {
        device.submit(
            slot,
            operation,
            block * u64::from(self.block_bytes) / SECTOR,
            self.block_bytes,
        )?;
        device.publish()?;
        self.busy[usize::from(slot)] = Some((operation, block));
        Ok(())
    }

    fn drain(&mut self, device: &mut BlkDevice, done: OnDone<'_>) -> Result<(), FrontendError> {
        while self.busy.iter().any(Option::is_some) {
            self.reap(device, done)?;
        }
        Ok(())
    }

    /// Waits for one completion.
    fn reap(&mut self, device: &mut BlkDevice, done: OnDone<'_>) -> Result<(), FrontendError> {
        let start = Instant::now();
        let completion = loop {
            if let Some(completion) = device.complete()? {
                break completion;
            }
            if start.elapsed() > PATIENCE {
                return Err(FrontendError::Timeout {
                    what: "completion".into(),
                    seconds: PATIENCE.as_secs(),
                });
            }
        };
        let Some((operation, block)) = self.busy[usize::from(completion.slot)].take() else {
            return Err(FrontendError::BadUsed {
                id: completion.slot.into(),
            });
        };
        if completion.status != 0 {
            let (kind, sector) = (
                operation.name(),
                block * u64::from(self.block_bytes) / SECTOR,
            );
            return Err(FrontendError::Block {
                kind,
                sector,
                reason: format!("status {}", completion.status),
            });
        }
        if operation == Operation::Read {
            done(device, completion.slot, block)?;
        }
        self.free.push(completion.slot);
        Ok(())
    }
}
