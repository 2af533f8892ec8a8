//! Each rule of merging, against scripted sources.

mod model;

use super::*;
use crate::catalogue::{Db, Memory, Policy};
use crate::source::HiddenWhy;
use crate::source::memory::MemorySource;

fn path(text: &str) -> RelPath {
    RelPath::new(text).unwrap()
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn layer(source: &Arc<MemorySource>, graft: &str) -> Layer {
    let policy = Policy {
        refresh: Some(Duration::from_secs(3600)),
        patience: Duration::from_millis(100),
        memory: Memory::default(),
    };
    let catalogue = Catalogue::new(Db::volatile(), source.clone(), policy);
    Layer {
        graft: path(graft),
        ..Layer::new(source.as_ref().identity_name(), catalogue)
    }
}

impl MemorySource {
    fn identity_name(&self) -> String {
        use crate::source::Source;
        self.identity().to_owned()
    }
}

fn source(name: &str, files: &[&str]) -> Arc<MemorySource> {
    let source = MemorySource::new(name);
    for file in files {
        match file.strip_suffix('/') {
            Some(dir) => source.mkdir(dir),
            None => source.put(file, name.to_owned()),
        }
    }
    source
}

async fn names(namespace: &Namespace, dir: &str) -> Vec<String> {
    let merged = namespace.list(&path(dir)).await.unwrap();
    merged
        .iter()
        .map(|e| e.unwrap().entry.name.to_string())
        .collect()
}

async fn provider(namespace: &Namespace, at: &str) -> usize {
    namespace.walk(&path(at)).await.unwrap().unwrap().layer
}

fn is_absent<T>(result: &Result<T, LookupError>) -> bool {
    matches!(result, Err(LookupError::Absent { .. }))
}

fn is_failed<T>(result: &Result<T, LookupError>, by: usize) -> bool {
    matches!(result, Err(LookupError::Failed { layer, .. }) if *layer == by)
}

#[tokio::test]
async fn later_layers_win_and_directories_merge() {
    let low = source("low", &["both", "low", "d/both", "d/low"]);
    let high = source("high", &["both", "high", "d/both", "d/high"]);
    let namespace = Namespace::new(vec![layer(&low, ""), layer(&high, "")]);
    assert_eq!(names(&namespace, "").await, ["both", "d", "high", "low"]);
    assert_eq!(names(&namespace, "d").await, ["both", "high", "low"]);
    for (at, by) in [
        ("both", 1),
        ("low", 0),
        ("d/both", 1),
        ("d/low", 0),
        ("d", 1),
    ] {
        assert_eq!(provider(&namespace, at).await, by, "{at}");
    }
    assert!(is_absent(&namespace.walk(&path("no")).await));
    assert!(is_absent(&namespace.walk(&path("both/no")).await));
    assert!(namespace.walk(&RelPath::root()).await.unwrap().is_none());
    // All is in memory now.
    let found = namespace.peek_lookup(&path("d"), &name("low")).unwrap();
    assert_eq!(found.unwrap().path, path("d/low"));
    assert!(is_absent(
        &namespace.peek_lookup(&path("d"), &name("no")).unwrap()
    ));
    let one = namespace.peek_list(&path("d")).unwrap().unwrap();
    let two = namespace.list(&path("d")).await.unwrap();
    assert_eq!(one.generation(), two.generation());
    assert_eq!(
        one.iter()
            .map(Result::unwrap)
            .find(|e| e.entry.name.as_str() == "low")
            .unwrap()
            .path(),
        path("d/low")
    );
}

#[tokio::test]
async fn a_file_hides_an_earlier_directory_and_all_in_it() {
    let a = source("a", &["x/from-a", "x/y/deep"]);
    let b = source("b", &["x"]);
    let c = source("c", &["x/from-c"]);
    let two = Namespace::new(vec![layer(&a, ""), layer(&b, "")]);
    assert_eq!(provider(&two, "x").await, 1);
    assert!(is_absent(&two.walk(&path("x/from-a")).await));
    assert!(is_absent(&two.list(&path("x")).await));
    let three = Namespace::new(vec![layer(&a, ""), layer(&b, ""), layer(&c, "")]);
    assert_eq!(names(&three, "x").await, ["from-c"]);
    assert!(is_absent(&three.walk(&path("x/y")).await));
}

#[tokio::test]
async fn grafts_are_always_directories() {
    let root = source("root", &["a", "b/c", "other"]);
    let grafted = source("grafted", &["f"]);
    for layers in [
        vec![
            layer(&root, ""),
            layer(&grafted, "a/b"),
            layer(&grafted, "b/c"),
        ],
        vec![
            layer(&grafted, "a/b"),
            layer(&grafted, "b/c"),
            layer(&root, ""),
        ],
    ] {
        let namespace = Namespace::new(layers);
        assert_eq!(names(&namespace, "").await, ["a", "b", "other"]);
        assert_eq!(names(&namespace, "a").await, ["b"]);
        assert_eq!(names(&namespace, "a/b").await, ["f"]);
        assert_eq!(names(&namespace, "b/c").await, ["f"]);
        let merged = namespace.list(&RelPath::root()).await.unwrap();
        let hidden = merged.hidden();
        assert_eq!(hidden.len(), 1);
        assert_eq!(
            (hidden[0].1.why, hidden[0].1.count),
            (HiddenWhy::Shadowed, 1)
        );
    }
}

#[tokio::test]
async fn a_graft_merges_with_a_directory_of_its_name() {
    let root = source("root", &["d/root", "d/both"]);
    let grafted = source("grafted", &["grafted", "both"]);
    let namespace = Namespace::new(vec![layer(&root, ""), layer(&grafted, "d")]);
    assert_eq!(names(&namespace, "d").await, ["both", "grafted", "root"]);
    assert_eq!(provider(&namespace, "d/both").await, 1);
    let found = namespace.walk(&path("d/both")).await.unwrap().unwrap();
    assert_eq!(found.path, path("both"));
}

#[tokio::test]
async fn a_dead_layer_takes_nothing_from_the_others() {
    for dead_is_later in [true, false] {
        let live = source("live", &["f", "d/g"]);
        let dead = source("dead", &["mine", "d/mine"]);
        dead.set_down(Some(ErrorKind::Unreachable));
        let (mut layers, by) = (vec![layer(&live, ""), layer(&dead, "")], 1);
        let by = if dead_is_later {
            by
        } else {
            layers.reverse();
            0
        };
        let namespace = Namespace::new(layers);
        assert_eq!(names(&namespace, "").await, ["d", "f"]);
        assert_eq!(names(&namespace, "d").await, ["g"]);
        let merged = namespace.list(&RelPath::root()).await.unwrap();
        assert_eq!(merged.degraded()[0].0, by);
        assert!(merged.fresh_for() <= SHORT);
        let found = namespace.lookup(&path("d"), &name("g")).await.unwrap();
        assert_eq!(found.degraded, dead_is_later);
        // Never an absence, in memory or not.
        for _ in 0..2 {
            assert!(is_failed(&namespace.walk(&path("mine")).await, by));
            assert!(is_failed(&namespace.walk(&path("d/mine")).await, by));
        }
        let peeked = namespace.peek_lookup(&path("d"), &name("mine"));
        assert!(peeked.is_none_or(|found| is_failed(&found, by)));

        dead.set_down(None);
        let degraded = merged.generation();
        namespace.refresh(&RelPath::root(), true).await;
        assert_eq!(names(&namespace, "d").await, ["g", "mine"]);
        let whole = namespace.list(&RelPath::root()).await.unwrap();
        assert!(whole.degraded().is_empty());
        assert_ne!(whole.generation(), degraded);
    }
}

#[tokio::test]
async fn a_dead_layer_does_not_touch_others_grafts() {
    let dead = source("dead", &[]);
    dead.set_down(Some(ErrorKind::Timeout));
    dead.set_delay(Duration::from_secs(30));
    let live = source("live", &["f"]);
    let namespace = Namespace::new(vec![layer(&dead, ""), layer(&live, "a/b")]);
    let begun = std::time::Instant::now();
    assert_eq!(
        namespace.walk(&path("a/b")).await.unwrap().unwrap().layer,
        1
    );
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "nobody waits for the dead"
    );
}

