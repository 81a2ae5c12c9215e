//! Whether the items of a pattern can stand on each other (Programmer's Guide, "Matching pattern").
//!
//! Headers are stacked as on the wire, lowest first; lower ones may be left out only at the bottom.
//! Metadata items may stand anywhere.

use super::ct::CtState;
use super::field::EtherType;
use super::item::{Access, Item};
use super::matched::Matched;
use super::validate::FlowError;

/// Checks the order of the items, and that no field excludes what the items say.
pub(super) fn check(pattern: &[Item]) -> Result<(), FlowError> {
    let mut below: Option<(usize, &Item)> = None;
    for (index, item) in pattern.iter().enumerate() {
        check_fields(index, item)?;
        if matches!(item, Item::Void) {
            continue;
        }
        if is_metadata(item) {
            check_duplicate(pattern, index, item)?;
            continue;
        }
        match below {
            Some((below_index, below)) => {
                let expected = followers(below);
                let anywhere = matches!(item, Item::Any(_) | Item::Raw(_));
                let follows = matches!(below, Item::Any(_)) && needs(item).is_none();
                if !anywhere && !follows && !expected.contains(&item.name()) {
                    return Err(FlowError::ItemOrder {
                        index,
                        item: item.name(),
                        after: below.name(),
                        expected,
                    });
                }
                check_next_header(below_index, below, item)?;
            }
            None => {
                if let Some(needs) = needs(item) {
                    return Err(FlowError::ItemNeeds {
                        index,
                        item: item.name(),
                        needs,
                    });
                }
            }
        }
        below = Some((index, item));
    }
    Ok(())
}

/// Whether the item matches something that is not in the packet.
fn is_metadata(item: &Item) -> bool {
    matches!(
        item,
        Item::Mark(_)
            | Item::Meta(_)
            | Item::Tag(_)
            | Item::Conntrack(_)
            | Item::Ct(_)
            | Item::MeterColor(_)
            | Item::Integrity(_)
            | Item::PortId { .. }
            | Item::PortRepresentor { .. }
            | Item::RepresentedPort { .. }
    )
}

/// A metadata item may stand there once; tags and integrity once for each index and level.
fn check_duplicate(pattern: &[Item], index: usize, item: &Item) -> Result<(), FlowError> {
    let same = |other: &Item| match (item, other) {
        (Item::Tag(one), Item::Tag(other)) => {
            !(one.index.is_exact() && other.index.is_exact() && one.index != other.index)
        }
        (Item::Integrity(one), Item::Integrity(other)) => {
            !(one.level.is_exact() && other.level.is_exact() && one.level != other.level)
        }
        _ => item.name() == other.name(),
    };
    match pattern.iter().take(index).any(same) {
        true => Err(FlowError::DuplicateItem {
            index,
            item: item.name(),
        }),
        false => Ok(()),
    }
}

fn check_fields(index: usize, item: &Item) -> Result<(), FlowError> {
    for row in item.row().fields {
        if let Access::Field { get, .. } = row.access
            && let Some(value) = get(item)
        {
            if value.last.is_some() && matches!(item, Item::Raw(_)) {
                return Err(FlowError::NoRange {
                    index,
                    item: item.name(),
                    field: row.name,
                });
            }
            if value.range().is_some_and(|(low, high)| high < low) {
                return Err(FlowError::ReversedRange {
                    index,
                    item: item.name(),
                    field: row.name,
                });
            }
        }
    }
    let contradiction = |field, excluded| {
        Err(FlowError::Contradiction {
            index,
            item: item.name(),
            field,
            excluded,
        })
    };
    match item {
        Item::Ipv4(header) if !(0x45..=0x4f).any(|byte| header.version_ihl.matches(byte)) => {
            contradiction("version_ihl", "every valid header (0x45 to 0x4f)")
        }
        Item::Raw(raw) if raw.offset.spec < 0 && !raw.relative.spec => {
            contradiction("offset", "every packet: it is below 0 and not relative")
        }
        Item::Ct(ct) if untracked_with_bits(&ct.state) => contradiction(
            "state",
            "every packet: other bits are only set together with trk",
        ),
        _ => Ok(()),
    }
}

