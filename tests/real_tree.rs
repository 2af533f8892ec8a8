//! A tree of more than twenty thousand real files, taken from what the machine has, in a bucket
//! and on a web server: mounted, read back with the tools that people use, and compared byte for
//! byte; then again after a remount, with both servers gone.
//!
//! What takes how long is printed (`cargo test --test real_tree -- --nocapture`) and decides
//! nothing.

mod common;

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use futures::StreamExt;
use object_store::ObjectStoreExt;
use object_store::aws::AmazonS3Builder;

use common::mount::{Mount, Place};
use common::s3::{ACCESS, SECRET, TestS3};
use common::web::TestNginx;

/// How many files the tree must have.
const FILES: usize = 20_000;

/// How many are taken, so that some may turn out unreadable.
const TAKEN: usize = 20_300;

/// Files above this are left out, in bytes, but for one program.
const LARGEST: u64 = 8 << 20;

/// Of each place, files above 64 KiB until this many bytes were taken there.
const LARGE: u64 = 8 << 20;

/// Readers and uploads at once.
const PARALLEL: usize = 24;

/// The tree, as it should be.
struct Tree {
    root: PathBuf,
    /// Paths below `root`, sorted, and the digest of each.
    files: Vec<(String, blake3::Hash)>,
    bytes: u64,
}

#[test]
fn real_files_come_back_byte_for_byte() {
    let place = Place::new();
    let tree = lap("collect", || Tree::collect(&place.path("tree")));
    println!("{} files, {} MiB", tree.files.len(), tree.bytes >> 20);
    assert!(
        tree.files.len() >= FILES,
        "only {} files on this machine",
        tree.files.len()
    );

    let (s3, nginx) = lap("start the servers", || {
        (TestS3::start(), TestNginx::start())
    });
    lap("upload", || upload(&s3, &tree.root, &tree.files, "tree"));
    // Its listings leave out names that begin with a dot.
    let web = Tree {
        root: nginx.root.clone(),
        files: tree
            .files
            .iter()
            .filter(|f| !f.0.contains("/."))
            .cloned()
            .collect(),
        bytes: tree.bytes,
    };
    lap("link for the web server", || {
        hard_link_all(&tree.root, &nginx.root, &web.files);
    });
    let work = lap("make repositories", || {
        upload_repository(&s3, &place, &tree);
        Repository::make(&place.path("local/work"), &tree)
    });

    // What a later layer changes of what an earlier one has.
    let changed = change_some(&place.path("local/override"), &tree);
    let expected = place.path("expected");
    lap("link what is expected", || {
        hard_link_all(&tree.root, &expected, &tree.files);
    });
    for (path, _) in &changed {
        let (from, to) = (place.path("local/override").join(path), expected.join(path));
        let _ = std::fs::remove_file(&to);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(from, to).unwrap();
    }
    let merged = Tree {
        root: expected,
        files: merge(&tree.files, &changed),
        bytes: tree.bytes,
    };

    let volume = place.path("volume.yaml");
    std::fs::write(&volume, volume_file(&s3, &nginx, &place)).unwrap();
    let config = ["-c", volume.to_str().unwrap()];
    let mount = place.mount_with("mnt", &config, credentials);
    let at = |path: &str| mount.path(path);

    lap("read all, cold, from the bucket", || {
        same_bytes(&merged, &at("all"), &mount)
    });
    let requests = place.sum("requests");
    println!(
        "  {requests} requests, {} MiB",
        place.sum("bytesFetched") >> 20
    );
    lap("read all, cold, from the web server", || {
        same_bytes(&web, &at("web"), &mount)
    });
    println!(
        "  {} requests, {} MiB",
        place.sum("requests") - requests,
        place.sum("bytesFetched") >> 20
    );
    with_tools(&mount, &merged, &place);
    work.is_clean(&at("work"), true);
    Repository::status(&at("bucket-repository"), false);
    a_program_runs(&at("all"));
    a_package_is_imported(&at("all/python"));

    // One source at a time, beside the first mount and from the same cache: nothing is
    // fetched again.
    {
        let before = place.sum("bytesFetched");
        let bucket = format!("s3://{BUCKET}/tree");
        let endpoint = ["--refresh", "never", bucket.as_str()];
        let alone = place.mount_with("bucket", &endpoint, |command| {
            credentials(command);
            command.env("AWS_ENDPOINT_URL", &s3.endpoint);
        });
        lap("read all, from the bucket alone", || {
            same_bytes(&tree, alone.at(), &alone)
        });
        // But for what the local layer hid until now.
        let hidden: u64 = changed
            .iter()
            .filter_map(|(path, _)| std::fs::metadata(tree.root.join(path)).ok())
            .map(|metadata| metadata.len())
            .sum();
        let fetched = place.sum("bytesFetched") - before;
        assert_eq!(fetched, hidden, "something was fetched twice");
    }

    // Without the servers.
    drop(mount);
    s3.stop();
    nginx.stop();
    let mount = place.mount_with("mnt", &config, credentials);
    lap("list all, after a remount", || {
        let found = names(&mount.path("all"));
        assert_eq!(found.len(), merged.files.len());
        assert_eq!(names(&mount.path("web")).len(), web.files.len());
    });
    lap("read all, after a remount", || {
        same_bytes(&merged, &mount.path("all"), &mount);
        same_bytes(&web, &mount.path("web"), &mount);
    });
    Repository::status(&mount.path("bucket-repository"), false);
    assert_eq!(
        place.sum("requests"),
        local_requests(&place),
        "of servers that are gone"
    );
    drop(mount);
    println!("cache: {}", place.ok(["cache", "stats", "--json"]));
    lap("svol cache verify", || place.ok(["cache", "verify"]));
    lap("remove the servers", || drop((s3, nginx)));
    lap("remove the rest", || drop(place));
}

