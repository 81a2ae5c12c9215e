//! sumeru-bench
