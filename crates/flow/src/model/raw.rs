//! Headers as bytes: `raw_encap` and `raw_decap` (`struct rte_flow_action_raw_encap`).
//!
//! testpmd names bytes by the number of a `set raw_encap` command; here they may also stand in the
//! action.

use serde::{Deserialize, Serialize};

use super::action::{ArgumentError, form};
use super::bytes::ByteString;

/// Most bytes of a header, as in testpmd.
pub const MAX_RAW_HEADER: usize = 512;

/// What `raw_encap` puts in front of the packet.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "encap::Form", into = "encap::Form")]
pub struct RawEncap {
    /// The header, at least one byte.
    pub data: ByteString<MAX_RAW_HEADER>,
}

/// What `raw_decap` removes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "decap::Form", into = "decap::Form")]
pub struct RawDecap {
    /// A header of the length that is removed, at least one byte. What it says is of no matter.
    pub data: ByteString<MAX_RAW_HEADER>,
}

macro_rules! raw {
    ($module:ident, $ty:ident, $token:literal) => {
        mod $module {
            use super::*;

            form! {
                $ty = $token for $ty {
                    data: ByteString<MAX_RAW_HEADER> = "data";
                    ; defined "index"
                }
            }

            impl TryFrom<Form> for $ty {
                type Error = ArgumentError;
                fn try_from(form: Form) -> Result<Self, ArgumentError> {
                    match form.data {
                        Some(data) if !data.as_bytes().is_empty() => Ok(Self { data }),
                        _ => Err(ArgumentError::Missing {
                            action: NAME,
                            argument: "data",
                        }),
                    }
                }
            }

            impl From<$ty> for Form {
                fn from(raw: $ty) -> Self {
                    Self {
                        data: Some(raw.data),
                    }
                }
            }
        }
    };
}
raw!(encap, RawEncap, "raw_encap");
raw!(decap, RawDecap, "raw_decap");
