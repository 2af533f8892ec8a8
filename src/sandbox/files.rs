//! Landlock: which files the daemon can open.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus,
    PathBeneath, PathFd, RestrictionStatus, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, make_bitflags,
};

use super::Needs;

/// The newest interface whose rights are asked for; of an older kernel's, what it has.
const FILES: ABI = ABI::V5;

/// What may be done in the directories that are written.
const WRITE: BitFlags<AccessFs> = make_bitflags!(AccessFs::{
    ReadFile | ReadDir | WriteFile | Truncate | RemoveFile | RemoveDir | MakeReg | MakeDir
    | MakeSock | Refer
});

/// What may be done in the directories that are read.
const READ: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir});

/// What may be done with the devices that are opened by name.
const DEVICE: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | WriteFile | IoctlDev});

/// Devices that are opened by name: to let go of the terminal, for a second channel to the kernel.
const DEVICES: [&str; 2] = ["/dev/null", "/dev/fuse"];

/// What the system's library, TLS and we ourselves read: what the kernel tells of processes and
/// control groups, name services and their modules, certificates.
const SYSTEM: [&str; 14] = [
    "/proc",
    "/sys",
    "/dev/urandom",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/usr/share/zoneinfo",
    "/run/systemd/resolve",
    "/run/NetworkManager",
    "/run/resolvconf",
    "/run/nscd",
];

/// What root reads of /etc. Not all of it: root could read /etc/shadow too. The price is that a
/// `resolv.conf` that is replaced, not rewritten, is seen by the next mount only, unless it is a
/// link into one of the directories above.
const ROOTS_ETC: [&str; 12] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/protocols",
    "/etc/localtime",
    "/etc/ld.so.cache",
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
];

/// Confines this thread and those that it starts; returns the version of the interface that is in
/// force, nothing if there is none.
pub(super) fn confine(needs: &Needs) -> Result<Option<u32>, RulesetError> {
    let rules = Ruleset::default()
        // Without it a file could not be renamed from one directory to another, which is how a
        // complete object gets its place: then better none of it.
        .set_compatibility(CompatLevel::SoftRequirement)
        .handle_access(AccessFs::Refer)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(FILES))?
        // Sources may be at any port, but nobody is to be served from here.
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::from_all(ABI::V6))?
        .create()?;
    let mut rules = rules.set_compatibility(CompatLevel::BestEffort);
    for path in DEVICES {
        rules = allow(rules, Path::new(path), DEVICE)?;
    }
    for path in &needs.write {
        rules = allow(rules, path, WRITE)?;
    }
    for path in needs.read.iter().cloned().chain(of_the_system()) {
        rules = allow(rules, &path, READ)?;
    }
    let status = rules.restrict_self()?;
    Ok(in_force(&status))
}

fn of_the_system() -> impl Iterator<Item = PathBuf> {
    let etc: &[&str] = match rustix::process::geteuid().is_root() {
        true => &ROOTS_ETC,
        // What of it others may not read, they cannot read anyway.
        false => &["/etc"],
    };
    let named = ["SSL_CERT_FILE", "SSL_CERT_DIR"]
        .into_iter()
        .filter_map(|name| Some(PathBuf::from(std::env::var_os(name)?)));
    // Only to give a panic's trace its names.
    let own = std::env::current_exe().ok();
    let fixed = SYSTEM.iter().chain(etc).map(PathBuf::from);
    fixed.chain(named).chain(own)
}

/// Adds a rule for a path, if it is there.
fn allow(
    rules: RulesetCreated,
    path: &Path,
    rights: BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    let Ok(file) = PathFd::new(path) else {
        return Ok(rules);
    };
    let rights = match path.is_dir() {
        true => rights,
        false => rights & AccessFs::from_file(FILES),
    };
    rules.add_rule(PathBeneath::new(file, rights))
}

fn in_force(status: &RestrictionStatus) -> Option<u32> {
    match (&status.ruleset, &status.landlock) {
        (RulesetStatus::NotEnforced, _) => None,
        (_, LandlockStatus::Available { effective_abi, .. }) => Some(*effective_abi as u32),
        _ => None,
    }
}
