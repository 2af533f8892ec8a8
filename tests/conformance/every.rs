//! All kinds at once, from live servers, on a real mount: what is read, what the others feel when
//! one is stopped, and what faults of connections come to for each.

use std::collections::BTreeMap;
use std::io::Error;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::common::faults::Tally;
use crate::common::faults::tcp::{TcpFault, TcpProxy, Towards};
use crate::common::ftp::Way;
use crate::common::mount::{Mount, Place};
use crate::common::{noise, wait_until};
use crate::suite::*;
use crate::{azure, ftp, gcs, git, local, s3, sftp, web, webdav};

/// A place of each kind, in the order of the layers; the last one is the uppermost.
async fn every_kind() -> Vec<(&'static str, Box<dyn World>)> {
    vec![
        ("s3", Box::new(s3::InBucket::new(true).await)),
        ("http", Box::new(web::OnWeb::new("json").await)),
        ("azure", Box::new(azure::InContainer::new(true).await)),
        ("gcs", Box::new(gcs::InBucket::new(true).await)),
        ("ftp", Box::new(ftp::OnFtp::new(Way::pyftpdlib()).await)),
        ("sftp", Box::new(sftp::OverSsh::new(true).await)),
        ("git", Box::new(git::OnGit::own_http("git").await)),
        ("webdav", Box::new(webdav::on_apache("dav").await)),
        ("local", Box::new(local::Local::new(true).await)),
    ]
}

/// Files that are read while all is well, and how long they are: none, one byte, small, of several
/// blocks.
const SIZES: [usize; 4] = [0, 1, 70_000, (3 << 20) + 17];

/// Files of each kind that are read cold before a server is stopped, and as many while it is.
const COLD: usize = 25;

/// How large those are, in bytes.
const COLD_SIZE: usize = 6_000;

fn seed(kind: &str, n: usize) -> u64 {
    kind.bytes()
        .fold(n as u64, |seed, b| seed * 31 + u64::from(b))
}

fn volume(place: &Place, layers: &[Grafted], timeout: &str) -> Vec<(&'static str, String)> {
    let mut text = format!(
        "apiVersion: sharedvolume.io/v1\nkind: Volume\nmetadata: {{name: every}}\nspec:\n  \
         timeout: {timeout}\n  layers:\n"
    );
    for layer in layers {
        text += &format!("    - {}\n", layer.yaml);
    }
    std::fs::write(place.path("volume.yaml"), text).unwrap();
    let env = layers.iter().flat_map(|layer| layer.env.clone());
    env.collect()
}

fn mount(place: &Place, layers: &[Grafted], timeout: &str) -> Mount {
    let env = volume(place, layers, timeout);
    let file = place.path("volume.yaml");
    place.mount_with("mnt", &["-c", file.to_str().unwrap()], |command| {
        command.envs(env);
    })
}

