//! Shared Volume: one merged, lazy, cached, read-only filesystem over many remote sources.

pub mod cli;
pub mod config;
pub mod entry;
pub mod logging;
pub mod path;
pub mod source;
pub mod tls;
