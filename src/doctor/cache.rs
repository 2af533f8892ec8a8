//! The cache's directory and its disk.

use std::path::PathBuf;

use bytesize::ByteSize;

use super::Finding;

/// How far a file's time may be from the clock, in seconds: a tick of the kernel's, and a write that
/// took its time.
const CLOCK: u64 = 10;

/// What counts of the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheDisk {
    /// The directory, absolute. It need not exist.
    pub dir: PathBuf,
    /// Its file system, by its own name, such as `ext4`.
    pub fs_type: String,
    /// The name of the network file system that it is, if it is one.
    pub network: Option<String>,
    /// Who has the directory; nothing where it does not exist yet.
    pub owner: Option<Owner>,
    /// The room on the disk, where it could be asked.
    pub room: Option<Room>,
    /// Why the cache in the directory cannot be opened, where there is one.
    pub refused: Option<String>,
    /// What trying it out came to; nothing where it was not tried.
    pub trial: Option<Trial>,
}

/// Who has a directory, and who may look into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// Its user.
    pub uid: u32,
    /// The user that asks.
    pub us: u32,
    /// Its permission bits.
    pub mode: u32,
    /// Whether it is a cache already, or empty, so that a mount makes it private by itself.
    pub is_cache: bool,
}

/// The room on a disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// What this user can still have.
    pub free: u64,
    /// What is left to others.
    pub floor: u64,
    /// The cache's limit.
    pub limit: u64,
    /// What it takes already.
    pub used: u64,
}

/// What trying a directory out came to: what a cache does there, each in turn, until one failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trial {
    /// All of it works.
    Works {
        /// How far a new file's time is off the clock, whichever way, in seconds.
        clock_off: u64,
    },
    /// One thing does not.
    Fails {
        /// What was tried, such as `rename a file`.
        what: String,
        /// The system's words.
        why: String,
        /// Whether it is that the disk cannot be written.
        is_read_only: bool,
    },
    /// It did not end in time.
    Hangs,
}

const ELSEWHERE: &str = "name a directory on a local disk by --cache-dir";

/// Judges the cache.
pub fn judge(cache: &CacheDisk) -> Vec<Finding> {
    let mut findings = vec![disk(cache)];
    findings.extend(owner(cache));
    findings.extend(cache.refused.as_ref().map(|why| {
        let remedy = "move it away, or name another by --cache-dir";
        Finding::fail("cache/opens", why, remedy)
    }));
    findings.extend(cache.room.as_ref().map(room));
    findings.extend(cache.trial.as_ref().map(|trial| try_out(cache, trial)));
    findings
}

fn disk(cache: &CacheDisk) -> Finding {
    let check = "cache/disk";
    let at = cache.dir.display();
    if let Some(name) = &cache.network {
        let saw = format!("{at} is on {name}, and the cache needs a local disk");
        return Finding::fail(check, saw, ELSEWHERE);
    }
    match cache.fs_type.as_str() {
        "overlay" => Finding::warn(
            check,
            format!(
                "{at} is on an overlay: slower, gone with the container, and for files to be \
                 passed through nothing can lay an overlay over the mount"
            ),
            "give the container a volume for it (podman: `-v NAME:/var/cache/svol`; Kubernetes: \
             emptyDir), and name that by --cache-dir",
        ),
        "tmpfs" | "ramfs" => Finding::warn(
            check,
            format!(
                "{at} is in memory ({}): it takes what others need, and is gone with a restart",
                cache.fs_type
            ),
            ELSEWHERE,
        ),
        fs_type => Finding::ok(check, format!("{at} is on {fs_type}")),
    }
}

fn owner(cache: &CacheDisk) -> Option<Finding> {
    let check = "cache/owner";
    let owner = cache.owner?;
    let at = cache.dir.display();
    let (uid, us) = (owner.uid, owner.us);
    if uid != us {
        let saw = format!("{at} belongs to user {uid}, and this is user {us}");
        let remedy = format!(
            "as root: `chown -R {us} {at}`; or name a directory of this user's own by --cache-dir"
        );
        return Some(Finding::fail(check, saw, remedy));
    }
    let mode = owner.mode & 0o7777;
    Some(match (mode & 0o077 != 0, owner.is_cache) {
        (true, false) => Finding::fail(
            check,
            format!("others can look into {at} (mode {mode:04o}), and it is no cache yet"),
            format!("run `chmod 700 {at}` if it is to be the cache"),
        ),
        (true, true) => Finding::ok(
            check,
            format!("this user's; the next mount makes it private (mode {mode:04o} now)"),
        ),
        (false, _) => Finding::ok(check, format!("this user's, mode {mode:04o}")),
    })
}

fn room(room: &Room) -> Finding {
    let check = "cache/room";
    let size = |bytes| ByteSize(bytes).display().iec().to_string();
    let (free, floor) = (size(room.free), size(room.floor));
    let make = "free some of the disk, or name a directory on another by --cache-dir";
    if room.free <= room.floor && room.used == 0 {
        let saw = format!("{free} are free and {floor} are left to others: nothing is kept");
        return Finding::fail(check, saw, make);
    }
    let saw = format!(
        "{} of {} used, {free} free on the disk, {floor} of that left to others",
        size(room.used),
        size(room.limit)
    );
    // What may still be added before the floor ends it.
    let reach = room
        .free
        .saturating_sub(room.floor)
        .saturating_add(room.used);
    if reach < room.limit {
        return Finding::warn(
            check,
            format!("{saw}: the cache can grow to {} only", size(reach)),
            format!("{make}; or ask for no more (--cache-size)"),
        );
    }
    Finding::ok(check, saw)
}

