//! Malformed vhost-user input of every kind: an error with a name, no panic, no descriptor left open, and a session
//! that either goes on or ends, as its rules say.

#![allow(clippy::unwrap_used)]

mod peer;

use std::os::fd::OwnedFd;

use peer::{
    Driver, Recorder, eventfd, memfd, memory_table, open_fds, raw, ring_address, u32s, u64s,
};
use proptest::prelude::*;
use sumeru_virtio::MemoryError;
use sumeru_virtio::device::DeviceType;
use sumeru_virtio::features::ProtocolFeatures;
use sumeru_virtio::vhost_user::message::{
    FLAG_NEED_REPLY, FLAG_REPLY, MAX_PAYLOAD, RULES, Request, Stage, VERSION,
};
use sumeru_virtio::vhost_user::{Decoder, Session, Verdict, VhostUserError};

const MEBI: u64 = 1 << 20;
const USER: u64 = 0x7f00_0000_0000;

fn device() -> Recorder {
    Recorder::new(DeviceType::Net, 4)
}

fn fds(count: usize) -> Vec<OwnedFd> {
    (0..count).map(|_| eventfd()).collect()
}

fn error_of(verdict: Verdict) -> VhostUserError {
    match verdict {
        Verdict::Refused(_, error) | Verdict::Close(error) => error,
        Verdict::Done(reply) => panic!("accepted, reply {reply:?}"),
    }
}

/// Runs `test` and insists that it closed every descriptor it got. Nextest gives every test its own process; elsewhere
/// the tests of this file would disturb each other's count, hence the lock.
fn without_leaks(test: impl FnOnce()) {
    static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _guard = ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let before = open_fds();
    test();
    assert_eq!(open_fds(), before, "descriptors are left open");
}

#[test]
fn every_message_with_a_wrong_size_is_refused() {
    without_leaks(|| {
        for rule in RULES {
            let (min, max) = (*rule.payload.start() as usize, *rule.payload.end() as usize);
            let below = (0..min).step_by(min.div_ceil(5).max(1));
            let above = [max + 1, max + 8, MAX_PAYLOAD]
                .into_iter()
                .filter(|size| (max + 1..=MAX_PAYLOAD).contains(size));
            for size in below.chain(above) {
                let mut device = device();
                let mut driver = Driver::new(&mut device);
                driver.negotiate();
                let bytes = raw(rule.request as u32, VERSION, &vec![0xff; size]);
                let error = error_of(driver.send_raw(&bytes, fds(*rule.fds.start())).unwrap());
                assert!(
                    matches!(error, VhostUserError::PayloadSize { size: found, .. } if found == size),
                    "{}: {error}",
                    rule.name
                );
            }
        }
    });
}

#[test]
fn every_message_with_missing_or_surplus_descriptors_is_refused() {
    without_leaks(|| {
        for rule in RULES {
            let (min, max) = (*rule.fds.start(), *rule.fds.end());
            for count in (0..min).chain(max + 1..=8) {
                let mut device = device();
                let mut driver = Driver::new(&mut device);
                driver.negotiate();
                let bytes = raw(
                    rule.request as u32,
                    VERSION,
                    &vec![0; *rule.payload.start() as usize],
                );
                let error = error_of(driver.send_raw(&bytes, fds(count)).unwrap());
                assert!(
                    matches!(error, VhostUserError::FdCount { count: found, .. } if found == count),
                    "{} with {count}: {error}",
                    rule.name
                );
            }
        }
    });
}

#[test]
fn every_message_is_refused_before_its_time() {
    without_leaks(|| {
        for rule in RULES {
            let bytes = raw(
                rule.request as u32,
                VERSION,
                &vec![0; *rule.payload.start() as usize],
            );
            let mut device = device();
            let mut driver = Driver::new(&mut device);
            let verdict = driver.send_raw(&bytes, fds(*rule.fds.start())).unwrap();
            if rule.stage == Stage::Owned {
                assert!(
                    matches!(error_of(verdict), VhostUserError::Order { .. }),
                    "{}",
                    rule.name
                );
            } else if rule.needs != ProtocolFeatures::empty() {
                assert!(
                    matches!(error_of(verdict), VhostUserError::NotNegotiated { .. }),
                    "{}",
                    rule.name
                );
            } else {
                assert!(matches!(verdict, Verdict::Done(_)), "{}", rule.name);
            }
        }
    });
}