fn percentile(times: &mut [Duration], of_hundred: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() * of_hundred / 100).min(times.len() - 1)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_volume_of_all_kinds() {
    let worlds = every_kind().await;
    let cold = |kind: &str, phase: usize, n: usize| format!("{kind}/cold-{phase}/{n}");
    for (kind, world) in &worlds {
        let mut all: Vec<(String, Vec<u8>)> = SIZES
            .iter()
            .enumerate()
            .map(|(n, size)| (format!("{kind}/f{n}"), noise(seed(kind, n), *size)))
            .collect();
        all.push((format!("shared/{kind}"), kind.as_bytes().to_vec()));
        all.push(("shared/clash".into(), kind.as_bytes().to_vec()));
        for phase in 0..=worlds.len() {
            for n in 0..COLD {
                let bytes = noise(seed(kind, 1000 * phase + n), COLD_SIZE);
                all.push((cold(kind, phase, n), bytes));
            }
        }
        world.put_all(all).await;
    }
    let place = Place::new();
    let layers: Vec<Grafted> = worlds.iter().map(|(_, w)| w.grafted(None)).collect();
    let mount = tokio::task::block_in_place(|| mount(&place, &layers, "5s"));

    // Merged, and byte for byte what was put.
    let names = |dir: &str| -> Vec<String> {
        let entries = std::fs::read_dir(mount.path(dir)).unwrap();
        let mut names: Vec<_> = entries
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    tokio::task::block_in_place(|| {
        let mut kinds: Vec<&str> = worlds.iter().map(|(kind, _)| *kind).collect();
        let last = *kinds.last().unwrap();
        for kind in &kinds {
            for (n, size) in SIZES.iter().enumerate() {
                let path = format!("{kind}/f{n}");
                assert!(mount.read(&path) == noise(seed(kind, n), *size), "{path}");
            }
            assert_eq!(mount.read(&format!("shared/{kind}")), kind.as_bytes());
        }
        assert_eq!(mount.read("shared/clash"), last.as_bytes(), "the last wins");
        kinds.extend(["shared"]);
        kinds.sort_unstable();
        assert_eq!(names(""), kinds);
    });

    // Reads of what is not here yet, by kind: all right, each timed.
    let time = |kind: &str, phase: usize| -> Vec<Duration> {
        (0..COLD)
            .map(|n| {
                let path = cold(kind, phase, n);
                let started = Instant::now();
                let bytes = mount.read(&path);
                let took = started.elapsed();
                assert!(
                    bytes == noise(seed(kind, 1000 * phase + n), COLD_SIZE),
                    "{path}"
                );
                took
            })
            .collect()
    };
    let mut before: BTreeMap<&str, Duration> = BTreeMap::new();
    for (kind, _) in &worlds {
        let mut times = tokio::task::block_in_place(|| time(kind, 0));
        before.insert(kind, percentile(&mut times, 99));
    }
    for (stopped, (down, world)) in worlds.iter().enumerate() {
        world.stop().await;
        let phase = stopped + 1;
        let error = tokio::task::block_in_place(|| {
            // Its own: an error that is no absence, and what is cached.
            let error = std::fs::read(mount.path(&cold(down, phase, 0))).unwrap_err();
            if *down != "local" {
                assert!(mount.read(&format!("{down}/f2")) == noise(seed(down, 2), SIZES[2]));
            }
            error
        });
        assert_ne!(error.raw_os_error(), Some(libc::ENOENT), "{down}: {error}");
        for (kind, _) in worlds.iter().filter(|(kind, _)| kind != down) {
            let mut times = tokio::task::block_in_place(|| time(kind, phase));
            println!(
                "{down} is down ({error}): {kind} p99 {:?}, before {:?}",
                percentile(&mut times, 99),
                before[kind]
            );
        }
        assert!(names("shared").contains(&"clash".to_owned()));
        if world.restart().await {
            let path = mount.path(&cold(down, phase, 1));
            tokio::task::block_in_place(|| {
                wait_until("it is back", || std::fs::read(&path).is_ok());
            });
        }
    }
}

/// How much of a file is read under each fault: more than one request brings.
const FAULTED: usize = (3 << 20) + 5;

const FAULTS: [TcpFault; 8] = [
    TcpFault::Delay(Duration::from_millis(300)),
    TcpFault::Stall(Towards::Client, 0),
    TcpFault::Stall(Towards::Client, 2_000),
    TcpFault::Reset(Towards::Client, 40_000),
    TcpFault::Reset(Towards::Server, 30),
    TcpFault::Cut(Towards::Client, 10),
    TcpFault::Cut(Towards::Client, 1_000_000),
    TcpFault::Drip(20_000, Duration::from_millis(2)),
];

/// Right, or an error that is no absence.
fn right_or_told(got: Result<Vec<u8>, Error>, right: &[u8], what: &str) {
    match got {
        Ok(bytes) => assert!(bytes == right, "{what}: wrong bytes"),
        Err(error) => {
            let errno = Errno::from_raw_os_error(error.raw_os_error().unwrap());
            let told = [Errno::IO, Errno::TIMEDOUT, Errno::HOSTUNREACH, Errno::STALE];
            assert!(told.contains(&errno), "{what}: {error}");
        }
    }
}

fn faults_of(kind: &str, world: &dyn World) {
    let tally = Tally::default();
    let proxy = TcpProxy::start(world.address().unwrap(), tally.clone());
    let place = Place::new();
    let mount = mount(&place, &[world.grafted(Some(proxy.address()))], "3s");
    let content = |n: usize| noise(seed(kind, n), FAULTED);
    for (n, fault) in FAULTS.into_iter().enumerate() {
        // Every other connection, so that who asks again may have it.
        proxy.plan(move |number| (number % 2 == 0).then_some(fault));
        let what = format!("{kind}, {}", fault.name());
        let got = std::fs::read(mount.path(&format!("faults/{n}/f")));
        right_or_told(got, &content(n), &what);
        let entries = std::fs::read_dir(mount.path(&format!("faults/{n}")));
        if let Ok(entries) = entries {
            let entries: Vec<_> = entries.flatten().collect();
            assert!(entries.is_empty() || entries.len() == 1, "{what}");
        }
        proxy.calm();
    }
    proxy.storm(7, 400, 100_000);
    for n in FAULTS.len()..FAULTS.len() + 4 {
        let got = std::fs::read(mount.path(&format!("faults/{n}/f")));
        right_or_told(got, &content(n), &format!("{kind}, a storm"));
    }
    proxy.calm();
    for n in 0..FAULTS.len() + 4 {
        wait_until("the end of the faults", || {
            let got = std::fs::read(mount.path(&format!("faults/{n}/f")));
            got.is_ok_and(|bytes| {
                assert!(bytes == content(n), "{kind}: wrong bytes after the faults");
                true
            })
        });
    }
    let struck: u64 = tally.counts().values().sum();
    assert!(struck > 0, "{kind}: no fault was injected");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_of_connections_for_every_kind() {
    let worlds = every_kind().await;
    for (kind, world) in &worlds {
        let files =
            (0..FAULTS.len() + 4).map(|n| (format!("faults/{n}/f"), noise(seed(kind, n), FAULTED)));
        world.put_all(files.collect()).await;
    }
    tokio::task::block_in_place(|| {
        std::thread::scope(|scope| {
            for (kind, world) in &worlds {
                if world.address().is_some() {
                    scope.spawn(move || faults_of(kind, world.as_ref()));
                }
            }
        });
    });
}
