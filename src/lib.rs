//! Shared Volume: one merged, lazy, cached, read-only filesystem over many remote sources.
//!
//! The modules form layers, and each uses only those below it: `commands` and `control` talk to
//! people and programs, `app` assembles what serves, `holder` keeps a mount while processes that
//! serve it come and go, `act` acts on the cache by files, `fuse` speaks with the kernel, `vfs` has
//! the operations, `namespace` merges what each `catalogue` knows, `fetch` gets what the cache lacks,
//! `source` is the seam to remote places. `docs/ARCHITECTURE.md` has the picture.

pub mod act;
pub mod app;
pub mod catalogue;
pub mod cli;
pub mod commands;
pub mod config;
pub mod control;
pub mod demo;
pub mod doctor;
pub mod entry;
pub mod fetch;
pub mod filter;
pub mod fuse;
#[cfg(feature = "failpoints")]
#[doc(hidden)]
pub mod fuzzing;
pub mod holder;
pub mod hook;
pub mod logging;
pub mod memory;
pub mod namespace;
pub mod notify;
pub mod path;
pub mod rows;
pub mod sandbox;
pub mod source;
mod sqlite;
pub mod tls;
pub mod vfs;
