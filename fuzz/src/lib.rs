//! sumeru-fuzz
