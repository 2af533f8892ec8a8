//! The command line: what can be asked for, and what it comes to.

pub mod exit;
pub mod settings;

pub use exit::ExitStatus;
pub use settings::{CacheSettings, LogFormat, LogSettings, MountSettings, VolumeSettings};