/// The bucket's name.
const BUCKET: &str = "real-tree";

fn volume_file(s3: &TestS3, nginx: &TestNginx, place: &Place) -> String {
    let (endpoint, web) = (&s3.endpoint, &nginx.url);
    let local = place.path("local");
    let local = local.display();
    format!(
        "apiVersion: sharedvolume.io/v1
kind: Volume
metadata: {{name: real-tree}}
spec:
  refresh: never
  revalidate: 1h
  layers:
    - s3: {{bucket: {BUCKET}, prefix: tree, endpointUrl: '{endpoint}'}}
      path: /all
    - local: {{path: {local}/override}}
      path: /all
    - http: {{url: '{web}/json/', index: json}}
      path: /web
    - local: {{path: {local}/work}}
      path: /work
    - s3: {{bucket: {BUCKET}, prefix: repository, endpointUrl: '{endpoint}'}}
      path: /bucket-repository
"
    )
}

fn credentials(command: &mut Command) {
    command
        .env("AWS_ACCESS_KEY_ID", ACCESS)
        .env("AWS_SECRET_ACCESS_KEY", SECRET)
        .env("AWS_REGION", "us-east-1");
}

/// Prints how long something took.
fn lap<T>(what: &str, run: impl FnOnce() -> T) -> T {
    static BEGIN: OnceLock<Instant> = OnceLock::new();
    let begin = BEGIN.get_or_init(Instant::now);
    let start = Instant::now();
    let result = run();
    let (took, all) = (start.elapsed(), begin.elapsed());
    println!(
        "{:6.1} s {what}: {:.1} s",
        all.as_secs_f64(),
        took.as_secs_f64()
    );
    result
}

impl Tree {
    /// Takes files from the places that every machine with Rust, Python and a share directory has.
    fn collect(root: &Path) -> Tree {
        let output = |program: &str, args: &[&str]| {
            let output = Command::new(program).args(args).output().unwrap();
            assert!(output.status.success(), "{program}");
            PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
        };
        let stdlib = "import sysconfig; print(sysconfig.get_path('stdlib'))";
        let python = output("python3", &["-c", stdlib]);
        let rust = output("rustc", &["--print", "sysroot"]);
        let registry = std::env::var_os("CARGO_HOME").map_or_else(
            || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cargo"),
            PathBuf::from,
        );
        let sources = [
            ("python", python, 2_000),
            ("share", PathBuf::from("/usr/share"), 9_500),
            ("rust", rust, 8_000),
            // Whatever is missing: this program's own dependencies are here.
            ("registry", registry.join("registry/src"), TAKEN),
        ];
        let mut tree = Tree {
            root: root.to_owned(),
            files: Vec::new(),
            bytes: 0,
        };
        for (name, from, most) in sources {
            let most = (tree.files.len() + most).min(TAKEN);
            tree.take(name, &from, most);
        }
        let program = programs().into_iter().next().unwrap();
        let path = "bin/program".to_owned();
        copy(&program, &root.join(&path));
        let bytes = std::fs::read(&program).unwrap();
        tree.bytes += bytes.len() as u64;
        tree.files.push((path, blake3::hash(&bytes)));
        tree.files.sort_by(|a, b| a.0.cmp(&b.0));
        tree
    }

