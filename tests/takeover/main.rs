//! The process that serves is killed and replaced under readers, and they notice nothing.
//!
//! `SVOL_TAKEOVER_ROUNDS` asks for more rounds; `failpoints` gives holders figures that a test can
//! wait for. On Linux 6.9 or later: what is lost before that is shown by a holder that is told so.
#![cfg(feature = "failpoints")]

#[path = "../common/mod.rs"]
mod common;
mod readers;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use common::mount::{Mount, Place, is_mounted, runs, worker_of};
use common::store::{Mood, Store};
use common::{noise, wait_until};
use readers::{Dice, Readers, World};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Rounds of a usual run.
const ROUNDS: u64 = 21;

fn send(pid: u32, signal: Signal) {
    let _ = kill_process(Pid::from_raw(pid as i32).unwrap(), signal);
}

fn said(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}

/// What the status tells of a mount's workers; nothing while none answers.
fn takeover(place: &Place) -> Option<Value> {
    let output = place.svol(["status", "--json"]);
    let status: Value = serde_json::from_slice(&output.stdout).ok()?;
    let mount = status["mounts"].get(0)?;
    let mut takeover = mount["takeover"].clone();
    takeover["pid"] = mount["pid"].clone();
    Some(takeover)
}

/// How often workers were followed by others.
fn restarts(place: &Place, reason: &str) -> u64 {
    let takeover = takeover(place).unwrap_or_default();
    takeover["restarts"][reason].as_u64().unwrap_or(0)
}

fn upgrade(place: &Place, program: &Path, mount: &Mount) -> Output {
    place
        .command(["upgrade", "--binary"])
        .arg(program)
        .arg(mount.at())
        .output()
        .unwrap()
}

/// A volume file for a directory with a file `f`.
fn volume(place: &Place) -> PathBuf {
    let (dir, file) = (place.path("src"), place.path("volume.yaml"));
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("f"), "bytes").unwrap();
    let text = format!(
        "apiVersion: sharedvolume.io/v1\nkind: Volume\nmetadata: {{name: v}}\nspec:\n  layers:\n\
         \x20   - local: {{path: {}}}\n",
        dir.display()
    );
    std::fs::write(&file, text).unwrap();
    file
}

#[test]
fn who_serves_is_killed_and_replaced_and_no_reader_notices() {
    let rounds = std::env::var("SVOL_TAKEOVER_ROUNDS").map_or(ROUNDS, |n| n.parse().unwrap());
    let place = Place::new();
    let world = World::new();
    let mount = place.mount_with("mnt", &[&world.store.tree()], |command| {
        // They are killed faster than by any bad luck.
        command.env("SVOL_HOLDER", "well=0");
    });
    let other = place.path("svol-next");
    std::fs::copy(env!("CARGO_BIN_EXE_svol"), &other).unwrap();
    let programs = [Path::new(env!("CARGO_BIN_EXE_svol")), &other];
    world.warm(&mount);
    let readers = Readers::new(&world, mount.at());
    let (mut dice, mut back, mut stalls) = (Dice::new(rounds), Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        let _stop = readers.stopper();
        readers.start(scope);
        for round in 0..rounds {
            readers.go_on();
            std::thread::sleep(Duration::from_millis(dice.below(60)));
            let before = mount.pid();
            if round % 3 == 2 {
                let output = upgrade(&place, programs[round as usize % 2], &mount);
                assert!(
                    output.status.success(),
                    "{}\n{}",
                    said(&output),
                    mount.log()
                );
                let stall = &takeover(&place).unwrap()["last"]["stallSeconds"];
                stalls.push(Duration::from_secs_f64(stall.as_f64().unwrap()));
            } else {
                let killed = Instant::now();
                send(before, Signal::KILL);
                rustix::fs::statvfs(mount.at()).unwrap();
                back.push(killed.elapsed());
            }
            wait_until("another worker", || {
                worker_of(mount.holder()).is_some_and(|now| now != before)
                    && takeover(&place).is_some_and(|t| {
                        let counts = t["restarts"].as_object().unwrap();
                        let sum: u64 = counts.values().map(|n| n.as_u64().unwrap()).sum();
                        sum == round + 1
                    })
            });
        }
        readers.go_on();
    });
    back.sort();
    stalls.sort();
    println!(
        "{rounds} rounds; back after kill -9: median {:?}, longest {:?}; nobody served in an \
         upgrade: median {:?}, longest {:?}",
        back[back.len() / 2],
        back.last().unwrap(),
        stalls[stalls.len() / 2],
        stalls.last().unwrap()
    );
    readers.report();
    let status = place.status();
    let passthrough = &status["mounts"][0]["passthrough"];
    println!("passthrough: {passthrough}");
    let taken = takeover(&place).unwrap();
    assert_eq!(taken["holder"], mount.holder());
    assert_eq!(taken["restarts"]["upgrade"], rounds / 3);
    assert_eq!(taken["restarts"]["crash"], rounds - rounds / 3);
}

