//! A changed volume file is taken up while it is mounted: nobody who reads notices, what is open
//! stays open, and a bad file changes nothing.

mod common;

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::mount::{Mount, Place};
use common::store::Store;
use common::{noise, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const HEAD: &str = "apiVersion: sharedvolume.io/v1\nkind: Volume\nmetadata: {name: demo}\nspec:\n";

/// Local directories as layers, and a volume file that names some of them.
struct World {
    place: Place,
    file: PathBuf,
}

impl World {
    fn new() -> World {
        let place = Place::new();
        let file = place.path("conf/volume.yaml");
        std::fs::create_dir(file.parent().unwrap()).unwrap();
        World { place, file }
    }

    /// A directory with files, as a layer's source.
    fn dir(&self, name: &str, files: &[(&str, &[u8])]) -> PathBuf {
        let dir = self.place.path(name);
        for (file, bytes) in files {
            let path = dir.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        dir
    }

    /// Writes the volume file, as an editor does: aside and renamed.
    fn write(&self, layers: &str) {
        let aside = self.file.with_extension("new");
        std::fs::write(&aside, format!("{HEAD}  layers: [{layers}]\n")).unwrap();
        std::fs::rename(aside, &self.file).unwrap();
    }

    fn mount(&self) -> Mount {
        self.place.mount(&["-c", self.file.to_str().unwrap()])
    }

    fn status(&self) -> Value {
        self.place.status()["mounts"][0].clone()
    }

    fn generation(&self) -> u64 {
        // Between two processes nobody answers for a moment.
        let asked = self.place.svol(["status", "--json"]);
        let status: Value = serde_json::from_slice(&asked.stdout).unwrap_or_default();
        status["mounts"][0]["generation"].as_u64().unwrap_or(0)
    }

    /// The condition that tells whether the file is what is served.
    fn accepted(&self) -> Value {
        let conditions = self.status()["conditions"].clone();
        let mut all = conditions.as_array().unwrap().iter();
        all.find(|c| c["type"] == "VolumeAccepted").unwrap().clone()
    }

    /// Has the file taken up; returns what was said. It may have been noticed before.
    fn reload(&self, mount: &Mount) -> String {
        self.place.ok(["reload", mount.at().to_str().unwrap()])
    }

    /// The same of a file that is another one; returns what became another.
    fn taken_up(&self, mount: &Mount) -> String {
        self.reload(mount);
        self.status()["reloads"]["changes"].to_string()
    }

    fn refused(&self, mount: &Mount) -> String {
        let output = self.place.svol(["reload", mount.at().to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn metric(&self, name: &str) -> f64 {
        let socket = self.status()["controlSocket"].as_str().unwrap().to_owned();
        let text = tokio::runtime::Runtime::new().unwrap().block_on(async {
            svol::tls::install();
            let client = reqwest::Client::builder().unix_socket(socket).build();
            let asked = client.unwrap().get("http://svol/metrics").send();
            asked.await.unwrap().text().await.unwrap()
        });
        let line = { text.lines() }.find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("{name} is not in\n{text}"))
            .parse()
            .unwrap()
    }
}

fn layer(name: &str, dir: &Path, more: &str) -> String {
    format!(
        "{{name: {name}, local: {{path: '{}'}}{more}}}",
        dir.display()
    )
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|item| item.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn layers_come_go_and_change_places_under_readers() {
    let world = World::new();
    let big = noise(1, 3 << 20);
    let a = world.dir(
        "a",
        &[("kept/big", &big), ("same", b"of a"), ("only-a", b"a")],
    );
    let b = world.dir(
        "b",
        &[("same", b"of b!"), ("gone/deep", b"deep"), ("only-b", b"b")],
    );
    let c = world.dir("c", &[("only-c", b"c")]);
    let (of_a, of_b) = (layer("a", &a, ""), layer("b", &b, ""));
    world.write(&format!("{of_a}, {of_b}"));
    let mount = world.mount();
    assert_eq!(mount.read("same"), b"of b!");
    assert_eq!(
        names(mount.at()),
        ["gone", "kept", "only-a", "only-b", "same"]
    );
    let held = File::open(mount.path("gone/deep")).unwrap();
    let held_dir = File::open(mount.path("kept")).unwrap();
    let before = std::fs::metadata(mount.path("kept/big")).unwrap().ino();

    // Readers all the while: of a file that stays, and of one whose layer goes.
    let (stop, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let path = mount.path("kept/big");
        let (held, big, stop, rounds) = (&held, &big, &stop, &rounds);
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                assert!(std::fs::read(&path).unwrap() == *big);
                let mut four = [0; 4];
                held.read_exact_at(&mut four, 0).unwrap();
                assert_eq!(&four, b"deep");
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        });
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            // Reordered.
            world.write(&format!("{of_b}, {of_a}"));
            let said = world.taken_up(&mount);
            assert!(said.contains("layers are in another order"), "{said}");
            wait_until("the other layer's file", || mount.read("same") == b"of a");

            // One is added, at a place of its own.
            world.write(&format!(
                "{of_b}, {of_a}, {}",
                layer("c", &c, ", path: /new/place")
            ));
            let said = world.taken_up(&mount);
            assert!(said.contains("layer c is new"), "{said}");
            wait_until("the new layer", || mount.path("new/place/only-c").exists());
            assert_eq!(mount.read("new/place/only-c"), b"c");

            // One is removed, with a file of it open.
            world.write(&format!("{of_a}, {}", layer("c", &c, ", path: /new/place")));
            let said = world.taken_up(&mount);
            assert!(said.contains("layer b is gone"), "{said}");
            wait_until("the names to go", || {
                names(mount.at()) == ["kept", "new", "only-a", "same"]
            });
            wait_until("the name to go", || !mount.path("only-b").exists());
            assert!(!mount.path("gone/deep").exists());
            let since = rounds.load(Ordering::Relaxed);
            wait_until("readers", || rounds.load(Ordering::Relaxed) > since + 3);
        }));
        stop.store(true, Ordering::Relaxed);
        ended.unwrap_or_else(|why| std::panic::resume_unwind(why));
    });
    let mut text = String::new();
    { &held }.read_to_string(&mut text).unwrap();
    assert_eq!(text, "deep");
    // What stayed is what it was.
    assert_eq!(
        std::fs::metadata(mount.path("kept/big")).unwrap().ino(),
        before
    );
    let inside = format!(
        "/proc/self/fd/{}/big",
        std::os::fd::AsRawFd::as_raw_fd(&held_dir)
    );
    assert_eq!(std::fs::metadata(inside).unwrap().ino(), before);
    assert_eq!(world.generation(), 4);
    assert_eq!(world.metric("svol_volume_generation"), 4.0);
    assert_eq!(world.metric("svol_reload_total{result=\"applied\"}"), 3.0);
    let layers = world.status()["layers"].clone();
    assert_eq!(layers.as_array().unwrap().len(), 2, "{layers}");
    assert_eq!(layers[0]["conditions"][0]["observedGeneration"], 4);
    assert!(world.reload(&mount).contains("is what is served"));
}

