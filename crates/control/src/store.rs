//! What survives a restart: one SQLite file with a row per object. Every change is one
//! transaction, synced to the disk before it is answered. A damaged file is noticed when the
//! daemon starts (SQLite's own integrity check, a checksum per row, a digest over all rows), set
//! aside as `.corrupt-N`, and the last good copy (`.backup`) takes its place. It holds objects, not
//! what they mean to each other, and it is never read while the daemon runs.

mod check;
mod file;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};

use crate::model::{Any, Kind};

pub use file::SetAside;

/// Version of the schema that is written. A daemon of version N reads N and N - 1; version 1 is
/// the first.
pub const SCHEMA_VERSION: i64 = 1;

/// `application_id` of the file: "SMRU".
const APPLICATION_ID: i64 = 0x534d_5255;

/// Changes after which a new good copy is made without waiting for [`Store::backup`].
const CHANGES_PER_BACKUP: u32 = 64;

/// What is wrong with a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another daemon has it open.
    #[error("store {}: is in use by another daemon, expected one daemon per store (see --store)", .path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// It was written by a later release.
    #[error(
        "store {}: has schema version {found}, expected at most {SCHEMA_VERSION}: it was written by a later release",
        .path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
    },
    /// It is another program's database.
    #[error("store {}: is an SQLite file of another program, expected a store of this daemon", .path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// It is damaged, and there is no good copy to go back to.
    #[error(
        "store {}: is damaged ({reason}) and there is no usable backup beside it; \
         expected a sound file: move it away to start with the configuration file alone",
        .path.display()
    )]
    Lost {
        /// The file.
        path: PathBuf,
        /// How it is damaged.
        reason: String,
    },
    /// The operating system refused.
    #[error("store {}: cannot {action}: {source}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The database refused a change.
    #[error("store {}: cannot {action}: {source}", .path.display())]
    Sql {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The database's answer.
        source: rusqlite::Error,
    },
}

/// One change of what is stored.
#[derive(Debug)]
pub enum Row<'a> {
    /// Write the object, over one of the same kind and name.
    Put(&'a Any),
    /// Take the object out.
    Remove(&'a Any),
}

/// An open store, or none.
pub struct Store {
    open: Option<Open>,
}

struct Open {
    path: PathBuf,
    connection: Connection,
    /// Checksum of every row, to keep the digest without reading.
    sums: HashMap<(Kind, String), i64>,
    digest: i64,
    changes_since_backup: u32,
}

/// What was in a store when it was opened.
pub struct Opened {
    /// The store.
    pub store: Store,
    /// Its objects.
    pub objects: Vec<Any>,
    /// The damaged file that was set aside, if that was needed.
    pub recovered: Option<SetAside>,
}

impl Store {
    /// No store: nothing survives a restart.
    pub fn none() -> Self {
        Self { open: None }
    }

    /// Opens the file, makes it if it is not there, goes back to the last good copy if it is
    /// damaged.
    pub fn open(path: &Path) -> Result<Opened, StoreError> {
        let (checked, recovered) = file::open_or_recover(path)?;
        if let Some(aside) = &recovered {
            tracing::error!(
                store = %path.display(), reason = %aside.reason, set_aside = ?aside.damaged,
                "the store was damaged; the last good copy is used, changes made after it are lost"
            );
        }
        let check::Checked {
            connection,
            objects,
            sums,
            digest,
        } = checked;
        let open = Open {
            path: path.to_owned(),
            connection,
            sums,
            digest,
            changes_since_backup: 0,
        };
        open.backup()?;
        Ok(Opened {
            store: Self { open: Some(open) },
            objects,
            recovered,
        })
    }

    /// Where it is, if there is one.
    pub fn path(&self) -> Option<&Path> {
        self.open.as_ref().map(|o| o.path.as_path())
    }

    /// Makes the changes durable, all or none. Volatile objects are passed over.
    pub fn commit(&mut self, rows: &[Row<'_>]) -> Result<(), StoreError> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        open.commit(rows)?;
        if open.changes_since_backup >= CHANGES_PER_BACKUP {
            self.backup();
        }
        Ok(())
    }

    /// Makes a good copy if anything changed since the last one. A copy that cannot be made costs
    /// no data, so it is logged and tried again later.
    pub fn backup(&mut self) {
        let Some(open) = &mut self.open else { return };
        if open.changes_since_backup == 0 {
            return;
        }
        match open.backup() {
            Ok(()) => open.changes_since_backup = 0,
            Err(error) => tracing::warn!(%error, "no backup of the store was made"),
        }
    }
}

impl Open {
    fn commit(&mut self, rows: &[Row<'_>]) -> Result<(), StoreError> {
        let rows: Vec<&Row<'_>> = rows
            .iter()
            .filter(|row| match row {
                Row::Put(any) => !any.volatile(),
                Row::Remove(any) => {
                    !any.volatile() || self.sums.contains_key(&(any.kind(), any.name()))
                }
            })
            .collect();
        if rows.is_empty() {
            return Ok(());
        }
        let mut digest = self.digest;
        let mut sums: HashMap<(Kind, String), Option<i64>> = HashMap::new();
        for row in &rows {
            let (any, sum) = match row {
                Row::Put(any) => (any, Some(check::sum_of(any))),
                Row::Remove(any) => (any, None),
            };
            let key = (any.kind(), any.name());
            let before = sums
                .get(&key)
                .copied()
                .unwrap_or_else(|| self.sums.get(&key).copied());
            digest ^= before.unwrap_or(0) ^ sum.unwrap_or(0);
            sums.insert(key, sum);
        }
        let path = self.path.clone();
        write_rows(&mut self.connection, &rows, digest).map_err(|source| StoreError::Sql {
            path,
            action: "write a change",
            source,
        })?;
        self.digest = digest;
        for (key, sum) in sums {
            match sum {
                Some(sum) => self.sums.insert(key, sum),
                None => self.sums.remove(&key),
            };
        }
        self.changes_since_backup += 1;
        Ok(())
    }

    fn backup(&self) -> Result<(), StoreError> {
        file::backup(&self.connection, &self.path)
    }
}

fn write_rows(connection: &mut Connection, rows: &[&Row<'_>], digest: i64) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    {
        let mut put = transaction.prepare_cached(
            "INSERT INTO object (kind, name, uuid, generation, origin, spec, sum) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) \
             ON CONFLICT (kind, name) DO UPDATE SET \
             uuid = ?3, generation = ?4, origin = ?5, spec = ?6, sum = ?7",
        )?;
        let mut remove =
            transaction.prepare_cached("DELETE FROM object WHERE kind = ?1 AND name = ?2")?;
        for row in rows {
            match row {
                Row::Put(any) => put.execute(params![
                    any.kind().word(),
                    any.name(),
                    any.uuid().to_string(),
                    i64::try_from(any.generation()).unwrap_or(i64::MAX),
                    any.origin().word(),
                    check::spec_text(any),
                    check::sum_of(any),
                ])?,
                Row::Remove(any) => remove.execute(params![any.kind().word(), any.name()])?,
            };
        }
        let mut meta =
            transaction.prepare_cached("UPDATE meta SET value = ?1 WHERE key = 'digest'")?;
        meta.execute(params![digest])?;
    }
    transaction.commit()
}

#[cfg(test)]
mod tests;
