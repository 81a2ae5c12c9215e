//! The files of a store: the database, its journal, the last good copy, and what was set aside.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};

use super::StoreError;
use super::check::{self, Checked, Problem};

/// SQLite's page size, which this store leaves at its default.
const PAGE: u64 = 4096;

/// A damaged store that was replaced by the last good copy.
#[derive(Debug, Clone)]
pub struct SetAside {
    /// Where the damaged file is now; none if it was missing altogether.
    pub damaged: Option<PathBuf>,
    /// How it was damaged.
    pub reason: String,
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// The last good copy of `path`.
pub fn backup_path(path: &Path) -> PathBuf {
    beside(path, ".backup")
}

fn file_error(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::File {
        path,
        action,
        source,
    }
}

/// Opens the store, or the last good copy in its place.
pub fn open_or_recover(path: &Path) -> Result<(Checked, Option<SetAside>), StoreError> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(file_error(path, "make its folder"))?;
    }
    let backup = backup_path(path);
    let length = match fs::metadata(path) {
        Ok(meta) => Some(meta.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(file_error(path, "look at it")(error)),
    };
    let problem = match length {
        None | Some(0) if backup.exists() => Problem::Damaged(
            if length.is_some() {
                "it is empty"
            } else {
                "it is missing"
            }
            .to_owned(),
        ),
        // SQLite takes a file of less than a page for a new one.
        Some(1..PAGE) => Problem::Damaged("it is shorter than a page".to_owned()),
        None | Some(_) => match check::open(path, length.unwrap_or(0) == 0) {
            Ok(checked) => return Ok((checked, None)),
            Err(problem) => problem,
        },
    };
    let reason = match problem {
        Problem::Damaged(reason) => reason,
        Problem::Other(error) => return Err(error),
    };
    recover(path, &backup, length.is_some(), reason)
}

fn recover(
    path: &Path,
    backup: &Path,
    exists: bool,
    reason: String,
) -> Result<(Checked, Option<SetAside>), StoreError> {
    // The copy is proved on a copy, so that a bad one spoils nothing.
    let trial = beside(path, ".restore");
    remove_if_there(&trial).map_err(file_error(path, "remove an old trial copy"))?;
    remove_if_there(&beside(&trial, "-journal"))
        .map_err(file_error(path, "remove an old trial copy"))?;
    match fs::copy(backup, &trial) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(StoreError::Lost {
                path: path.to_owned(),
                reason,
            });
        }
        Err(error) => return Err(file_error(path, "copy its backup")(error)),
    }
    match check::open(&trial, false) {
        Ok(checked) => drop(checked),
        Err(Problem::Damaged(of_backup)) => {
            let _ = fs::remove_file(&trial);
            let reason = format!("{reason}; and so is its backup: {of_backup}");
            return Err(StoreError::Lost {
                path: path.to_owned(),
                reason,
            });
        }
        Err(Problem::Other(error)) => return Err(error),
    }
    let damaged = if exists {
        Some(set_aside(path).map_err(file_error(path, "set it aside"))?)
    } else {
        None
    };
    sync(&trial).map_err(file_error(path, "sync the restored copy"))?;
    fs::rename(&trial, path).map_err(file_error(path, "put its backup in place"))?;
    sync_folder(path).map_err(file_error(path, "sync its folder"))?;
    match check::open(path, false) {
        Ok(checked) => Ok((checked, Some(SetAside { damaged, reason }))),
        Err(Problem::Damaged(reason)) => Err(StoreError::Lost {
            path: path.to_owned(),
            reason,
        }),
        Err(Problem::Other(error)) => Err(error),
    }
}

/// Renames the damaged file to the first free `.corrupt-N`. A journal goes with it: replayed into
/// the copy it would damage that as well.
fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let mut n = 1;
    let aside = loop {
        let candidate = beside(path, &format!(".corrupt-{n}"));
        if !candidate.exists() {
            break candidate;
        }
        n += 1;
    };
    for suffix in ["-journal", "-wal", "-shm"] {
        match fs::rename(beside(path, suffix), beside(&aside, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::rename(path, &aside)?;
    Ok(aside)
}

/// Writes a compact copy beside the store and puts it in place of the last one, so that there is a
/// whole copy at every moment.
pub fn backup(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let target = backup_path(path);
    let fresh = beside(&target, ".new");
    remove_if_there(&fresh).map_err(file_error(&fresh, "remove an unfinished backup"))?;
    let name = fresh.to_str().ok_or_else(|| {
        file_error(path, "make a backup")(io::Error::new(
            io::ErrorKind::InvalidInput,
            "its path is not UTF-8",
        ))
    })?;
    connection
        .execute("VACUUM INTO ?1", params![name])
        .map_err(|source| StoreError::Sql {
            path: path.to_owned(),
            action: "make a backup",
            source,
        })?;
    sync(&fresh).map_err(file_error(&fresh, "sync a backup"))?;
    fs::rename(&fresh, &target).map_err(file_error(&target, "put a backup in place"))?;
    sync_folder(path).map_err(file_error(path, "sync its folder"))
}

fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent().filter(|p| !p.as_os_str().is_empty()) {
        Some(folder) => sync(folder),
        None => sync(Path::new(".")),
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