/// Whether a state demands that the packet was not tracked and has other bits nevertheless.
fn untracked_with_bits(state: &Matched<CtState>) -> bool {
    let (spec, mask) = (state.spec.0, state.mask.0);
    let tracked = CtState::TRK.0;
    mask & tracked != 0 && spec & tracked == 0 && spec & mask != 0
}

/// What an item must stand on that cannot be left out.
fn needs(item: &Item) -> Option<&'static str> {
    match item {
        Item::GreKey(_) | Item::GreOption(_) => Some("`gre`"),
        Item::GeneveOpt(_) => Some("`geneve`"),
        Item::GtpPsc(_) => Some("`gtpu` or `gtp`"),
        _ => None,
    }
}

const LAYER3: &[&str] = &["vlan", "arp_eth_ipv4", "ipv4", "ipv6", "mpls"];
const LAYER4: &[&str] = &["tcp", "udp", "sctp", "icmp", "esp", "gre", "nvgre"];
const LAYER4_IPV6: &[&str] = &[
    "tcp",
    "udp",
    "sctp",
    "icmp6",
    "icmp6_nd_ns",
    "icmp6_nd_na",
    "esp",
    "gre",
    "nvgre",
    "ipv6_ext",
    "ipv6_frag_ext",
];
const ND_OPTIONS: &[&str] = &[
    "icmp6_nd_opt",
    "icmp6_nd_opt_sla_eth",
    "icmp6_nd_opt_tla_eth",
];

/// Names of the items that may stand on `below`, besides `any` and `raw`.
fn followers(below: &Item) -> &'static [&'static str] {
    match below {
        Item::Eth(_) | Item::Vlan(_) => LAYER3,
        Item::Ipv4(_) => LAYER4,
        Item::Ipv6(_) | Item::Ipv6Ext(_) | Item::Ipv6FragExt(_) => LAYER4_IPV6,
        Item::Icmp6NdNs(_)
        | Item::Icmp6NdNa(_)
        | Item::Icmp6NdOpt(_)
        | Item::Icmp6NdOptSlaEth(_)
        | Item::Icmp6NdOptTlaEth(_) => ND_OPTIONS,
        Item::Udp(_) => &[
            "vxlan",
            "vxlan-gpe",
            "geneve",
            "gtp",
            "gtpu",
            "gtpc",
            "mpls",
            "esp",
        ],
        Item::Vxlan(_) | Item::Nvgre(_) => &["eth"],
        Item::VxlanGpe(_) | Item::GreKey(_) | Item::GreOption(_) => {
            &["eth", "ipv4", "ipv6", "mpls"]
        }
        Item::Geneve(_) | Item::GeneveOpt(_) => &["geneve-opt", "eth", "ipv4", "ipv6", "mpls"],
        Item::Gre(_) => &["gre_key", "gre_option", "eth", "ipv4", "ipv6", "mpls"],
        Item::Mpls(_) => &["mpls", "eth", "ipv4", "ipv6"],
        Item::Gtp(_) | Item::Gtpu(_) => &["gtp_psc", "ipv4", "ipv6"],
        Item::GtpPsc(_) => &["ipv4", "ipv6"],
        _ => &[],
    }
}

