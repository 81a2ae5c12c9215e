//! Random frames from small pools of addresses, so that rules meet them and flows come back; one in six is damaged.

use super::checksum::fill;
use super::headers::{Fault, Known, VXLAN, read};
use super::seed::Seed;

pub const PORTS: [u16; 5] = [53, 80, 1000, 1001, 8080];
pub const VIDS: [u16; 4] = [0, 5, 6, 100];
pub const TTLS: [u8; 6] = [64, 64, 64, 255, 2, 1];

/// Two of them talk most.
const HOSTS: [u8; 10] = [0, 1, 1, 1, 2, 2, 2, 3, 4, 5];

const ARRIVING: Known = Known {
    tags: None,
    tunnel: None,
};

/// A station's address.
pub fn mac(n: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, n]
}

pub fn ipv4(n: u8) -> [u8; 4] {
    match n {
        0..4 => [10, 0, 0, n],
        4 => [10, 0, 1, 0],
        _ => [192, 168, 0, n],
    }
}

pub fn ipv6(n: u8) -> [u8; 16] {
    let mut address = [0; 16];
    (address[0], address[7], address[15]) = (0xfd, n / 4, n);
    address
}

/// A frame of a station, or now and then one with another's address; every protocol in it is one that the reference knows.
pub fn frame(seed: &mut Seed, station: u8) -> Vec<u8> {
    loop {
        let mut bytes = whole(seed, station, true);
        if seed.once_in(6) {
            damage(seed, &mut bytes);
        }
        match read(&bytes, ARRIVING) {
            Ok(_) => return bytes,
            Err(Fault::Malformed) if is_known(&bytes) => return bytes,
            Err(_) => {}
        }
    }
}

/// A frame without tags, options or fragments, TCP or UDP over IPv4; one in twelve is damaged.
pub fn plain_frame(seed: &mut Seed, station: u8) -> Vec<u8> {
    loop {
        let mut bytes = mac(seed.below(6) as u8).to_vec();
        bytes.extend(mac(station));
        bytes.extend([8, 0]);
        let proto = seed.one_of(&[6, 17]);
        let payload = transport(seed, proto);
        let word = seed.one_of(&[0x4000, 0]);
        header_4(seed, &mut bytes, proto, word, 0, &payload);
        if seed.once_in(2) {
            bytes.resize(bytes.len().max(60), 0);
        }
        set_checksums(&mut bytes);
        if seed.once_in(12) {
            damage(seed, &mut bytes);
        }
        if read(&bytes, ARRIVING) != Err(Fault::Unknown) && is_known(&bytes) {
            return bytes;
        }
    }
}

/// Of a malformed frame, whether what the engine sees first is known too, looked into or not.
fn is_known(bytes: &[u8]) -> bool {
    let plain = Known {
        tunnel: Some(false),
        ..ARRIVING
    };
    read(bytes, plain) != Err(Fault::Unknown)
}

fn whole(seed: &mut Seed, station: u8, outermost: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(match seed.below(16) {
        0 => [0xff; 6],
        1 => [1, 0, 0x5e, 0, 0, 5],
        2 if seed.once_in(4) => [1, 0x80, 0xc2, 0, 0, 0x0e],
        _ => mac(seed.below(6) as u8),
    });
    bytes.extend(match seed.below(64) {
        0 => [0; 6],
        1 => [3, 0, 0, 0, 0, 1],
        2..6 => mac(seed.below(6) as u8),
        _ => mac(station),
    });
    for _ in 0..seed.one_of(&[0, 0, 0, 0, 0, 1, 1, 2]) {
        bytes.extend(seed.one_of(&[[0x81, 0], [0x81, 0], [0x88, 0xa8]]));
        let tci = seed.one_of(&VIDS) | seed.one_of(&[0_u16, 0, 3, 7]) << 13;
        bytes.extend(tci.to_be_bytes());
    }
    match seed.below(16) {
        0 => {
            bytes.extend([0x88, 0xb5]);
            bytes.extend([7; 46]);
        }
        1 => {
            bytes.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
            bytes.extend([2, 0, 0, 0, 0, 1, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2]);
        }
        2 => bytes.extend([0, 3, 0x42, 0x42, 3]),
        3..7 => {
            bytes.extend([0x86, 0xdd]);
            version_6(seed, &mut bytes);
        }
        7..10 if outermost => {
            bytes.extend([8, 0]);
            tunnelled(seed, station, &mut bytes);
        }
        10..12 => {
            bytes.extend([8, 0]);
            conversation(seed, &mut bytes);
        }
        _ => {
            bytes.extend([8, 0]);
            version_4(seed, &mut bytes);
        }
    }
    // Padding to the shortest frame, or a little more.
    if outermost && !is_tunnel(&bytes) && seed.once_in(4) {
        bytes.resize(bytes.len().max(60) + seed.below(3), 0);
    }
    set_checksums(&mut bytes);
    bytes
}

