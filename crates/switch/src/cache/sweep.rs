//! Looking after all entries, a few at a time: those that meet no frame any more go.

use super::{Cache, SIGNATURES, STEP, Sender, WAYS, signatures};

impl Cache {
    /// Begins a look at all entries, which [`Self::sweep`] carries out.
    pub fn begin_sweep(&mut self) {
        self.sweeping = Some(0);
        for tuple in self.tuples.iter_mut().flatten() {
            tuple.hits /= 2;
        }
        let tuples = &self.tuples;
        for port in &mut self.ports {
            port.tuples.sort_by_key(|number| {
                let tuple = tuples.get(*number as usize).and_then(Option::as_ref);
                std::cmp::Reverse(tuple.map_or(0, |tuple| tuple.hits))
            });
        }
    }

    /// Whether a sweep is under way.
    #[inline(always)]
    pub fn sweeping(&self) -> bool {
        self.sweeping.is_some()
    }

    /// One step of a sweep: frees entries that met no frame since the last one, and calls `used` for the senders of the others.
    #[cold]
    pub fn sweep(&mut self, mut used: impl FnMut(Sender)) {
        let Some(from) = self.sweeping else {
            return;
        };
        let to = (from + STEP).min(self.table.reserved());
        for index in from..to {
            let Some(entry) = self.table.get_mut(index).filter(|entry| entry.used()) else {
                continue;
            };
            if entry.hits == entry.swept {
                self.evict(index);
                continue;
            }
            entry.swept = entry.hits;
            entry.sender().into_iter().for_each(&mut used);
        }
        self.sweeping = (to < self.table.reserved()).then_some(to);
        if self.sweeping.is_none() && self.table.len() == 0 && self.table.reserved() > 0 {
            self.clear();
        }
    }

    /// Nothing is cached any more: give the memory back.
    fn clear(&mut self) {
        self.table.clear(self.limit);
        if self.signatures.len() * WAYS > SIGNATURES[0] {
            self.signatures = signatures(SIGNATURES[0]);
        }
    }
}
