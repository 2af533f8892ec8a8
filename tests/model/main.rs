//! The core of the filesystem against a plain model: random volumes, changes, refreshes, evictions,
//! outages, lies, crashes, remounts and processes that take a mount over, with no kernel and no network,
//! but with a real cache and a real catalogue on disk.
//!
//! `oracle` is the model, written from docs/SEMANTICS.md and docs/VOLUME.md; `world` and `recorder`
//! are the sources from both sides; `mounted` is the filesystem; `harness` does one step to both
//! and compares. A failing case is shrunk, and its seed kept in `tests/model.regressions`; since a
//! seed means another case once the steps change, the case itself goes to `regressions`.
//! `make model` looks harder.

#![allow(unreachable_pub)]

mod harness;
mod mounted;
mod oracle;
mod recorder;
mod regressions;
mod world;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use svol::source::ErrorKind;

use harness::Harness;
use recorder::Lie;

/// A layer as its user wrote it, and what its source is like.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plan {
    graft: &'static str,
    /// Whether listings do not tell sizes and versions.
    coarse: bool,
    include: &'static [&'static str],
    exclude: &'static [&'static str],
    required: bool,
    strict: bool,
    /// Whether versions that prove nothing are asked for at each open.
    probed: bool,
}

/// What a case begins with.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shape {
    layers: Vec<Plan>,
    /// Whether listings are asked for again at each use, or never.
    eager: bool,
    /// The cache's bound in bytes, where it is too small for what is read.
    quota: Option<u64>,
    /// A layer whose source is away from the beginning, so that nothing is known of it.
    down: Option<(usize, ErrorKind)>,
    /// Files that are there at first: layer, path, size.
    files: Vec<(usize, String, usize)>,
}

/// A step. Numbers choose among what there is, modulo how many there are.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Put {
        layer: usize,
        path: String,
        size: usize,
        weak: bool,
    },
    Overwrite {
        layer: usize,
        file: usize,
    },
    Mkdir {
        layer: usize,
        path: String,
    },
    Link {
        layer: usize,
        path: String,
        outward: bool,
    },
    Remove {
        layer: usize,
        path: String,
    },
    RemoveKnown {
        layer: usize,
        file: usize,
    },
    Refresh {
        path: String,
        recursive: bool,
    },
    RefreshAll,
    Lookup {
        path: String,
    },
    List {
        path: String,
        chunk: usize,
        count: bool,
    },
    /// Lists `taken` names, lets a file of the directory come and go, and lists the rest.
    SlowList {
        path: String,
        taken: usize,
        layer: usize,
    },
    Open {
        path: String,
    },
    OpenKnown {
        file: usize,
    },
    /// Opens an inode that was looked up some time ago.
    OpenHeld {
        inode: usize,
    },
    Read {
        handle: usize,
        at: u32,
        len: usize,
    },
    ReadWhole {
        handle: usize,
    },
    /// Overwrites the file while all of it is being read.
    ReadWhileOverwritten {
        handle: usize,
        after: u64,
    },
    /// Reads as many handles at once, and looks at names, while something else goes on.
    Crowd {
        reads: Vec<(usize, u32, usize)>,
        meanwhile: Meanwhile,
    },
    /// Reads while the source says something wrong.
    ReadLied {
        handle: usize,
        at: u32,
        lie: Lie,
    },
    /// Moves a file, as a source does that cannot: another one of the same bytes.
    Rename {
        layer: usize,
        file: usize,
        path: String,
    },
    Evict {
        target: u32,
    },
    /// Ends as by kill -9, while a handle is being read.
    Crash {
        flushed: bool,
        reading: usize,
    },
    Close {
        handle: usize,
    },
    Forget {
        inode: usize,
    },
    Remount {
        beside: bool,
    },
    /// Another process takes the mount over, with all that is open.
    Replace {
        planned: bool,
    },
    Down {
        layer: usize,
        kind: ErrorKind,
    },
    Up {
        layer: usize,
    },
    Walk,
}

/// What goes on beside readers.
#[derive(Debug, Clone)]
pub(crate) enum Meanwhile {
    Nothing,
    Refresh,
    Evict,
    Overwrite { layer: usize, file: usize },
}

fn path() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["a", "b", "c", "g", "h"]);
    prop::collection::vec(name, 1..=3).prop_map(|names| names.join("/"))
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![
        4 => prop::sample::select(vec![0, 1, 100, 16383, 16384, 16385]),
        4 => prop::sample::select(vec![65535, 65536, 65537, 200_000]),
        1 => prop::sample::select(vec![(1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20]),
    ]
}

fn plan() -> impl Strategy<Value = Plan> {
    let graft = prop::sample::select(vec!["", "", "", "g", "g/h", "a"]);
    type Globs = &'static [&'static str];
    let filter = prop::sample::select(vec![
        (&[] as Globs, &[] as Globs),
        (&[], &[]),
        (&[], &[]),
        (&[], &["b"]),
        (&[], &["h/"]),
        (&["a", "h"], &[]),
        (&[], &["a/*/c", "/g/b"]),
        (&["g/", "/a/b"], &["c"]),
    ]);
    let rarely = || prop::bool::weighted(0.2);
    (
        graft,
        filter,
        rarely(),
        rarely(),
        any::<bool>(),
        prop::bool::weighted(0.4),
    )
        .prop_map(
            |(graft, (include, exclude), coarse, required, strict, probed)| Plan {
                graft,
                coarse,
                include,
                exclude,
                required,
                strict,
                probed,
            },
        )
}

fn outage() -> impl Strategy<Value = ErrorKind> {
    prop::sample::select(vec![
        ErrorKind::Unreachable,
        ErrorKind::Timeout,
        ErrorKind::Server,
        ErrorKind::Denied,
    ])
}

