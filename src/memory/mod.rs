//! The one ceiling on memory, and what each part may take of it.
//!
//! [`Ceiling`] says how much and why: what was asked for, or a share of what the cgroup or the
//! machine has. [`Budget::split`] is a pure function from the ceiling to the parts' bounds; each
//! part keeps to its own by evicting, by going to disk, or by letting its callers wait. Nothing
//! holds a share of one part while it waits for more of it, so nobody waits for ever.

mod cgroup;
mod usage;

pub(crate) use cgroup::Hierarchy;
pub use cgroup::{Limit, tightest};
pub use usage::{let_buffers_stay, resident, tame_allocator};

use std::path::PathBuf;

const MIB: u64 = 1 << 20;

/// The smallest ceiling that the daemon works under: `FIXED`, and enough of each part for a few
/// readers.
pub const LEAST: u64 = 48 * MIB;

/// The largest ceiling that is chosen without being asked for: more makes nothing faster that was
/// measured.
const MOST: u64 = 1024 * MIB;

/// What the process takes whatever it does: its program, some 50 threads' stacks, a read buffer of
/// 1 MiB for each of the 8 threads that answer reads, and the allocator's slack.
const FIXED: u64 = 22 * MIB;

/// What SQLite's page caches take when full: ten connections with the bounds that they are opened
/// with. They need little, as the kernel keeps the files' pages too.
const SQLITE: u64 = 5 * MIB;

/// What an inode that the kernel knows takes, with its names, version and place in the maps.
pub const INODE: u64 = 700;

/// What a request takes that waits for a source: its task, its flight and its place in queues.
pub const REQUEST: u64 = 16 << 10;

/// Where a ceiling comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Somebody asked for it.
    Asked,
    /// Half of the limit of this cgroup, the tightest one around this process.
    Cgroup(PathBuf),
    /// A quarter of the machine's memory, `MOST` at most.
    Machine,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::Asked => f.write_str("as asked"),
            Origin::Cgroup(path) => write!(f, "half of the limit of cgroup {}", path.display()),
            Origin::Machine => f.write_str("from the machine's memory"),
        }
    }
}

/// Why there can be no ceiling.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TooLittle {
    /// What was asked for.
    #[error(
        "a memory ceiling of {} is too small to work under; give at least {}",
        size(*.0), size(LEAST)
    )]
    Asked(u64),
    /// What the cgroup has.
    #[error(
        "the memory limit of cgroup {} is {}, and at least {} are needed; raise it",
        .0.display(), size(*.1), size(needed())
    )]
    Cgroup(PathBuf, u64),
}

fn size(bytes: u64) -> String {
    crate::config::ByteSize(bytes).to_string()
}

/// The smallest limit of a cgroup in which [`LEAST`] leaves a quarter for the kernel: page cache,
/// sockets, page tables.
fn needed() -> u64 {
    LEAST / 3 * 4
}

/// The most that the process shall take, in bytes, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ceiling {
    /// Bytes; at least [`LEAST`].
    pub bytes: u64,
    /// Where it comes from.
    pub origin: Origin,
}

impl Ceiling {
    /// Returns the ceiling that was asked for, or the default for where this process runs.
    pub fn of_process(asked: Option<u64>) -> Result<Ceiling, TooLittle> {
        Ceiling::choose(asked, tightest(), usage::machine())
    }

    /// As [`Ceiling::of_process`], with everything it depends on.
    pub fn choose(
        asked: Option<u64>,
        cgroup: Option<Limit>,
        machine: Option<u64>,
    ) -> Result<Ceiling, TooLittle> {
        if let Some(bytes) = asked {
            return match bytes < LEAST {
                true => Err(TooLittle::Asked(bytes)),
                false => Ok(Ceiling {
                    bytes,
                    origin: Origin::Asked,
                }),
            };
        }
        let of_machine = machine.map_or(MOST, |bytes| (bytes / 4).clamp(LEAST, MOST));
        match cgroup {
            Some(limit) if limit.bytes < needed() => {
                Err(TooLittle::Cgroup(limit.cgroup, limit.bytes))
            }
            // Half: page cache of the cache's files and others in the group need room too.
            Some(limit) if (limit.bytes / 2).max(LEAST) < of_machine => Ok(Ceiling {
                bytes: (limit.bytes / 2).max(LEAST),
                origin: Origin::Cgroup(limit.cgroup),
            }),
            _ => Ok(Ceiling {
                bytes: of_machine,
                origin: Origin::Machine,
            }),
        }
    }
}

/// What each part may take of a ceiling, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// The program itself, its threads and their buffers.
    pub fixed: u64,
    /// Bodies between the network and the disk.
    pub buffers: u64,
    /// Bytes of files that are kept in memory: small ones, and what the disk cannot take.
    pub tier: u64,
    /// Listings of sources.
    pub listings: u64,
    /// Merged listings, with what they refer to.
    pub merged: u64,
    /// Inodes that the kernel knows, at [`INODE`] each.
    pub inodes: u64,
    /// Requests that wait, at [`REQUEST`] each.
    pub requests: u64,
    /// SQLite's page caches, of all connections.
    pub sqlite: u64,
    /// Listings that wait to be written to the catalogue.
    pub queue: u64,
}

