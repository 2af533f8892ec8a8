//! Cases that once failed, shrunk.

use svol::source::ErrorKind;

use super::{Plan, Shape, Step, run};

#[test]
fn a_directory_that_was_a_file_and_whose_source_is_away() {
    let shape = Shape {
        layers: vec![Plan {
            graft: "",
            coarse: false,
            ..Plan::default()
        }],
        eager: false,
        quota: None,
        down: None,
        files: vec![(0, "h".into(), 0), (0, "c".into(), 0)],
    };
    let steps = vec![
        Step::Put {
            layer: 0,
            path: "b".into(),
            size: 0,
            weak: false,
        },
        Step::Put {
            layer: 0,
            path: "b/a".into(),
            size: 0,
            weak: false,
        },
        Step::SlowList {
            path: "c".into(),
            taken: 1,
            layer: 0,
        },
        Step::Down {
            layer: 0,
            kind: ErrorKind::Unreachable,
        },
        Step::OpenKnown { file: 3 },
    ];
    run(&shape, &steps).unwrap();
}

#[test]
fn a_put_into_a_directory_that_was_refreshed() {
    let shape = Shape {
        layers: vec![
            Plan {
                graft: "",
                coarse: true,
                ..Plan::default()
            },
            Plan {
                graft: "",
                coarse: false,
                ..Plan::default()
            },
        ],
        eager: false,
        quota: None,
        down: None,
        files: vec![
            (2, "g".into(), 0),
            (1, "a".into(), 0),
            (2, "a".into(), 0),
            (0, "h".into(), 0),
        ],
    };
    let steps = vec![
        Step::Refresh {
            path: "a".into(),
            recursive: false,
        },
        Step::Put {
            layer: 2,
            path: "g/a".into(),
            size: 0,
            weak: false,
        },
        Step::OpenKnown { file: 21 },
    ];
    run(&shape, &steps).unwrap();
}

#[test]
fn a_slow_list_after_a_remount() {
    let shape = Shape {
        layers: vec![
            Plan {
                graft: "",
                coarse: false,
                ..Plan::default()
            },
            Plan {
                graft: "g",
                coarse: false,
                ..Plan::default()
            },
            Plan {
                graft: "",
                coarse: false,
                ..Plan::default()
            },
        ],
        eager: true,
        quota: None,
        down: None,
        files: vec![],
    };
    let steps = vec![
        Step::RemoveKnown { layer: 1, file: 8 },
        Step::ReadWhole { handle: 38 },
        Step::OpenKnown { file: 16 },
        Step::RefreshAll,
        Step::Remount { beside: false },
        Step::Read {
            handle: 22,
            at: 849870019,
            len: 1,
        },
        Step::Mkdir {
            layer: 2,
            path: "g/g/c".into(),
        },
        Step::Up { layer: 1 },
        Step::Refresh {
            path: "h/a".into(),
            recursive: false,
        },
        Step::ReadWhole { handle: 1 },
        Step::Put {
            layer: 1,
            path: "b/c".into(),
            size: 16383,
            weak: false,
        },
        Step::Put {
            layer: 1,
            path: "a/a/h".into(),
            size: 65536,
            weak: false,
        },
        Step::Forget { inode: 47 },
        Step::Walk,
        Step::OpenKnown { file: 42 },
        Step::Overwrite { layer: 0, file: 0 },
        Step::RemoveKnown { layer: 1, file: 5 },
        Step::OpenKnown { file: 41 },
        Step::Put {
            layer: 1,
            path: "h/a".into(),
            size: 0,
            weak: false,
        },
        Step::RemoveKnown { layer: 2, file: 45 },
        Step::Read {
            handle: 31,
            at: 2395743227,
            len: 20000,
        },
        Step::Read {
            handle: 19,
            at: 3935487061,
            len: 1,
        },
        Step::Read {
            handle: 47,
            at: 2453134444,
            len: 4096,
        },
        Step::Put {
            layer: 1,
            path: "h/c".into(),
            size: 65536,
            weak: false,
        },
        Step::RefreshAll,
        Step::RefreshAll,
        Step::SlowList {
            path: "g".into(),
            taken: 2,
            layer: 2,
        },
    ];
    run(&shape, &steps).unwrap();
}

#[test]
fn one_outage_after_the_other() {
    let shape = Shape {
        layers: vec![Plan {
            graft: "",
            coarse: false,
            ..Plan::default()
        }],
        eager: false,
        quota: None,
        down: None,
        files: vec![],
    };
    let steps = vec![
        Step::Down {
            layer: 0,
            kind: ErrorKind::Unreachable,
        },
        Step::Refresh {
            path: "a".into(),
            recursive: false,
        },
        Step::Down {
            layer: 0,
            kind: ErrorKind::Timeout,
        },
        Step::Lookup { path: "a".into() },
    ];
    run(&shape, &steps).unwrap();
}

