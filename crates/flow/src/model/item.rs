//! Rows of the table of pattern items, and the macro that makes table and types from one list.
//!
//! The list itself is in `item_table`. It never looks at a packet.

use super::bytes::BytesError;
use super::field::FieldKind;
use super::matched::ErasedMatch;

pub use super::item_table::Item;

/// One pattern item as the syntax knows it.
#[derive(Debug)]
pub struct ItemRow {
    /// testpmd's token, also the JSON name.
    pub name: &'static str,
    /// The item with nothing specified.
    pub new: fn() -> Item,
    /// Its fields in the order in which they are printed.
    pub fields: &'static [FieldRow],
}

/// One field of a pattern item as the syntax knows it.
#[derive(Debug)]
pub struct FieldRow {
    /// testpmd's token, also the JSON name.
    pub name: &'static str,
    /// How a value is written.
    pub kind: FieldKind,
    /// Width in bits.
    pub bits: u32,
    /// The field's part of `rte_flow_item_{name}_mask`, used where an item has a spec and no mask;
    /// `None` where rte_flow.h has none, so that a mask must be given.
    pub default_mask: Option<u128>,
    /// How the field is spelled compared with testpmd of DPDK 22.11.
    pub spelling: Spelling,
    /// Where the value is kept.
    pub access: Access,
}

/// How a field is spelled compared with testpmd of DPDK 22.11.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spelling {
    /// As there.
    Testpmd,
    /// There the field has no name, only `is` or `spec` and the value. We take and print that if the
    /// field is compared as a whole, else the name is needed.
    Bare,
    /// Not there.
    Ours,
}

/// Reads value and mask of the bytes of an item.
type GetBytes = fn(&Item) -> Option<(&[u8], &[u8])>;
/// Sets value and mask of the bytes of an item.
type SetBytes = fn(&mut Item, Vec<u8>, Vec<u8>) -> Result<(), BytesError>;

/// Where the value of a field is kept.
#[derive(Debug)]
pub enum Access {
    /// In a [`Matched`](super::matched::Matched) field of the item.
    Field {
        /// The value, or `None` if the item is of another type.
        get: fn(&Item) -> Option<ErasedMatch>,
        /// Sets the value; does nothing to an item of another type.
        set: fn(&mut Item, ErasedMatch),
    },
    /// In bits of other fields; never printed.
    Alias(&'static [Part]),
    /// In the port of the item; matched as a whole or not at all.
    Port,
    /// In the bytes of the item.
    Bytes {
        /// Value and mask, or `None` if the item is of another type.
        get: GetBytes,
        /// Sets value and mask, which must be of one length that the field has room for; does nothing
        /// to an item of another type.
        set: SetBytes,
        /// Whether this is another way to write the bytes; never printed.
        alias: bool,
    },
}

/// Bits of a field that an alias stands for.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// The field that keeps the bits.
    pub field: &'static str,
    /// Lowest bit within the alias.
    pub alias_shift: u32,
    /// Lowest bit within the field.
    pub field_shift: u32,
    /// Number of bits.
    pub bits: u32,
}

