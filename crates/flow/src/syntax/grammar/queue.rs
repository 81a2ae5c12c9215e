//! Operations on queues of asynchronous rules.

use super::super::Cursor;
use super::super::command::QueueCommand;
use super::super::error::SyntaxError;
use super::super::rule::{actions, items};
use super::{boolean, indirect, many, number32};
use crate::model::MAX_ACTIONS;

/// Names of the operations, and how each goes on behind the queue.
type Rest = fn(&mut Cursor<'_>) -> Result<QueueCommand, SyntaxError>;
const OPERATIONS: &[(&str, Rest)] = &[
    ("create", create),
    ("destroy", |cursor| {
        cursor.require("postpone")?;
        let postpone = boolean(cursor)?;
        let rules = many(cursor, "rule", |cursor| cursor.number(u64::MAX))?;
        Ok(QueueCommand::Destroy { postpone, rules })
    }),
    ("aged", |cursor| {
        let destroy = cursor.keyword("destroy");
        Ok(QueueCommand::Aged { destroy })
    }),
    ("indirect_action", |cursor| {
        let mut postpone = false;
        let command = indirect(cursor, Some(&mut postpone))?;
        Ok(QueueCommand::Indirect { postpone, command })
    }),
];

/// Behind `flow queue PORT`: the queue and the operation.
pub(super) fn operation(cursor: &mut Cursor<'_>) -> Result<(u32, QueueCommand), SyntaxError> {
    let Some(index) = cursor.choose(OPERATIONS, |(name, _)| name) else {
        return Err(cursor.unexpected());
    };
    let queue = number32(cursor)?;
    Ok((queue, OPERATIONS[index].1(cursor)?))
}

fn create(cursor: &mut Cursor<'_>) -> Result<QueueCommand, SyntaxError> {
    cursor.require("template_table")?;
    let table = number32(cursor)?;
    cursor.require("pattern_template")?;
    let pattern_template = number32(cursor)?;
    cursor.require("actions_template")?;
    let actions_template = number32(cursor)?;
    cursor.require("postpone")?;
    let postpone = boolean(cursor)?;
    cursor.require("pattern")?;
    let pattern = items(cursor, "end")?;
    cursor.require("actions")?;
    Ok(QueueCommand::Create {
        table,
        pattern_template,
        actions_template,
        postpone,
        pattern,
        actions: actions(cursor, MAX_ACTIONS)?,
    })
}
