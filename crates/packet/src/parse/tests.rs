//! Golden frames, agreement of the two ways through the parser, and hostile input.
