//! sumeru-packet
