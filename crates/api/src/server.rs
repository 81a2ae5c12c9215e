//! The Unix socket and its clients. One task per client; the work of a call is done on a blocking
//! thread, so that a slow disk under one call keeps no other client waiting for its socket. A client
//! that is slow, too greedy or talks nonsense loses its own connection only.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use crate::frame::{FrameError, Framer};
use crate::method::{State, call};
use crate::protocol::{
    INTERNAL_ERROR, INVALID_REQUEST, PARSE_ERROR, RpcError, TOO_MANY_CLIENTS, answer,
};

/// Most clients at a time.
pub const CLIENTS_MAX: usize = 64;

/// How long a client may take for the rest of a message it has begun, and for reading an answer.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Serves clients until [`State::stop`]. Answers that are under way are finished.
pub async fn serve(listener: UnixListener, state: Arc<State>) -> io::Result<()> {
    let slots = Arc::new(Semaphore::new(CLIENTS_MAX));
    let mut stopping = state.stopping();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopping.wait_for(|stop| *stop) => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, most likely: wait for clients to leave.
                tracing::warn!(%error, "a client could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        match slots.clone().try_acquire_owned() {
            Ok(slot) => {
                let state = state.clone();
                tokio::spawn(async move {
                    if let Err(error) = client(stream, state).await {
                        tracing::debug!(%error, "a client went away");
                    }
                    drop(slot);
                });
            }
            Err(_) => {
                tokio::spawn(turn_away(stream));
            }
        }
    }
    // Every client lets go of its slot once its answer is out.
    let all = u32::try_from(CLIENTS_MAX).unwrap_or(u32::MAX);
    let _ = timeout(PATIENCE, slots.acquire_many(all)).await;
    Ok(())
}

async fn turn_away(mut stream: UnixStream) {
    let message =
        format!("there are {CLIENTS_MAX} clients already, expected one of them to leave first");
    let error = RpcError::new(TOO_MANY_CLIENTS, message, json!({ "limit": CLIENTS_MAX }));
    let _ = send(&mut stream, &error.answer(&Value::Null)).await;
}

async fn client(mut stream: UnixStream, state: Arc<State>) -> io::Result<()> {
    let mut stopping = state.stopping();
    let mut framer = Framer::default();
    let mut chunk = vec![0u8; 64 * 1024];
    loop {
        loop {
            match framer.next_message() {
                Ok(Some(message)) => {
                    if let Some(answer) = work(&state, message).await {
                        send(&mut stream, &answer).await?;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    // Where the next message begins is unknown, so this is the end.
                    return send(&mut stream, &refusal(error).answer(&Value::Null)).await;
                }
            }
            if *stopping.borrow() {
                return Ok(());
            }
        }
        let Some(count) = receive(&mut stream, &mut chunk, framer.partial(), &mut stopping).await?
        else {
            return Ok(());
        };
        framer.push(&chunk[..count]);
    }
}

/// The next bytes; none when the client is done, or the daemon is.
async fn receive(
    stream: &mut UnixStream,
    chunk: &mut [u8],
    partial: bool,
    stopping: &mut watch::Receiver<bool>,
) -> io::Result<Option<usize>> {
    // A client may idle between messages, not within one.
    let patience = if partial { PATIENCE } else { Duration::MAX };
    let read = tokio::select! {
        read = timeout(patience, stream.read(chunk)) => read,
        _ = stopping.wait_for(|stop| *stop) => return Ok(None),
    };
    match read {
        Ok(Ok(0)) => Ok(None),
        Ok(Ok(count)) => Ok(Some(count)),
        Ok(Err(error)) => Err(error),
        Err(_) => {
            let message = format!(
                "the rest of the message did not come within {} s",
                PATIENCE.as_secs()
            );
            send(
                stream,
                &RpcError::new(INVALID_REQUEST, message, Value::Null).answer(&Value::Null),
            )
            .await?;
            Ok(None)
        }
    }
}

fn refusal(error: FrameError) -> RpcError {
    let code = match error {
        FrameError::NotAMessage(_) => PARSE_ERROR,
        FrameError::TooLarge | FrameError::TooDeep => INVALID_REQUEST,
    };
    RpcError::new(code, error.to_string(), Value::Null)
}

async fn work(state: &Arc<State>, message: Vec<u8>) -> Option<Value> {
    let state = state.clone();
    let done = tokio::task::spawn_blocking(move || {
        answer(&message, |name, params| call(&state, name, params))
    });
    match done.await {
        Ok(answer) => answer,
        Err(error) => {
            tracing::error!(%error, "a call ended in a fault of the daemon");
            let message = "the call ended in a fault of the daemon, whose log says more";
            Some(RpcError::new(INTERNAL_ERROR, message, Value::Null).answer(&Value::Null))
        }
    }
}

async fn send(stream: &mut UnixStream, answer: &Value) -> io::Result<()> {
    let mut text = answer.to_string();
    text.push('\n');
    match timeout(PATIENCE, stream.write_all(text.as_bytes())).await {
        Ok(done) => done,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client does not read its answer",
        )),
    }
}
