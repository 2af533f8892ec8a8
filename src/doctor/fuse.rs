//! Who may mount: /dev/fuse, fusermount3, other users, user namespaces.

use std::path::PathBuf;

use rustix::io::Errno;

use super::Finding;

/// What opening /dev/fuse came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// It opens.
    Usable,
    /// It is not there.
    Missing,
    /// What is there is something else.
    Other,
    /// The system refused it.
    Refused {
        /// The error number.
        errno: i32,
        /// The permission bits.
        mode: u32,
    },
}

/// The program that mounts for users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Helper {
    /// Where it is.
    pub path: PathBuf,
    /// Whether it runs as root whoever starts it.
    pub is_setuid_root: bool,
}

/// What counts for mounting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fuse {
    /// The device.
    pub device: Device,
    /// Whether this process is in a container.
    pub in_container: bool,
    /// Whether this process is root and may mount by itself.
    pub may_mount: bool,
    /// The first fusermount3 of PATH.
    pub helper: Option<Helper>,
    /// Whether nothing that is run can gain a privilege.
    pub no_new_privs: bool,
    /// Whether /etc/fuse.conf lets users let others in.
    pub user_allow_other: bool,
    /// Whether the volume is to be open to other users.
    pub wants_allow_other: bool,
    /// Whether this process is in a user namespace.
    pub in_namespace: bool,
    /// Whether a process without privileges can make user namespaces.
    pub has_namespaces: bool,
}

/// Judges who may mount.
pub fn judge(fuse: &Fuse) -> Vec<Finding> {
    let mut findings = vec![device(fuse), helper(fuse)];
    findings.extend(allow_other(fuse));
    findings.extend(namespaces(fuse));
    findings
}

fn device(fuse: &Fuse) -> Finding {
    let check = "fuse/device";
    let in_container = "start the container with the device (podman, docker: `--device \
                        /dev/fuse`; Kubernetes: a device plugin, or a privileged sidecar)";
    let outside = |remedy| match fuse.in_container {
        true => in_container,
        false => remedy,
    };
    match fuse.device {
        Device::Usable => Finding::ok(check, "/dev/fuse opens"),
        Device::Missing => Finding::fail(
            check,
            "there is no /dev/fuse",
            outside("run `modprobe fuse`, then `ls -l /dev/fuse`"),
        ),
        Device::Other => Finding::fail(
            check,
            "/dev/fuse is not the FUSE device (character device 10:229)",
            outside(
                "unmount what is mounted over it, or make it anew: `rm /dev/fuse && mknod -m 666 \
                 /dev/fuse c 10 229`",
            ),
        ),
        // The permission bits say yes and the device's control group says no.
        Device::Refused { errno, .. } if errno == Errno::PERM.raw_os_error() => Finding::fail(
            check,
            "/dev/fuse is there, and the container's control group refuses it",
            in_container,
        ),
        Device::Refused { errno, mode } if errno == Errno::ACCESS.raw_os_error() => Finding::fail(
            check,
            format!(
                "/dev/fuse is not for this user (mode {:04o})",
                mode & 0o7777
            ),
            "run `chmod 666 /dev/fuse` as root (udev does so by itself), or mount as root",
        ),
        Device::Refused { errno, .. } => Finding::fail(
            check,
            format!(
                "/dev/fuse does not open: {}",
                std::io::Error::from_raw_os_error(errno)
            ),
            "run `modprobe fuse` on the host",
        ),
    }
}

fn helper(fuse: &Fuse) -> Finding {
    let check = "fuse/fusermount3";
    if fuse.may_mount {
        return Finding::ok(check, "not needed: this user may mount");
    }
    let Some(helper) = &fuse.helper else {
        return Finding::fail(
            check,
            "there is no fusermount3 in PATH, and this user may not mount without it",
            "run `apt install fuse3` as root, or mount as root",
        );
    };
    let path = helper.path.display();
    if !helper.is_setuid_root {
        return Finding::fail(
            check,
            format!("{path} does not run as root"),
            format!("run `chown root {path} && chmod u+s {path}` as root, or mount as root"),
        );
    }
    if fuse.no_new_privs {
        return Finding::fail(
            check,
            format!("{path} cannot become root here: this process may gain no privilege"),
            "take away what forbids it (systemd: NoNewPrivileges=, Kubernetes: \
             allowPrivilegeEscalation: false), or have the mount made by who may",
        );
    }
    Finding::ok(check, path.to_string())
}

fn allow_other(fuse: &Fuse) -> Option<Finding> {
    let check = "fuse/allow-other";
    if fuse.may_mount {
        return None;
    }
    Some(match (fuse.user_allow_other, fuse.wants_allow_other) {
        (true, _) => Finding::ok(check, "users may let others in"),
        (false, true) => Finding::fail(
            check,
            "the volume is to be open to others (allowOther), which /etc/fuse.conf does not allow",
            "run `echo user_allow_other >> /etc/fuse.conf` as root, or mount as root",
        ),
        (false, false) => Finding::ok(
            check,
            "only this user can look into a mount (for others: user_allow_other in /etc/fuse.conf)",
        ),
    })
}

