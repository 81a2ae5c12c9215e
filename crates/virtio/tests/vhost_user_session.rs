//! The vhost-user session as a front end sees it, message by message, over a device that records what it is told.

#![allow(clippy::unwrap_used)]

mod peer;

use std::sync::Arc;

use peer::{Driver, Recorder, eventfd, memfd, ring_address, u32s, u64s};
use sumeru_virtio::device::{DeviceError, DeviceType};
use sumeru_virtio::eventfd::Eventfd;
use sumeru_virtio::features::ProtocolFeatures;
use sumeru_virtio::vhost_user::VhostUserError;
use sumeru_virtio::vhost_user::message::Request;

const MEBI: u64 = 1 << 20;
const USER: u64 = 0x7f00_0000_0000;

fn net() -> Recorder {
    Recorder::new(DeviceType::Net, 4)
}

#[test]
fn a_ring_starts_at_its_kick_and_stops_at_get_vring_base() {
    let recorder = net();
    let mut device = recorder.clone();
    let mut driver = Driver::new(&mut device);
    driver.negotiate();
    driver.memory(&[(0, MEBI, USER)]);
    assert_eq!(recorder.events(), ["features 0x120000003"]);
    driver.start_ring(1, 77, USER);
    assert_eq!(recorder.events(), ["start 1 size 64 at 77 disabled"]);
    driver.ok(Request::SetVringEnable, &u32s(&[1, 1]), vec![]);
    driver.ok(Request::SetVringEnable, &u32s(&[1, 1]), vec![]);
    assert_eq!(recorder.events(), ["enable 1 true"]);
    recorder.record().progress = 5;
    assert_eq!(driver.ring_base(1), 82);
    assert_eq!(recorder.events(), ["stop 1 at 82"]);
    assert_eq!(driver.ring_base(1), 82, "asked again, nothing changes");
    assert_eq!(driver.ring_base(0), 0, "a ring that never ran");
    assert!(recorder.events().is_empty());
    drop(driver);
    assert_eq!(recorder.events(), ["reset"]);
}

#[test]
fn without_protocol_features_rings_start_enabled() {
    let recorder = net();
    let mut device = recorder.clone();
    let mut driver = Driver::new(&mut device);
    driver.ok(Request::SetOwner, &[], vec![]);
    driver.ok(Request::SetFeatures, &u64s(&[1 << 32]), vec![]);
    driver.memory(&[(0, MEBI, USER)]);
    driver.start_ring(0, 0, USER);
    assert_eq!(
        recorder.events(),
        ["features 0x100000000", "start 0 size 64 at 0 enabled"]
    );
    drop(driver);
    assert_eq!(
        recorder.events(),
        ["stop 0 at 0", "reset"],
        "a front end that leaves stops its rings"
    );
}

#[test]
fn only_what_the_session_can_do_is_offered() {
    let mut device = net();
    let mut driver = Driver::new(&mut device);
    assert_eq!(
        driver.number(Request::GetProtocolFeatures),
        ProtocolFeatures::IMPLEMENTED.bits()
    );
    assert_eq!(
        driver.number(Request::GetFeatures),
        0x1_6000_0003,
        "bit 30 is the session's"
    );
    let log = ProtocolFeatures::LOG_SHMFD.bits();
    let error = driver.closed(Request::SetProtocolFeatures, &u64s(&[log]), vec![]);
    assert!(matches!(error, VhostUserError::NotOffered { unknown, .. } if unknown == log));
}

#[test]
fn queues_are_counted_in_pairs_for_net_and_one_by_one_for_blk() {
    for (kind, expected) in [(DeviceType::Net, 2), (DeviceType::Block, 4)] {
        let mut device = Recorder::new(kind, 4);
        let mut driver = Driver::new(&mut device);
        driver.negotiate();
        assert_eq!(driver.number(Request::GetQueueNum), expected);
    }
}

#[test]
fn a_new_memory_table_restarts_running_rings_where_they_were() {
    let recorder = net();
    let mut device = recorder.clone();
    let mut driver = Driver::new(&mut device);
    driver.negotiate();
    driver.memory(&[(0, MEBI, USER)]);
    driver.start_ring(0, 10, USER);
    driver.start_ring(1, 20, USER + 0x8000);
    let old = Arc::downgrade(&recorder.memory(0));
    recorder.events();
    recorder.record().progress = 3;
    driver.memory(&[(0, MEBI, USER), (4 * MEBI, MEBI, USER + 8 * MEBI)]);
    assert_eq!(
        recorder.events(),
        [
            "stop 0 at 13",
            "stop 1 at 23",
            "start 0 size 64 at 13 disabled",
            "start 1 size 64 at 23 disabled"
        ]
    );
    assert_eq!(
        old.upgrade().map(drop),
        None,
        "the old memory is unmapped when the message is answered"
    );
    assert_eq!(recorder.memory(0).regions().count(), 2);
}