    fn take(&mut self, name: &str, from: &Path, most: usize) {
        let mut todo = vec![from.to_owned()];
        let mut large = 0;
        while let Some(dir) = todo.pop() {
            let Ok(entries) = std::fs::read_dir(&dir) else {
                continue;
            };
            let mut entries: Vec<_> = entries.flatten().collect();
            entries.sort_by_key(|entry| entry.file_name());
            for entry in entries {
                let path = entry.path();
                let Ok(kind) = entry.file_type() else {
                    continue;
                };
                if kind.is_dir()
                    && !["site-packages", "test", "idlelib", "__pycache__"]
                        .iter()
                        .any(|n| entry.file_name() == *n)
                {
                    todo.push(path);
                    continue;
                }
                let Ok(metadata) = entry.metadata() else {
                    continue;
                };
                let len = metadata.len();
                // A package without one of its modules would not be one.
                let module = path.extension().is_some_and(|e| e == "py");
                let is_large = len > 64 << 10 && !module;
                let fits = len <= LARGEST && (!is_large || large + len <= LARGE);
                if !kind.is_file() || !fits || self.files.len() >= most {
                    continue;
                }
                let below = path.strip_prefix(from).unwrap();
                let (Some(below), Ok(bytes)) = (below.to_str(), std::fs::read(&path)) else {
                    continue;
                };
                let to = format!("{name}/{below}");
                copy(&path, &self.root.join(&to));
                large += if is_large { len } else { 0 };
                self.bytes += len;
                self.files.push((to, blake3::hash(&bytes)));
            }
        }
    }
}

/// Programs that may be run from the mount, the best first: one that is large.
fn programs() -> Vec<PathBuf> {
    let rust = Command::new("rustc").args(["--print", "sysroot"]).output();
    let rust = String::from_utf8(rust.unwrap().stdout).unwrap();
    let cargo = Path::new(rust.trim()).join("bin/cargo");
    let all = [cargo, "/usr/bin/git".into(), "/bin/ls".into()];
    all.into_iter().filter(|path| path.is_file()).collect()
}

/// Copies with a link where that goes.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    if std::fs::hard_link(from, to).is_err() {
        std::fs::copy(from, to).unwrap();
    }
}

fn hard_link_all(from: &Path, to: &Path, files: &[(String, blake3::Hash)]) {
    for (path, _) in files {
        copy(&from.join(path), &to.join(path));
    }
}

/// Makes a few files of the tree others, and adds some, in a directory of their own.
fn change_some(dir: &Path, tree: &Tree) -> Vec<(String, blake3::Hash)> {
    let mut changed: Vec<String> = tree
        .files
        .iter()
        .step_by(400)
        .map(|f| f.0.clone())
        .collect();
    changed.retain(|path| path != "bin/program" && !path.starts_with("python/"));
    changed.extend((0..20).map(|n| format!("share/added/{n}/new")));
    changed.push("added at the top".into());
    changed
        .into_iter()
        .enumerate()
        .map(|(n, path)| {
            let bytes = common::noise(n as u64, n * 3001);
            let to = dir.join(&path);
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::write(to, &bytes).unwrap();
            (path, blake3::hash(&bytes))
        })
        .collect()
}

