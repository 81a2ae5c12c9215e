//! The session against devices that answer wrongly: each wrong answer is an error that says what was expected.

use super::*;
use crate::frontend::wire::{FLAG_REPLY, FLAG_VERSION, header};
use std::os::unix::net::UnixStream;

/// A session whose device reads one request and sends `answer`.
fn session_with(answer: Vec<u8>) -> (Session, std::thread::JoinHandle<Vec<u8>>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let device = std::thread::spawn(move || {
        let mut request = vec![0; wire::HEADER_LEN];
        (&theirs).read_exact(&mut request).unwrap();
        let size = wire::u32_at(&request, 8).unwrap() as usize;
        request.resize(wire::HEADER_LEN + size, 0);
        (&theirs)
            .read_exact(&mut request[wire::HEADER_LEN..])
            .unwrap();
        (&theirs).write_all(&answer).unwrap();
        request
    });
    (Session::from_stream(ours).unwrap(), device)
}

fn reply(request: Request, flags: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(request as u32, flags, payload.len() as u32).to_vec();
    bytes.extend_from_slice(payload);
    bytes
}

const GOOD: u32 = FLAG_VERSION | FLAG_REPLY;

#[test]
fn features_are_asked_for_and_read() {
    let (session, device) = session_with(reply(
        Request::GetFeatures,
        GOOD,
        &0x1_4000_0000u64.to_ne_bytes(),
    ));
    assert_eq!(session.features().unwrap(), 0x1_4000_0000);
    assert_eq!(device.join().unwrap(), header(1, FLAG_VERSION, 0));
}

#[test]
fn wrong_replies_are_named() {
    let cases = [
        (
            reply(Request::GetQueueNum, GOOD, &[0; 8]),
            "request 1 with reply flag",
        ),
        (
            reply(Request::GetFeatures, FLAG_VERSION, &[0; 8]),
            "request 1 with reply flag",
        ),
        (
            reply(Request::GetFeatures, FLAG_REPLY, &[0; 8]),
            "request 1 with reply flag",
        ),
        (reply(Request::GetFeatures, GOOD, &[0; 4]), "8 bytes"),
        (
            header(1, GOOD, wire::MAX_PAYLOAD + 1).to_vec(),
            "at most 4096 payload bytes",
        ),
    ];
    for (answer, wanted) in cases {
        let (session, _device) = session_with(answer);
        match session.features() {
            Err(FrontendError::Reply { expected, .. }) => assert_eq!(expected, wanted),
            other => panic!("{wanted}: {other:?}"),
        }
    }
}

#[test]
fn a_device_that_hangs_up_is_an_error() {
    let (session, device) = session_with(Vec::new());
    assert!(matches!(session.features(), Err(FrontendError::Io { .. })));
    device.join().unwrap();
}

#[test]
fn a_refusal_carries_its_code() {
    let (mut session, _device) = session_with(reply(Request::SetOwner, GOOD, &7u64.to_ne_bytes()));
    session.protocol_features = protocol_feature::REPLY_ACK;
    assert!(matches!(
        session.tell(Request::SetOwner, &[], &[]),
        Err(FrontendError::Refused { code: 7, .. })
    ));
}

#[test]
fn an_inflight_area_needs_its_descriptor() {
    let (session, _device) = session_with(reply(Request::GetInflightFd, GOOD, &[0; 24]));
    assert!(matches!(
        session.inflight(1, 128),
        Err(FrontendError::Reply {
            request: Request::GetInflightFd,
            ..
        })
    ));
}