fn shape() -> impl Strategy<Value = Shape> {
    let quota = prop_oneof![4 => Just(None), 1 => (100_000..4_000_000_u64).prop_map(Some)];
    let files = prop::collection::vec((0..3_usize, path(), size()), 0..8);
    let layers = prop::collection::vec(plan(), 1..=3);
    let down = prop::option::weighted(0.4, (0..3_usize, outage()));
    (layers, prop::bool::weighted(0.25), quota, down, files).prop_map(
        |(layers, eager, quota, down, files)| Shape {
            layers,
            eager,
            quota,
            down,
            files,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let layer = || 0..3_usize;
    let pick = || 0..64_usize;
    let lie = prop::sample::select(vec![
        Lie::Short,
        Lie::Long,
        Lie::Shifted,
        Lie::Resized,
        Lie::Whole,
    ]);
    let len = || prop::sample::select(vec![1, 4096, 20_000, 131_072, 1 << 20]);
    let meanwhile = prop_oneof![
        1 => Just(Meanwhile::Nothing),
        2 => Just(Meanwhile::Refresh),
        2 => Just(Meanwhile::Evict),
        1 => (layer(), pick()).prop_map(|(layer, file)| Meanwhile::Overwrite { layer, file }),
    ];
    prop_oneof![
        5 => (layer(), path(), size(), prop::bool::weighted(0.3))
            .prop_map(|(layer, path, size, weak)| Step::Put { layer, path, size, weak }),
        4 => (layer(), pick()).prop_map(|(layer, file)| Step::Overwrite { layer, file }),
        1 => (layer(), path()).prop_map(|(layer, path)| Step::Mkdir { layer, path }),
        1 => (layer(), path(), any::<bool>())
            .prop_map(|(layer, path, outward)| Step::Link { layer, path, outward }),
        1 => (layer(), path()).prop_map(|(layer, path)| Step::Remove { layer, path }),
        2 => (layer(), pick()).prop_map(|(layer, file)| Step::RemoveKnown { layer, file }),
        2 => (path(), any::<bool>())
            .prop_map(|(path, recursive)| Step::Refresh { path, recursive }),
        4 => Just(Step::RefreshAll),
        3 => path().prop_map(|path| Step::Lookup { path }),
        2 => (path(), 1..5_usize, any::<bool>())
            .prop_map(|(path, chunk, count)| Step::List { path, chunk, count }),
        1 => (path(), 1..3_usize, layer())
            .prop_map(|(path, taken, layer)| Step::SlowList { path, taken, layer }),
        2 => path().prop_map(|path| Step::Open { path }),
        8 => pick().prop_map(|file| Step::OpenKnown { file }),
        3 => pick().prop_map(|inode| Step::OpenHeld { inode }),
        9 => (pick(), any::<u32>(), len())
            .prop_map(|(handle, at, len)| Step::Read { handle, at, len }),
        4 => pick().prop_map(|handle| Step::ReadWhole { handle }),
        2 => (pick(), 0..4_u64)
            .prop_map(|(handle, after)| Step::ReadWhileOverwritten { handle, after }),
        3 => (prop::collection::vec((pick(), any::<u32>(), len()), 0..12), meanwhile)
            .prop_map(|(reads, meanwhile)| Step::Crowd { reads, meanwhile }),
        2 => (pick(), any::<u32>(), lie)
            .prop_map(|(handle, at, lie)| Step::ReadLied { handle, at, lie }),
        1 => (layer(), pick(), path())
            .prop_map(|(layer, file, path)| Step::Rename { layer, file, path }),
        2 => prop::sample::select(vec![0, 0, 200_000, 2_000_000])
            .prop_map(|target| Step::Evict { target }),
        1 => (any::<bool>(), pick())
            .prop_map(|(flushed, reading)| Step::Crash { flushed, reading }),
        2 => pick().prop_map(|handle| Step::Close { handle }),
        2 => pick().prop_map(|inode| Step::Forget { inode }),
        2 => any::<bool>().prop_map(|beside| Step::Remount { beside }),
        3 => any::<bool>().prop_map(|planned| Step::Replace { planned }),
        2 => (layer(), outage()).prop_map(|(layer, kind)| Step::Down { layer, kind }),
        3 => layer().prop_map(|layer| Step::Up { layer }),
        2 => Just(Step::Walk),
    ]
}

/// Does the steps to a filesystem of that shape; what the model does not allow is an error.
fn run(shape: &Shape, steps: &[Step]) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let result = runtime.block_on(async {
        let mut harness = Harness::new(shape);
        for (at, step) in steps.iter().enumerate() {
            let done = harness.step(step).await;
            done.map_err(|e| format!("step {at}, {step:?}: {e}"))?;
        }
        let end = harness.finish().await;
        end.map_err(|e| format!("at the end: {e}"))
    });
    runtime.shutdown_background();
    result
}

fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok();
    ProptestConfig {
        // Of each of the two halves.
        cases: cases.and_then(|n| n.parse().ok()).unwrap_or(32),
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            "tests/model.regressions",
        ))),
        max_shrink_iters: 400,
        ..ProptestConfig::default()
    }
}

// In halves, which run beside each other: a case waits more than it computes.
proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_core_agrees_with_the_model(
        shape in shape(),
        steps in prop::collection::vec(step(), 1..50),
    ) {
        run(&shape, &steps).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn one_that_changes_much_agrees_with_the_model(
        shape in shape(),
        steps in prop::collection::vec(step(), 30..80),
    ) {
        run(&shape, &steps).map_err(TestCaseError::fail)?;
    }
}