fn merge(
    earlier: &[(String, blake3::Hash)],
    later: &[(String, blake3::Hash)],
) -> Vec<(String, blake3::Hash)> {
    let all: HashMap<_, _> = earlier.iter().chain(later).cloned().collect();
    let mut all: Vec<_> = all.into_iter().collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

fn upload(s3: &TestS3, root: &Path, files: &[(String, blake3::Hash)], prefix: &str) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let url = format!("{}/{BUCKET}", s3.endpoint);
        let store = AmazonS3Builder::new()
            .with_endpoint(&s3.endpoint)
            .with_bucket_name(BUCKET)
            .with_access_key_id(ACCESS)
            .with_secret_access_key(SECRET)
            .with_region("us-east-1")
            .with_allow_http(true)
            .build()
            .unwrap_or_else(|e| panic!("{url}: {e}"));
        if prefix == "tree" {
            s3.make_bucket(BUCKET).await;
        }
        let store = Arc::new(store);
        let puts = files.iter().map(|(path, _)| {
            let store = store.clone();
            let key = object_store::path::Path::parse(format!("{prefix}/{path}"));
            async move {
                let bytes = std::fs::read(root.join(path)).unwrap();
                let key = key.unwrap_or_else(|e| panic!("{path}: {e}"));
                store.put(&key, bytes.into()).await.unwrap();
            }
        });
        futures::stream::iter(puts)
            .for_each_concurrent(PARALLEL, |put| put)
            .await;
    });
}

