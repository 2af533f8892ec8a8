//! Mounts: the place of one that is to be, and how those are that there are.

use std::path::PathBuf;
use std::time::Duration;

use super::Finding;

/// A directory that a volume is to be mounted at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spot {
    /// The mount point, absolute.
    pub path: PathBuf,
    /// What is there.
    pub state: SpotState,
    /// What is inside of it or around it that may not be, in words.
    pub nested: Option<String>,
}

/// What is at a mount point that nothing of ours is mounted at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpotState {
    /// An empty directory that this user may mount at.
    Fit,
    /// Nothing.
    Missing,
    /// Something that is no directory.
    NotDir,
    /// A directory with something in it.
    NotEmpty,
    /// A directory in which this user may not write; who is not root may mount only where they may.
    NotOwn,
    /// It cannot be looked at.
    Unknown(String),
}

/// Judges a mount point.
pub fn judge_spot(spot: &Spot) -> Vec<Finding> {
    let check = "mount/point";
    let at = spot.path.display();
    let fail = |saw: &str, remedy: String| Finding::fail(check, saw, remedy);
    let elsewhere = || "mount at an empty directory of its own".to_owned();
    let finding = match &spot.state {
        SpotState::Fit => Finding::ok(check, "an empty directory"),
        SpotState::Missing => fail("it does not exist", format!("run `mkdir -p {at}`")),
        SpotState::NotDir => fail("it is not a directory", elsewhere()),
        SpotState::NotEmpty => fail(
            "it is not empty; the mount would hide what is there",
            elsewhere(),
        ),
        SpotState::NotOwn => fail(
            "this user may not write there, and so not mount there",
            format!("as root: `chown USER {at}`; or mount as root"),
        ),
        SpotState::Unknown(why) => fail(why, elsewhere()),
    };
    let mut findings = vec![finding.of(at.to_string())];
    findings.extend(spot.nested.as_ref().map(|nested| {
        let remedy = "put one of the two elsewhere";
        Finding::fail("mount/apart", nested, remedy).of(at.to_string())
    }));
    findings
}

/// A mount of ours, live or not.
#[derive(Debug, Clone, PartialEq)]
pub struct Mount {
    /// Where it is.
    pub path: PathBuf,
    /// Whether it was asked for by name, or is known to be served by a process of this user: then a
    /// trouble with it is this user's.
    pub is_own: bool,
    /// Its daemon, where a process of this user's serves it.
    pub daemon: Option<Daemon>,
    /// What it answers through the kernel.
    pub answer: Answer,
}

/// What a mount answered through the kernel.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// That it serves, after this time.
    Serves(Duration),
    /// That no daemon is left.
    Dead,
    /// That this user may not ask.
    NotAllowed,
    /// Nothing in time.
    Silent(String),
    /// A daemon is there and no mount: it is ending, or the mount is in another namespace.
    NotMounted,
    /// Something else.
    Fails(String),
}

/// The process that serves a mount.
#[derive(Debug, Clone, PartialEq)]
pub struct Daemon {
    /// Its number.
    pub pid: u32,
    /// What its control socket says: its layers; or why it says nothing.
    pub said: Result<Vec<Layer>, String>,
}

/// A layer as its daemon sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Its name.
    pub name: String,
    /// `True`, `False`, or `Unknown` until it was asked.
    pub ready: String,
    /// Why, for people.
    pub message: String,
}

/// Judges a mount.
pub fn judge(mount: &Mount) -> Vec<Finding> {
    let at = mount.path.display();
    let mut findings = vec![serves(mount).of(at.to_string())];
    let Some(daemon) = &mount.daemon else {
        return findings;
    };
    let control = "mount/control";
    match &daemon.said {
        Err(why) => {
            let pid = daemon.pid;
            let remedy = format!(
                "see its log; where it does not recover, end it with `kill {pid}` and mount again"
            );
            findings.push(Finding::fail(control, why, remedy).of(at.to_string()));
        }
        Ok(layers) => {
            findings.push(Finding::ok(control, "the daemon answers").of(at.to_string()));
            let down = layers.iter().filter(|layer| layer.ready == "False");
            findings.extend(down.map(|layer| {
                let remedy = format!(
                    "see `svol status {at}`; with the volume file, `svol doctor -c FILE` says more"
                );
                let finding = Finding::fail("mount/layer", &layer.message, remedy);
                finding.of(format!("{at} {}", layer.name))
            }));
        }
    }
    findings
}