#[test]
fn unknown_messages_are_named() {
    without_leaks(|| {
        let mut device = device();
        let mut driver = Driver::new(&mut device);
        driver.negotiate();
        for id in [0, 45, 1000, u32::MAX] {
            let verdict = driver
                .send_raw(&raw(id, VERSION | FLAG_NEED_REPLY, &[1, 2, 3]), fds(3))
                .unwrap();
            match verdict {
                Verdict::Refused(Some(reply), error @ VhostUserError::Unknown { .. }) => {
                    assert_eq!((reply.request, reply.payload), (id, u64s(&[1])));
                    assert!(error.to_string().contains(&format!("message {id}")));
                }
                other => panic!("{other:?}"),
            }
            let verdict = driver.send_raw(&raw(id, VERSION, &[]), vec![]).unwrap();
            assert!(matches!(
                verdict,
                Verdict::Close(VhostUserError::Unknown { .. })
            ));
        }
    });
}

#[test]
fn headers_that_cannot_be_believed_end_the_stream() {
    without_leaks(|| {
        let feed = |bytes: &[u8], fds| Decoder::default().feed(bytes, fds).map(drop);
        for version in [0, 2, 3] {
            let error = feed(&raw(1, version, &[]), fds(1)).unwrap_err();
            assert!(matches!(error, VhostUserError::Version { .. }), "{error}");
        }
        let error = feed(&raw(5, VERSION | FLAG_REPLY, &[]), fds(1)).unwrap_err();
        assert!(matches!(error, VhostUserError::UnexpectedReply { .. }));
        for size in [MAX_PAYLOAD as u32 + 1, 0x8000_0000, u32::MAX] {
            let error = feed(&u32s(&[5, 1, size]), fds(8)).unwrap_err();
            assert!(matches!(error, VhostUserError::TooLong { size: found, .. } if found == size));
        }
        let error = feed(&raw(5, VERSION, &[]), fds(9)).unwrap_err();
        assert!(matches!(error, VhostUserError::TooManyFds { .. }));
        for split in 1..20 {
            let mut decoder = Decoder::default();
            let bytes = raw(8, VERSION, &[0; 8]);
            assert!(decoder.feed(&bytes[..split], fds(1)).unwrap().1.is_none());
            let error = decoder.feed(&bytes[split..], fds(1)).unwrap_err();
            assert!(matches!(error, VhostUserError::MisplacedFds { .. }));
            assert!(matches!(
                decoder.finish(),
                Err(VhostUserError::Truncated { .. })
            ));
        }
    });
}

#[test]
fn bad_memory_tables_are_refused_and_the_old_one_stays() {
    without_leaks(|| {
        let recorder = device();
        let mut device = recorder.clone();
        let mut driver = Driver::new(&mut device);
        driver.negotiate();
        driver.memory(&[(0, MEBI, USER)]);
        driver.start_ring(0, 0, USER);
        recorder.events();
        let mut refuse = |payload: &[u8], fds: Vec<OwnedFd>, what: &str| {
            assert_eq!(
                driver.acknowledged(Request::SetMemTable, payload, fds),
                1,
                "{what}"
            );
        };
        let (two, _) = memory_table(&[(0, MEBI, USER), (MEBI, MEBI, USER + MEBI)]);
        refuse(&two, vec![memfd(MEBI)], "two regions, one file");
        refuse(
            &two,
            (0..3).map(|_| memfd(MEBI)).collect(),
            "two regions, three files",
        );
        refuse(
            &two,
            vec![memfd(MEBI), memfd(MEBI - 1)],
            "a file that is too short",
        );
        refuse(&two, vec![memfd(MEBI), eventfd()], "an eventfd as memory");
        refuse(
            &two[..60],
            vec![memfd(MEBI), memfd(MEBI)],
            "cut off in the second region",
        );
        let mut many = two.clone();
        for count in [0u32, 9, u32::MAX] {
            many[..4].copy_from_slice(&count.to_ne_bytes());
            refuse(
                &many,
                vec![memfd(MEBI), memfd(MEBI)],
                "a count out of range",
            );
        }
        let (overlap, files) = memory_table(&[(0, MEBI, USER), (MEBI - 1, MEBI, USER + MEBI)]);
        refuse(&overlap, files, "overlapping guest addresses");
        let (wrap, _) = memory_table(&[(u64::MAX - 4096, MEBI, USER)]);
        refuse(
            &wrap,
            vec![memfd(MEBI)],
            "beyond the end of the address space",
        );
        let (empty, _) = memory_table(&[(0, 0, USER)]);
        refuse(&empty, vec![memfd(MEBI)], "an empty region");
        assert!(
            recorder.events().is_empty(),
            "the running ring never noticed"
        );
        let info = driver.session.info();
        assert!(info.queues[0].running && info.memory.len() == 1);
    });
}

