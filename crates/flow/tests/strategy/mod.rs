//! Any rule, any command, any text.

mod command;

use std::net::IpAddr;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use sumeru_flow::model::{
    Access, AddressRange, Argument, ByteString, CtAction, CtCommit, CtNat, ErasedMatch, FieldId,
    FieldKind, FieldPlace, FieldValue, Masked, ModifyField, ModifyOperation, ModifySource,
    NatRange, PortRange, PortRef, RawEncap, Rss, RssFunction, RssTypes,
};
use sumeru_flow::{Action, Attributes, Item, Rule};

pub use command::{command, text};

pub fn low_mask(bits: u32) -> u128 {
    u128::MAX >> (128 - bits)
}

pub fn port() -> impl Strategy<Value = PortRef> {
    prop_oneof![
        any::<u32>().prop_map(PortRef::from),
        "[A-Za-z0-9_.:@-]{1,64}".prop_map(|name| PortRef::new(&name).expect("a valid name")),
    ]
}

/// A value of a field, masked in all ways: not at all, in full, by a prefix, by any bits.
fn field(bits: u32) -> impl Strategy<Value = ErasedMatch> {
    let all = low_mask(bits);
    let mask = prop_oneof![
        Just(0),
        Just(all),
        (0..=bits).prop_map(move |low| all & all.checked_shl(low).unwrap_or(0)),
        any::<u128>().prop_map(move |mask| mask & all),
    ];
    let value = any::<u128>().prop_map(move |value| value & all);
    (value.clone(), mask, proptest::option::weighted(0.2, value))
        .prop_map(|(spec, mask, last)| ErasedMatch { spec, mask, last })
}

pub fn item() -> impl Strategy<Value = Item> {
    (0..Item::TABLE.len()).prop_flat_map(|index| {
        let row = &Item::TABLE[index];
        let base = Just((row.new)()).boxed();
        row.fields.iter().fold(base, |item, row| match row.access {
            Access::Field { set, .. } => (item, proptest::option::of(field(row.bits)))
                .prop_map(move |(mut item, value)| {
                    if let Some(value) = value {
                        set(&mut item, value);
                    }
                    item
                })
                .boxed(),
            Access::Port => (item, option::of(port()))
                .prop_map(|(item, value)| match item {
                    Item::PortId { .. } => Item::PortId { port: value },
                    Item::PortRepresentor { .. } => Item::PortRepresentor { port: value },
                    _ => Item::RepresentedPort { port: value },
                })
                .boxed(),
            Access::Bytes {
                set, alias: false, ..
            } => (item, bytes(max_bytes(row.kind)))
                .prop_map(move |(mut item, (spec, mask))| {
                    set(&mut item, spec, mask).expect("bytes that fit");
                    item
                })
                .boxed(),
            Access::Bytes { .. } | Access::Alias(_) => item,
        })
    })
}

fn max_bytes(kind: FieldKind) -> usize {
    match kind {
        FieldKind::Bytes(max) => max,
        _ => 0,
    }
}

/// Value and mask of one length.
fn bytes(max: usize) -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    (0..=max).prop_flat_map(|length| {
        let mask = prop_oneof![Just(vec![0xff; length]), vec(any::<u8>(), length)];
        (vec(any::<u8>(), length), mask)
    })
}

