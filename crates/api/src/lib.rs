//! sumeru-api
