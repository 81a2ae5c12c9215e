//! JSON-RPC 2.0: requests, notifications, batches, answers and the standard error codes (section
//! 5.1 of the specification). As SPDK's clients expect, a missing `jsonrpc` member is accepted.

use serde_json::{Map, Value, json};
use sumeru_control::error::Error;

/// The text is not JSON.
pub const PARSE_ERROR: i64 = -32700;
/// The JSON is not a request.
pub const INVALID_REQUEST: i64 = -32600;
/// There is no such method.
pub const METHOD_NOT_FOUND: i64 = -32601;
/// The parameters are wrong.
pub const INVALID_PARAMS: i64 = -32602;
/// A fault of the daemon itself.
pub const INTERNAL_ERROR: i64 = -32603;
/// There are too many clients.
pub const TOO_MANY_CLIENTS: i64 = -32000;

/// Most requests in a batch.
pub const BATCH_MAX: usize = 1024;

/// An error answer.
#[derive(Debug, Clone, PartialEq)]
pub struct RpcError {
    /// One of the codes above, or of [`Error::code`].
    pub code: i64,
    /// For people: the object, what was wrong, what was expected.
    pub message: String,
    /// The same for programs; null if the message says it all.
    pub data: Value,
}

impl RpcError {
    /// An error with data.
    pub fn new(code: i64, message: impl Into<String>, data: Value) -> Self {
        Self {
            code,
            message: message.into(),
            data,
        }
    }

    fn invalid(message: &str, expected: &str) -> Self {
        Self::new(
            INVALID_REQUEST,
            format!("{message}, expected {expected}"),
            json!({ "expected": expected }),
        )
    }

    /// As an answer to the request with this id.
    pub fn answer(&self, id: &Value) -> Value {
        let mut error = json!({ "code": self.code, "message": self.message });
        if !self.data.is_null() {
            error["data"] = self.data.clone();
        }
        json!({ "jsonrpc": "2.0", "id": id, "error": error })
    }
}

impl From<Error> for RpcError {
    fn from(error: Error) -> Self {
        Self::new(error.code(), error.to_string(), error.data())
    }
}

/// Answers one message. `call` does the work of a method. The result is what to send back, if
/// anything: notifications have no answer.
pub fn answer(
    message: &[u8],
    mut call: impl FnMut(&str, &Map<String, Value>) -> Result<Value, RpcError>,
) -> Option<Value> {
    let message: Value = match serde_json::from_slice(message) {
        Ok(message) => message,
        Err(error) => {
            let data = json!({ "line": error.line(), "column": error.column() });
            return Some(
                RpcError::new(
                    PARSE_ERROR,
                    format!("the message is not JSON: {error}"),
                    data,
                )
                .answer(&Value::Null),
            );
        }
    };
    match message {
        Value::Array(batch) if batch.is_empty() => Some(
            RpcError::invalid("the batch is empty", "at least one request").answer(&Value::Null),
        ),
        Value::Array(batch) if batch.len() > BATCH_MAX => {
            let found = format!("the batch has {} requests", batch.len());
            Some(RpcError::invalid(&found, &format!("at most {BATCH_MAX}")).answer(&Value::Null))
        }
        Value::Array(batch) => {
            let answers: Vec<Value> = batch
                .iter()
                .filter_map(|request| answer_one(request, &mut call))
                .collect();
            if answers.is_empty() {
                None
            } else {
                Some(Value::Array(answers))
            }
        }
        request => answer_one(&request, &mut call),
    }
}

fn answer_one(
    request: &Value,
    call: &mut impl FnMut(&str, &Map<String, Value>) -> Result<Value, RpcError>,
) -> Option<Value> {
    let Some(request) = request.as_object() else {
        return Some(
            RpcError::invalid("the request is not an object", "{\"method\": …}")
                .answer(&Value::Null),
        );
    };
    let id = request.get("id");
    let shown = match id {
        None | Some(Value::Null | Value::Number(_) | Value::String(_)) => {
            id.cloned().unwrap_or(Value::Null)
        }
        Some(_) => {
            return Some(
                RpcError::invalid("id is neither string nor number", "a string or a number")
                    .answer(&Value::Null),
            );
        }
    };
    let done = read(request).and_then(|(method, params)| call(method, &params));
    match done {
        // A request without an id is a notification: it is never answered, unless it was no
        // request at all (section 5: the id is then null).
        Err(error) if error.code == INVALID_REQUEST => Some(error.answer(&shown)),
        _ if id.is_none() => None,
        Ok(result) => Some(json!({ "jsonrpc": "2.0", "id": shown, "result": result })),
        Err(error) => Some(error.answer(&shown)),
    }
}