#[test]
fn a_coarse_list_of_a_directory_that_was_a_file() {
    let shape = Shape {
        layers: vec![Plan {
            graft: "",
            coarse: true,
            ..Plan::default()
        }],
        eager: false,
        quota: None,
        down: None,
        files: vec![],
    };
    let steps = vec![
        Step::Put {
            layer: 0,
            path: "b".into(),
            size: 0,
            weak: false,
        },
        Step::Refresh {
            path: "a".into(),
            recursive: false,
        },
        Step::Down {
            layer: 0,
            kind: ErrorKind::Unreachable,
        },
        Step::Put {
            layer: 0,
            path: "b/a".into(),
            size: 0,
            weak: false,
        },
        Step::Refresh {
            path: "a".into(),
            recursive: false,
        },
        Step::Up { layer: 0 },
        Step::List {
            path: "b".into(),
            chunk: 1,
            count: false,
        },
    ];
    run(&shape, &steps).unwrap();
}

#[test]
fn a_weak_file_replaced_by_a_shorter_one() {
    let shape = Shape {
        layers: vec![
            Plan {
                graft: "",
                coarse: false,
                ..Plan::default()
            },
            Plan {
                graft: "",
                coarse: false,
                ..Plan::default()
            },
            Plan {
                graft: "",
                coarse: false,
                ..Plan::default()
            },
        ],
        eager: false,
        quota: None,
        down: None,
        files: vec![
            (0, "a".into(), 0),
            (0, "b".into(), 0),
            (0, "c".into(), 0),
            (0, "g".into(), 0),
        ],
    };
    let steps = vec![
        Step::Put {
            layer: 2,
            path: "c/a".into(),
            size: 65535,
            weak: true,
        },
        Step::OpenKnown { file: 54 },
        Step::Put {
            layer: 2,
            path: "c/a".into(),
            size: 0,
            weak: false,
        },
        Step::ReadWhole { handle: 0 },
    ];
    run(&shape, &steps).unwrap();
}

#[test]
fn a_time_out_is_repeated_for_a_second() {
    let shape = Shape {
        layers: vec![Plan {
            graft: "",
            coarse: true,
            ..Plan::default()
        }],
        eager: false,
        quota: None,
        down: None,
        files: vec![
            (0, "a/a".into(), 0),
            (0, "b/a".into(), 0),
            (0, "b/b".into(), 0),
            (0, "g".into(), 1),
        ],
    };
    let steps = vec![
        Step::Put {
            layer: 0,
            path: "c".into(),
            size: 0,
            weak: false,
        },
        Step::OpenKnown { file: 4 },
        Step::Put {
            layer: 0,
            path: "a".into(),
            size: 0,
            weak: false,
        },
        Step::Down {
            layer: 0,
            kind: ErrorKind::Timeout,
        },
        Step::Read {
            handle: 0,
            at: 1710692079,
            len: 1,
        },
    ];
    run(&shape, &steps).unwrap();
}
/// A file without a name to look up, which a probe finds replaced, opens at the second try.
#[test]
fn a_replaced_version_that_is_probed_is_told_of_once() {
    let put = || Step::Put {
        layer: 0,
        path: "a".into(),
        size: 1,
        weak: true,
    };
    let shape = Shape {
        layers: vec![Plan {
            probed: true,
            ..Plan::default()
        }],
        ..Shape::default()
    };
    let open = || Step::Open { path: "a".into() };
    let held = || Step::OpenHeld { inode: 0 };
    run(&shape, &[put(), open(), put(), held(), held(), held()]).unwrap();
}

#[test]
fn an_open_file_that_is_evicted_after_its_process_was_replaced() {
    for size in [100, 200_000] {
        let shape = Shape {
            layers: vec![Plan::default()],
            ..Shape::default()
        };
        let steps = vec![
            Step::Put {
                layer: 0,
                path: "a".into(),
                size,
                weak: false,
            },
            Step::OpenKnown { file: 0 },
            Step::ReadWhole { handle: 0 },
            Step::Replace { planned: false },
            Step::Evict { target: 0 },
            Step::RemoveKnown { layer: 0, file: 0 },
            Step::ReadWhole { handle: 0 },
        ];
        run(&shape, &steps).unwrap();
    }
}
