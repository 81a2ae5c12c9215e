//! sumeru-switch
