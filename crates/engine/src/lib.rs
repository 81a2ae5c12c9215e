//! sumeru-engine
