//! The parts of the vhost-user session that a block device lives on: its configuration space, the news that it has
//! changed, and the in-flight region that outlives the back end.

#![allow(clippy::unwrap_used)]

mod peer;

use std::io::Read;
use std::os::unix::net::UnixStream;

use peer::{CONFIG, Driver, Recorder, memfd, memory_table, u32s, u64s};
use sumeru_virtio::device::{DeviceError, DeviceType};
use sumeru_virtio::vhost_user::message::Request;
use sumeru_virtio::vhost_user::{NotifyError, VhostUserError};

const MEBI: u64 = 1 << 20;
const USER: u64 = 0x7f00_0000_0000;

#[test]
fn the_configuration_space_is_read_and_written() {
    let recorder = Recorder::new(DeviceType::Block, 1);
    let mut device = recorder.clone();
    let mut driver = Driver::new(&mut device);
    driver.negotiate();
    recorder.events();
    let access =
        |offset: u32, data: &[u8]| [u32s(&[offset, data.len() as u32, 0]), data.to_vec()].concat();
    let reply = driver
        .ok(Request::GetConfig, &access(4, &[0xff; 20]), vec![])
        .unwrap();
    let mut expected = access(4, &CONFIG[4..]);
    expected[4] = 20;
    expected.extend([0; 8]);
    assert_eq!(
        reply.payload, expected,
        "same size as asked, zeroes beyond the end"
    );
    driver.ok(Request::SetConfig, &access(4, &[1, 2]), vec![]);
    assert_eq!(recorder.events(), ["config 4 [1, 2]"]);
    let (_, error) = driver.refused(Request::SetConfig, &access(0, &[1]), vec![]);
    assert!(matches!(
        error,
        VhostUserError::Device {
            source: DeviceError::ConfigNotWritable { .. },
            ..
        }
    ));
    for bad in [
        u32s(&[0, 5, 0]),
        u32s(&[0, u32::MAX, 0]),
        access(250, &[0; 8]),
        access(u32::MAX, &[0; 8]),
    ] {
        let (reply, _) = driver.refused(Request::GetConfig, &bad, vec![]);
        assert!(
            reply.unwrap().payload.is_empty(),
            "an error is an empty payload"
        );
    }
}

#[test]
fn a_changed_configuration_is_announced_at_any_time() {
    let recorder = Recorder::new(DeviceType::Block, 1);
    let mut device = recorder.clone();
    let mut driver = Driver::new(&mut device);
    let handle = recorder.record().front_end.clone().unwrap();
    assert_eq!(handle.config_changed(), Err(NotifyError::NotNegotiated));
    driver.negotiate();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    assert_eq!(
        driver.acknowledged(Request::SetBackendReqFd, &[], vec![ours.into()]),
        0
    );
    std::thread::spawn(move || handle.config_changed())
        .join()
        .unwrap()
        .unwrap();
    let mut bytes = [0; 12];
    theirs.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes[..4], [2, 0, 0, 0]);
    assert_eq!(
        driver.acknowledged(Request::SetBackendReqFd, &[], vec![memfd(1)]),
        1,
        "a file is no channel"
    );
    drop(driver);
    let handle = recorder.record().front_end.clone().unwrap();
    assert_eq!(handle.config_changed(), Err(NotifyError::Disconnected));
}

#[test]
fn inflight_requests_survive_the_back_end() {
    let recorder = Recorder::new(DeviceType::Block, 2);
    let describe = |size: u64| {
        let mut payload = u64s(&[size, 0]);
        payload.extend([2, 0, 64, 0]);
        payload
    };
    // First life: the front end asks for a region, gives it back, and the device fetches two requests.
    let mut device = recorder.clone();
    let mut driver = Driver::new(&mut device);
    driver.negotiate();
    driver.memory(&[(0, MEBI, USER)]);
    let reply = driver
        .ok(Request::GetInflightFd, &describe(0), vec![])
        .unwrap();
    assert_eq!(reply.payload.len(), 20, "the size that was asked with");
    let size = u64::from_ne_bytes(reply.payload[..8].try_into().unwrap());
    let fd = reply.fd.unwrap();
    driver.ok(
        Request::SetInflightFd,
        &describe(size),
        vec![fd.try_clone().unwrap()],
    );
    driver.start_ring(1, 0, USER);
    {
        let mut record = recorder.record();
        let inflight = record.queues[1]
            .as_mut()
            .unwrap()
            .inflight
            .as_mut()
            .unwrap();
        assert_eq!(inflight.recover(0).heads, [0u16; 0]);
        inflight.mark(0);
        inflight.mark(9);
        // Death without a stop.
        record.queues[1] = None;
    }
    drop(driver);
    // Second life.
    let recorder = Recorder::new(DeviceType::Block, 2);
    let mut device = recorder.clone();
    let mut driver = Driver::new(&mut device);
    driver.negotiate();
    driver.memory(&[(0, MEBI, USER)]);
    driver.ok(
        Request::SetInflightFd,
        &[describe(size), vec![0; 4]].concat(),
        vec![fd],
    );
    driver.start_ring(1, 0, USER);
    let mut record = recorder.record();
    let recovery = record.queues[1]
        .as_mut()
        .unwrap()
        .inflight
        .as_mut()
        .unwrap()
        .recover(0);
    assert_eq!(
        (recovery.heads.as_slice(), recovery.next_available),
        ([0, 9].as_slice(), 2)
    );
    drop(record);
    // While a ring runs the region stays; and a larger ring than the region tracks does not start.
    let error = driver.closed(Request::SetInflightFd, &describe(size), vec![memfd(size)]);
    assert!(matches!(error, VhostUserError::Order { .. }));
}

#[test]
fn bad_inflight_requests_are_answered() {
    let mut device = Recorder::new(DeviceType::Block, 2);
    let mut driver = Driver::new(&mut device);
    driver.negotiate();
    let describe = |queues: u16, size: u16| {
        let mut payload = u64s(&[0, 0]);
        payload.extend(queues.to_ne_bytes());
        payload.extend(size.to_ne_bytes());
        payload
    };
    for bad in [
        describe(0, 64),
        describe(3, 64),
        describe(u16::MAX, 64),
        describe(1, 0),
        describe(1, 65),
    ] {
        let (reply, _) = driver.refused(Request::GetInflightFd, &bad, vec![]);
        let reply = reply.unwrap();
        assert_eq!((reply.payload, reply.fd.is_none()), (vec![0; 20], true));
    }
    let (payload, _) = memory_table(&[(0, MEBI, USER)]);
    assert_eq!(
        driver.acknowledged(Request::SetInflightFd, &payload[..20], vec![memfd(MEBI)]),
        1
    );
}
