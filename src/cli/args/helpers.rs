//! What mount(8) runs, and what runs with a privilege for others.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser};

/// Mount a volume, as mount(8) asks for it.
///
/// The helper of mount(8) for the types svol and fuse.svol: /etc/fstab, systemd's mount units and
/// automounts mount volumes through it. It is svol under another name.
#[derive(Debug, Parser)]
#[command(name = "mount.svol", version, max_term_width = 100)]
#[command(override_usage = "mount -t svol [-o OPTIONS] SOURCE DIR\n       \
                      mount.svol SOURCE DIR [-sfnv] [-o OPTIONS]")]
#[command(after_help = "\
SOURCE is a volume file (a file, or a name that ends with .yaml or .yml), or one source as
`svol mount` takes it: a URL or a directory, with =/path where it is to be grafted. Several are a
volume file's.

Examples:
  mount -t svol /etc/svol/models.yaml /mnt/models
  mount -t svol -o ro,allow_other,cache_size=20GiB s3://models/llama /mnt/llama

In /etc/fstab:
  /etc/svol/models.yaml  /mnt/models  svol  ro,_netdev,nofail,allow_other  0 0
  s3://models/llama  /mnt/llama  svol  ro,noauto,_netdev,x-systemd.automount  0 0

Exit status: 0 mounted, 1 wrong usage or configuration, 32 failed.")]
pub struct HelperArgs {
    /// The volume file or the source
    #[arg(value_name = "SOURCE")]
    pub source: OsString,
    /// Where to mount
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Options with commas between: those of `svol mount -o`. Volumes are read-only; rw, which
    /// mount(8) says by itself, is taken and not obeyed
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub options: Vec<String>,
    /// Pass over options that are not known
    #[arg(short = 's')]
    pub sloppy: bool,
    /// Check everything that needs no mount, and mount nothing
    #[arg(short = 'f')]
    pub fake: bool,
    /// Write no /etc/mtab: never done
    #[arg(short = 'n')]
    pub no_mtab: bool,
    /// Say what is run
    #[arg(short = 'v')]
    pub verbose: bool,
    /// The type, where it has two parts
    #[arg(short = 't', value_name = "TYPE", hide = true)]
    pub fs_type: Option<String>,
    /// Another mount namespace: refused
    #[arg(short = 'N', value_name = "NAMESPACE", hide = true)]
    pub namespace: Option<OsString>,
}

/// `svol fuse-helper`.
#[derive(Debug, Args)]
#[command(after_help = "\
Opens /dev/fuse, mounts, and gives it to whoever may connect to the socket: again to each, with a new
mount, once the one before is gone. Unmounts at its end.

Examples:
  svol fuse-helper --socket /run/fuse/socket /volume/v
  svol mount --fuse-socket /run/fuse/socket -c volume.yaml /volume/v --foreground")]
pub struct FuseHelperArgs {
    /// Where to listen
    #[arg(long, value_name = "PATH")]
    pub socket: PathBuf,
    /// The user, as numbers, that serves the mount
    #[arg(long, value_name = "UID[:GID]", default_value = "65534:65534")]
    pub owner: Owner,
    /// What the mount is called in /proc/mounts and by df
    #[arg(long, value_name = "NAME", default_value = "volume")]
    pub name: String,
    /// Programs on it may not be run
    #[arg(long)]
    pub noexec: bool,
    /// The directory to mount at; made if it is not there
    #[arg(value_name = "MOUNTPOINT")]
    pub mountpoint: PathBuf,
}

/// A user and a group, as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

impl std::str::FromStr for Owner {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (uid, gid) = text.split_once(':').unwrap_or((text, text));
        match (uid.parse(), gid.parse()) {
            (Ok(uid), Ok(gid)) => Ok(Owner { uid, gid }),
            _ => Err("not a user and a group as numbers; write one as in 65534:65534"),
        }
    }
}