fn namespaces(fuse: &Fuse) -> Option<Finding> {
    let check = "fuse/user-namespaces";
    if fuse.in_namespace {
        let saw = "in a user namespace: mounts are seen in this namespace only";
        return Some(Finding::ok(check, saw));
    }
    // Root's containers need none.
    if fuse.may_mount || fuse.has_namespaces {
        return None;
    }
    Some(Finding::warn(
        check,
        "users cannot make user namespaces, so rootless containers do not start",
        "as root: `sysctl -w user.max_user_namespaces=15000` (Debian also: \
         kernel.unprivileged_userns_clone=1; Ubuntu: \
         kernel.apparmor_restrict_unprivileged_userns=0)",
    ))
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    fn users() -> Fuse {
        Fuse {
            device: Device::Usable,
            in_container: false,
            may_mount: false,
            helper: Some(Helper {
                path: "/usr/bin/fusermount3".into(),
                is_setuid_root: true,
            }),
            no_new_privs: false,
            user_allow_other: true,
            wants_allow_other: false,
            in_namespace: false,
            has_namespaces: true,
        }
    }

    fn find(fuse: &Fuse, check: &str) -> Option<Finding> {
        judge(fuse).into_iter().find(|f| f.check == check)
    }

    fn level(fuse: &Fuse, check: &str) -> Option<Level> {
        find(fuse, check).map(|f| f.level)
    }

    #[test]
    fn a_good_machine_has_nothing_to_say() {
        assert!(judge(&users()).iter().all(|f| f.level == Level::Ok));
    }

    #[test]
    fn each_trouble_with_the_device_has_its_remedy() {
        let refused = |errno: Errno| Device::Refused {
            errno: errno.raw_os_error(),
            mode: 0o20600,
        };
        let device_option = "--device /dev/fuse";
        for (device, outside, inside) in [
            (Device::Missing, "modprobe fuse", device_option),
            (Device::Other, "mknod", device_option),
            (refused(Errno::PERM), device_option, device_option),
            (refused(Errno::ACCESS), "chmod 666", "chmod 666"),
            (refused(Errno::NODEV), "modprobe", "modprobe"),
        ] {
            for (in_container, remedy) in [(false, outside), (true, inside)] {
                let fuse = Fuse {
                    device,
                    in_container,
                    ..users()
                };
                let found = find(&fuse, "fuse/device").unwrap();
                assert_eq!(found.level, Level::Fail, "{device:?}");
                assert!(found.remedy.unwrap().contains(remedy), "{device:?}");
            }
        }
        let fuse = Fuse {
            device: refused(Errno::ACCESS),
            ..users()
        };
        let saw = find(&fuse, "fuse/device").unwrap().saw;
        assert!(saw.contains("mode 0600"), "{saw}");
    }

    #[test]
    fn users_need_a_helper_that_is_root() {
        let check = "fuse/fusermount3";
        let without = Fuse {
            helper: None,
            ..users()
        };
        assert_eq!(level(&without, check), Some(Level::Fail));
        let root = Fuse {
            may_mount: true,
            ..without
        };
        assert_eq!(level(&root, check), Some(Level::Ok));
        let bare = Fuse {
            helper: Some(Helper {
                path: "/opt/fusermount3".into(),
                is_setuid_root: false,
            }),
            ..users()
        };
        let found = find(&bare, check).unwrap();
        assert_eq!(found.level, Level::Fail);
        assert!(found.remedy.unwrap().contains("chmod u+s /opt/fusermount3"));
        let tied = Fuse {
            no_new_privs: true,
            ..users()
        };
        assert_eq!(level(&tied, check), Some(Level::Fail));
    }

    #[test]
    fn others_are_let_in_where_that_is_allowed() {
        for (allowed, wanted, expected) in [
            (true, true, Level::Ok),
            (true, false, Level::Ok),
            (false, true, Level::Fail),
            (false, false, Level::Ok),
        ] {
            let fuse = Fuse {
                user_allow_other: allowed,
                wants_allow_other: wanted,
                ..users()
            };
            assert_eq!(level(&fuse, "fuse/allow-other"), Some(expected));
            let root = Fuse {
                may_mount: true,
                ..fuse
            };
            assert_eq!(level(&root, "fuse/allow-other"), None);
        }
    }

    #[test]
    fn namespaces_matter_to_users() {
        let check = "fuse/user-namespaces";
        assert_eq!(level(&users(), check), None);
        let without = Fuse {
            has_namespaces: false,
            ..users()
        };
        assert_eq!(level(&without, check), Some(Level::Warn));
        let inside = Fuse {
            in_namespace: true,
            ..without.clone()
        };
        assert_eq!(level(&inside, check), Some(Level::Ok));
        let root = Fuse {
            may_mount: true,
            ..without
        };
        assert_eq!(level(&root, check), None);
    }
}