#[test]
fn a_ring_whose_memory_goes_waits_for_it_and_goes_on() {
    let recorder = net();
    let mut device = recorder.clone();
    let mut driver = Driver::new(&mut device);
    driver.negotiate();
    let region = |guest, user| u64s(&[0, guest, MEBI, user, 0]);
    assert_eq!(
        driver.acknowledged(Request::AddMemReg, &region(0, USER), vec![memfd(MEBI)]),
        0
    );
    driver.ok(
        Request::AddMemReg,
        &region(2 * MEBI, USER + 2 * MEBI),
        vec![memfd(MEBI)],
    );
    driver.start_ring(0, 7, USER);
    recorder.events();
    recorder.record().progress = 1;
    // QEMU splits a region: it goes, then comes back in parts.
    assert_eq!(
        driver.acknowledged(Request::RemMemReg, &region(0, USER), vec![]),
        0
    );
    assert_eq!(recorder.events(), ["stop 0 at 8", "refuse 0"]);
    let queue = &driver.session.info().queues[0];
    assert!(queue.started && !queue.running);
    assert_eq!(
        driver.acknowledged(Request::AddMemReg, &region(0, USER), vec![memfd(MEBI)]),
        0
    );
    assert_eq!(recorder.events(), ["start 0 size 64 at 8 disabled"]);
    assert_eq!(driver.session.info().memory.len(), 2);
}

#[test]
fn repeated_regions_change_nothing() {
    // QEMU 7.2 sends every region once for each queue pair.
    let recorder = net();
    let mut device = recorder.clone();
    let mut driver = Driver::new(&mut device);
    driver.negotiate();
    let region = u64s(&[0, 0, MEBI, USER, 0]);
    driver.ok(Request::AddMemReg, &region, vec![memfd(MEBI)]);
    driver.start_ring(0, 0, USER);
    recorder.events();
    driver.ok(Request::AddMemReg, &region, vec![memfd(MEBI)]);
    assert!(
        recorder.events().is_empty(),
        "the running ring is not disturbed"
    );
    driver.ok(Request::RemMemReg, &region, vec![memfd(MEBI)]);
    driver.ok(Request::RemMemReg, &region, vec![]);
    let overlapping = u64s(&[0, 0, 2 * MEBI, USER, 0]);
    driver.ok(Request::AddMemReg, &region, vec![memfd(MEBI)]);
    assert_eq!(
        driver.acknowledged(Request::AddMemReg, &overlapping, vec![memfd(2 * MEBI)]),
        1
    );
}

#[test]
fn descriptors_of_a_running_ring_are_swapped() {
    let recorder = net();
    let mut device = recorder.clone();
    let mut driver = Driver::new(&mut device);
    driver.negotiate();
    driver.memory(&[(0, MEBI, USER)]);
    driver.ok(Request::SetVringCall, &u64s(&[0]), vec![eventfd()]);
    driver.start_ring(0, 0, USER);
    recorder.events();
    let call = Eventfd::new().unwrap();
    let theirs = std::os::fd::AsFd::as_fd(&call)
        .try_clone_to_owned()
        .unwrap();
    driver.ok(Request::SetVringCall, &u64s(&[0]), vec![theirs]);
    recorder.record().last_call.as_ref().unwrap().signal();
    assert!(call.consume(), "the new descriptor is the front end's");
    driver.ok(Request::SetVringCall, &u64s(&[0x100]), vec![]);
    driver.ok(Request::SetVringErr, &u64s(&[0]), vec![eventfd()]);
    recorder.record().progress = 2;
    driver.ok(Request::SetVringKick, &u64s(&[0x100]), vec![]);
    assert_eq!(
        recorder.events(),
        [
            "call 0 true",
            "call 0 false",
            "error 0 true",
            "stop 0 at 2",
            "start 0 size 64 at 2 disabled"
        ]
    );
    let record = recorder.record();
    let setup = record.queues[0].as_ref().unwrap();
    assert!(setup.kick.is_none() && setup.call.is_none() && setup.error.is_some());
}

