//! sumeru-virtio
