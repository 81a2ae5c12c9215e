//! IPFIX messages (RFC 7011) with flow records of packets of IPv4 and IPv6 (information elements of RFC 7012, IANA's registry).
//!
//! One [`Message`] is one UDP datagram: a header, perhaps the templates, and records. Numbers are in network order.

use crate::build::BuildError;

/// Version number of IPFIX.
const VERSION: u16 = 10;
/// Bytes of a message's header.
const HEADER_LEN: usize = 16;
/// Bytes of a set's header.
const SET_HEADER_LEN: usize = 4;
const TEMPLATE_SET: u16 = 2;
/// Numbers of the templates of IPv4 and of IPv6.
const TEMPLATES: [u16; 2] = [256, 257];

/// An information element and its length in bytes.
type Element = (u16, u16);

/// Those of a record behind its addresses, in their order.
const COMMON: [Element; 15] = [
    (7, 2),   // sourceTransportPort
    (11, 2),  // destinationTransportPort
    (4, 1),   // protocolIdentifier
    (5, 1),   // ipClassOfService
    (6, 2),   // tcpControlBits
    (58, 2),  // vlanId
    (10, 4),  // ingressInterface
    (14, 4),  // egressInterface
    (61, 1),  // flowDirection
    (1, 8),   // octetDeltaCount
    (2, 8),   // packetDeltaCount
    (152, 8), // flowStartMilliseconds
    (153, 8), // flowEndMilliseconds
    (136, 1), // flowEndReason
    (34, 4),  // samplingInterval
];
/// sourceIPv4Address, destinationIPv4Address, icmpTypeCodeIPv4.
const IPV4: [Element; 3] = [(8, 4), (12, 4), (32, 2)];
/// sourceIPv6Address, destinationIPv6Address, icmpTypeCodeIPv6.
const IPV6: [Element; 3] = [(27, 16), (28, 16), (139, 2)];

/// Why a record was made (RFC 5102 section 5.11.3, flowEndReason).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EndReason {
    /// No packet for the idle timeout.
    Idle = 1,
    /// It goes on, and is told of every active timeout.
    Active = 2,
    /// The export ended.
    Forced = 4,
}

/// What packets of a flow have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Whether the addresses are of IPv6; of IPv4 they are in the low 32 bits.
    pub v6: bool,
    /// Source address.
    pub src: u128,
    /// Destination address.
    pub dst: u128,
    /// IP protocol.
    pub proto: u8,
    /// Type of service or traffic class.
    pub tos: u8,
    /// Source port; of ICMP the type.
    pub src_port: u16,
    /// Destination port; of ICMP the code.
    pub dst_port: u16,
    /// VLAN identifier, 0 without.
    pub vlan: u16,
    /// Number of the interface that they come in by, or leave by.
    pub interface: u32,
    /// They leave by it.
    pub sent: bool,
}

/// What is told of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Which.
    pub flow: Flow,
    /// TCP flags of all its packets together.
    pub tcp_flags: u8,
    /// Packets.
    pub packets: u64,
    /// Their bytes from the IP header on.
    pub octets: u64,
    /// Milliseconds since 1970 at the first.
    pub start_ms: u64,
    /// And at the last.
    pub end_ms: u64,
    /// Why it is told now.
    pub reason: EndReason,
    /// Of how many packets one was counted.
    pub sampling: u32,
}

impl Record {
    const fn template(&self) -> usize {
        self.flow.v6 as usize
    }

    /// Bytes of a record.
    fn len(&self) -> usize {
        let own = if self.flow.v6 { &IPV6 } else { &IPV4 };
        let bytes = own.iter().chain(&COMMON).map(|(_, len)| usize::from(*len));
        bytes.sum()
    }
}

/// A message in the making.
pub struct Message<'a> {
    bytes: &'a mut [u8],
    len: usize,
    /// Where the set in the making begins, and its template.
    set: Option<(usize, usize)>,
    records: u32,
}