#[test]
fn a_ring_that_cannot_start_signals_its_error_descriptor() {
    let recorder = net();
    let mut device = recorder.clone();
    let mut driver = Driver::new(&mut device);
    driver.negotiate();
    driver.memory(&[(0, MEBI, USER)]);
    let error = Eventfd::new().unwrap();
    let theirs = std::os::fd::AsFd::as_fd(&error)
        .try_clone_to_owned()
        .unwrap();
    driver.ok(Request::SetVringErr, &u64s(&[0]), vec![theirs]);
    driver.ok(Request::SetVringNum, &u32s(&[0, 64]), vec![]);
    driver.ok(Request::SetVringAddr, &ring_address(0, USER + MEBI), vec![]);
    let (reply, refusal) = driver.refused(Request::SetVringKick, &u64s(&[0]), vec![eventfd()]);
    assert!(reply.is_none());
    assert!(
        matches!(
            refusal,
            VhostUserError::Device {
                source: DeviceError::Ring { index: 0, .. },
                ..
            }
        ),
        "{refusal}"
    );
    assert!(error.consume());
    // The front end mends its addresses; the ring is still started, so it runs at once.
    driver.ok(Request::SetVringAddr, &ring_address(0, USER), vec![]);
    assert_eq!(
        recorder.events()[1..],
        ["refuse 0", "start 0 size 64 at 0 disabled"]
    );
}

#[test]
fn acknowledgements_come_when_asked_for_and_negotiated() {
    let mut device = net();
    let mut driver = Driver::new(&mut device);
    driver.ok(Request::SetOwner, &[], vec![]);
    let asked = peer::raw(Request::SetOwner as u32, 9, &[]);
    let verdict = driver.send_raw(&asked, vec![]).unwrap();
    assert!(
        matches!(verdict, sumeru_virtio::vhost_user::Verdict::Done(None)),
        "REPLY_ACK is not negotiated"
    );
    driver.negotiate();
    assert!(driver.ok(Request::SetOwner, &[], vec![]).is_none());
    assert_eq!(driver.acknowledged(Request::SetOwner, &[], vec![]), 0);
    assert_eq!(
        driver.acknowledged(Request::SetVringNum, &u32s(&[0, 63]), vec![]),
        1
    );
    assert_eq!(
        driver.acknowledged(Request::SetVringNum, &u32s(&[0, 64]), vec![]),
        0
    );
    // An explicit reply stays what it is.
    let features = driver.session.info().features;
    assert_eq!(
        driver.acknowledged(Request::GetFeatures, &[], vec![]),
        features
    );
}

#[test]
fn status_zero_stops_rings_before_their_base_is_asked() {
    // The order of QEMU 7.2.
    let recorder = net();
    let mut device = recorder.clone();
    let mut driver = Driver::new(&mut device);
    driver.negotiate();
    driver.memory(&[(0, MEBI, USER)]);
    driver.start_ring(0, 0, USER);
    driver.ok(Request::SetStatus, &u64s(&[0xf]), vec![]);
    assert_eq!(driver.number(Request::GetStatus), 0xf);
    recorder.record().progress = 9;
    driver.ok(Request::SetStatus, &u64s(&[0]), vec![]);
    assert_eq!(driver.ring_base(0), 9);
    assert_eq!(
        recorder.events()[2..],
        ["status 0xf", "stop 0 at 9", "status 0x0"]
    );
    // A memory change does not wake it up.
    driver.memory(&[(0, MEBI, USER)]);
    assert!(recorder.events().is_empty());
}

#[test]
fn refused_features_show_in_the_status() {
    let recorder = net();
    let mut device = recorder.clone();
    let mut driver = Driver::new(&mut device);
    driver.negotiate();
    recorder.record().refuse_features = true;
    assert_eq!(
        driver.acknowledged(Request::SetFeatures, &u64s(&[1 << 32]), vec![]),
        1
    );
    driver.ok(Request::SetStatus, &u64s(&[0xb]), vec![]);
    assert_eq!(
        driver.number(Request::GetStatus),
        0x3,
        "FEATURES_OK is not confirmed"
    );
    recorder.record().refuse_features = false;
    assert_eq!(
        driver.acknowledged(Request::SetFeatures, &u64s(&[1 << 32]), vec![]),
        0
    );
    driver.ok(Request::SetStatus, &u64s(&[0xb]), vec![]);
    assert_eq!(driver.number(Request::GetStatus), 0xb);
}

#[test]
fn features_do_not_change_under_running_rings() {
    let mut device = net();
    let mut driver = Driver::new(&mut device);
    driver.negotiate();
    driver.memory(&[(0, MEBI, USER)]);
    driver.start_ring(0, 0, USER);
    let same = driver.session.info().features;
    driver.ok(Request::SetFeatures, &u64s(&[same]), vec![]);
    let error = driver.closed(Request::SetFeatures, &u64s(&[1 << 32]), vec![]);
    assert!(matches!(error, VhostUserError::Order { .. }), "{error}");
}