fn try_out(cache: &CacheDisk, trial: &Trial) -> Finding {
    let check = "cache/trial";
    let at = cache.dir.display();
    match trial {
        Trial::Works { clock_off } if *clock_off > CLOCK => Finding::warn(
            check,
            format!("a new file at {at} is dated {clock_off} s off this machine's clock"),
            ELSEWHERE,
        ),
        Trial::Works { .. } => {
            Finding::ok(check, "writing, renaming, locking and mapping work there")
        }
        Trial::Fails {
            what,
            why,
            is_read_only: true,
        } => Finding::fail(
            check,
            format!("cannot {what} at {at}: {why}"),
            "give it a disk that can be written (a read-only root needs a volume for it), or name \
             one by --cache-dir",
        ),
        Trial::Fails { what, why, .. } => {
            Finding::fail(check, format!("cannot {what} at {at}: {why}"), ELSEWHERE)
        }
        Trial::Hangs => Finding::fail(
            check,
            format!("{at} does not answer"),
            "look at its disk (`dmesg`), or name a directory on another by --cache-dir",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    const GIB: u64 = 1 << 30;

    fn good() -> CacheDisk {
        CacheDisk {
            dir: "/c".into(),
            fs_type: "ext4".into(),
            network: None,
            owner: Some(Owner {
                uid: 5,
                us: 5,
                mode: 0o40700,
                is_cache: true,
            }),
            room: Some(Room {
                free: 50 * GIB,
                floor: 2 * GIB,
                limit: 10 * GIB,
                used: GIB,
            }),
            refused: None,
            trial: Some(Trial::Works { clock_off: 0 }),
        }
    }

    fn find(cache: &CacheDisk, check: &str) -> Finding {
        let found = judge(cache).into_iter().find(|f| f.check == check);
        found.unwrap_or_else(|| panic!("no {check}"))
    }

    #[test]
    fn a_good_cache_is_well() {
        assert!(judge(&good()).iter().all(|f| f.level == Level::Ok));
        // One that is not there yet is made by the first mount.
        let absent = CacheDisk {
            owner: None,
            ..good()
        };
        assert!(judge(&absent).iter().all(|f| f.check != "cache/owner"));
    }

    #[test]
    fn disks_are_told_apart() {
        for (fs_type, network, level) in [
            ("ext4", None, Level::Ok),
            ("xfs", None, Level::Ok),
            ("overlay", None, Level::Warn),
            ("tmpfs", None, Level::Warn),
            ("nfs4", Some("NFS"), Level::Fail),
            ("fuse.sshfs", Some("FUSE"), Level::Fail),
        ] {
            let cache = CacheDisk {
                fs_type: fs_type.into(),
                network: network.map(Into::into),
                ..good()
            };
            let found = find(&cache, "cache/disk");
            assert_eq!(found.level, level, "{fs_type}");
            assert_eq!(found.remedy.is_some(), level != Level::Ok);
        }
    }

    #[test]
    fn the_directory_is_its_users_alone() {
        for (uid, mode, is_cache, level, remedy) in [
            (5, 0o700, true, Level::Ok, ""),
            (5, 0o700, false, Level::Ok, ""),
            (5, 0o755, true, Level::Ok, ""),
            (5, 0o755, false, Level::Fail, "chmod 700 /c"),
            (6, 0o700, true, Level::Fail, "chown -R 5 /c"),
        ] {
            let cache = CacheDisk {
                owner: Some(Owner {
                    uid,
                    us: 5,
                    mode,
                    is_cache,
                }),
                ..good()
            };
            let found = find(&cache, "cache/owner");
            assert_eq!(found.level, level, "{uid} {mode:o} {is_cache}");
            assert!(found.remedy.unwrap_or_default().contains(remedy));
        }
        let refused = CacheDisk {
            refused: Some("it is not a directory".into()),
            ..good()
        };
        assert_eq!(find(&refused, "cache/opens").level, Level::Fail);
    }

    #[test]
    fn room_is_compared_with_quota_and_floor() {
        for (free, used, level) in [
            (50 * GIB, 0, Level::Ok),
            // Just enough for all of the limit.
            (12 * GIB, 0, Level::Ok),
            (12 * GIB - 1, 0, Level::Warn),
            (3 * GIB, 9 * GIB, Level::Ok),
            (3 * GIB - 1, 9 * GIB, Level::Warn),
            (2 * GIB, 0, Level::Fail),
            (GIB, GIB, Level::Warn),
            (0, 10 * GIB, Level::Ok),
        ] {
            let cache = CacheDisk {
                room: Some(Room {
                    free,
                    floor: 2 * GIB,
                    limit: 10 * GIB,
                    used,
                }),
                ..good()
            };
            assert_eq!(find(&cache, "cache/room").level, level, "{free} {used}");
        }
    }

    #[test]
    fn what_was_tried_is_told() {
        let fails = |is_read_only| Trial::Fails {
            what: "rename a file".into(),
            why: "no".into(),
            is_read_only,
        };
        for (trial, level, word) in [
            (Trial::Works { clock_off: 10 }, Level::Ok, "locking"),
            (Trial::Works { clock_off: 11 }, Level::Warn, "11 s off"),
            (fails(false), Level::Fail, "cannot rename a file at /c: no"),
            (fails(true), Level::Fail, "cannot rename a file at /c: no"),
            (Trial::Hangs, Level::Fail, "does not answer"),
        ] {
            let cache = CacheDisk {
                trial: Some(trial.clone()),
                ..good()
            };
            let found = find(&cache, "cache/trial");
            assert_eq!(found.level, level, "{trial:?}");
            assert!(found.saw.contains(word), "{trial:?}: {}", found.saw);
        }
    }
}
