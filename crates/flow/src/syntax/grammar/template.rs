//! Templates and tables of asynchronous rules.

use super::super::Cursor;
use super::super::command::ObjectCommand;
use super::super::error::SyntaxError;
use super::super::rule::{actions, items};
use super::{boolean, direction, many, number32};
use crate::model::{ActionsTemplate, Direction, MAX_ACTIONS, PatternTemplate, TemplateTable};

/// Behind `flow pattern_template PORT`.
pub(super) fn pattern_template(
    cursor: &mut Cursor<'_>,
) -> Result<ObjectCommand<PatternTemplate>, SyntaxError> {
    if !cursor.keyword("create") {
        cursor.require("destroy")?;
        return many(cursor, "pattern_template", number32).map(ObjectCommand::Destroy);
    }
    let mut template = PatternTemplate::default();
    loop {
        if cursor.keyword("pattern_template_id") {
            template.id = Some(number32(cursor)?);
        } else if cursor.keyword("relaxed") {
            template.relaxed = boolean(cursor)?;
        } else if !direction(cursor, &mut template.direction) {
            break;
        }
    }
    cursor.require("template")?;
    template.pattern = items(cursor, "end")?;
    Ok(ObjectCommand::Create(template))
}

/// Behind `flow actions_template PORT`.
pub(super) fn actions_template(
    cursor: &mut Cursor<'_>,
) -> Result<ObjectCommand<ActionsTemplate>, SyntaxError> {
    if !cursor.keyword("create") {
        cursor.require("destroy")?;
        return many(cursor, "actions_template", number32).map(ObjectCommand::Destroy);
    }
    let mut template = ActionsTemplate::default();
    loop {
        if cursor.keyword("actions_template_id") {
            template.id = Some(number32(cursor)?);
        } else if !direction(cursor, &mut template.direction) {
            break;
        }
    }
    cursor.require("template")?;
    template.actions = actions(cursor, MAX_ACTIONS)?;
    cursor.require("mask")?;
    template.masks = actions(cursor, MAX_ACTIONS)?;
    Ok(ObjectCommand::Create(template))
}

/// Behind `flow template_table PORT`.
pub(super) fn template_table(
    cursor: &mut Cursor<'_>,
) -> Result<ObjectCommand<TemplateTable>, SyntaxError> {
    if !cursor.keyword("create") {
        cursor.require("destroy")?;
        return many(cursor, "table", number32).map(ObjectCommand::Destroy);
    }
    let mut table = TemplateTable::default();
    let mut to = Direction::default();
    let mut given = false;
    loop {
        if cursor.keyword("table_id") {
            table.id = Some(number32(cursor)?);
        } else if cursor.keyword("group") {
            table.attributes.group = number32(cursor)?;
        } else if cursor.keyword("priority") {
            table.attributes.priority = number32(cursor)?;
        } else if cursor.keyword("rules_number") {
            table.rules_number = number32(cursor)?;
        } else if cursor.keyword("pattern_template") {
            table.pattern_templates.push(number32(cursor)?);
        } else if cursor.keyword("actions_template") {
            table.actions_templates.push(number32(cursor)?);
        } else if !direction(cursor, &mut to) {
            break;
        }
        given = true;
    }
    if !given {
        return Err(cursor.unexpected());
    }
    table.attributes.ingress = to.ingress;
    table.attributes.egress = to.egress;
    table.attributes.transfer = to.transfer;
    Ok(ObjectCommand::Create(table))
}
