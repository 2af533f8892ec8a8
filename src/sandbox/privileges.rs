//! Capabilities: root's powers, one by one.

use std::io;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use super::Needs;

/// What root keeps on one thread until the kernel has heard our side of the mount: it takes what we
/// say of how many requests may be in the background (see `MAX_BACKGROUND`) from the privileged
/// alone. On a thread that reads what a source sent it would undo much of the rest: with it a
/// process may look into others' memory.
pub(super) const KEEP_TO_BEGIN: CapabilitySet = CapabilitySet::SYS_ADMIN;

/// What root keeps to read what belongs to others: the files of a local layer, or a secret, a
/// certificate or the cache where others' directories lead to it.
pub(super) const KEEP_TO_READ: CapabilitySet = CapabilitySet::DAC_READ_SEARCH;

/// What lets root pass by files' modes.
const PASS_BY: CapabilitySet = CapabilitySet::DAC_OVERRIDE.union(CapabilitySet::DAC_READ_SEARCH);

/// Returns which capabilities are needed for `needs`.
pub(super) fn kept(needs: &Needs) -> CapabilitySet {
    if needs.others_files || needs_to_pass_by(needs) {
        KEEP_TO_READ
    } else {
        CapabilitySet::empty()
    }
}

/// Tries whether all paths can be had without the power to pass by modes.
fn needs_to_pass_by(needs: &Needs) -> bool {
    let Ok(now) = capabilities(None) else {
        return true;
    };
    if !now.effective.intersects(PASS_BY) {
        return false;
    }
    let can = |path: &Path| {
        rustix::fs::accessat(CWD, path, Access::READ_OK, AtFlags::EACCESS) != Err(DENIED)
    };
    let without = CapabilitySets {
        effective: now.effective - PASS_BY,
        ..now
    };
    if set_capabilities(None, without).is_err() {
        return true;
    }
    let all = needs.write.iter().chain(&needs.read).all(|p| can(p));
    // Cannot fail: what is permitted may be made effective.
    let _ = set_capabilities(None, now);
    !all
}

const DENIED: rustix::io::Errno = rustix::io::Errno::ACCESS;

/// Drops all of this thread's capabilities but `keep`, for good.
pub(super) fn drop_all_but(keep: CapabilitySet) -> io::Result<()> {
    let now = capabilities(None)?;
    let keep = now.permitted & keep;
    if now.permitted.contains(CapabilitySet::SETPCAP) {
        for capability in all() {
            // One that this kernel does not know cannot be held.
            let _ = rustix::thread::remove_capability_from_bounding_set(capability);
        }
    }
    let _ = rustix::thread::clear_ambient_capability_set();
    let sets = CapabilitySets {
        effective: keep,
        permitted: keep,
        inheritable: CapabilitySet::empty(),
    };
    Ok(set_capabilities(None, sets)?)
}

/// Every capability that has a name, each by itself.
fn all() -> impl Iterator<Item = CapabilitySet> {
    CapabilitySet::all()
        .iter_names()
        .map(|(_, capability)| capability)
        .filter(|capability| capability.bits().count_ones() == 1)
}

/// Returns the names of the capabilities that this thread has.
pub(super) fn names() -> Vec<String> {
    let now = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.permitted);
    now.iter_names()
        .filter(|(_, capability)| capability.bits().count_ones() == 1)
        .map(|(name, _)| format!("CAP_{name}"))
        .collect()
}