/// Reads every file, several at once, and compares it.
fn same_bytes(tree: &Tree, at: &Path, mount: &Mount) {
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..PARALLEL {
            scope.spawn(|| {
                while let Some((path, hash)) = tree.files.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    match std::fs::read(at.join(path)) {
                        Ok(bytes) if blake3::hash(&bytes) == *hash => {}
                        Ok(bytes) => {
                            let said = format!("{path}: {} other bytes", bytes.len());
                            wrong.lock().unwrap().push(said);
                        }
                        Err(e) => wrong.lock().unwrap().push(format!("{path}: {e}")),
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(
        wrong.is_empty(),
        "{} files are wrong: {:#?}\n{}",
        wrong.len(),
        &wrong[..wrong.len().min(10)],
        mount.log()
    );
}

/// Runs a command of the shell; returns what it printed.
fn shell(script: &str, args: &[&Path]) -> String {
    let output = Command::new("sh")
        .args(["-euc", script, "sh"])
        .args(args)
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    succeeded(script, output)
}

fn succeeded(what: &str, output: Output) -> String {
    assert!(
        output.status.success(),
        "{what}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn names(at: &Path) -> Vec<String> {
    let text = shell("cd \"$1\"; find . -type f | sort", &[at]);
    text.lines().map(str::to_owned).collect()
}

fn with_tools(mount: &Mount, merged: &Tree, place: &Place) {
    let (all, web) = (mount.path("all"), mount.path("web"));
    let expected = &merged.root;
    let scratch = place.path("scratch");
    std::fs::create_dir(&scratch).unwrap();

    lap("diff -r", || {
        shell("diff -r \"$1\" \"$2\"", &[expected, &all])
    });
    lap("find -ls", || {
        let count = shell("find \"$1\" -type f -ls | wc -l", &[&all]);
        assert_eq!(count.trim(), merged.files.len().to_string());
        let sizes = "cd \"$1\"; find . -type f -printf '%s %P\\n' | sort";
        assert_eq!(shell(sizes, &[&all]), shell(sizes, &[expected]));
    });
    lap("tar", || {
        shell(
            "cd \"$1\"; tar -cf - python | tar -xf - -C \"$2\"; diff -r python \"$2/python\"",
            &[&all, &scratch],
        )
    });
    lap("grep -r", || {
        let grep = "cd \"$1\"; grep -rl import . | sort";
        let found = shell(grep, &[&all]);
        assert!(found.lines().count() > 100);
        assert_eq!(found, shell(grep, &[expected]));
    });
    lap("rsync --checksum", || {
        let told = shell("rsync -rcni --delete \"$1/\" \"$2/\"", &[&all, expected]);
        assert_eq!(told, "", "rsync would change something");
    });
    lap("rsync -a", || {
        shell(
            "rsync -a \"$1/share/\" \"$2/share/\"; diff -r \"$1/share\" \"$2/share\"",
            &[&web, &scratch],
        );
        let told = shell("rsync -ani \"$1/share/\" \"$2/share/\"", &[&web, &scratch]);
        assert_eq!(told, "", "a second rsync has nothing to do");
    });
}

/// A git work tree on a local disk, with programs and links in it.
struct Repository;

impl Repository {
    fn make(at: &Path, tree: &Tree) -> Repository {
        let files = tree.files.iter().filter(|f| f.0.starts_with("python/"));
        for (path, _) in files.step_by(3).take(400) {
            let to = at.join(path);
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(tree.root.join(path), to).unwrap();
        }
        std::fs::write(at.join("run"), "#!/bin/sh\necho it runs\n").unwrap();
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(at.join("run"), mode).unwrap();
        std::os::unix::fs::symlink("run", at.join("link")).unwrap();
        Repository::commit(at);
        Repository
    }

    fn commit(at: &Path) {
        shell(
            "cd \"$1\"; git init -q .; git add -A -f .; \
             git -c user.name=t -c user.email=t@localhost commit -qm all; git repack -adq",
            &[at],
        );
    }

    /// The status is clean, and a change would be seen.
    fn status(at: &Path, modes: bool) {
        let mode = format!("core.fileMode={modes}");
        let output = lap("git status", || {
            let mut git = Command::new("git");
            git.arg("-C").arg(at);
            git.args([
                "-c",
                "safe.directory=*",
                "-c",
                &mode,
                "status",
                "--porcelain",
            ]);
            git.output().unwrap()
        });
        assert_eq!(succeeded("git status", output), "");
        let mut git = Command::new("git");
        git.arg("-C").arg(at);
        git.args(["-c", "safe.directory=*", "fsck", "--full"]);
        succeeded("git fsck", lap("git fsck", || git.output().unwrap()));
    }

    fn is_clean(&self, at: &Path, modes: bool) {
        Repository::status(at, modes);
        assert_eq!(shell("\"$1\"", &[&at.join("link")]), "it runs\n");
    }
}

/// Puts a repository into the bucket, which keeps neither modes nor links.
fn upload_repository(s3: &TestS3, place: &Place, tree: &Tree) {
    let at = place.path("repository");
    let files = tree.files.iter().filter(|f| f.0.starts_with("share/"));
    for (path, _) in files.step_by(20).take(300) {
        copy(&tree.root.join(path), &at.join(path));
    }
    Repository::commit(&at);
    let files: Vec<_> = names(&at)
        .into_iter()
        .map(|name| {
            let name = name.trim_start_matches("./").to_owned();
            let hash = blake3::hash(&std::fs::read(at.join(&name)).unwrap());
            (name, hash)
        })
        .collect();
    upload(s3, &at, &files, "repository");
}

fn a_program_runs(at: &Path) {
    let program = at.join("bin/program");
    let original = programs().into_iter().next().unwrap();
    let run = |program: &Path| {
        let output = Command::new(program).arg("--version").output().unwrap();
        succeeded("a program", output)
    };
    assert_eq!(lap("run a program", || run(&program)), run(&original));
}

fn a_package_is_imported(at: &Path) {
    let script = "import json, email.message, asyncio, xml.dom.minidom, unittest, sys; \
                  print(json.__file__, asyncio.__file__, unittest.__file__)";
    let output = lap("import Python packages", || {
        let mut python = Command::new("python3");
        python.args(["-c", script]).env("PYTHONPATH", at);
        python.env("PYTHONDONTWRITEBYTECODE", "1").output().unwrap()
    });
    for file in succeeded("python3", output).split_whitespace() {
        assert!(file.starts_with(at.to_str().unwrap()), "{file}");
    }
}

/// Requests of layers that are read in place, which are answered without a server.
fn local_requests(place: &Place) -> u64 {
    let status = place.status();
    let mounts = status["mounts"].as_array().unwrap();
    let layers = mounts.iter().flat_map(|m| m["layers"].as_array().unwrap());
    layers
        .filter(|l| l["source"].as_str().unwrap().starts_with("file:"))
        .map(|l| l["requests"].as_u64().unwrap())
        .sum()
}
