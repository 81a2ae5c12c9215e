//! Connections of all lcores, seen and changed in steps, so that forwarding goes on in between.

use std::fs::File;
use std::io::{self, BufReader, BufWriter};
use std::sync::Arc;

use super::{Switch, SwitchError};
use crate::conntrack::{Connection, Filter, RestoreError, Restored};
use crate::frame::PortIndex;
use crate::worker::{CacheSums, ConnectionSettings, ConnectionSums};

/// Places of a table that are looked at in one step: tens of microseconds.
const STEP: usize = 4096;

/// What a port's number of before is now.
pub type OwnerMap = Arc<dyn Fn(PortIndex) -> Option<PortIndex> + Send + Sync>;

impl Switch {
    /// Changes how connections are tracked. The table has its size from the time when it is made.
    ///
    /// # Errors
    /// An lcore that is gone.
    pub fn set_tracking(&mut self, tracking: &ConnectionSettings) -> Result<(), SwitchError> {
        for worker in &self.workers {
            let tracking = tracking.clone();
            worker.call(move |worker, _| worker.set_tracking(tracking))?;
        }
        Ok(())
    }

    /// Connections that pass `filter`, at most `limit`, from `cursor` on, which is 0 at first; and the cursor to go on with, nothing at the end. A connection that
    /// lives from the first call to the last is shown once.
    ///
    /// # Errors
    /// An lcore that is gone.
    pub fn connections(
        &self,
        cursor: u64,
        limit: usize,
        filter: &Filter,
    ) -> Result<(Vec<Connection>, Option<u64>), SwitchError> {
        let mut found = Vec::new();
        let (mut number, mut place) = ((cursor >> 32) as usize, cursor as u32);
        let filter = *filter;
        while let Some(worker) = self.workers.get(number) {
            if found.len() >= limit {
                return Ok((found, Some((number as u64) << 32 | u64::from(place))));
            }
            let room = limit - found.len();
            let (mut more, next) =
                worker.call(move |worker, _| worker.connections(place, STEP, room, &filter))?;
            found.append(&mut more);
            (number, place) = next.map_or((number + 1, 0), |next| (number, next));
        }
        Ok((found, None))
    }

    /// Ends the connections that pass `filter`; answers how many.
    ///
    /// # Errors
    /// An lcore that is gone.
    pub fn flush_connections(&mut self, filter: &Filter) -> Result<u64, SwitchError> {
        let (mut ended, filter) = (0, *filter);
        for worker in &self.workers {
            let mut place = Some(0);
            while let Some(from) = place {
                let (count, next) =
                    worker.call(move |worker, _| worker.flush_connections(from, STEP, &filter))?;
                ended += count as u64;
                place = next;
            }
        }
        Ok(ended)
    }

    /// Live connections of members of load balancers, by their numbers.
    ///
    /// # Errors
    /// An lcore that is gone.
    pub fn member_connections(&self, slots: &[u16]) -> Result<Vec<u32>, SwitchError> {
        let mut all = vec![0; slots.len()];
        for worker in &self.workers {
            let slots = slots.to_vec();
            let of = worker.call(move |worker, _| worker.member_connections(&slots))?;
            all.iter_mut().zip(of).for_each(|(sum, of)| *sum += of);
        }
        Ok(all)
    }

    /// Sums of the connections by lcore; nothing for an lcore that tracks none.
    ///
    /// # Errors
    /// An lcore that is gone.
    pub fn connection_sums(&self) -> Result<Vec<Option<ConnectionSums>>, SwitchError> {
        let sums = |worker: &super::WorkerHandle| worker.call(|worker, _| worker.connection_sums());
        Ok(self.workers.iter().map(sums).collect::<Result<_, _>>()?)
    }

    /// The flow caches by lcore.
    ///
    /// # Errors
    /// An lcore that is gone.
    pub fn cache_sums(&self) -> Result<Vec<CacheSums>, SwitchError> {
        let sums = |worker: &super::WorkerHandle| worker.call(|worker, _| worker.cache_sums());
        Ok(self.workers.iter().map(sums).collect::<Result<_, _>>()?)
    }

    /// Writes the connections to the end of a file. It is one step of the lcore: for a switch that is about to end.
    ///
    /// # Errors
    /// An lcore that is gone, and what the system says.
    pub fn save_connections(&self, file: File) -> Result<io::Result<u64>, SwitchError> {
        let save = move |worker: &crate::worker::SwitchWorker| -> io::Result<u64> {
            let mut out = BufWriter::new(file);
            let count = worker.save_connections(&mut out)?;
            let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.sync_all()?;
            Ok(count)
        };
        Ok(self.owner().call(move |worker, _| save(worker))?)
    }

    /// Reads connections from where a file stands: for a switch that has had no connection yet.
    ///
    /// # Errors
    /// An lcore that is gone, and what is wrong with the file; there are no connections then.
    pub fn restore_connections(
        &mut self,
        file: File,
        owner: OwnerMap,
    ) -> Result<Result<Restored, RestoreError>, SwitchError> {
        let restore = move |worker: &mut crate::worker::SwitchWorker| {
            worker.restore_connections(&mut BufReader::new(file), |port| owner(port))
        };
        Ok(self.owner().call(move |worker, _| restore(worker))?)
    }

    /// How many rules there are, and the bytes reserved for them.
    pub fn rule_sums(&self) -> (u64, u64) {
        let rules = crate::rules::queue::lock(&self.rules);
        (rules.len() as u64, rules.bytes() as u64)
    }
}