impl Budget {
    /// Splits a ceiling of `bytes` (at least [`LEAST`]). The parts' sum never exceeds it.
    pub fn split(bytes: u64) -> Budget {
        let rest = bytes.saturating_sub(FIXED + SQLITE);
        // In 24ths of what is left, each up to what serves it: beyond that, more is no faster.
        let share = |parts: u64, most: u64| (rest / 24 * parts).min(most * MIB);
        Budget {
            fixed: FIXED,
            buffers: share(4, 64),
            tier: share(4, 64),
            listings: share(6, 256),
            merged: share(2, 64),
            inodes: share(4, 256),
            requests: share(3, 128),
            sqlite: SQLITE,
            queue: share(1, 64),
        }
    }

    /// Returns how much of one listing may be in memory, in bytes: two dozen as large as that are
    /// not too many.
    pub fn listing(&self) -> usize {
        usize::try_from(self.listings / 24).unwrap_or(usize::MAX)
    }

    /// Returns how many inodes the kernel may be told to keep.
    pub fn inode_count(&self) -> usize {
        usize::try_from(self.inodes / INODE).unwrap_or(usize::MAX)
    }

    /// Returns how many requests of the kernel may wait at once.
    pub fn request_count(&self) -> u16 {
        u16::try_from(self.requests / REQUEST).unwrap_or(u16::MAX)
    }

    /// Returns how many operations of one source may be under way at once: each holds a piece of a
    /// body, or a page of a listing and what is made of it.
    pub fn operations(&self) -> usize {
        const OPERATION: u64 = MIB / 2;
        usize::try_from(self.buffers / OPERATION)
            .unwrap_or(usize::MAX)
            .clamp(8, 64)
    }
}

impl Default for Budget {
    /// That of `MOST`.
    fn default() -> Budget {
        Budget::split(MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limit(bytes: u64) -> Option<Limit> {
        Some(Limit {
            bytes,
            cgroup: "/pod".into(),
        })
    }

    #[test]
    fn what_is_asked_for_wins_and_too_little_is_refused() {
        let asked = |mib| Ceiling::choose(Some(mib * MIB), limit(64 * MIB), Some(8192 * MIB));
        assert_eq!(asked(128).unwrap().bytes, 128 * MIB);
        assert_eq!(asked(128).unwrap().origin, Origin::Asked);
        assert_eq!(asked(48).unwrap().bytes, LEAST);
        let why = asked(47).unwrap_err().to_string();
        assert!(why.contains("47MiB") && why.contains("48MiB"), "{why}");
    }

    #[test]
    fn the_default_is_from_the_cgroup_or_the_machine() {
        let choose = |cgroup, machine: u64| Ceiling::choose(None, cgroup, Some(machine * MIB));
        let of = |cgroup, machine| choose(cgroup, machine).unwrap();
        assert_eq!(of(None, 2048).bytes, 512 * MIB);
        assert_eq!(of(None, 2048).origin, Origin::Machine);
        assert_eq!(of(None, 100_000).bytes, MOST);
        assert_eq!(of(None, 64).bytes, LEAST);
        assert_eq!(of(limit(128 * MIB), 100_000).bytes, 64 * MIB);
        assert_eq!(
            of(limit(128 * MIB), 100_000).origin,
            Origin::Cgroup("/pod".into())
        );
        assert_eq!(of(limit(64 * MIB), 100_000).bytes, LEAST);
        assert_eq!(of(limit(100_000 * MIB), 100_000).origin, Origin::Machine);
        let why = choose(limit(63 * MIB), 100_000).unwrap_err().to_string();
        assert!(why.contains("/pod") && why.contains("64MiB"), "{why}");
    }

    proptest! {
        #[test]
        fn the_parts_never_exceed_the_whole_and_each_can_work(bytes in LEAST..1 << 44) {
            let Budget {
                fixed, buffers, tier, listings, merged, inodes, requests, sqlite, queue,
            } = Budget::split(bytes);
            let parts = [buffers, tier, listings, merged, inodes, requests, sqlite, queue];
            prop_assert!(fixed + parts.iter().sum::<u64>() <= bytes);
            // A read of 1 MiB fits into each part that holds bodies, twice.
            prop_assert!(buffers >= 2 * MIB && tier >= 2 * MIB);
            prop_assert!(parts.iter().all(|part| *part >= 3 * MIB / 4), "{parts:?}");
            let budget = Budget::split(bytes);
            prop_assert!(budget.request_count() >= 128);
            prop_assert!(budget.inode_count() >= 4096);
            prop_assert!((8..=64).contains(&budget.operations()));
        }

        #[test]
        fn more_is_never_less(bytes in LEAST..1 << 40, more in 0..1u64 << 40) {
            let (less, more) = (Budget::split(bytes), Budget::split(bytes + more));
            prop_assert!(less.buffers <= more.buffers && less.listings <= more.listings);
            prop_assert!(less.inodes <= more.inodes && less.requests <= more.requests);
        }
    }
}