fn serves(mount: &Mount) -> Finding {
    let check = "mount/serves";
    let at = mount.path.display();
    let end = || match &mount.daemon {
        Some(daemon) => format!(
            "look at its log; to end it: `kill {}`, then `umount -l {at}`",
            daemon.pid
        ),
        None => format!("run `umount -l {at}`"),
    };
    let finding = match &mount.answer {
        Answer::Serves(took) => {
            let took = took.as_secs_f64() * 1e3;
            return Finding::ok(check, format!("answers through the kernel ({took:.0} ms)"));
        }
        Answer::NotAllowed => {
            return Finding::ok(check, "another user's, who lets nobody else in");
        }
        Answer::Dead => Finding::fail(
            check,
            "a dead mount: its daemon is gone",
            format!("mount there again, which replaces it, or run `umount -l {at}`"),
        ),
        Answer::Silent(why) => Finding::fail(check, format!("wedged: {why}"), end()),
        Answer::NotMounted => Finding::fail(
            check,
            "a daemon runs, and nothing is mounted there as seen from here",
            match &mount.daemon {
                Some(daemon) => format!(
                    "if it does not end by itself, or serves no other mount namespace: `kill {}`",
                    daemon.pid
                ),
                None => "run it again".to_owned(),
            },
        ),
        Answer::Fails(why) => Finding::fail(check, why, end()),
    };
    match mount.is_own {
        true => finding,
        false => finding.at_most_warn(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    fn mount(answer: Answer) -> Mount {
        Mount {
            path: "/m".into(),
            is_own: true,
            daemon: Some(Daemon {
                pid: 7,
                said: Ok(Vec::new()),
            }),
            answer,
        }
    }

    #[test]
    fn mount_points_are_told_apart() {
        for (state, level, word) in [
            (SpotState::Fit, Level::Ok, ""),
            (SpotState::Missing, Level::Fail, "mkdir -p /m"),
            (SpotState::NotDir, Level::Fail, "empty directory"),
            (SpotState::NotEmpty, Level::Fail, "empty directory"),
            (SpotState::NotOwn, Level::Fail, "chown USER /m"),
            (
                SpotState::Unknown("no".into()),
                Level::Fail,
                "empty directory",
            ),
        ] {
            let spot = Spot {
                path: "/m".into(),
                state: state.clone(),
                nested: None,
            };
            let found = judge_spot(&spot);
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].level, level, "{state:?}");
            let said = found[0].remedy.clone().unwrap_or_default();
            assert!(said.contains(word), "{state:?}: {said}");
            let nested = Spot {
                nested: Some("inside the cache".into()),
                ..spot
            };
            assert_eq!(judge_spot(&nested)[1].level, Level::Fail);
        }
    }

    #[test]
    fn each_answer_has_its_level() {
        let (ok, warn, fail) = (Level::Ok, Level::Warn, Level::Fail);
        for (answer, own, others) in [
            (Answer::Serves(Duration::from_millis(2)), ok, ok),
            (Answer::NotAllowed, ok, ok),
            (Answer::Dead, fail, warn),
            (Answer::Silent("2s".into()), fail, warn),
            (Answer::NotMounted, fail, warn),
            (Answer::Fails("EIO".into()), fail, warn),
        ] {
            let mount = mount(answer.clone());
            assert_eq!(judge(&mount)[0].level, own, "{answer:?}");
            let mount = Mount {
                is_own: false,
                daemon: None,
                ..mount
            };
            let found = judge(&mount);
            assert_eq!(found.len(), 1, "nobody to ask");
            assert_eq!(found[0].level, others, "{answer:?}");
            assert_eq!(found[0].remedy.is_some(), others != Level::Ok);
        }
        let dead = judge(&mount(Answer::Dead))[0].remedy.clone().unwrap();
        assert!(dead.contains("umount -l /m"), "{dead}");
    }

    #[test]
    fn a_daemon_speaks_for_its_layers() {
        let served = |said| Mount {
            daemon: Some(Daemon { pid: 7, said }),
            ..mount(Answer::Serves(Duration::ZERO))
        };
        let found = judge(&served(Err("no answer".into())));
        assert_eq!(found[1].check, "mount/control");
        assert_eq!(found[1].level, Level::Fail);
        assert!(found[1].remedy.as_ref().unwrap().contains("kill 7"));
        let layer = |ready: &str| Layer {
            name: ready.to_lowercase(),
            ready: ready.into(),
            message: "refused".into(),
        };
        let layers = vec![layer("True"), layer("False"), layer("Unknown")];
        let found = judge(&served(Ok(layers)));
        let layers: Vec<_> = found.iter().filter(|f| f.check == "mount/layer").collect();
        assert_eq!(layers.len(), 1, "only what is known to be down");
        assert_eq!(layers[0].subject.as_deref(), Some("/m false"));
        assert_eq!(layers[0].level, Level::Fail);
    }
}
