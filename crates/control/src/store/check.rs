//! Reading a store and deciding whether it is sound. Everything in the file is distrusted: the
//! header, the pages, every row.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{APPLICATION_ID, SCHEMA_VERSION, StoreError};
use crate::decode::no_lines;
use crate::model::{Any, Kind, Marks, Origin};

/// A sound store, open.
pub struct Checked {
    pub connection: Connection,
    pub objects: Vec<Any>,
    pub sums: HashMap<(Kind, String), i64>,
    pub digest: i64,
}

/// Why a store could not be taken as it is.
pub enum Problem {
    /// The file is damaged: a good copy may help.
    Damaged(String),
    /// Something else, that a copy does not help against.
    Other(StoreError),
}

/// The checksum of a row, over everything that is in it.
pub fn sum_of(any: &Any) -> i64 {
    let generation = any.generation().to_string();
    let (uuid, spec) = (any.uuid().to_string(), spec_text(any));
    row_sum([
        any.kind().word(),
        &any.name(),
        &uuid,
        &generation,
        any.origin().word(),
        &spec,
    ])
}

/// The specification as it is stored.
pub fn spec_text(any: &Any) -> String {
    Value::Object(any.spec_map()).to_string()
}

/// FNV-1a (64 bits) over the fields, each ended by a byte that no text holds. Every step is a
/// bijection, so that no change of a single byte goes unnoticed.
fn row_sum(fields: [&str; 6]) -> i64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in fields.iter().flat_map(|f| f.bytes().chain([0xff])) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash.cast_signed()
}

/// Opens a file and checks all of it. A `fresh` one, not there or empty, becomes a new store.
pub fn open(path: &Path, fresh: bool) -> Result<Checked, Problem> {
    let fail = |error: rusqlite::Error| classify(path, error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(fail)?;
    configure(&connection).map_err(fail)?;
    if fresh {
        write_schema(&mut connection).map_err(fail)?;
    }
    check_schema(&connection, path)?;
    check_pages(&connection)
        .map_err(fail)?
        .map_err(Problem::Damaged)?;
    prove_writable(&mut connection).map_err(fail)?;
    read(connection, path)
}

/// The exclusive lock keeps a second daemon out; `EXTRA` also syncs the folder when a transaction
/// ends, so that a power cut cannot bring back a journal that was deleted.
fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::ZERO)?;
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "synchronous", "EXTRA")?;
    let _mode: String =
        connection.query_row("PRAGMA journal_mode = DELETE", [], |row| row.get(0))?;
    Ok(())
}

fn check_schema(connection: &Connection, path: &Path) -> Result<(), Problem> {
    let fail = |error: rusqlite::Error| classify(path, error);
    let (version, application) = pragmas(connection).map_err(fail)?;
    if application != APPLICATION_ID {
        // One bit away it is our own file, damaged; a foreign program's number is further off.
        let distance = (application ^ APPLICATION_ID).count_ones();
        return Err(match distance {
            0..=8 => Problem::Damaged("the application id in its header is wrong".to_owned()),
            _ => Problem::Other(StoreError::Foreign {
                path: path.to_owned(),
            }),
        });
    }
    let inner: i64 = connection
        .query_row("SELECT value FROM meta WHERE key = 'schema'", [], |row| {
            row.get(0)
        })
        .map_err(fail)?;
    if inner != version {
        return Err(Problem::Damaged(format!(
            "its schema version is {version} in one place and {inner} in another"
        )));
    }
    match version {
        SCHEMA_VERSION => Ok(()),
        newer if newer > SCHEMA_VERSION => Err(Problem::Other(StoreError::Newer {
            path: path.to_owned(),
            found: newer,
        })),
        older => Err(Problem::Damaged(format!("its schema version is {older}"))),
    }
}

fn pragmas(connection: &Connection) -> rusqlite::Result<(i64, i64)> {
    let one = |name: &str| connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0));
    Ok((one("user_version")?, one("application_id")?))
}

fn write_schema(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(&format!(
        "CREATE TABLE meta (key TEXT PRIMARY KEY NOT NULL, value INTEGER NOT NULL) WITHOUT ROWID;
         CREATE TABLE object (
             kind TEXT NOT NULL, name TEXT NOT NULL, uuid TEXT NOT NULL, generation INTEGER NOT NULL,
             origin TEXT NOT NULL, spec TEXT NOT NULL, sum INTEGER NOT NULL,
             PRIMARY KEY (kind, name)) WITHOUT ROWID;
         INSERT INTO meta VALUES ('schema', {SCHEMA_VERSION}), ('digest', 0), ('starts', 0);
         PRAGMA application_id = {APPLICATION_ID};
         PRAGMA user_version = {SCHEMA_VERSION};"
    ))?;
    transaction.commit()
}