fn argument(kind: FieldKind, bits: u32) -> BoxedStrategy<Argument> {
    match kind {
        FieldKind::Port => port().prop_map(Argument::Port).boxed(),
        // One IP version throughout, so that both ends of a tunnel agree.
        FieldKind::Ip => any::<std::net::Ipv6Addr>()
            .prop_map(|address| Argument::Ip(address.into()))
            .boxed(),
        FieldKind::Named(names) => (0..names.len() as u128).prop_map(Argument::Bits).boxed(),
        FieldKind::NameSet(names) => subsequence(names, 0..names.len())
            .prop_map(|names| {
                let bits = names.iter().fold(0, |bits, (_, bit)| bits | bit);
                Argument::Bits(bits.into())
            })
            .boxed(),
        FieldKind::Flag => Just(Argument::Bits(1)).boxed(),
        FieldKind::Bytes(max) => vec(any::<u8>(), 1..=max).prop_map(Argument::Bytes).boxed(),
        FieldKind::Numbers => vec(any::<u16>(), 0..9).prop_map(Argument::Numbers).boxed(),
        FieldKind::Masked => any::<(u128, u128)>()
            .prop_map(move |(value, mask)| {
                Argument::Masked(value & low_mask(bits), mask & low_mask(bits))
            })
            .boxed(),
        FieldKind::Addresses => any::<(std::net::IpAddr, u8)>()
            .prop_map(|(first, more)| {
                let last = match first {
                    IpAddr::V4(first) => {
                        IpAddr::V4(u32::from(first).saturating_add(more.into()).into())
                    }
                    IpAddr::V6(first) => {
                        IpAddr::V6(u128::from(first).saturating_add(more.into()).into())
                    }
                };
                Argument::Addresses(AddressRange::new(first, last).expect("in order"))
            })
            .boxed(),
        FieldKind::Ports => (1..=u16::MAX)
            .prop_flat_map(|first| (Just(first), first..=u16::MAX))
            .prop_map(|(first, last)| {
                Argument::Ports(PortRange::new(first, last).expect("in order"))
            })
            .boxed(),
        FieldKind::Actions => vec(simple_action(), 0..=10)
            .prop_map(Argument::Actions)
            .boxed(),
        _ => any::<u128>()
            .prop_map(move |value| Argument::Bits(value & low_mask(bits)))
            .boxed(),
    }
}

/// An action that a sample can do.
fn simple_action() -> impl Strategy<Value = Action> {
    prop_oneof![
        any::<u16>().prop_map(|index| Action::Queue { index }),
        any::<u32>().prop_map(|id| Action::Count { id }),
        port().prop_map(|port| Action::RepresentedPort { port }),
        vec(any::<u8>(), 1..50).prop_map(|data| Action::RawEncap(RawEncap {
            data: ByteString::new(data).expect("50 bytes fit")
        })),
    ]
}

/// Any action: arguments at random until they make one.
pub fn action() -> impl Strategy<Value = Action> {
    (0..Action::TABLE.len()).prop_flat_map(|index| {
        let row = &Action::TABLE[index];
        let arguments: Vec<_> = row
            .arguments
            .iter()
            .map(|row| match row.kind {
                FieldKind::Defined => Just(None).boxed(),
                _ => option::weighted(0.6, argument(row.kind, row.bits)).boxed(),
            })
            .collect();
        let all: Vec<_> = row
            .arguments
            .iter()
            .map(|row| argument_unless_defined(row.kind, row.bits))
            .collect();
        let made = match row.name {
            "modify_field" => modify_field().boxed(),
            "ct" => ct().boxed(),
            "rss" => rss().boxed(),
            _ => arguments
                .prop_filter_map("arguments that make no action", |values| {
                    (row.build)(&values).ok()
                })
                .boxed(),
        };
        match row.arguments.iter().all(|row| row.kind != FieldKind::Flag)
            && !["modify_field", "rss"].contains(&row.name)
        {
            // What needs many arguments is seldom made by chance.
            true => prop_oneof![
                1 => all.prop_map(|values| (row.build)(&values).expect("arguments are complete")),
                1 => made,
            ]
            .boxed(),
            false => made,
        }
    })
}

fn argument_unless_defined(kind: FieldKind, bits: u32) -> BoxedStrategy<Option<Argument>> {
    match kind {
        FieldKind::Defined => Just(None).boxed(),
        // No sample of no packets, no ratio of 0.
        _ => argument(kind, bits)
            .prop_map(move |value| match value {
                Argument::Bits(0) if bits == 32 => Some(Argument::Bits(1)),
                value => Some(value),
            })
            .boxed(),
    }
}