#[test]
fn a_bad_file_is_rejected_whole_and_said_everywhere() {
    let world = World::new();
    let a = world.dir("a", &[("f", b"a")]);
    let b = world.dir("b", &[("g", b"b")]);
    world.write(&layer("a", &a, ""));
    let mut mount = world.mount();
    assert_eq!(mount.read("f"), b"a");
    assert_eq!(world.accepted()["status"], "True");

    // One layer of it is good: nothing of it is taken up.
    world.write(&format!("{}, {{nonsense: 1}}", layer("b", &b, "")));
    let said = world.refused(&mount);
    assert!(said.contains("volume.yaml:5:"), "{said}");
    let condition = world.accepted();
    assert_eq!(condition["status"], "False");
    assert_eq!(condition["reason"], "Invalid");
    assert_eq!(condition["observedGeneration"], 1);
    assert!(
        condition["message"].as_str().unwrap().contains("nonsense"),
        "{condition}"
    );
    assert!(
        world
            .place
            .ok(["status"])
            .contains("the volume file is not what is served")
    );
    assert!(mount.log().contains("volume.yaml:5:"), "{}", mount.log());
    assert!(world.metric("svol_reload_total{result=\"rejected\"}") >= 1.0);
    assert_eq!(world.metric("svol_volume_accepted"), 0.0);
    assert_eq!(
        (mount.read("f"), mount.path("g").exists()),
        (b"a".to_vec(), false)
    );

    // A worker that dies now is followed by one that serves what was served.
    let pid = world.status()["pid"].as_i64().unwrap() as i32;
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    wait_until("another process", || world.generation() == 1);
    assert_eq!(mount.read("f"), b"a");
    assert_eq!(world.accepted()["status"], "False");

    // What only a new mount can change.
    let good = layer("a", &a, "");
    let text = format!("{HEAD}  mount: {{uid: 5}}\n  layers: [{good}]\n");
    std::fs::write(&world.file, text).unwrap();
    let said = world.refused(&mount);
    assert!(said.contains("spec.mount.uid: cannot change"), "{said}");
    assert_eq!(world.accepted()["reason"], "NeedsNewMount");

    // What cannot be prepared: a source that reads the mount itself.
    let own = layer("a", mount.at(), "");
    world.write(&own);
    assert!(world.refused(&mount).contains("the local source"));

    // Put back, it is what is served.
    world.write(&good);
    assert!(world.reload(&mount).contains("is what is served"));
    assert_eq!(world.accepted()["status"], "True");
    assert_eq!(world.generation(), 1);
    let (ended, _) = mount.signal(Signal::TERM);
    assert!(ended.success(), "{ended}");
}

