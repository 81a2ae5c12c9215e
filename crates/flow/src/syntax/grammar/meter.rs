//! Commands about meters, behind their first word.

use super::super::Cursor;
use super::super::command::{Command, MeterCommand};
use super::super::error::SyntaxError;
use super::super::rule::actions;
use super::{boolean, number32, port};
use crate::model::{MAX_ACTIONS, Meter, MeterAlgorithm, MeterColor, MeterPolicy, MeterProfile};

/// Words that the commands share.
fn port_meter(cursor: &mut Cursor<'_>) -> Result<(), SyntaxError> {
    cursor.require("port")?;
    cursor.require("meter")
}

/// Port and number of what the command is about.
fn named(
    cursor: &mut Cursor<'_>,
    command: impl FnOnce(u32) -> MeterCommand,
) -> Result<Command, SyntaxError> {
    let port = port(cursor)?;
    let command = command(number32(cursor)?);
    Ok(Command::Meter { port, command })
}

/// A number of 64 bits.
fn number64(cursor: &mut Cursor<'_>) -> Result<u64, SyntaxError> {
    cursor.number(u64::MAX)
}

/// Names of the algorithms, and how each reads its rates and burst sizes.
type Read = fn(&mut Cursor<'_>) -> Result<MeterAlgorithm, SyntaxError>;
const ALGORITHMS: &[(&str, Read)] = &[
    ("srtcm_rfc2697", |cursor| {
        Ok(MeterAlgorithm::SrtcmRfc2697 {
            cir: number64(cursor)?,
            cbs: number64(cursor)?,
            ebs: number64(cursor)?,
        })
    }),
    ("trtcm_rfc2698", |cursor| {
        Ok(MeterAlgorithm::TrtcmRfc2698 {
            cir: number64(cursor)?,
            pir: number64(cursor)?,
            cbs: number64(cursor)?,
            pbs: number64(cursor)?,
        })
    }),
    ("trtcm_rfc4115", |cursor| {
        Ok(MeterAlgorithm::TrtcmRfc4115 {
            cir: number64(cursor)?,
            eir: number64(cursor)?,
            cbs: number64(cursor)?,
            ebs: number64(cursor)?,
        })
    }),
];

/// Behind `add`.
pub(super) fn add(cursor: &mut Cursor<'_>) -> Result<Command, SyntaxError> {
    port_meter(cursor)?;
    if cursor.keyword("policy") {
        let port = port(cursor)?;
        let id = number32(cursor)?;
        let mut colored = |word| {
            cursor.require(word)?;
            actions(cursor, MAX_ACTIONS)
        };
        let policy = MeterPolicy {
            green: colored("g_actions")?,
            yellow: colored("y_actions")?,
            red: colored("r_actions")?,
        };
        let command = MeterCommand::AddPolicy { id, policy };
        return Ok(Command::Meter { port, command });
    }
    cursor.require("profile")?;
    let Some(index) = cursor.choose(ALGORITHMS, |(name, _)| name) else {
        return Err(cursor.unexpected());
    };
    let port = port(cursor)?;
    let id = number32(cursor)?;
    let profile = MeterProfile {
        algorithm: ALGORITHMS[index].1(cursor)?,
        packet_mode: cursor.number(1)? == 1,
    };
    let command = MeterCommand::AddProfile { id, profile };
    Ok(Command::Meter { port, command })
}

/// Behind `del`.
pub(super) fn delete(cursor: &mut Cursor<'_>) -> Result<Command, SyntaxError> {
    port_meter(cursor)?;
    if cursor.keyword("profile") {
        return named(cursor, |id| MeterCommand::DeleteProfile { id });
    }
    if cursor.keyword("policy") {
        return named(cursor, |id| MeterCommand::DeletePolicy { id });
    }
    named(cursor, |id| MeterCommand::Delete { id })
}

/// Behind `enable`.
pub(super) fn enable(cursor: &mut Cursor<'_>) -> Result<Command, SyntaxError> {
    port_meter(cursor)?;
    named(cursor, |id| MeterCommand::Enable { id })
}

/// Behind `disable`.
pub(super) fn disable(cursor: &mut Cursor<'_>) -> Result<Command, SyntaxError> {
    port_meter(cursor)?;
    named(cursor, |id| MeterCommand::Disable { id })
}

/// Behind `show`.
pub(super) fn show(cursor: &mut Cursor<'_>) -> Result<Command, SyntaxError> {
    port_meter(cursor)?;
    cursor.require("stats")?;
    let port = port(cursor)?;
    let id = number32(cursor)?;
    let clear = boolean(cursor)?;
    let command = MeterCommand::Stats { id, clear };
    Ok(Command::Meter { port, command })
}

/// Behind `set port`.
pub(super) fn set(cursor: &mut Cursor<'_>) -> Result<Command, SyntaxError> {
    cursor.require("meter")?;
    cursor.require("profile")?;
    let port = port(cursor)?;
    let id = number32(cursor)?;
    let profile = number32(cursor)?;
    let command = MeterCommand::SetProfile { id, profile };
    Ok(Command::Meter { port, command })
}

/// Letters of the colours that packets can have, small and capital.
const COLORS: &[(&str, MeterColor)] = &[
    ("g", MeterColor::Green),
    ("y", MeterColor::Yellow),
    ("r", MeterColor::Red),
    ("G", MeterColor::Green),
    ("Y", MeterColor::Yellow),
    ("R", MeterColor::Red),
];

/// Behind `create`.
pub(super) fn create(cursor: &mut Cursor<'_>) -> Result<Command, SyntaxError> {
    port_meter(cursor)?;
    let port = port(cursor)?;
    let id = number32(cursor)?;
    let profile = number32(cursor)?;
    let policy = number32(cursor)?;
    let enabled = boolean(cursor)?;
    let stats_mask = number64(cursor)?;
    let shared = cursor.number(1)? == 1;
    let Some(color) = cursor.choose(COLORS, |(letter, _)| letter) else {
        return Err(cursor.unexpected());
    };
    let use_previous_color = cursor.number(1)? == 1;
    let meter = Meter {
        profile,
        policy,
        enabled,
        stats_mask,
        shared,
        default_input_color: COLORS[color].1,
        use_previous_color,
    };
    let command = MeterCommand::Create { id, meter };
    Ok(Command::Meter { port, command })
}
