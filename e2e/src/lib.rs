//! sumeru-e2e
