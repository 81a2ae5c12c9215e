//! sumeru-control
