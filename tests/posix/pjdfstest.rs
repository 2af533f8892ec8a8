//! The cases of pjdfstest that want a read-only file system.
//!
//! They make a file, have the file system remounted read-only, and look. Here the file is made in a
//! directory that a mount of ours serves, and in the place of the remounting that mount is bound
//! over the directory.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};

use crate::common::mount::Place;
use crate::common::process::program;
use crate::excluded::{APPLY, PJDFSTEST};

/// Mounts that go when dropped, the last one first.
struct Mounts(Vec<PathBuf>);

impl Mounts {
    fn tmpfs(&mut self, at: &Path) {
        std::fs::create_dir(at).unwrap();
        mount("none", at, "tmpfs", MountFlags::empty(), None).unwrap();
        self.0.push(at.to_owned());
    }

    fn bind(&mut self, what: &Path, at: &Path) {
        std::fs::create_dir(at).unwrap();
        mount_bind(what, at).unwrap();
        self.0.push(at.to_owned());
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        for at in self.0.iter().rev() {
            // A case that failed may have left another one above.
            while unmount(at, UnmountFlags::DETACH).is_ok() {}
        }
    }
}

/// Runs the suite with patterns of names; returns each case and what it came to.
fn run(
    place: &Place,
    at: &Path,
    patterns: &[&str],
    path: Option<&Path>,
) -> BTreeMap<String, String> {
    let config = "[features]\nutimensat = {}\nposix_fallocate = {}\n[settings]\nnaptime = 0.001\n\
        allow_remount = true\n[dummy_auth]\nentries = [[\"nobody\", \"nogroup\"], [\"daemon\", \"daemon\"]]\n";
    let file = place.path("pjd.toml");
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new(program("pjdfstest"));
    command.arg("-c").arg(file).arg("-p").arg(at).args(patterns);
    command.env("RUST_BACKTRACE", "0").env("NO_COLOR", "1");
    if let Some(first) = path {
        let rest = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}:{rest}", first.display()));
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut cases = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if let (Some(case), Some(result), None) = (words.next(), words.next(), words.next())
            && ["ok", "FAILED", "skipped"].contains(&result)
        {
            cases.insert(case.to_owned(), result.to_owned());
        }
    }
    assert!(
        !cases.is_empty(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    cases
}

#[test]
fn pjdfstest_finds_erofs_everywhere() {
    if !rustix::process::geteuid().is_root() {
        println!("NOT RUN: pjdfstest mounts, which needs root");
        return;
    }
    let installed = std::panic::catch_unwind(|| program("pjdfstest")).is_ok();
    if !installed && std::env::var_os(crate::STRESS).is_none() {
        println!("NOT RUN: pjdfstest is not installed; `make stress` does that");
        return;
    }
    let place = Place::new();
    let mut mounts = Mounts(Vec::new());
    let (backing, work, bin) = (place.path("backing"), place.path("work"), place.path("bin"));
    mounts.tmpfs(&backing);
    mounts.bind(&backing, &work);
    let mount = place.mount(&[backing.to_str().unwrap()]);
    // The suite calls `mount -o remount,ro DIR`; this is what it finds.
    std::fs::create_dir(&bin).unwrap();
    let calls = place.path("calls");
    let script = format!(
        "#!/bin/sh\necho \"$2\" >> {calls}\ncase \"$2\" in\n\
         remount,ro) SVOL_RUNTIME_DIR={run} {svol} refresh {at} >&2 && exec /bin/mount --bind {at} \"$3\" ;;\n\
         remount,rw) exec /bin/umount \"$3\" ;;\nesac\nexit 9\n",
        calls = calls.display(),
        run = place.path("run").display(),
        svol = env!("CARGO_BIN_EXE_svol"),
        at = mount.at().display(),
    );
    std::fs::write(bin.join("mount"), script).unwrap();
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(bin.join("mount"), executable).unwrap();

    let cases = run(&place, &work, &["erofs"], Some(&bin));
    println!("{cases:#?}");
    let names: Vec<&str> = cases.keys().map(String::as_str).collect();
    assert_eq!(names, APPLY);
    assert!(cases.values().all(|result| result == "ok"), "{cases:#?}");
    let calls = std::fs::read_to_string(calls).unwrap();
    let times = |what: &str| calls.lines().filter(|line| *line == what).count();
    assert_eq!(times("remount,ro"), APPLY.len());
    assert_eq!(times("remount,rw"), APPLY.len());
    drop(mount);

    // The list of what does not apply is complete: a file system that can be written to has them.
    mounts.tmpfs(&place.path("writable"));
    let all = run(&place, &place.path("writable"), &[], None);
    let apply = BTreeSet::from_iter(APPLY.iter().map(|case| (*case).to_owned()));
    let mut groups: BTreeMap<&str, usize> = BTreeMap::new();
    for case in all.keys().filter(|case| !apply.contains(*case)) {
        *groups.entry(case.split("::").next().unwrap()).or_default() += 1;
    }
    let expected: BTreeMap<&str, usize> = PJDFSTEST.iter().map(|(g, n, _)| (*g, *n)).collect();
    assert_eq!(groups, expected);
}