/// Whether the field of `below` that names the next header can have the value that `next` needs.
fn check_next_header(index: usize, below: &Item, next: &Item) -> Result<(), FlowError> {
    let field = match below {
        Item::Eth(header) => match next {
            _ if !leaves(&header.ether_type, next, true) => "type",
            Item::Vlan(_) if !header.has_vlan.matches(true) => "has_vlan",
            _ => return Ok(()),
        },
        Item::Vlan(header) => match next {
            _ if !leaves(&header.inner_type, next, true) => "inner_type",
            Item::Vlan(_) if !header.has_more_vlan.matches(true) => "has_more_vlan",
            _ => return Ok(()),
        },
        Item::Ipv4(header) if !names(&header.proto, next) => "proto",
        Item::Ipv6(header) if !names_extended(&header.proto, next) => "proto",
        Item::Ipv6Ext(header) if !names_extended(&header.next_hdr, next) => "next_hdr",
        Item::Ipv6FragExt(header) if !names_extended(&header.next_hdr, next) => "next_hdr",
        Item::Gre(header) => match next {
            Item::GreKey(_) if !has_key(header.c_rsvd0_ver.mask.0, header.c_rsvd0_ver.spec.0) => {
                "c_rsvd0_ver"
            }
            Item::GreKey(_) | Item::GreOption(_) => return Ok(()),
            _ if !leaves(&header.protocol, next, false) => "protocol",
            _ => return Ok(()),
        },
        Item::Geneve(header) => match next {
            Item::GeneveOpt(_) if header.optlen.is_exact() && header.optlen.spec.get() == 0 => {
                "optlen"
            }
            Item::GeneveOpt(_) => return Ok(()),
            _ if !leaves(&header.protocol, next, false) => "protocol",
            _ => return Ok(()),
        },
        Item::Mpls(header) if !header.s.matches(!matches!(next, Item::Mpls(_))) => match next {
            Item::Any(_) | Item::Raw(_) => return Ok(()),
            _ => "s",
        },
        _ => return Ok(()),
    };
    Err(FlowError::Contradiction {
        index,
        item: below.name(),
        field,
        excluded: next.name(),
    })
}

/// Whether the flags of a GRE header allow a key (RFC 2890, section 2).
fn has_key(mask: u16, spec: u16) -> bool {
    mask & 0x2000 == 0 || spec & 0x2000 != 0
}

/// IP protocol number of what an item begins (IANA "Assigned Internet Protocol Numbers").
fn protocol(item: &Item) -> Option<u8> {
    Some(match item {
        Item::Icmp(_) => 1,
        Item::Tcp(_) => 6,
        Item::Udp(_) => 17,
        Item::Gre(_) | Item::Nvgre(_) => 47,
        Item::Esp(_) => 50,
        Item::Icmp6(_) | Item::Icmp6NdNs(_) | Item::Icmp6NdNa(_) => 58,
        Item::Sctp(_) => 132,
        Item::Ipv6FragExt(_) => 44,
        _ => return None,
    })
}

/// Whether a protocol field can name `next`.
fn names(field: &Matched<u8>, next: &Item) -> bool {
    protocol(next).is_none_or(|number| field.matches(number))
}

/// The same where extension headers may stand between (RFC 8200, section 4).
fn names_extended(field: &Matched<u8>, next: &Item) -> bool {
    let extensions = [0, 43, 44, 51, 60, 135, 139, 140];
    names(field, next) || extensions.iter().any(|number| field.matches(*number))
}

/// Whether an EtherType field leaves room for `next`. Behind Ethernet (`tagged`) a tag protocol
/// identifier always does: it says that the packet is tagged, and the tags need no item of their own.
fn leaves(ether_type: &Matched<EtherType>, next: &Item, tagged: bool) -> bool {
    let tags = [EtherType::VLAN, EtherType::QINQ, EtherType(0x9100)];
    let named: &[EtherType] = match next {
        Item::Ipv4(_) => &[EtherType::IPV4],
        Item::Ipv6(_) => &[EtherType::IPV6],
        Item::Arp(_) => &[EtherType::ARP],
        Item::Mpls(_) => &[EtherType::MPLS, EtherType::MPLS_MULTICAST],
        Item::Eth(_) => &[EtherType::TEB],
        Item::Vlan(_) => &tags,
        _ => return true,
    };
    let tags = tags.iter().filter(|_| tagged);
    named
        .iter()
        .chain(tags)
        .any(|value| ether_type.matches(*value))
}
