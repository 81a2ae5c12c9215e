//! sumeru-block
