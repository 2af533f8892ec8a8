//! The command line: what can be asked for, and what it comes to.
//!
//! [`args`] is what clap parses, [`resolve`] merges it with the environment and the volume file
//! into [`settings`], which are data. The commands that need no mount and no cache are in
//! [`offline`].

pub mod args;
pub mod env;
pub mod exit;
pub(crate) mod mount_options;
pub mod offline;
pub mod printable;
pub mod resolve;
pub mod settings;

pub use args::{Cli, Command};
pub use env::Env;
pub use exit::ExitStatus;
pub use resolve::{
    Quiet, resolve_cache, resolve_log, resolve_mount, resolve_mount_of, resolve_secrets_dir,
    resolve_view,
};
pub use settings::{
    CacheSettings, LogFormat, LogSettings, MountSettings, TlsFiles, VolumeSettings,
};

#[cfg(test)]
mod tests;