impl<'a> Message<'a> {
    /// Begins an empty message in `bytes`, which is as long as a datagram may be.
    ///
    /// # Errors
    /// [`BuildError::NoSpace`].
    pub fn new(bytes: &'a mut [u8]) -> Result<Self, BuildError> {
        if bytes.len() < HEADER_LEN {
            return Err(BuildError::NoSpace);
        }
        Ok(Message {
            bytes,
            len: HEADER_LEN,
            set: None,
            records: 0,
        })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), BuildError> {
        let room = self.bytes.get_mut(self.len..self.len + bytes.len());
        room.ok_or(BuildError::NoSpace)?.copy_from_slice(bytes);
        self.len += bytes.len();
        Ok(())
    }

    /// Ends the set in the making: writes its length.
    fn close(&mut self) {
        if let Some((at, _)) = self.set.take() {
            let len = ((self.len - at) as u16).to_be_bytes();
            if let Some(field) = self.bytes.get_mut(at + 2..at + 4) {
                field.copy_from_slice(&len);
            }
        }
    }

    /// Adds the templates of all records.
    ///
    /// # Errors
    /// [`BuildError::NoSpace`]; the message is of no use then.
    pub fn templates(&mut self) -> Result<(), BuildError> {
        self.close();
        self.set = Some((self.len, usize::MAX));
        self.put(&TEMPLATE_SET.to_be_bytes())?;
        self.put(&[0; 2])?;
        for (id, own) in TEMPLATES.into_iter().zip([&IPV4, &IPV6]) {
            self.put(&id.to_be_bytes())?;
            self.put(&((own.len() + COMMON.len()) as u16).to_be_bytes())?;
            for (element, len) in own.iter().chain(&COMMON) {
                self.put(&element.to_be_bytes())?;
                self.put(&len.to_be_bytes())?;
            }
        }
        self.close();
        Ok(())
    }

    /// Adds a record; false when there is no room for it.
    pub fn record(&mut self, record: &Record) -> bool {
        let template = record.template();
        let opens = self.set.is_none_or(|(_, open)| open != template);
        let needed = record.len() + if opens { SET_HEADER_LEN } else { 0 };
        if self.bytes.len() - self.len < needed {
            return false;
        }
        let written = self.write(record, template, opens);
        debug_assert!(written.is_ok(), "there was room");
        self.records += 1;
        true
    }

    fn write(&mut self, record: &Record, template: usize, opens: bool) -> Result<(), BuildError> {
        if opens {
            self.close();
            self.set = Some((self.len, template));
            let id = TEMPLATES.get(template).copied().unwrap_or_default();
            self.put(&id.to_be_bytes())?;
            self.put(&[0; 2])?;
        }
        let flow = &record.flow;
        for address in [flow.src, flow.dst] {
            let bytes = address.to_be_bytes();
            let from = if flow.v6 { 0 } else { 12 };
            self.put(bytes.get(from..).unwrap_or_default())?;
        }
        let icmp = matches!(flow.proto, 1 | 58);
        let type_code = if icmp {
            flow.src_port << 8 | flow.dst_port & 0xff
        } else {
            0
        };
        let port = |port: u16| if icmp { 0 } else { port };
        self.put(&type_code.to_be_bytes())?;
        self.put(&port(flow.src_port).to_be_bytes())?;
        self.put(&port(flow.dst_port).to_be_bytes())?;
        self.put(&[flow.proto, flow.tos])?;
        self.put(&u16::from(record.tcp_flags).to_be_bytes())?;
        self.put(&flow.vlan.to_be_bytes())?;
        let at = |is_there: bool| if is_there { flow.interface } else { 0 };
        self.put(&at(!flow.sent).to_be_bytes())?;
        self.put(&at(flow.sent).to_be_bytes())?;
        self.put(&[u8::from(flow.sent)])?;
        for number in [
            record.octets,
            record.packets,
            record.start_ms,
            record.end_ms,
        ] {
            self.put(&number.to_be_bytes())?;
        }
        self.put(&[record.reason as u8])?;
        self.put(&record.sampling.to_be_bytes())
    }