#[test]
fn a_device_reset_keeps_what_the_front_end_does_not_send_again() {
    let recorder = net();
    let mut device = recorder.clone();
    let mut driver = Driver::new(&mut device);
    driver.negotiate();
    driver.memory(&[(0, MEBI, USER)]);
    driver.ok(Request::SetVringCall, &u64s(&[0]), vec![eventfd()]);
    driver.ok(Request::SetVringErr, &u64s(&[0]), vec![eventfd()]);
    driver.start_ring(0, 5, USER);
    recorder.events();
    driver.ok(Request::ResetDevice, &[], vec![]);
    assert_eq!(recorder.events(), ["stop 0 at 5", "reset"]);
    let info = driver.session.info();
    assert_eq!((info.features, info.status, info.memory.len()), (0, 0, 1));
    let features = driver.number(Request::GetFeatures);
    driver.ok(Request::SetFeatures, &u64s(&[features]), vec![]);
    driver.start_ring(0, 0, USER);
    let record = recorder.record();
    let setup = record.queues[0].as_ref().unwrap();
    assert!(setup.call.is_some() && setup.error.is_some() && setup.last_available == 0);
}

#[test]
fn reset_owner_disables_rings_and_keeps_the_session() {
    let recorder = net();
    let mut device = recorder.clone();
    let mut driver = Driver::new(&mut device);
    driver.negotiate();
    driver.memory(&[(0, MEBI, USER)]);
    driver.ok(Request::SetVringEnable, &u32s(&[0, 1]), vec![]);
    driver.start_ring(0, 0, USER);
    driver.ok(Request::ResetOwner, &[], vec![]);
    assert_eq!(
        recorder.events()[1..],
        ["start 0 size 64 at 0 enabled", "stop 0 at 0"]
    );
    driver.start_ring(0, 0, USER);
    assert_eq!(recorder.events(), ["start 0 size 64 at 0 disabled"]);
}

#[test]
fn network_messages_reach_the_device() {
    let recorder = net();
    let mut device = recorder.clone();
    let mut driver = Driver::new(&mut device);
    driver.negotiate();
    recorder.events();
    assert_eq!(
        driver.acknowledged(Request::NetSetMtu, &u64s(&[9000]), vec![]),
        0
    );
    for bad in [0, 67, 65536, u64::MAX] {
        assert_eq!(
            driver.acknowledged(Request::NetSetMtu, &u64s(&[bad]), vec![]),
            1
        );
    }
    driver.ok(Request::SendRarp, &[0x52, 0x54, 0, 1, 2, 3, 0, 0], vec![]);
    assert_eq!(recorder.events(), ["mtu 9000", "rarp [52, 54, 0, 1, 2, 3]"]);
}

#[test]
fn messages_of_features_not_offered_are_answered_as_failures() {
    let mut device = net();
    let mut driver = Driver::new(&mut device);
    driver.negotiate();
    let one = 1u64.to_ne_bytes().to_vec();
    for (request, payload, fds, answer) in [
        (Request::IotlbMsg, vec![0; 32], 0, one.clone()),
        (Request::PostcopyAdvise, vec![], 0, vec![]),
        (Request::PostcopyEnd, vec![], 0, one.clone()),
        (Request::SetDeviceStateFd, vec![0; 8], 1, u64s(&[0x101])),
        (Request::CheckDeviceState, vec![], 0, one),
        (Request::GetSharedObject, vec![0; 16], 0, vec![]),
    ] {
        let fds = (0..fds).map(|_| memfd(1)).collect();
        let (reply, error) = driver.refused(request, &payload, fds);
        assert_eq!(reply.unwrap().payload, answer, "{error}");
    }
    let (reply, error) = driver.refused(Request::SetLogBase, &[0; 16], vec![memfd(1)]);
    assert!(reply.is_none() && matches!(error, VhostUserError::NotNegotiated { .. }));
    assert_eq!(
        driver.acknowledged(Request::SetLogBase, &[0; 16], vec![memfd(1)]),
        1
    );
    assert_eq!(
        driver.acknowledged(Request::SetVringEndian, &[0; 8], vec![]),
        1
    );
    driver.ok(Request::SetLogFd, &[], vec![eventfd()]);
    driver.closed(Request::PostcopyListen, &[], vec![]);
}
