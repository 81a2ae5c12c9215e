//! Edits against recomputation.