/// A change within the width of its fields.
fn modify_field() -> impl Strategy<Value = Action> {
    let fields: Vec<FieldId> = FieldId::ALL
        .iter()
        .copied()
        .filter(|field| !matches!(field, FieldId::Pointer | FieldId::Value))
        .collect();
    let place = |field: FieldId, width: u32| {
        let top = match field.width() {
            0 => 1000,
            bits => bits - width,
        };
        (any::<u32>(), 0..=top).prop_map(move |(level, offset)| FieldPlace {
            field,
            level,
            offset,
        })
    };
    let width = |field: FieldId| match field.width() {
        0 => 128,
        bits => bits,
    };
    (select(fields.clone()), select(fields))
        .prop_flat_map(move |(to, from)| {
            (
                Just((to, from)),
                1..=width(to).min(width(from)),
                any::<bool>(),
            )
        })
        .prop_flat_map(move |((to, from), width, pointer)| {
            let value = vec(any::<u8>(), width.div_ceil(8) as usize..=16)
                .prop_flat_map(move |bytes| {
                    let top = bytes.len() as u32 * 8 - width;
                    (Just(bytes), 0..=top)
                })
                .prop_map(move |(bytes, offset)| ModifySource::Value {
                    bytes: ByteString::new(bytes).expect("16 bytes fit"),
                    offset,
                    pointer,
                });
            let source = prop_oneof![place(from, width).prop_map(ModifySource::Field), value];
            let operation = select(vec![
                ModifyOperation::Set,
                ModifyOperation::Add,
                ModifyOperation::Sub,
            ]);
            (operation, place(to, width), source, Just(width))
        })
        .prop_map(|(operation, destination, source, width)| {
            Action::ModifyField(ModifyField {
                operation,
                destination,
                source,
                width,
            })
        })
}

fn masked<T: FieldValue>() -> impl Strategy<Value = Masked<T>> {
    any::<(u128, u128)>().prop_map(|(value, mask)| Masked {
        value: T::from_bits(value),
        mask: T::from_bits(mask),
    })
}

fn rss() -> impl Strategy<Value = Action> {
    let key =
        option::of(vec(any::<u8>(), 1..=64).prop_map(|key| ByteString::new(key).expect("fits")));
    let functions = vec![
        RssFunction::Default,
        RssFunction::Toeplitz,
        RssFunction::SimpleXor,
        RssFunction::SymmetricToeplitz,
    ];
    (
        select(functions),
        any::<u32>(),
        any::<u64>(),
        key,
        vec(any::<u16>(), 0..=128),
    )
        .prop_map(|(func, level, types, key, queues)| {
            let types = RssTypes::from_bits(types.into());
            Action::Rss(Rss {
                func,
                level,
                types,
                key,
                queues,
            })
        })
}

fn ct() -> impl Strategy<Value = Action> {
    let ranges = (
        option::of(argument(FieldKind::Addresses, 0)),
        option::of(argument(FieldKind::Ports, 0)),
    );
    let range = ranges.prop_map(|(addresses, ports)| NatRange {
        addresses: match addresses {
            Some(Argument::Addresses(range)) => Some(range),
            _ => None,
        },
        ports: match ports {
            Some(Argument::Ports(range)) => Some(range),
            _ => None,
        },
    });
    let commit = (
        any::<bool>(),
        option::of(masked()),
        option::of(masked()),
        option::of(any::<u32>()),
    )
        .prop_map(|(force, mark, label, timeout)| CtCommit {
            force,
            mark,
            label,
            timeout,
        });
    let nat = (0..3, range).prop_map(|(kind, range)| match kind {
        0 => CtNat::Restore,
        1 => CtNat::Src(range),
        _ => CtNat::Dst(range),
    });
    (
        any::<u16>(),
        option::of(commit),
        option::of(nat),
        option::of(any::<u32>()),
    )
        .prop_map(|(zone, commit, nat, group)| {
            let nat = nat.filter(|nat| commit.is_some() || *nat == CtNat::Restore);
            Action::Ct(CtAction {
                zone,
                commit,
                nat,
                group,
            })
        })
}

prop_compose! {
    pub fn rule()(
        group in prop_oneof![Just(0), any::<u32>()],
        priority in prop_oneof![Just(0), any::<u32>()],
        (ingress, egress, transfer) in any::<(bool, bool, bool)>(),
        pattern in vec(item(), 0..8),
        actions in vec(action(), 0..8),
    ) -> Rule {
        Rule { attributes: Attributes { group, priority, ingress, egress, transfer }, pattern, actions }
    }
}
