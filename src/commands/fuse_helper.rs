//! `svol fuse-helper`: mounts for a `svol mount --fuse-socket` that may not.

use super::Failure;
use crate::cli::ExitStatus;
use crate::cli::args::FuseHelperArgs;
use crate::fuse::device::Origin;
use crate::fuse::helper::{self, HelperSettings};
use crate::fuse::mount::MountSettings;

/// Listens, mounts and gives until a signal ends it.
pub fn fuse_helper(args: &FuseHelperArgs) -> Result<ExitStatus, Failure> {
    let mountpoint = super::mount::real_mountpoint(&args.mountpoint).map_err(|error| {
        let at = args.mountpoint.display();
        Failure::usage(format!("{at}: {error}; create its parent first"))
    })?;
    let settings = HelperSettings {
        mountpoint,
        socket: std::path::absolute(&args.socket).map_err(Failure::usage)?,
        uid: args.owner.uid,
        gid: args.owner.gid,
        kernel: MountSettings {
            name: format!("svol:{}", args.name),
            // Who serves it and who reads it are others.
            allow_other: true,
            noexec: args.noexec,
            origin: Origin::Mount,
        },
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(helper::run(&settings))?;
    Ok(ExitStatus::Done)
}