#[test]
fn a_signal_and_a_configmaps_swap_are_noticed() {
    let world = World::new();
    let a = world.dir("a", &[("f", b"a")]);
    let b = world.dir("b", &[("g", b"b")]);
    // As kubelet does: volume.yaml -> ..data/volume.yaml, ..data -> a directory of its own.
    let conf = world.place.path("configmap");
    let put = |version: &str, layers: &str| {
        let dir = conf.join(version);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(
            dir.join("volume.yaml"),
            format!("{HEAD}  layers: [{layers}]\n"),
        )
        .unwrap();
        symlink(version, conf.join("..data_tmp")).unwrap();
        std::fs::rename(conf.join("..data_tmp"), conf.join("..data")).unwrap();
    };
    let of_a = layer("a", &a, "");
    put("..1", &of_a);
    symlink("..data/volume.yaml", conf.join("volume.yaml")).unwrap();
    let file = conf.join("volume.yaml");
    let told = world.place.path("told");
    let script = world.place.path("teller");
    std::fs::write(&script, format!("#!/bin/sh\ncat >>{}\n", told.display())).unwrap();
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    let hook = script.to_str().unwrap();
    let mount = { &world.place }.mount(&["--on-change", hook, "-c", file.to_str().unwrap()]);
    assert!(!mount.path("g").exists());
    // Nobody is asked, nothing is signalled.
    put("..2", &format!("{of_a}, {}", layer("b", &b, "")));
    wait_until("the new layer", || mount.path("g").exists());
    assert_eq!(mount.read("g"), b"b");

    wait_until("the change hook", || {
        let told = std::fs::read_to_string(&told).unwrap_or_default();
        told.contains("\"reloaded\":true") && told.contains("\"generation\":2")
    });

    // A signal to the process that was started.
    put("..3", &of_a);
    kill_process(Pid::from_raw(mount.pid() as i32).unwrap(), Signal::HUP).unwrap();
    wait_until("the third", || world.generation() == 3);
    wait_until("the name to go", || !mount.path("g").exists());
    assert_eq!(mount.read("f"), b"a");
}