#[test]
fn what_is_killed_in_the_midst_of_an_upgrade_serves_or_is_followed() {
    let place = Place::new();
    let world = World::new();
    let mount = place.mount_with("mnt", &[&world.store.tree()], |command| {
        command.env("SVOL_HOLDER", "well=0");
    });
    let readers = Readers::new(&world, mount.at());
    let mut dice = Dice::new(7);
    std::thread::scope(|scope| {
        let _stop = readers.stopper();
        readers.start(scope);
        for round in 0..8 {
            let before = mount.pid();
            let mut upgrade = place
                .command(["upgrade"])
                .arg(mount.at())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            std::thread::sleep(Duration::from_millis(dice.below(150)));
            match round % 2 {
                // Who serves, whoever it is by now.
                0 => send(before, Signal::KILL),
                // Who is to serve, or serves by now.
                _ => {
                    let holder = mount.holder();
                    let children = format!("/proc/{holder}/task/{holder}/children");
                    let children = std::fs::read_to_string(children).unwrap();
                    if let Some(last) = children.split_whitespace().last() {
                        send(last.parse().unwrap(), Signal::KILL);
                    }
                }
            }
            // It is told what came of it, one way or the other.
            wait_until("the end of an upgrade", || {
                upgrade.try_wait().unwrap().is_some()
            });
            readers.go_on();
        }
    });
    wait_until("a worker", || takeover(&place).is_some());
}

/// Puts something in the way of the cache, so that no new worker can get ready; or takes it away.
fn block(place: &Place, blocked: bool) {
    let (cache, aside) = (place.cache(), place.path("aside"));
    if blocked {
        std::fs::rename(&cache, &aside).unwrap();
        std::fs::write(&cache, "in the way").unwrap();
    } else {
        std::fs::remove_file(&cache).unwrap();
        std::fs::rename(&aside, &cache).unwrap();
    }
}

#[test]
fn a_worker_that_dies_again_and_again_is_given_up() {
    let place = Place::new();
    let volume = volume(&place);
    let mut mount = place.mount(&["-c", volume.to_str().unwrap()]);
    assert_eq!(mount.read("f"), b"bytes");
    let worker = mount.pid();
    block(&place, true);
    send(worker, Signal::KILL);
    let status = mount.wait();
    assert!(!status.success());
    let log = mount.log();
    for part in ["given up and unmounted", "died 6 times", "/cache: "] {
        assert!(log.contains(part), "{part}: {log}");
    }
    assert_eq!(log.matches("the worker died").count(), 5, "{log}");
    assert!(!is_mounted(mount.at()));
    assert_eq!(worker_of(mount.holder()), None);
}

#[test]
fn what_cannot_serve_does_not_take_over() {
    let place = Place::new();
    let volume = volume(&place);
    let mount = place.mount(&["-c", volume.to_str().unwrap()]);
    let held = File::open(mount.path("f")).unwrap();
    let worker = mount.pid();

    block(&place, true);
    let output = place.command(["upgrade"]).arg(mount.at()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = said(&output);
    assert!(text.contains("it serves as before"), "{text}");
    assert!(text.contains("/cache: "), "{text}");
    block(&place, false);

    let output = upgrade(&place, Path::new("/bin/true"), &mount);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("does not say that it is svol"));
    let output = upgrade(&place, Path::new("/nowhere/svol"), &mount);
    assert_eq!(output.status.code(), Some(1));

    assert_eq!(mount.pid(), worker, "the same goes on");
    held.read_exact_at(&mut [0; 5], 0).unwrap();
    let taken = takeover(&place).unwrap();
    assert_eq!(taken["refused"]["reason"], "upgrade");
    assert_eq!(taken["restarts"]["upgrade"], 0);
    let output = place.command(["upgrade"]).arg(mount.at()).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_ne!(mount.pid(), worker);
}