#[tokio::test]
async fn a_required_layer_fails_the_directory() {
    let live = source("live", &["f"]);
    let dead = source("dead", &["g"]);
    dead.set_down(Some(ErrorKind::Denied));
    for order in [[true, false], [false, true]] {
        let layers: Vec<Layer> = order
            .into_iter()
            .map(|is_dead| Layer {
                required: is_dead,
                ..layer(if is_dead { &dead } else { &live }, "")
            })
            .collect();
        let by = layers.iter().position(|l| l.required).unwrap();
        let namespace = Namespace::new(layers);
        assert!(is_failed(&namespace.list(&RelPath::root()).await, by));
        assert!(is_failed(&namespace.walk(&path("f")).await, by));
        assert!(is_failed(
            &namespace.peek_lookup(&RelPath::root(), &name("f")).unwrap(),
            by
        ));
    }
}

#[tokio::test]
async fn a_directory_that_no_layer_can_list_fails() {
    let dead = source("dead", &["f"]);
    dead.set_down(Some(ErrorKind::Timeout));
    let namespace = Namespace::new(vec![layer(&dead, "")]);
    assert!(is_failed(&namespace.list(&RelPath::root()).await, 0));
    let other = source("other", &["f"]);
    let namespace = Namespace::new(vec![layer(&dead, ""), layer(&other, "a/b")]);
    assert_eq!(names(&namespace, "").await, ["a"]);
    assert_eq!(names(&namespace, "a").await, ["b"]);
}

