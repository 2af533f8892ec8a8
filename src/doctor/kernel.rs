//! The kernel: what of it a mount can use.

use super::Finding;

/// The first kernel that reads complete cached files itself, and that sends the requests of a daemon
/// that died to its successor.
const GOOD: (u32, u32) = (6, 9);

/// The oldest kernel that we know to serve well: FUSE for users in namespaces came with it.
const OLDEST: (u32, u32) = (4, 18);

/// What counts of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// Its release, as `uname -r` says it.
    pub release: String,
    /// Its major and minor version, where the release tells.
    pub version: Option<(u32, u32)>,
    /// Whether it knows FUSE now. A module that is not loaded yet is not known.
    pub has_fuse: bool,
    /// Whether /dev/fuse can be opened, which loads the module.
    pub opens_fuse: bool,
    /// Whether this process may have files passed through: CAP_SYS_ADMIN outside of user namespaces.
    pub may_pass_through: bool,
    /// The version of Landlock's interface, where there is one.
    pub landlock: Option<u32>,
    /// Whether it filters system calls.
    pub has_seccomp: bool,
}

/// Judges the kernel.
pub fn judge(kernel: &Kernel) -> Vec<Finding> {
    let mut findings = vec![version(kernel)];
    if !kernel.has_fuse && !kernel.opens_fuse {
        findings.push(Finding::fail(
            "kernel/fuse",
            "this kernel has no FUSE, or its module is not loaded",
            "run `modprobe fuse` on the host; a kernel without it needs CONFIG_FUSE_FS",
        ));
    }
    findings.extend(passthrough(kernel));
    findings.push(sandbox(kernel));
    findings
}

fn version(kernel: &Kernel) -> Finding {
    let check = "kernel/version";
    let release = &kernel.release;
    let Some(version) = kernel.version else {
        let saw = format!("its release, {release}, tells no version");
        return Finding::warn(check, saw, "look at `uname -r`; Linux 6.9 or newer is best");
    };
    if version < OLDEST {
        let saw = format!("Linux {release}, older than any that this was tried on");
        return Finding::warn(check, saw, "use Linux 4.18 or newer, best 6.9");
    }
    if version < GOOD {
        let saw = format!(
            "Linux {release}: no passthrough, and what a killed daemon was reading is lost to its \
             readers"
        );
        return Finding::warn(check, saw, "both work from Linux 6.9 on");
    }
    Finding::ok(check, format!("Linux {release}"))
}

fn passthrough(kernel: &Kernel) -> Option<Finding> {
    if kernel.version? < GOOD {
        return None;
    }
    // Not a warning: to most who have not the privilege nobody will give it.
    let saw = match kernel.may_pass_through {
        true => "complete cached files can be read by the kernel itself",
        false => {
            "off for this user, since it takes CAP_SYS_ADMIN; cached files are read through the \
             daemon"
        }
    };
    Some(Finding::ok("kernel/passthrough", saw))
}

fn sandbox(kernel: &Kernel) -> Finding {
    let check = "kernel/sandbox";
    match (kernel.landlock, kernel.has_seccomp) {
        (Some(version), true) => {
            Finding::ok(check, format!("Landlock (version {version}) and seccomp"))
        }
        (None, true) => Finding::warn(
            check,
            "no Landlock: a daemon that was taken over could reach this user's files",
            "boot with landlock among the names of `lsm=` (Linux 5.19 or newer); in a container, \
             see whether its seccomp profile refuses it",
        ),
        (Some(_), false) => Finding::warn(
            check,
            "no seccomp: a daemon that was taken over could make any system call",
            "use a kernel with CONFIG_SECCOMP_FILTER",
        ),
        (None, false) => Finding::warn(
            check,
            "neither Landlock nor seccomp: the daemon is not confined",
            "use a kernel with both (CONFIG_SECURITY_LANDLOCK, CONFIG_SECCOMP_FILTER)",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    fn good() -> Kernel {
        Kernel {
            release: "6.18.1".into(),
            version: Some((6, 18)),
            has_fuse: true,
            opens_fuse: true,
            may_pass_through: true,
            landlock: Some(6),
            has_seccomp: true,
        }
    }

    fn level(kernel: &Kernel, check: &str) -> Option<Level> {
        let found = judge(kernel).into_iter().find(|f| f.check == check);
        found.map(|f| f.level)
    }

    #[test]
    fn a_good_kernel_is_praised() {
        assert!(judge(&good()).iter().all(|f| f.level == Level::Ok));
        assert_eq!(level(&good(), "kernel/fuse"), None);
    }

    #[test]
    fn versions_are_told_apart() {
        for (version, expected) in [
            (Some((4, 17)), Level::Warn),
            (Some((4, 18)), Level::Warn),
            (Some((6, 8)), Level::Warn),
            (Some((6, 9)), Level::Ok),
            (Some((7, 0)), Level::Ok),
            (None, Level::Warn),
        ] {
            let kernel = Kernel { version, ..good() };
            assert_eq!(
                level(&kernel, "kernel/version"),
                Some(expected),
                "{version:?}"
            );
            let passes = level(&kernel, "kernel/passthrough").is_some();
            assert_eq!(passes, version >= Some((6, 9)), "{version:?}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let kernel = Kernel {
            has_fuse: false,
            ..good()
        };
        assert_eq!(level(&kernel, "kernel/fuse"), None, "its module may load");
        let kernel = Kernel {
            opens_fuse: false,
            ..kernel
        };
        assert_eq!(level(&kernel, "kernel/fuse"), Some(Level::Fail));
        for (landlock, has_seccomp, expected) in [
            (Some(1), true, Level::Ok),
            (None, true, Level::Warn),
            (Some(1), false, Level::Warn),
            (None, false, Level::Warn),
        ] {
            let kernel = Kernel {
                landlock,
                has_seccomp,
                ..good()
            };
            assert_eq!(level(&kernel, "kernel/sandbox"), Some(expected));
        }
        let kernel = Kernel {
            may_pass_through: false,
            ..good()
        };
        assert_eq!(level(&kernel, "kernel/passthrough"), Some(Level::Ok));
    }
}
