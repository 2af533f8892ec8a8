//! What of the suites applies to a file system that is only read, and what does not, and why.

/// The cases of pjdfstest 0.2.2 that apply. They make their files while it is still written to.
pub const APPLY: &[&str] = &[
    "chmod::erofs_named",
    "chown::erofs_named",
    "chown::lchown::erofs_named",
    "link::erofs_named",
    "mkdir::erofs_new_file",
    "mkfifo::erofs_new_file",
    "open::erofs_named",
    "open::erofs_new_file",
    "rename::erofs_named",
    "rmdir::erofs_named",
    "symlink::erofs_new_file",
    "truncate::erofs_named",
    "unlink::erofs_named",
];

/// Why the other cases do not apply.
const WRITES: &str = "makes what it looks at in the file system under test";

/// The other cases of pjdfstest 0.2.2: by group, how many, and why not.
pub const PJDFSTEST: &[(&str, usize, &str)] = &[
    ("chmod", 32, WRITES),
    ("chown", 24, WRITES),
    ("ftruncate", 6, WRITES),
    ("link", 40, WRITES),
    ("mkdir", 20, WRITES),
    ("mkfifo", 20, WRITES),
    ("mknod", 38, WRITES),
    ("open", 25, WRITES),
    ("posix_fallocate", 5, WRITES),
    ("rename", 59, WRITES),
    ("rmdir", 22, WRITES),
    ("symlink", 23, WRITES),
    ("truncate", 18, WRITES),
    ("unlink", 33, WRITES),
    ("utimensat", 20, WRITES),
];

/// Suites of which nothing is run.
pub const OTHERS: &[(&str, &str)] = &[
    (
        "xfstests generic",
        "every test begins by writing to TEST_DIR, or makes a file system on a scratch device",
    ),
    (
        "fsx",
        "compares what it writes with what it reads of one open file; fio's verify reads what was written elsewhere",
    ),
    (
        "LTP fs",
        "its read tests write their files first, as fsx does",
    ),
];
