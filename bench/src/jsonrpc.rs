//! A client of JSON-RPC over a Unix socket, one call per connection: Sumeru's RPC (2.0) and Open vSwitch's (1.0).
//!
//! It knows no method of either.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);
const ID: u64 = 1;

/// Which JSON-RPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// 1.0: the request has no version member (Open vSwitch refuses one).
    V1,
    /// 2.0.
    V2,
}

/// Calls one method and returns its result.
///
/// # Errors
/// If the server does not answer within ten seconds, or answers with an error.
pub fn call(socket: &Path, version: Version, method: &str, parameters: &Value) -> Result<Value> {
    let stream = UnixStream::connect(socket).with_context(|| format!("connect for {method}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut request = json!({"id": ID, "method": method, "params": parameters});
    if version == Version::V2 {
        request["jsonrpc"] = json!("2.0");
    }
    writeln!(&stream, "{request}").with_context(|| format!("send {method}"))?;
    let mut answers = serde_json::Deserializer::from_reader(std::io::BufReader::new(&stream))
        .into_iter::<Value>();
    let Some(answer) = answers.next() else {
        bail!("{method}: the server closed the connection")
    };
    let mut answer = answer.with_context(|| format!("answer to {method}"))?;
    match answer.get("error") {
        None | Some(Value::Null) => {}
        Some(error) => bail!("{method}: {error}"),
    }
    if answer.get("id") != Some(&json!(ID)) {
        bail!("{method}: answer to another request: {answer}");
    }
    answer
        .get_mut("result")
        .map(Value::take)
        .with_context(|| format!("{method}: answer without result"))
}