    /// Records so far.
    pub const fn records(&self) -> u32 {
        self.records
    }

    /// Writes the header: `time` in seconds since 1970, `sequence` the number of records in all messages before, `domain` whom they are about;
    /// the length of the message.
    pub fn finish(mut self, time: u32, sequence: u32, domain: u32) -> usize {
        self.close();
        let len = self.len as u16;
        let words = [
            u32::from(VERSION) << 16 | u32::from(len),
            time,
            sequence,
            domain,
        ];
        for (field, word) in self.bytes.chunks_exact_mut(4).zip(words) {
            field.copy_from_slice(&word.to_be_bytes());
        }
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: Record = Record {
        flow: Flow {
            v6: false,
            src: 0x0a00_0001,
            dst: 0x0a00_0002,
            proto: 6,
            tos: 0x20,
            src_port: 1000,
            dst_port: 80,
            vlan: 7,
            interface: 3,
            sent: false,
        },
        tcp_flags: 0x12,
        packets: 5,
        octets: 500,
        start_ms: 1_000,
        end_ms: 2_000,
        reason: EndReason::Idle,
        sampling: 1,
    };

    fn word(bytes: &[u8], at: usize) -> u16 {
        u16::from_be_bytes([bytes[at], bytes[at + 1]])
    }

    /// The lengths of message, sets and records agree, whatever is mixed.
    #[test]
    fn sets_are_as_long_as_they_say() {
        let mut bytes = [0; 512];
        let mut message = Message::new(&mut bytes).unwrap();
        message.templates().unwrap();
        let v6 = Record {
            flow: Flow {
                v6: true,
                ..RECORD.flow
            },
            ..RECORD
        };
        let mut added = 0;
        for record in [RECORD, RECORD, v6, RECORD, v6] {
            added += u32::from(message.record(&record));
        }
        assert_eq!(message.records(), added);
        let len = message.finish(99, 7, 42);
        assert_eq!((word(&bytes, 0), word(&bytes, 2)), (10, len as u16));
        assert_eq!(bytes[4..16], [0, 0, 0, 99, 0, 0, 0, 7, 0, 0, 0, 42]);
        let mut at = HEADER_LEN;
        let mut sets = std::vec::Vec::new();
        while at < len {
            let set = (word(&bytes, at), usize::from(word(&bytes, at + 2)));
            sets.push(set);
            at += set.1;
        }
        assert_eq!(at, len);
        let one = |record: &Record, n| SET_HEADER_LEN + n * record.len();
        let templates = SET_HEADER_LEN + 2 * (4 + 4 * (3 + 15));
        assert_eq!(
            sets,
            [
                (2, templates),
                (256, one(&RECORD, 2)),
                (257, one(&v6, 1)),
                (256, one(&RECORD, 1))
            ],
            "the last found no room"
        );
        assert_eq!(added, 4);
    }

    #[test]
    fn a_record_has_its_fields_in_the_order_of_its_template() {
        let mut bytes = [0; 128];
        let mut message = Message::new(&mut bytes).unwrap();
        assert!(message.record(&RECORD));
        let len = message.finish(0, 0, 0);
        let record = &bytes[HEADER_LEN + SET_HEADER_LEN..len];
        assert_eq!(record.len(), RECORD.len());
        assert_eq!(record[..8], [10, 0, 0, 1, 10, 0, 0, 2]);
        assert_eq!(record[8..14], [0, 0, 3, 0xe8, 0, 80]);
        assert_eq!(record[14..20], [6, 0x20, 0, 0x12, 0, 7]);
        assert_eq!(record[20..29], [0, 0, 0, 3, 0, 0, 0, 0, 0]);
        assert_eq!(record[29..37], 500_u64.to_be_bytes());
        assert_eq!(record[61..], [1, 0, 0, 0, 1]);
        assert!(Message::new(&mut [0; 15]).is_err());
    }
}