#[test]
fn slots_are_limited() {
    without_leaks(|| {
        let mut device = device();
        let mut driver = Driver::new(&mut device);
        driver.negotiate();
        let slots = driver.number(Request::GetMaxMemSlots);
        let region = |at: u64| u64s(&[0, at * 4096, 4096, USER + at * 4096, 0]);
        for at in 0..slots {
            assert_eq!(
                driver.acknowledged(Request::AddMemReg, &region(at), vec![memfd(4096)]),
                0
            );
        }
        let error = driver.closed(Request::AddMemReg, &region(slots), vec![memfd(4096)]);
        assert!(
            matches!(
                error,
                VhostUserError::Value {
                    what: "number of regions",
                    ..
                }
            ),
            "{error}"
        );
    });
}

#[test]
fn an_eventfd_is_no_memory_and_a_file_is_no_eventfd() {
    without_leaks(|| {
        let mut device = device();
        let mut driver = Driver::new(&mut device);
        driver.negotiate();
        let error = driver.closed(
            Request::AddMemReg,
            &u64s(&[0, 0, 4096, USER, 0]),
            vec![eventfd()],
        );
        assert!(
            matches!(
                error,
                VhostUserError::Memory {
                    source: MemoryError::NotMemory { .. } | MemoryError::TooShort { .. },
                    ..
                }
            ),
            "{error}"
        );
        let (pipe, _other_end) = rustix::pipe::pipe().unwrap();
        let (_, error) = driver.refused(Request::SetVringKick, &u64s(&[0]), vec![pipe]);
        assert!(error.to_string().contains("expected an eventfd"), "{error}");
        let error = driver.closed(Request::SetVringCall, &u64s(&[0]), vec![memfd(8)]);
        assert!(error.to_string().contains("memfd:guest"), "{error}");
    });
}

#[test]
fn ring_messages_with_bad_values_are_refused() {
    without_leaks(|| {
        let mut device = device();
        let mut driver = Driver::new(&mut device);
        driver.negotiate();
        driver.memory(&[(0, MEBI, USER)]);
        for index in [4, 255, 65536, u32::MAX] {
            for request in [
                Request::SetVringNum,
                Request::SetVringBase,
                Request::GetVringBase,
                Request::SetVringEnable,
            ] {
                let error = driver.closed(request, &u32s(&[index, 1]), vec![]);
                assert!(
                    matches!(error, VhostUserError::RingIndex { count: 4, .. }),
                    "{error}"
                );
            }
            let error = driver.closed(Request::SetVringAddr, &ring_address(index, USER), vec![]);
            assert!(matches!(error, VhostUserError::RingIndex { .. }));
        }
        for value in [4, 0x1ff, 0x200, !0x100] {
            let (_, error) = driver.refused(
                Request::SetVringKick,
                &u64s(&[value & !0x100]),
                vec![eventfd()],
            );
            assert!(matches!(error, VhostUserError::RingIndex { .. }), "{error}");
        }
        for size in [0, 3, 65536, u32::MAX] {
            let error = driver.closed(Request::SetVringNum, &u32s(&[0, size]), vec![]);
            assert!(
                matches!(
                    error,
                    VhostUserError::Value {
                        what: "ring size",
                        ..
                    }
                ),
                "{error}"
            );
        }
        driver.closed(Request::SetVringBase, &u32s(&[0, 65536]), vec![]);
        driver.closed(Request::SetVringEnable, &u32s(&[0, 2]), vec![]);
        driver.closed(Request::SetStatus, &u64s(&[256]), vec![]);
        let mut logged = ring_address(0, USER);
        logged[4] = 1;
        driver.closed(Request::SetVringAddr, &logged, vec![]);
        // The flag and the descriptor contradict each other, both ways.
        for (value, count) in [(0, 0), (0x100, 1)] {
            let (_, error) = driver.refused(Request::SetVringKick, &u64s(&[value]), fds(count));
            assert!(matches!(error, VhostUserError::FdCount { .. }), "{error}");
        }
    });
}