/// One list of items as types, as JSON and as table.
macro_rules! items {
    (
        headers { $(
            $(#[doc = $item_doc:tt])+
            $item:ident = $item_token:tt {
                $($(#[doc = $doc:tt])+ $field:ident: $ty:ty = $token:tt, $default:ident $(, $spelling:ident)?;)*
                $(alias $alias:literal: $alias_kind:ident $alias_bits:literal = [$($part:expr),*]
                    $(, $alias_spelling:ident)?;)*
            }
        )* }
        long { $(
            $(#[doc = $long_doc:tt])+
            $long:ident = $long_token:tt {
                $($(#[doc = $ldoc:tt])+ $lfield:ident: $lty:ty = $ltoken:tt, $ldefault:ident $(, $lspelling:ident)?;)*
                bytes $(#[doc = $bdoc:tt])+ $bytes:ident: $btoken:tt $max:literal, $bdefault:ident;
                $(text $text:tt;)?
            }
        )* }
        ports { $(#[doc = $port_doc:tt] $port:ident = $port_token:tt, $port_field:tt;)* }
    ) => {
        $(
            $(#[doc = $item_doc])+
            #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
            #[serde(default, deny_unknown_fields)]
            pub struct $item {
                $(
                    $(#[doc = $doc])+
                    #[serde(rename = $token, skip_serializing_if = "Matched::is_unset")]
                    pub $field: Matched<$ty>,
                )*
            }
        )*

        $(
            $(#[doc = $long_doc])+
            #[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
            #[serde(default, deny_unknown_fields)]
            pub struct $long {
                $(
                    $(#[doc = $ldoc])+
                    #[serde(rename = $ltoken, skip_serializing_if = "Matched::is_unset")]
                    pub $lfield: Matched<$lty>,
                )*
                $(#[doc = $bdoc])+
                #[serde(rename = $btoken, skip_serializing_if = "MatchedBytes::is_unset")]
                pub $bytes: MatchedBytes<$max>,
            }
        )*

        /// A pattern item. Header items match a header and, without fields, its presence.
        ///
        /// JSON: `"void"`, or an object with one member named by testpmd's token.
        #[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Item {
            /// Nothing; ignored wherever it stands.
            #[serde(rename = "void")]
            Void,
            $(
                $(#[doc = $item_doc])+
                #[serde(rename = $item_token)]
                $item($item),
            )*
            $(
                $(#[doc = $long_doc])+
                #[serde(rename = $long_token)]
                $long($long),
            )*
            $(
                #[doc = $port_doc]
                #[serde(rename = $port_token)]
                $port {
                    /// The port, or any if absent.
                    #[serde(rename = $port_field, default, skip_serializing_if = "Option::is_none")]
                    port: Option<PortRef>,
                },
            )*
        }

        impl Item {
            /// All items that the model has.
            pub const TABLE: &'static [ItemRow] = &[
                ItemRow {
                    name: "void",
                    new: || Item::Void,
                    fields: &[],
                },
                $(ItemRow {
                    name: $item_token,
                    new: || Item::$item($item::default()),
                    fields: &[
                        $(items!(@field $item, $field: $ty = $token, $default $(, $spelling)?),)*
                        $(FieldRow {
                            name: $alias,
                            kind: FieldKind::$alias_kind,
                            bits: $alias_bits,
                            default_mask: NONE,
                            spelling: items!(@spelling $($alias_spelling)?),
                            access: Access::Alias(&[$($part),*]),
                        },)*
                    ],
                },)*
                $(ItemRow {
                    name: $long_token,
                    new: || Item::$long($long::default()),
                    fields: &[
                        $(items!(@field $long, $lfield: $lty = $ltoken, $ldefault $(, $lspelling)?),)*
                        items!(@bytes $long, $bytes: $btoken, Bytes, $max, $bdefault, false),
                        $(items!(@bytes $long, $bytes: $text, Text, $max, $bdefault, true),)?
                    ],
                },)*
                $(ItemRow {
                    name: $port_token,
                    new: || Item::$port { port: None },
                    fields: &[FieldRow {
                        name: $port_field,
                        kind: FieldKind::Port,
                        bits: 32,
                        default_mask: ALL,
                        spelling: Spelling::Testpmd,
                        access: Access::Port,
                    }],
                },)*
            ];

            /// testpmd's token for the item.
            pub fn name(&self) -> &'static str {
                match self {
                    Item::Void => "void",
                    $(Item::$item(_) => $item_token,)*
                    $(Item::$long(_) => $long_token,)*
                    $(Item::$port { .. } => $port_token,)*
                }
            }

            /// The port that the item names, if it is one of the port items.
            pub fn port(&self) -> Option<&PortRef> {
                match self {
                    $(Item::$port { port } => port.as_ref(),)*
                    _ => None,
                }
            }

            /// Sets the port of a port item; does nothing to others.
            pub(crate) fn set_port(&mut self, to: Option<PortRef>) {
                match self {
                    $(Item::$port { port } => *port = to,)*
                    _ => {}
                }
            }
        }
    };
    (@field $item:ident, $field:ident: $ty:ty = $token:tt, $default:ident $(, $spelling:ident)?) => {
        FieldRow {
            name: $token,
            kind: <$ty as FieldValue>::KIND,
            bits: <$ty as FieldValue>::BITS,
            default_mask: $default,
            spelling: items!(@spelling $($spelling)?),
            access: Access::Field {
                get: |item| match item {
                    Item::$item(header) => Some(header.$field.erase()),
                    _ => None,
                },
                set: |item, value| if let Item::$item(header) = item {
                    header.$field = Matched::from_erased(value);
                },
            },
        }
    };
    (@bytes $item:ident, $bytes:ident: $token:tt, $kind:ident, $max:literal, $default:ident, $alias:literal) => {
        FieldRow {
            name: $token,
            kind: FieldKind::$kind($max),
            bits: 0,
            default_mask: $default,
            spelling: Spelling::Testpmd,
            access: Access::Bytes {
                get: |item| match item {
                    Item::$item(header) => Some((header.$bytes.spec(), header.$bytes.mask())),
                    _ => None,
                },
                set: |item, spec, mask| {
                    if let Item::$item(header) = item {
                        header.$bytes = MatchedBytes::masked(spec, mask)?;
                    }
                    Ok(())
                },
                alias: $alias,
            },
        }
    };
    (@spelling) => { Spelling::Testpmd };
    (@spelling ours) => { Spelling::Ours };
    (@spelling bare) => { Spelling::Bare };
}
pub(super) use items;

impl Item {
    /// The row of [`Item::TABLE`] that describes the item.
    pub fn row(&self) -> &'static ItemRow {
        let name = self.name();
        Self::TABLE
            .iter()
            .find(|row| row.name == name)
            .unwrap_or(&Self::TABLE[0])
    }
}
