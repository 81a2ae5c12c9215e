//! Fuzz target `rpc`: a client's bytes through framing and dispatch onto a control plane whose data plane moves nothing, and as a
//! configuration file. Fails on a panic, on an answer that is no JSON-RPC, and on a configuration that does not survive saving.
//!
//! Input: byte 0 bit 0: a configuration file follows, else a stream of requests, cut into reads of byte 1's length.

use serde_json::{Map, Value, json};
use sumeru_api::State;
use sumeru_api::frame::Framer;
use sumeru_api::method::call;
use sumeru_api::protocol::{RpcError, answer};
use sumeru_control::config;
use sumeru_control::dry::DryRun;
use sumeru_control::reconcile::Control;
use sumeru_control::store::Store;

/// Most messages of an input, so that it is quick.
const MESSAGES: usize = 16;

/// Runs one input.
///
/// # Panics
/// When a promise of the API or of the control plane is broken: that is the finding.
pub fn run(data: &[u8]) {
    let Some((control, bytes)) = data.split_first_chunk::<2>() else {
        return;
    };
    if control[0] & 1 != 0 {
        if let Ok(text) = str::from_utf8(bytes) {
            check_config(text);
        }
        return;
    }
    let state = node();
    let mut framer = Framer::default();
    let mut left = MESSAGES;
    for read in bytes.chunks(usize::from(control[1]).max(1)) {
        framer.push(read);
        loop {
            match framer.next_message() {
                Ok(Some(message)) => check_message(&state, &message),
                Ok(None) => break,
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    return;
                }
            }
            left -= 1;
            if left == 0 {
                return;
            }
        }
    }
    // Whatever the requests did, what is there can be saved and read again.
    let saved = ask(&state, "config.save", json!({}));
    let text = saved
        .ok()
        .and_then(|saved| saved["text"].as_str().map(str::to_owned));
    let checked = text.map(|text| ask(&state, "config.check", json!({ "text": text })));
    assert!(matches!(checked, Some(Ok(_))), "{checked:?}");
}

/// A node with one object of each kind.
fn node() -> State {
    let control = Control::start(Box::new(DryRun::default()), Store::none(), Vec::new(), None);
    let Ok(control) = control else {
        panic!(
            "a node without anything does not start: {:?}",
            control.err()
        );
    };
    let state = State::new(control, None);
    for (method, params) in [
        ("network.create", json!({ "name": "blue", "vni": 7 })),
        (
            "port.create",
            json!({ "name": "vm1", "kind": "vhost-user", "socket": "/tmp/vm1", "network": "blue" }),
        ),
        (
            "volume.create",
            json!({ "name": "d", "kind": "memory", "size": "64MiB" }),
        ),
        (
            "controller.create",
            json!({ "name": "c", "volume": "d", "socket": "/tmp/c" }),
        ),
        (
            "flow.create",
            json!({ "port": "vm1", "rule": "ingress pattern eth / end actions drop / end" }),
        ),
    ] {
        let made = ask(&state, method, params);
        assert!(made.is_ok(), "{method}: {made:?}");
    }
    state
}

fn ask(state: &State, method: &str, params: Value) -> Result<Value, RpcError> {
    match params {
        Value::Object(params) => call(state, method, &params),
        _ => call(state, method, &Map::new()),
    }
}

/// Nothing that reads or writes files of the machine that fuzzes.
fn is_harmless(params: &Map<String, Value>) -> bool {
    !params.contains_key("path")
}

fn check_message(state: &State, message: &[u8]) {
    let answers = answer(message, |method, params| {
        if is_harmless(params) {
            let result = call(state, method, params);
            if let Err(error) = &result {
                assert!(!error.message.is_empty());
            }
            return result;
        }
        Ok(Value::Null)
    });
    match answers {
        None => {}
        Some(Value::Array(answers)) => answers.iter().for_each(check_answer),
        Some(one) => check_answer(&one),
    }
}

/// JSON-RPC 2.0, section 5: a result or an error, and the id.
fn check_answer(answer: &Value) {
    assert_eq!(answer["jsonrpc"], "2.0");
    let has = |member| answer.get(member).is_some();
    assert!(has("id") && has("result") != has("error"), "{answer}");
    if has("error") {
        let error = &answer["error"];
        assert!(error["code"].is_i64() && error["message"].is_string());
    }
}

fn check_config(text: &str) {
    match config::parse(text) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(entries) => {
            for entry in &entries {
                assert!((1..=text.lines().count() + 1).contains(&entry.line));
            }
            // A file that makes sense by itself may still contradict itself as a whole: then it is refused, all of it.
            let state = node();
            let _ = ask(&state, "config.check", json!({ "text": text }));
            if ask(&state, "config.load", json!({ "text": text })).is_err() {
                return;
            }
            let saved = ask(&state, "config.save", json!({}));
            let text = saved.ok().map(|saved| saved["text"].clone());
            let again = ask(&state, "config.load", json!({ "text": text }));
            let created = again.map(|again| again["created"].clone());
            assert_eq!(created, Ok(json!([])), "{text:?}");
        }
    }
}
