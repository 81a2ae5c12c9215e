//! The client side of the API: one connection, calls answered in order, blocking.

use std::io::{self, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::failure::Failure;

/// How long an answer may take: longer than anything a daemon does in one call.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection to a daemon.
pub struct Client {
    socket: PathBuf,
    writer: UnixStream,
    reader: BufReader<UnixStream>,
    id: u64,
}

impl Client {
    /// Connects.
    pub fn connect(socket: &Path) -> Result<Self, Failure> {
        let unreachable = |source| Failure::Unreachable {
            socket: socket.to_owned(),
            source,
        };
        let writer = UnixStream::connect(socket).map_err(unreachable)?;
        writer
            .set_read_timeout(Some(PATIENCE))
            .map_err(unreachable)?;
        writer
            .set_write_timeout(Some(PATIENCE))
            .map_err(unreachable)?;
        let reader = BufReader::new(writer.try_clone().map_err(unreachable)?);
        Ok(Self {
            socket: socket.to_owned(),
            writer,
            reader,
            id: 0,
        })
    }

    /// Calls one method.
    pub fn call(&mut self, method: &str, params: Value) -> Result<Value, Failure> {
        self.id += 1;
        let request =
            json!({ "jsonrpc": "2.0", "id": self.id, "method": method, "params": params });
        result(self.exchange(&request)?)
    }

    /// Calls several methods without parameters at once; the answers are in the same order.
    pub fn batch(&mut self, methods: &[&str]) -> Result<Vec<Value>, Failure> {
        let request: Vec<Value> = methods
            .iter()
            .enumerate()
            .map(|(id, method)| json!({ "jsonrpc": "2.0", "id": id, "method": method }))
            .collect();
        match self.exchange(&Value::Array(request))? {
            Value::Array(answers) if answers.len() == methods.len() => {
                answers.into_iter().map(result).collect()
            }
            other => result(other).map(|value| vec![value]),
        }
    }

    fn exchange(&mut self, request: &Value) -> Result<Value, Failure> {
        let lost = |source| Failure::Unreachable {
            socket: self.socket.clone(),
            source,
        };
        self.writer
            .write_all(request.to_string().as_bytes())
            .map_err(lost)?;
        let mut answers =
            serde_json::Deserializer::from_reader(&mut self.reader).into_iter::<Value>();
        match answers.next() {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(error)) => Err(lost(error.into())),
            None => Err(lost(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "it closed the connection",
            ))),
        }
    }
}

/// The result in an answer, or the error.
fn result(mut answer: Value) -> Result<Value, Failure> {
    match answer.get_mut("error") {
        None => Ok(answer["result"].take()),
        Some(error) => Err(Failure::Refused {
            code: error["code"].as_i64().unwrap_or_default(),
            message: error["message"].as_str().unwrap_or("no message").to_owned(),
            data: error["data"].take(),
        }),
    }
}