/// The method and its parameters.
fn read(request: &Map<String, Value>) -> Result<(&str, Map<String, Value>), RpcError> {
    match request.get("jsonrpc") {
        None => {}
        Some(version) if version == "2.0" => {}
        Some(other) => return Err(RpcError::invalid(&format!("jsonrpc is {other}"), "\"2.0\"")),
    }
    let method = match request.get("method") {
        Some(Value::String(method)) => method,
        Some(_) => {
            return Err(RpcError::invalid(
                "method is not a string",
                "the name of a method",
            ));
        }
        None => {
            return Err(RpcError::invalid(
                "method is missing",
                "the name of a method",
            ));
        }
    };
    if let Some(key) = request
        .keys()
        .find(|k| !["jsonrpc", "method", "params", "id"].contains(&k.as_str()))
    {
        return Err(RpcError::invalid(
            &format!("{key:?} is not a member of a request"),
            "jsonrpc, method, params, id",
        ));
    }
    match request.get("params") {
        None | Some(Value::Null) => Ok((method, Map::new())),
        Some(Value::Object(params)) => Ok((method, params.clone())),
        Some(Value::Array(params)) if params.is_empty() => Ok((method, Map::new())),
        Some(_) => {
            let message = format!(
                "params of {method} are given by position, expected an object of named parameters"
            );
            Err(RpcError::new(
                INVALID_PARAMS,
                message,
                json!({ "expected": "an object" }),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo(message: &str) -> Option<Value> {
        answer(message.as_bytes(), |method, params| match method {
            "echo" => Ok(Value::Object(params.clone())),
            other => Err(RpcError::new(METHOD_NOT_FOUND, other, Value::Null)),
        })
    }

    fn code(message: &str) -> (i64, Value) {
        let answer = echo(message).unwrap();
        (
            answer["error"]["code"].as_i64().unwrap(),
            answer["id"].clone(),
        )
    }

    #[test]
    fn requests_and_notifications() {
        let answer = echo(r#"{"jsonrpc":"2.0","id":7,"method":"echo","params":{"a":1}}"#).unwrap();
        assert_eq!(
            answer,
            json!({ "jsonrpc": "2.0", "id": 7, "result": { "a": 1 } })
        );
        assert_eq!(
            echo(r#"{"id":"x","method":"echo"}"#).unwrap()["result"],
            json!({})
        );
        assert_eq!(echo(r#"{"method":"echo"}"#), None);
        assert_eq!(echo(r#"{"method":"nothing"}"#), None);
        assert_eq!(
            echo(r#"{"id":null,"method":"echo"}"#).unwrap()["id"],
            Value::Null
        );
    }

    #[test]
    fn standard_codes() {
        assert_eq!(code("{\"a\":}"), (PARSE_ERROR, Value::Null));
        assert_eq!(code(r#"{"id":1}"#), (INVALID_REQUEST, json!(1)));
        assert_eq!(code(r#"{"id":1,"method":2}"#), (INVALID_REQUEST, json!(1)));
        assert_eq!(
            code(r#"{"id":1,"jsonrpc":"1.0","method":"echo"}"#),
            (INVALID_REQUEST, json!(1))
        );
        assert_eq!(
            code(r#"{"id":1,"method":"echo","parms":{}}"#),
            (INVALID_REQUEST, json!(1))
        );
        assert_eq!(
            code(r#"{"id":[],"method":"echo"}"#),
            (INVALID_REQUEST, Value::Null)
        );
        assert_eq!(
            code(r#"{"id":1,"method":"no"}"#),
            (METHOD_NOT_FOUND, json!(1))
        );
        assert_eq!(
            code(r#"{"id":1,"method":"echo","params":[1]}"#),
            (INVALID_PARAMS, json!(1))
        );
        assert_eq!(code("[]"), (INVALID_REQUEST, Value::Null));
    }

    #[test]
    fn batches() {
        let answers =
            echo(r#"[{"id":1,"method":"echo"},{"method":"echo"},3,{"id":2,"method":"no"}]"#)
                .unwrap();
        let answers = answers.as_array().unwrap();
        assert_eq!(answers.len(), 3);
        assert_eq!(answers[1]["error"]["code"], INVALID_REQUEST);
        assert_eq!(answers[2]["id"], 2);
        assert_eq!(echo(r#"[{"method":"echo"}]"#), None);
        let many = format!("[{}]", vec!["{}"; BATCH_MAX + 1].join(","));
        assert_eq!(code(&many), (INVALID_REQUEST, Value::Null));
    }
}