fn is_tunnel(bytes: &[u8]) -> bool {
    read(bytes, ARRIVING).is_ok_and(|frame| frame.tunnel.is_some())
}

/// Right checksums in every layer that is sound.
fn set_checksums(bytes: &mut [u8]) {
    let Ok(frame) = read(bytes, ARRIVING) else {
        return;
    };
    if let Some((_, inner)) = &frame.tunnel {
        fill(bytes, inner);
    }
    fill(bytes, &frame.outer);
}

fn version_4(seed: &mut Seed, bytes: &mut Vec<u8>) {
    let proto = seed.one_of(&[17_u8, 17, 17, 6, 6, 1, 99]);
    let mut payload = transport(seed, proto);
    // DF; not; first fragment; later ones.
    let (word, later) = seed.one_of(&[
        (0x4000_u16, false),
        (0x4000, false),
        (0, false),
        (0x4000, false),
        (0x2000, false),
        (0x2003, true),
        (0x0003, true),
    ]);
    if later {
        payload = vec![0x5a; 16];
    }
    let options = seed.one_of(&[0, 0, 0, 4, 12]);
    header_4(seed, bytes, proto, word, options, &payload);
}

/// A question to one of two servers, or its answer.
fn conversation(seed: &mut Seed, bytes: &mut Vec<u8>) {
    let asks = seed.once_in(2);
    let turned = |pair: [u16; 2]| if asks { pair } else { [pair[1], pair[0]] };
    let mut payload = Vec::new();
    for port in turned([PORTS[2], PORTS[0]]) {
        payload.extend(port.to_be_bytes());
    }
    payload.extend([0, 12, 0, 1, 0x62, 0x62, 0x62, 0x62]);
    let at = bytes.len() + 12;
    header_4(seed, bytes, 17, 0x4000, 0, &payload);
    for (number, host) in turned([1, seed.one_of(&[2, 3])]).into_iter().enumerate() {
        bytes[at + 4 * number..at + 4 * number + 4].copy_from_slice(&ipv4(host as u8));
    }
}

fn header_4(
    seed: &mut Seed,
    bytes: &mut Vec<u8>,
    proto: u8,
    word: u16,
    options: usize,
    payload: &[u8],
) {
    bytes.extend([
        0x45 + (options / 4) as u8,
        seed.one_of(&[0, 0, 0x10, 0x2e, 0x01, 0x03]),
    ]);
    bytes.extend(((20 + options + payload.len()) as u16).to_be_bytes());
    bytes.extend([0, seed.one_of(&[0, 7])]);
    bytes.extend(word.to_be_bytes());
    bytes.extend([seed.one_of(&TTLS), proto, 0, 0]);
    bytes.extend(ipv4(seed.one_of(&HOSTS)));
    bytes.extend(ipv4(seed.one_of(&HOSTS)));
    bytes.extend(vec![1; options]);
    bytes.extend(payload);
}