#[test]
fn other_credentials_are_taken_up() {
    use common::s3::{ACCESS, SECRET, TestS3};
    let s3 = TestS3::shared();
    let world = World::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let bucket = runtime.block_on(async {
        let bucket = s3.bucket("reload").await;
        s3.put(&bucket, "d/one", b"one".to_vec()).await;
        s3.put(&bucket, "d/two", noise(7, 1 << 20)).await;
        bucket
    });
    let key = |name: &str, text: &str| {
        let path = world.place.path(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (id, bad, good) = (key("id", ACCESS), key("bad", "wrong"), key("good", SECRET));
    let with = |secret: &Path| {
        format!(
            "{{name: web, refresh: 1s, s3: {{bucket: {bucket}, endpointUrl: '{}', region: us-east-1, \
             credentials: {{accessKeyId: {{fromFile: '{}'}}, secretAccessKey: {{fromFile: '{}'}}}}}}}}",
            s3.endpoint,
            id.display(),
            secret.display()
        )
    };
    world.write(&with(&good));
    let mount = world.mount();
    assert_eq!(mount.read("d/one"), b"one");
    let held = File::open(mount.path("d/two")).unwrap();
    let ino = held.metadata().unwrap().ino();
    world.write(&with(&bad));
    let said = world.taken_up(&mount);
    assert!(said.contains("layer web is another"), "{said}");
    wait_until("the refusal", || {
        let status = world.status();
        let _ = std::fs::read_dir(mount.path("d"));
        status["layers"][0]["conditions"][0]["reason"] == "Denied"
    });
    world.write(&with(&good));
    world.reload(&mount);
    wait_until("reads", || {
        std::fs::read(mount.path("d/one")).is_ok_and(|b| b == b"one")
    });
    // The source is the same: so are its files, those that are open too.
    let mut bytes = vec![0; 1 << 20];
    held.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == noise(7, 1 << 20));
    assert_eq!(std::fs::metadata(mount.path("d/two")).unwrap().ino(), ino);
}

#[test]
fn a_mount_that_cannot_says_so() {
    let world = World::new();
    let a = world.dir("a", &[("f", b"a")]);
    let b = world.dir("b", &[("g", b"b")]);
    world.write(&layer("a", &a, ""));
    let file = world.file.to_str().unwrap();
    let mount = world.place.mount(&["--no-takeover", "-c", file]);
    world.write(&layer("b", &b, ""));
    let said = world.refused(&mount);
    assert!(said.contains("--no-takeover"), "{said}");
    assert_eq!(world.accepted()["reason"], "NoTakeover");
    assert_eq!(mount.read("f"), b"a");
    drop(mount);

    // Without a volume file there is nothing to reload.
    let mount = world.place.mount(&[a.to_str().unwrap()]);
    let said = world.refused(&mount);
    assert!(said.contains("without a volume file"), "{said}");
    assert_eq!(mount.read("f"), b"a");
}

/// Bytes that were being fetched when the worker changed arrive.
#[test]
fn a_file_of_a_layer_that_goes_is_fetched_on() {
    let store = Store::with([("slow", noise(3, 4 << 20))]);
    let world = World::new();
    let a = world.dir("a", &[("f", b"a")]);
    let of_a = layer("a", &a, "");
    world.write(&format!(
        "{of_a}, {{name: web, http: {{url: '{}'}}}}",
        store.tree()
    ));
    let mount = world.mount();
    let held = File::open(mount.path("slow")).unwrap();
    let mut first = [0; 4096];
    held.read_exact_at(&mut first, 0).unwrap();
    world.write(&of_a);
    world.reload(&mount);
    wait_until("the name to go", || !mount.path("slow").exists());
    let mut all = vec![0; 4 << 20];
    held.read_exact_at(&mut all, 0).unwrap();
    assert!(all == noise(3, 4 << 20));
}
