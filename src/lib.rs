//! Shared Volume: one merged, lazy, cached, read-only filesystem over many remote sources.

pub mod entry;
pub mod path;
pub mod source;
pub mod tls;
