//! The core of the filesystem against a plain model: random trees, layers, versions, changes,
//! refreshes, outages and remounts, with no kernel and no network, but with a real cache and a real
//! catalogue on disk.
//!
//! `oracle` is the model, `world` the sources and what they were heard to say, `harness` does one
//! step to both and compares. A failing case is shrunk, and kept in `tests/model.regressions`.
//! `PROPTEST_CASES=1000 cargo test --test model` looks harder.

#![allow(unreachable_pub)]

mod harness;
mod oracle;
mod world;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use svol::source::ErrorKind;

use harness::Harness;

/// What a case begins with.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    /// A graft each, and whether its listings are coarse.
    layers: Vec<(&'static str, bool)>,
    /// Whether listings are asked for again at each use, or never.
    eager: bool,
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
    Close {
        handle: usize,
    },
    Forget {
        inode: usize,
    },
    Remount {
        beside: bool,
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

fn shape() -> impl Strategy<Value = Shape> {
    let graft = prop::sample::select(vec!["", "", "", "g", "g/h", "a"]);
    let layers = prop::collection::vec((graft, prop::bool::weighted(0.2)), 1..=3);
    let files = prop::collection::vec((0..3_usize, path(), size()), 0..8);
    (layers, prop::bool::weighted(0.25), files).prop_map(|(layers, eager, files)| Shape {
        layers,
        eager,
        files,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let layer = || 0..3_usize;
    let pick = || 0..64_usize;
    let kind = prop::sample::select(vec![
        ErrorKind::Unreachable,
        ErrorKind::Timeout,
        ErrorKind::Server,
        ErrorKind::Denied,
    ]);
    prop_oneof![
        5 => (layer(), path(), size(), prop::bool::weighted(0.2))
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
        9 => (pick(), any::<u32>(), prop::sample::select(vec![1, 4096, 20_000, 131_072, 1 << 20]))
            .prop_map(|(handle, at, len)| Step::Read { handle, at, len }),
        4 => pick().prop_map(|handle| Step::ReadWhole { handle }),
        2 => (pick(), 0..4_u64)
            .prop_map(|(handle, after)| Step::ReadWhileOverwritten { handle, after }),
        2 => pick().prop_map(|handle| Step::Close { handle }),
        2 => pick().prop_map(|inode| Step::Forget { inode }),
        2 => any::<bool>().prop_map(|beside| Step::Remount { beside }),
        2 => (layer(), kind).prop_map(|(layer, kind)| Step::Down { layer, kind }),
        3 => layer().prop_map(|layer| Step::Up { layer }),
        2 => Just(Step::Walk),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(48),
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            "tests/model.regressions",
        ))),
        max_shrink_iters: 400,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_core_agrees_with_the_model(
        shape in shape(),
        steps in prop::collection::vec(step(), 1..50),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let result = runtime.block_on(async {
            let mut harness = Harness::new(&shape);
            for (at, step) in steps.iter().enumerate() {
                harness.step(step).await.map_err(|e| format!("step {at}, {step:?}: {e}"))?;
            }
            harness.finish().await.map_err(|e| format!("at the end: {e}"))
        });
        runtime.shutdown_background();
        if let Err(message) = result {
            return Err(TestCaseError::fail(message));
        }
    }
}