#[test]
fn a_ring_does_not_start_before_it_is_described() {
    without_leaks(|| {
        let recorder = device();
        let mut device = recorder.clone();
        let mut driver = Driver::new(&mut device);
        driver.negotiate();
        recorder.events();
        let kick_expects = |driver: &mut Driver<'_>, what| {
            let (_, error) = driver.refused(Request::SetVringKick, &u64s(&[0]), vec![eventfd()]);
            assert!(
                matches!(error, VhostUserError::Order { expected, .. } if expected == what),
                "{error}"
            );
        };
        kick_expects(&mut driver, "SET_VRING_ADDR");
        driver.ok(Request::GetVringBase, &u32s(&[0, 0]), vec![]);
        driver.ok(Request::SetVringAddr, &ring_address(0, USER), vec![]);
        kick_expects(&mut driver, "SET_VRING_NUM");
        driver.ok(Request::SetVringNum, &u32s(&[0, 64]), vec![]);
        kick_expects(&mut driver, "SET_MEM_TABLE");
        assert!(recorder.events().is_empty());
        // Now it is started and waits for nothing but its memory.
        driver.memory(&[(0, MEBI, USER)]);
        assert_eq!(recorder.events(), ["start 0 size 64 at 0 disabled"]);
        let error = driver.closed(Request::SetVringNum, &u32s(&[0, 128]), vec![]);
        assert!(matches!(error, VhostUserError::Order { .. }), "{error}");
        let error = driver.closed(Request::SetVringBase, &u32s(&[0, 1]), vec![]);
        assert!(matches!(error, VhostUserError::Order { .. }), "{error}");
    });
}

/// One step of a front end that knows the header but nothing else.
fn message() -> impl Strategy<Value = (u32, u32, Vec<u8>, u8)> {
    let id = prop_oneof![9 => 1u32..=44, 1 => any::<u32>()];
    let flags = prop_oneof![5 => Just(1u32), 5 => Just(9u32), 1 => any::<u32>()];
    let word = prop_oneof![4 => 0u32..5, 2 => Just(64u32), 1 => Just(0x100u32), 2 => any::<u32>()];
    let words = proptest::collection::vec(word, 0..12).prop_map(|words| u32s(&words));
    (id, flags, words, 0u8..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Arbitrary bytes, cut anywhere: the decoder and the session end in an error or go on, and close what they got.
    #[test]
    fn arbitrary_bytes_do_no_harm(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..64), 0..20)) {
        without_leaks(|| {
            let mut device = device();
            let mut session = Session::new(&mut device);
            let mut decoder = Decoder::default();
            'stream: for chunk in chunks {
                let mut rest = chunk.as_slice();
                let mut with = fds(chunk.len() % 3);
                while !rest.is_empty() {
                    let Ok((taken, message)) = decoder.feed(rest, std::mem::take(&mut with)) else { break 'stream };
                    rest = &rest[taken..];
                    if let Some(message) = message
                        && let Verdict::Close(_) = session.handle(message)
                    {
                        break 'stream;
                    }
                }
            }
        });
    }

    /// Well-formed headers around arbitrary contents, deep into a negotiated session with real memory and rings. The
    /// device's own assertions watch the contract.
    #[test]
    fn arbitrary_messages_keep_the_contract(messages in proptest::collection::vec(message(), 1..60)) {
        without_leaks(|| {
            let mut device = device();
            let mut driver = Driver::new(&mut device);
            driver.negotiate();
            driver.memory(&[(0, MEBI, USER)]);
            driver.start_ring(0, 0, USER);
            driver.start_ring(1, 0, USER + 0x8000);
            for (id, flags, payload, count) in messages {
                let files = (0..count).map(|nth| if nth == 0 { eventfd() } else { memfd(MEBI) }).collect();
                match driver.send_raw(&raw(id, flags, &payload), files) {
                    Ok(Verdict::Close(_)) | Err(_) => break,
                    Ok(Verdict::Done(reply) | Verdict::Refused(reply, _)) => {
                        let answered = reply.map(|reply| reply.to_bytes());
                        assert!(answered.is_none_or(|bytes| bytes[..4] == id.to_ne_bytes() && bytes[4] == 5));
                    }
                }
            }
        });
    }
}
