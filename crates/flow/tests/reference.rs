//! docs/flow-reference.md is what the tables say. `WRITE_REFERENCE=1 cargo test -p sumeru-flow --test
//! reference` writes it anew.

use std::fmt::Write;
use std::path::Path;

use sumeru_flow::model::{
    FieldId, FieldKind, MAX_ACTIONS, MAX_ITEMS, RssTypes, Spelling, UNSUPPORTED_ACTIONS,
    UNSUPPORTED_ITEMS,
};
use sumeru_flow::syntax::complete;
use sumeru_flow::{Action, Item};

/// How a value is written, in a word or two.
fn value(kind: FieldKind, bits: u32) -> String {
    match kind {
        FieldKind::Unsigned | FieldKind::Hexadecimal if bits == 1 => "0 or 1".to_owned(),
        FieldKind::Unsigned | FieldKind::Hexadecimal => format!("{bits} bits"),
        FieldKind::Signed => "signed".to_owned(),
        FieldKind::TcpFlags => "TCP flags".to_owned(),
        FieldKind::Mac => "MAC".to_owned(),
        FieldKind::Ipv4 => "IPv4".to_owned(),
        FieldKind::Ipv6 => "IPv6".to_owned(),
        FieldKind::Ip => "IPv4 or IPv6".to_owned(),
        FieldKind::Port => "port".to_owned(),
        FieldKind::Named(names) if names.len() < 8 => names.join(", "),
        FieldKind::Named(_) => "field, see below".to_owned(),
        FieldKind::NameSet(_) => "names, see below, `end`".to_owned(),
        FieldKind::CtState => "`+est-inv` or 8 bits".to_owned(),
        FieldKind::Bytes(max) => format!("up to {max} bytes in hexadecimal"),
        FieldKind::Text(max) => format!("up to {max} bytes as text"),
        FieldKind::Numbers => "numbers, `end`".to_owned(),
        FieldKind::Flag => "no value".to_owned(),
        FieldKind::Masked => format!("`VALUE` or `VALUE/MASK`, {bits} bits"),
        FieldKind::Addresses => "`ADDRESS` or `FIRST-LAST`".to_owned(),
        FieldKind::Ports => "`PORT` or `FIRST-LAST`".to_owned(),
        FieldKind::Actions => "actions, `end`".to_owned(),
        FieldKind::Defined => "number of a `set` command".to_owned(),
    }
}

fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

fn reference() -> String {
    let mut page = String::from(
        "# Items and actions\n\n\
         This page is written from the tables of the [model](../crates/flow/src/model) and checked by a test \
         (`crates/flow/tests/reference.rs`). It says what can be written and is understood; what the engine carries \
         out is in [Flow rules](flows.md). Names are those of testpmd of DPDK 22.11; a star marks what testpmd has no \
         word for. Every field can have `spec`, `last` and `mask`, but ports, bytes (no `last`) and `raw` (no `last`).\n\n",
    );
    let _ = write!(
        page,
        "A pattern has at most {MAX_ITEMS} items, a rule at most {MAX_ACTIONS} actions.\n\n## Items\n\n\
         | item | fields |\n|---|---|\n"
    );
    for row in Item::TABLE {
        let fields: Vec<String> = row
            .fields
            .iter()
            .map(|field| {
                let star = if field.spelling == Spelling::Ours {
                    "\\*"
                } else {
                    ""
                };
                format!("`{}`{star} ({})", field.name, value(field.kind, field.bits))
            })
            .collect();
        let _ = writeln!(page, "| `{}` | {} |", row.name, fields.join(", "));
    }
    page.push_str(
        "\n`ct` is private to Sumeru (in rte_flow's terms a negative type). `conntrack is N` stands for the field \
         `flags`.\n\n## Actions\n\n| action | arguments |\n|---|---|\n",
    );
    for row in Action::TABLE {
        let arguments: Vec<String> = row
            .arguments
            .iter()
            .map(|argument| {
                let value = value(argument.kind, argument.bits);
                match argument.bare {
                    true => format!("{value}, without a name"),
                    false => format!("`{}` ({value})", argument.name),
                }
            })
            .collect();
        let _ = writeln!(page, "| `{}` | {} |", row.name, arguments.join(", "));
    }
    let _ = write!(
        page,
        "\n`ct` is private to Sumeru. Arguments of `vxlan_encap`, `nvgre_encap`, `l2_encap` and `l2_decap`, `data` of \
         `raw_encap` and `raw_decap`, `actions` of `sample` and `context` of `age` are not testpmd's, which defines \
         such things by `set` commands; those work, too.\n\n\
         Fields of `modify_field`: {}.\n\nTypes of `rss`: {}.\n\n",
        list(FieldId::NAMES.iter().copied()),
        list(RssTypes::NAMES.iter().map(|(name, _)| *name))
    );
    let _ = write!(
        page,
        "## Refused by name\n\nItems: {}.\n\nActions: {}.\n\n## Commands\n\n`flow` {}; first words of others: {}.\n",
        list(UNSUPPORTED_ITEMS.iter().copied()),
        list(UNSUPPORTED_ACTIONS.iter().copied()),
        list(complete("flow ").iter().map(String::as_str)),
        list(["set", "add", "del", "enable", "disable", "show", "create"])
    );
    page
}

#[test]
fn the_reference_is_what_the_tables_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/flow-reference.md");
    let page = reference();
    if std::env::var_os("WRITE_REFERENCE").is_some() {
        std::fs::write(&path, &page).expect("the page can be written");
    }
    let found = std::fs::read_to_string(&path).expect("docs/flow-reference.md");
    assert_eq!(found, page, "write it anew, see the head of this file");
}
