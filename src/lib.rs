//! Shared Volume: one merged, lazy, cached, read-only filesystem over many remote sources.

pub mod catalogue;
pub mod entry;
pub mod namespace;
pub mod path;
pub mod source;