fn version_6(seed: &mut Seed, bytes: &mut Vec<u8>) {
    let proto = seed.one_of(&[17_u8, 17, 6, 6, 58, 59]);
    let mut payload = transport(seed, proto);
    let mut next = proto;
    for _ in 0..seed.one_of(&[0, 0, 0, 0, 1, 1, 2, 3]) {
        let kind = seed.one_of(&[0_u8, 60, 43, 44, 51]);
        let mut header = match kind {
            44 => {
                let word = seed.one_of(&[0_u16, 1, 0x19, 0x18]);
                if word >= 8 {
                    payload = vec![0x5a; 16];
                }
                let [high, low] = word.to_be_bytes();
                vec![next, 0, high, low, 0, 0, 0, 9]
            }
            51 => vec![next, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2],
            // Of routing headers the fourth byte says how many segments are left.
            43 => vec![next, 0, 0, seed.one_of(&[0, 1]), 0, 0, 0, 0],
            _ if seed.once_in(8) => {
                let mut long = vec![1; 8 * 30];
                (long[0], long[1]) = (next, 29);
                long
            }
            _ => vec![next, 0, 1, 4, 0, 0, 0, 0],
        };
        header.append(&mut payload);
        payload = header;
        next = kind;
    }
    bytes.extend([
        0x60,
        seed.one_of(&[0, 0, 0x10, 0x20, 0x30]),
        0,
        seed.one_of(&[0, 9]),
    ]);
    bytes.extend((payload.len() as u16).to_be_bytes());
    bytes.extend([next, seed.one_of(&TTLS)]);
    bytes.extend(ipv6(seed.below(6) as u8));
    bytes.extend(ipv6(seed.below(6) as u8));
    bytes.extend(payload);
}

fn transport(seed: &mut Seed, proto: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut port = || match seed.below(3) {
        0 => seed.one_of(&PORTS),
        _ => seed.one_of(&[PORTS[0], PORTS[2]]),
    };
    let (from, to) = (port(), port());
    let data = vec![0x61; seed.one_of(&[0, 1, 4, 18, 100, 300])];
    match proto {
        17 => {
            bytes.extend(from.to_be_bytes());
            bytes.extend(to.to_be_bytes());
            bytes.extend(((8 + data.len()) as u16).to_be_bytes());
            // Any number asks for a checksum, zero for none.
            bytes.extend(seed.one_of(&[[0, 1], [0, 1], [0, 1], [0, 0]]));
        }
        6 => {
            let options = seed.one_of(&[0, 0, 12]);
            bytes.extend(from.to_be_bytes());
            bytes.extend(to.to_be_bytes());
            bytes.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50 + (options << 2) as u8]);
            bytes.push(seed.one_of(&[0x02, 0x10, 0x12, 0x18]));
            bytes.extend([0x20, 0, 0, 0, 0, 0]);
            bytes.extend(vec![1; options]);
        }
        1 | 58 => bytes.extend([
            seed.one_of(&[8, 0, 3, 128]),
            seed.one_of(&[0, 1]),
            0,
            0,
            0,
            1,
            0,
            2,
        ]),
        _ => {}
    }
    bytes.extend(data);
    bytes
}

/// VXLAN, or a datagram that looks like it.
fn tunnelled(seed: &mut Seed, station: u8, bytes: &mut Vec<u8>) {
    let inner = whole(seed, station, false);
    let mut payload = Vec::new();
    payload.extend(seed.one_of(&PORTS).to_be_bytes());
    payload.extend(VXLAN.to_be_bytes());
    payload.extend(((16 + inner.len()) as u16).to_be_bytes());
    payload.extend(seed.one_of(&[[0, 0], [0, 0], [0, 1]]));
    payload.extend([seed.one_of(&[8, 8, 8, 8, 8, 0]), 0, 0, 0, 0, 0]);
    payload.extend([seed.one_of(&[7, 7, 9]), 0]);
    payload.extend(inner);
    header_4(seed, bytes, 17, 0x4000, 0, &payload);
}

/// Cuts the frame short, or writes over a byte of its headers.
fn damage(seed: &mut Seed, bytes: &mut Vec<u8>) {
    match seed.below(3) {
        0 => {
            let len = seed.below(bytes.len());
            bytes.truncate(len.max(seed.one_of(&[1, 13, 14, 20])).min(bytes.len()));
        }
        _ => {
            let at = 12 + seed.below(bytes.len().min(100) - 12);
            bytes[at] = seed.one_of(&[0, 1, 4, 6, 0x0f, 0x40, 0x44, 0x4f, 0x60, 0xff]);
            set_checksums(bytes);
        }
    }
}
