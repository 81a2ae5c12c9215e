//! The API over a real Unix socket: framing, batches, limits, clients that misbehave.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};
use sumeru_api::State;
use sumeru_control::dry::DryRun;
use sumeru_control::reconcile::Control;
use sumeru_control::store::Store;

/// A server on a thread of its own, ended with the test.
struct Server {
    path: PathBuf,
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("sumeru-api-{name}-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let control =
            Control::start(Box::new(DryRun::default()), Store::none(), Vec::new(), None).unwrap();
        let state = Arc::new(State::new(control, None));
        let (shared, at) = (state.clone(), path.clone());
        let (ready, wait) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = tokio::net::UnixListener::bind(at).unwrap();
                ready.send(()).unwrap();
                sumeru_api::serve(listener, shared).await.unwrap();
            });
        });
        wait.recv().unwrap();
        Self {
            path,
            state,
            thread: Some(thread),
        }
    }

    fn client(&self) -> Client {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        Client {
            stream,
            unread: Vec::new(),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

struct Client {
    stream: UnixStream,
    unread: Vec<u8>,
}

impl Client {
    fn write(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
    }

    /// The next answer; none when the server has closed the connection.
    fn read(&mut self) -> Option<Value> {
        let mut chunk = [0u8; 65_536];
        loop {
            if let Some(end) = self.unread.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            match self.stream.read(&mut chunk).unwrap() {
                0 => return None,
                count => self.unread.extend_from_slice(&chunk[..count]),
            }
        }
    }

    fn ask(&mut self, text: &str) -> Value {
        self.write(text);
        self.read().unwrap()
    }
}

const VERSION: &str = r#"{"jsonrpc":"2.0","id":1,"method":"version"}"#;

#[test]
fn messages_need_no_separator_and_may_come_in_pieces() {
    let server = Server::new("pieces");
    let mut client = server.client();
    client.write(&VERSION.repeat(3));
    for _ in 0..3 {
        assert!(client.read().unwrap()["result"]["version"].is_string());
    }
    for byte in VERSION.as_bytes().chunks(7) {
        client.stream.write_all(byte).unwrap();
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(client.read().unwrap()["id"], 1);
    // A notification has no answer: the next answer is that of the request behind it.
    let answer = client.ask(&format!(
        "{{\"method\":\"version\"}}\n\n{}",
        VERSION.replace(":1,", ":2,")
    ));
    assert_eq!(answer["id"], 2);
}

#[test]
fn batches_work_and_change_objects() {
    let server = Server::new("batch");
    let mut client = server.client();
    let answers = client.ask(
        &json!([
            { "id": 1, "method": "network.create", "params": { "name": "n", "vni": 5 } },
            { "method": "volume.create", "params": { "name": "v", "kind": "null", "size": "1GiB" } },
            { "id": 2, "method": "network.create", "params": { "name": "n", "vni": 6 } },
            { "id": 3, "method": "volume.list" },
        ])
        .to_string(),
    );
    assert_eq!(answers[0]["result"]["vni"], 5);
    assert_eq!(answers[1]["error"]["code"], -32002);
    assert_eq!(answers[2]["result"][0]["name"], "v");
    assert_eq!(
        server.client().ask(r#"{"id":1,"method":"network.list"}"#)["result"][0]["name"],
        "n"
    );
}

#[test]
fn what_cannot_be_cut_is_answered_and_ends_the_connection() {
    let server = Server::new("limits");
    let mut big = String::from("{\"id\":1,\"params\":\"");
    big.push_str(&"x".repeat(sumeru_api::frame::MESSAGE_MAX));
    for (text, code) in [
        ("hello", -32700),
        ("{\"a\":nonsense}", -32700),
        (&"[".repeat(70), -32600),
        (big.as_str(), -32600),
    ] {
        let mut client = server.client();
        // The server may close before it has read everything.
        let _ = client.stream.write_all(text.as_bytes());
        match client.read() {
            Some(answer) => assert_eq!(answer["error"]["code"], code, "{answer}"),
            None => panic!("no answer"),
        }
    }
    // Other clients are not disturbed.
    assert!(server.client().ask(VERSION)["result"].is_object());
}

#[test]
fn the_client_after_the_last_is_turned_away() {
    let server = Server::new("many");
    let mut clients: Vec<Client> = (0..sumeru_api::server::CLIENTS_MAX)
        .map(|_| server.client())
        .collect();
    for client in &mut clients {
        client.ask(VERSION);
    }
    let mut late = server.client();
    assert_eq!(late.read().unwrap()["error"]["code"], -32000);
    assert_eq!(late.read(), None);
    clients.pop();
    let answered = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        server.client().ask(VERSION)["result"].is_object()
    });
    assert!(answered, "a slot must come free");
}

#[test]
fn a_message_that_never_ends_costs_its_own_connection_only() {
    let server = Server::new("slow");
    let mut slow = server.client();
    slow.write("{\"id\":");
    let mut idle = server.client();
    assert!(server.client().ask(VERSION)["result"].is_object());
    let answer = slow.read().unwrap();
    assert!(
        answer["error"]["message"]
            .as_str()
            .unwrap()
            .contains("did not come within"),
        "{answer}"
    );
    assert_eq!(slow.read(), None);
    assert!(
        idle.ask(VERSION)["result"].is_object(),
        "a client may idle between messages"
    );
}

#[test]
fn a_client_that_does_not_read_keeps_nobody_waiting() {
    let server = Server::new("deaf");
    let mut deaf = server.client();
    deaf.stream
        .set_write_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let methods = r#"{"id":1,"method":"rpc.methods"}"#.repeat(64);
    while deaf.stream.write_all(methods.as_bytes()).is_ok() {}
    for _ in 0..20 {
        assert!(server.client().ask(VERSION)["result"].is_object());
    }
}

#[test]
fn stop_is_answered_before_the_end() {
    let mut server = Server::new("stop");
    let mut client = server.client();
    assert_eq!(
        client.ask(r#"{"id":9,"method":"daemon.stop"}"#)["result"],
        true
    );
    assert_eq!(client.read(), None);
    server.thread.take().unwrap().join().unwrap();
}

#[test]
fn many_clients_at_once_see_every_object_once() {
    let server = Server::new("race");
    std::thread::scope(|scope| {
        for worker in 0..8 {
            let server = &server;
            scope.spawn(move || {
                let mut client = server.client();
                for i in 0..25 {
                    let vni = 1 + worker * 100 + i;
                    let request = json!({ "id": i, "method": "network.create", "params": { "name": format!("n{vni}"), "vni": vni } });
                    assert_eq!(client.ask(&request.to_string())["id"], i);
                }
            });
        }
    });
    let list = server.client().ask(r#"{"id":1,"method":"network.list"}"#);
    assert_eq!(list["result"].as_array().unwrap().len(), 200);
}
