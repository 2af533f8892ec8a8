//! What every source must do, shown on a real server of its kind.
//!
//! The suite is a set of functions over a [`suite::World`]: a place that can be written to, and the
//! source that reads it. A new kind of source is a new world in a file of its own, with one line of
//! `suite!`, and what only this kind does beside it.

// The modules are this binary's own.
#![allow(unreachable_pub)]

#[path = "../common/mod.rs"]
mod common;
#[macro_use]
mod suite;

#[cfg(all(
    feature = "azure",
    feature = "ftp",
    feature = "gcs",
    feature = "git",
    feature = "sftp",
    feature = "webdav"
))]
mod every;
#[cfg(feature = "ftp")]
mod ftp;
#[cfg(feature = "ftp")]
mod ftp_lies;
mod local;
mod s3;
mod transport;
mod web;