#[test]
fn the_end_of_a_holder_is_that_of_its_worker() {
    let place = Place::new();
    let volume = volume(&place);
    let volume = volume.to_str().unwrap();
    let mount = place.mount(&["-c", volume]);
    let worker = mount.pid();
    assert_ne!(worker, mount.holder());
    send(mount.holder(), Signal::KILL);
    wait_until("the end of a worker", || !runs(worker));
    let dead = std::fs::metadata(mount.at()).unwrap_err();
    let dead = dead.raw_os_error();
    assert_eq!(dead, Some(rustix::io::Errno::NOTCONN.raw_os_error()));
    let log = mount.log();
    assert!(
        log.contains("the process that holds the mount is gone"),
        "{log}"
    );
    // It can be mounted again at once.
    let again = place.mount(&["-c", volume]);
    assert_eq!(again.read("f"), b"bytes");
}

#[test]
fn a_worker_that_stands_still_is_replaced() {
    let place = Place::new();
    let store = Store::with([("f", noise(1, 100_000))]);
    let mount = place.mount_with("mnt", &[&store.tree()], |command| {
        command.env("SVOL_HOLDER", "period=50,limit=2000");
    });
    let held = File::open(mount.path("f")).unwrap();
    let worker = mount.pid();
    send(worker, Signal::STOP);
    // It waits for the next one.
    let mut bytes = vec![0; 100_000];
    held.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == noise(1, 100_000));
    assert!(!runs(worker));
    wait_until("a worker", || restarts(&place, "wedged") == 1);
}

#[test]
fn a_source_that_stands_still_is_no_reason_to_replace_anybody() {
    let place = Place::new();
    let store = Store::with([("f", noise(1, 100_000)), ("g", noise(2, 10))]);
    let mount = place.mount_with("mnt", &["--timeout", "8s", &store.tree()], |command| {
        command.env("SVOL_HOLDER", "period=50,limit=2000");
    });
    assert_eq!(std::fs::read_dir(mount.at()).unwrap().count(), 2);
    let worker = mount.pid();
    store.mood("", Mood::Silent);
    let at = mount.path("f");
    let reader = std::thread::spawn(move || std::fs::read(at));
    assert!(
        reader.join().unwrap().is_err(),
        "it is told by the deadline"
    );
    // That took longer than it takes to find somebody wedged.
    assert_eq!(mount.pid(), worker);
    store.mood("", Mood::Serve);
}

#[test]
fn without_a_holder_nobody_follows() {
    let place = Place::new();
    let store = Store::with([("f", noise(1, 10))]);
    let mut mount = place.mount(&["--no-takeover", &store.tree()]);
    assert_eq!(mount.pid(), mount.holder());
    assert_eq!(takeover(&place).unwrap()["restarts"], Value::Null);
    let output = place.command(["upgrade"]).arg(mount.at()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("--no-takeover"), "{}", said(&output));
    send(mount.holder(), Signal::KILL);
    mount.wait();
    assert!(std::fs::metadata(mount.at()).is_err());
}

#[test]
fn where_the_kernel_sends_nothing_again_it_is_mounted_anew() {
    let place = Place::new();
    let store = Store::with([("f", noise(1, 3 << 20)), ("g", noise(2, 10))]);
    let mount = place.mount_with("mnt", &[&store.tree()], |command| {
        command.env("SVOL_HOLDER", "resends=0");
    });
    let held = File::open(mount.path("f")).unwrap();
    held.read_exact_at(&mut [0; 10], 0).unwrap();
    let output = place.command(["upgrade"]).arg(mount.at()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("Linux 6.9"), "{}", said(&output));
    send(mount.pid(), Signal::KILL);
    wait_until("a new mount", || {
        std::fs::read(mount.path("g")).is_ok_and(|bytes| bytes == noise(2, 10))
    });
    // What was open is lost, and says so.
    assert!(held.read_exact_at(&mut [0; 10], 2 << 20).is_err());
    let taken = takeover(&place).unwrap();
    assert_eq!(
        (&taken["resends"], &taken["restarts"]["crash"]),
        (&false.into(), &1.into())
    );
}
