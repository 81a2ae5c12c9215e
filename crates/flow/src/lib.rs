//! sumeru-flow