fn check_pages(connection: &Connection) -> rusqlite::Result<Result<(), String>> {
    let mut statement = connection.prepare("PRAGMA integrity_check(1)")?;
    let verdict: String = statement.query_row([], |row| row.get(0))?;
    Ok(if verdict == "ok" {
        Ok(())
    } else {
        Err(verdict.replace('\n', " "))
    })
}

/// A damaged header can make a file read-only to SQLite; better to know now than at a change.
fn prove_writable(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute(
        "UPDATE meta SET value = (value + 1) & 0xffffffff WHERE key = 'starts'",
        [],
    )?;
    transaction.commit()
}

fn read(connection: Connection, path: &Path) -> Result<Checked, Problem> {
    let fail = |error: rusqlite::Error| classify(path, error);
    let mut objects = Vec::new();
    let mut sums = HashMap::new();
    let mut digest = 0;
    {
        let mut statement = connection
            .prepare("SELECT kind, name, uuid, generation, origin, spec, sum FROM object")
            .map_err(fail)?;
        let mut rows = statement.query([]).map_err(fail)?;
        while let Some(row) = rows.next().map_err(fail)? {
            let (object, sum) = read_row(row)?;
            digest ^= sum;
            sums.insert((object.kind(), object.name()), sum);
            objects.push(object);
        }
    }
    let stored: i64 = connection
        .query_row("SELECT value FROM meta WHERE key = 'digest'", [], |row| {
            row.get(0)
        })
        .map_err(fail)?;
    if stored != digest {
        return Err(Problem::Damaged(format!(
            "{} objects do not add up to the digest: some are missing",
            objects.len()
        )));
    }
    Ok(Checked {
        connection,
        objects,
        sums,
        digest,
    })
}

fn read_row(row: &rusqlite::Row<'_>) -> Result<(Any, i64), Problem> {
    let damaged = |what: &str| Problem::Damaged(format!("a row has {what}"));
    let text = |i: usize| {
        row.get::<_, String>(i)
            .map_err(|_| damaged("something other than text in a text column"))
    };
    let number = |i: usize| {
        row.get::<_, i64>(i)
            .map_err(|_| damaged("something other than a number in a number column"))
    };
    let (kind, name, uuid, origin, spec) = (text(0)?, text(1)?, text(2)?, text(4)?, text(5)?);
    let (generation, sum) = (number(3)?, number(6)?);
    if row_sum([&kind, &name, &uuid, &generation.to_string(), &origin, &spec]) != sum {
        return Err(Problem::Damaged(format!(
            "the checksum of {kind} {name} is wrong"
        )));
    }
    // From here on the row is as it was written; what fails now was written so.
    let written = |what: &str| Problem::Damaged(format!("{kind} {name} was stored with {what}"));
    let kind_of = Kind::from_word(&kind).ok_or_else(|| written("an unknown kind"))?;
    let origin = match origin.as_str() {
        "config" => Origin::Config,
        "api" => Origin::Api,
        _ => return Err(written("an unknown origin")),
    };
    let uuid = Uuid::parse_str(&uuid).map_err(|_| written("a bad UUID"))?;
    let generation = u64::try_from(generation).map_err(|_| written("a negative generation"))?;
    let spec: Map<String, Value> =
        serde_json::from_str(&spec).map_err(|_| written("a bad specification"))?;
    let marks = Marks {
        uuid,
        generation,
        origin,
        volatile: false,
    };
    let object = Any::decode(kind_of, &format!("{kind} {name}"), &spec, &no_lines, marks).map_err(
        |faults| {
            let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
            written(&faults.join("; "))
        },
    )?;
    Ok((object, sum))
}

/// Whether a database error means damage. An input/output error counts as damage because SQLite
/// reports a file that is shorter than its header says in that way.
fn classify(path: &Path, error: rusqlite::Error) -> Problem {
    let path: PathBuf = path.to_owned();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            Problem::Other(StoreError::Locked { path })
        }
        Some(ErrorCode::DiskFull | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
            Problem::Other(StoreError::Sql {
                path,
                action: "open it",
                source: error,
            })
        }
        Some(ErrorCode::ReadOnly) => match std::fs::OpenOptions::new().write(true).open(&path) {
            Ok(_) => Problem::Damaged(format!("its header says read-only: {error}")),
            Err(source) => Problem::Other(StoreError::File {
                path,
                action: "write to it",
                source,
            }),
        },
        _ => Problem::Damaged(error.to_string()),
    }
}
