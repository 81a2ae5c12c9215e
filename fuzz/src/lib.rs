//! sumeru-fuzz: bodies of the fuzz targets, one module each, callable from any fuzzing engine and from tests.

pub mod packet;