#[tokio::test]
async fn a_missing_root_is_no_absence() {
    let gone = source("gone", &[]);
    gone.set_broken("", Some(ErrorKind::NotFound));
    let namespace = Namespace::new(vec![layer(&gone, "")]);
    let result = namespace.walk(&path("f")).await;
    let Err(LookupError::Failed { error, .. }) = result else {
        panic!("{result:?}");
    };
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn filters_hide_and_let_earlier_layers_show_through() {
    let low = source("low", &["a.txt", "a.o", "d/b.o", "skip/x", "keep/x"]);
    let high = source("high", &["a.txt", "a.o", "d/b.o", "skip/y", "d/c.txt"]);
    let filtered = Layer {
        filter: Filter::new(&["*.txt"], &["skip/"]).unwrap(),
        ..layer(&high, "")
    };
    let namespace = Namespace::new(vec![layer(&low, ""), filtered]);
    assert_eq!(provider(&namespace, "a.txt").await, 1);
    assert_eq!(provider(&namespace, "a.o").await, 0);
    assert_eq!(provider(&namespace, "d/b.o").await, 0);
    assert_eq!(names(&namespace, "d").await, ["b.o", "c.txt"]);
    assert_eq!(names(&namespace, "skip").await, ["x"]);
}

#[tokio::test]
async fn links_that_lead_out_are_hidden_and_counted() {
    let low = source("low", &["out"]);
    let high = source("high", &["d/f"]);
    high.symlink("out", "../etc/passwd");
    high.symlink("abs", "/etc/passwd");
    high.symlink("in", "d/f");
    high.symlink("d/up", "../in");
    let open = Layer {
        outward_links: true,
        ..layer(&high, "")
    };
    let namespace = Namespace::new(vec![layer(&low, ""), layer(&high, "")]);
    assert_eq!(names(&namespace, "").await, ["d", "in", "out"]);
    assert_eq!(provider(&namespace, "out").await, 0);
    assert_eq!(names(&namespace, "d").await, ["f", "up"]);
    let merged = namespace.list(&RelPath::root()).await.unwrap();
    assert_eq!(merged.hidden()[0].1.why, HiddenWhy::Escapes);
    assert_eq!(merged.hidden()[0].1.count, 2);
    let namespace = Namespace::new(vec![layer(&low, ""), open]);
    assert_eq!(names(&namespace, "").await, ["abs", "d", "in", "out"]);
    assert_eq!(provider(&namespace, "out").await, 1);
    // A link is judged by its place in the volume, not in its source.
    let deep = Namespace::new(vec![layer(&high, "x")]);
    assert_eq!(names(&deep, "x").await, ["d", "in", "out"]);
}

#[tokio::test]
async fn no_name_leads_to_a_retired_layer() {
    let (kept, retired) = (
        source("kept", &["a"]),
        source("retired", &["a", "b", "x/y"]),
    );
    let layers = vec![layer(&kept, "")];
    let old = vec![layer(&retired, ""), layer(&retired, "grafted")];
    let namespace = Namespace::with_retired(layers, old, 1 << 20);
    assert_eq!(names(&namespace, "").await, ["a"]);
    assert_eq!(provider(&namespace, "a").await, 0);
    for gone in ["b", "grafted"] {
        assert!(is_absent(&namespace.walk(&path(gone)).await), "{gone}");
    }
    assert_eq!(namespace.explain(&path("a")).await.len(), 1);
    assert_eq!(namespace.refresh(&path(""), true).await.listed, 1);
    assert_eq!((namespace.active().len(), namespace.layers().len()), (1, 3));
    // Who has its number reads on.
    let held = &namespace.layers()[1].catalogue;
    assert!(
        held.dir(&path(""))
            .await
            .unwrap()
            .get("b")
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn changes_are_told_by_their_place_in_the_volume() {
    let one = source("one", &["f"]);
    let namespace = Namespace::new(vec![layer(&one, "x/y")]);
    let heard = Arc::new(std::sync::Mutex::new(Vec::new()));
    let ear = heard.clone();
    namespace.set_listener(Arc::new(move |dir, names| {
        ear.lock().unwrap().push((dir.clone(), names.to_vec()));
    }));
    assert_eq!(names(&namespace, "x/y").await, ["f"]);
    one.put("g", "new");
    let report = namespace.refresh(&path("x/y/f"), false).await;
    assert_eq!(report.added, 1);
    assert_eq!(*heard.lock().unwrap(), [(path("x/y"), vec![name("g")])]);
    assert_eq!(names(&namespace, "x/y").await, ["f", "g"]);
    one.put("new/deep/file", "x");
    namespace.refresh(&path("x/y/new/deep"), false).await;
    assert!(namespace.walk(&path("x/y/new/deep/file")).await.is_ok());
    one.remove("new");
    let report = namespace.refresh(&RelPath::root(), true).await;
    assert_eq!((report.removed, report.failed), (1, 0));
    assert!(is_absent(&namespace.walk(&path("x/y/new/deep/file")).await));
}

#[tokio::test]
async fn explaining_names_every_layer() {
    let a = source("a", &["f", "d/only-a", "d.o", "x/y"]);
    let b = source("b", &["f", "d", "d.o"]);
    let c = source("c", &["g"]);
    let dead = source("dead", &[]);
    dead.set_down(Some(ErrorKind::Timeout));
    let namespace = Namespace::new(vec![
        layer(&a, ""),
        Layer {
            filter: Filter::new(&[], &["*.o"]).unwrap(),
            ..layer(&b, "")
        },
        layer(&c, "x"),
        layer(&dead, "z"),
    ]);
    let verdicts = async |at: &str| {
        let views = namespace.explain(&path(at)).await;
        views.into_iter().map(|v| v.verdict).collect::<Vec<_>>()
    };
    let by = |by: &str| Verdict::HiddenByLaterLayer {
        by: format!("memory:{by}"),
    };
    use Verdict::{Absent, GraftPoint, HiddenByFilter, Shown};
    assert_eq!(verdicts("f").await, [by("b"), Shown, Absent, Absent]);
    assert_eq!(verdicts("d").await, [by("b"), Shown, Absent, Absent]);
    assert_eq!(
        verdicts("d/only-a").await,
        [by("b"), Absent, Absent, Absent]
    );
    assert_eq!(
        verdicts("d.o").await,
        [Shown, HiddenByFilter, Absent, Absent]
    );
    assert_eq!(verdicts("x").await, [Shown, Absent, Shown, Absent]);
    assert_eq!(verdicts("x/g").await, [Absent, Absent, Shown, Absent]);
    assert_eq!(verdicts("").await, [Shown, Shown, GraftPoint, GraftPoint]);
    assert!(matches!(verdicts("z/f").await[3], Verdict::Failed { .. }));
    let views = namespace.explain(&path("f")).await;
    let json = serde_json::to_value(&views).unwrap();
    assert_eq!(json[1]["verdict"], "shown");
    assert_eq!(json[1]["url"], "memory:b/f");
    assert_eq!(json[1]["size"], 1);
    assert_eq!(json[0]["by"], "memory:b");
    assert!(json[2].get("url").is_none());
}

#[tokio::test]
async fn a_merged_directory_is_the_same_after_a_remount() {
    let home = tempfile::tempdir().unwrap();
    let db = Db::open(home.path()).unwrap();
    let (low, high) = (source("low", &["a", "d/x"]), source("high", &["b", "d/y"]));
    let mount = || {
        let layer = |source: &Arc<MemorySource>| {
            let catalogue = Catalogue::new(db.clone(), source.clone(), Policy::default());
            Layer::new("layer", catalogue)
        };
        Namespace::new(vec![layer(&low), layer(&high)])
    };
    let before = mount().list(&path("d")).await.unwrap();
    low.set_down(Some(ErrorKind::Unreachable));
    high.set_down(Some(ErrorKind::Unreachable));
    let again = mount();
    let after = again.list(&path("d")).await.unwrap();
    assert_eq!(before.generation(), after.generation());
    let entries = |m: &Merged| m.iter().map(|e| e.unwrap().entry).collect::<Vec<_>>();
    assert_eq!(entries(&before), entries(&after));
    assert_eq!((low.lists(), high.lists()), (2, 2));
}

#[tokio::test]
async fn a_huge_directory_merges_quickly() {
    let (low, high) = (MemorySource::new("low"), MemorySource::new("high"));
    for i in 0..20_000 {
        low.put(&format!("f{i:06}"), "");
        if i % 10 == 0 {
            high.put(&format!("f{i:06}"), "x");
        }
    }
    let namespace = Namespace::new(vec![layer(&low, ""), layer(&high, "")]);
    let root = RelPath::root();
    for layer in namespace.layers() {
        layer.catalogue.dir(&root).await.unwrap();
    }
    let begun = std::time::Instant::now();
    let merged = namespace.list(&root).await.unwrap();
    let took = begun.elapsed();
    println!("{} names merged in {took:?}", merged.len());
    assert_eq!(merged.len(), 20_000);
    assert!(took < Duration::from_secs(2), "{took:?}");
    let begun = std::time::Instant::now();
    for _ in 0..100 {
        namespace.peek_list(&root).unwrap().unwrap();
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "it is kept");
    let begun = std::time::Instant::now();
    for i in 0..20_000 {
        let found = namespace.peek_lookup(&root, &name(&format!("f{i:06}")));
        assert_eq!(found.unwrap().unwrap().layer, usize::from(i % 10 == 0));
    }
    println!("20,000 lookups in {:?}", begun.elapsed());
}
