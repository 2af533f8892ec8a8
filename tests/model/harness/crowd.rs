//! Many at once.

use std::future::Future;
use std::pin::Pin;

use svol::path::RelPath;
use svol::source::ErrorKind;
use svol::vfs::{DirEntry, Error};
use tokio::task::JoinHandle;

use super::super::Meanwhile;
use super::super::oracle::ExpectList;
use super::super::recorder::Lie;
use super::names::NAMES;
use super::{Check, Handle, Harness, pick, waits};

type Beside = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Harness {
    /// Does the reads at once, and where nothing has changed looks every name up and lists every
    /// directory beside them, which then has one answer only, whatever is refreshed meanwhile.
    pub(super) async fn crowd(
        &mut self,
        reads: &[(usize, u32, usize)],
        meanwhile: &Meanwhile,
    ) -> Check {
        let dirs = if self.clean {
            self.known_dirs()
        } else {
            Vec::new()
        };
        let mut parents = Vec::new();
        for dir in dirs {
            if let Some(ino) = self.dir_ino(&dir).await? {
                parents.push((dir, ino));
            }
        }
        let beside = self.beside(meanwhile)?;
        let beside = tokio::spawn(beside);
        let mut reading = Vec::new();
        for (handle, at, len) in reads {
            let Some(handle) = pick(&self.handles, *handle).cloned() else {
                continue;
            };
            let size = self.size_of(&handle.held.object);
            let (at, len) = (u64::from(*at) % (size + size / 16 + 2), *len);
            let vfs = self.vfs().clone();
            let (number, ino) = (handle.number, handle.held.ino);
            let task = tokio::spawn(async move {
                let mut buf = vec![0; len];
                match vfs.read_now(number, at, &mut buf) {
                    Some(answer) => answer.map(|n| buf[..n].to_vec()),
                    None => vfs.read(number, ino, at, len).await,
                }
            });
            reading.push((handle, at, len, task));
        }
        let mut looking = Vec::new();
        let mut listing = Vec::new();
        let before = self.heard();
        for (dir, ino) in &parents {
            for name in NAMES {
                let (vfs, ino) = (self.vfs().clone(), *ino);
                let task = tokio::spawn(async move {
                    match vfs.lookup_now(ino, name.as_bytes()) {
                        Some(answer) => answer,
                        None => vfs.lookup(ino, name.as_bytes()).await,
                    }
                });
                looking.push((dir, name, task));
            }
            listing.push((dir, self.spawn_list(*ino)));
        }
        // Waited for in any order: they all run.
        for (dir, name, task) in looking {
            let answer = waits(task)
                .await?
                .map_err(|e| format!("a lookup panicked: {e}"))?;
            self.judge_lookup(&before, dir, name, answer)?;
        }
        for (dir, task) in listing {
            let names = waits(task)
                .await?
                .map_err(|e| format!("a list panicked: {e}"))?;
            let expected = self.expect(&before, |oracle| oracle.list(dir));
            let said = match names {
                Ok(names) => names,
                Err(error) => {
                    ensure!(
                        expected.iter().any(|e| !matches!(e, ExpectList::Names(_))),
                        "{dir:?} does not list: {error}, not {expected:?}"
                    );
                    continue;
                }
            };
            let agrees = |e: &ExpectList| matches!(e, ExpectList::Names(names) if names.keys().eq(said.iter()));
            ensure!(
                expected.iter().any(agrees),
                "{dir:?} lists {said:?}, not {expected:?}"
            );
        }
        for (handle, at, len, task) in reading {
            let answer = waits(task)
                .await?
                .map_err(|e| format!("a read panicked: {e}"))?;
            let there = self.at_origin(&handle.held.object);
            self.compare(&handle, at, len, answer, there)?;
        }
        waits(beside)
            .await?
            .map_err(|e| format!("what went on panicked: {e}"))?;
        if matches!(meanwhile, Meanwhile::Evict) {
            self.evicted();
        }
        Ok(())
    }

    fn spawn_list(&self, ino: u64) -> JoinHandle<Result<Vec<String>, Error>> {
        let vfs = self.vfs().clone();
        tokio::spawn(async move {
            let opened = match vfs.opendir_now(ino) {
                Some(opened) => opened?,
                None => vfs.opendir(ino).await?,
            };
            let mut names = Vec::new();
            vfs.readdir(opened.handle, ino, 2, false, |entry: &DirEntry<'_>| {
                names.push(entry.name.to_owned());
                true
            })?;
            vfs.releasedir(opened.handle);
            Ok(names)
        })
    }

    /// What goes on beside.
    fn beside(&mut self, meanwhile: &Meanwhile) -> Check<Beside> {
        Ok(match meanwhile {
            Meanwhile::Nothing => Box::pin(std::future::ready(())),
            Meanwhile::Refresh => {
                let namespace = self.vfs().namespace().clone();
                Box::pin(async move {
                    namespace.refresh(&RelPath::root(), true).await;
                })
            }
            Meanwhile::Evict => {
                // What is not open may be fetched again from now on.
                self.fetched_once(true)?;
                let cache = self.mounted.as_ref().unwrap().cache.clone();
                Box::pin(async move {
                    let evicting = tokio::task::spawn_blocking(move || cache.gc(Some(0)));
                    evicting.await.unwrap().unwrap();
                })
            }
            Meanwhile::Overwrite { layer, file } => {
                let found = self.origin(*layer).nth_file(*file);
                if let Some((path, token)) = found.filter(|(_, token)| !token.starts_with('w')) {
                    self.overwrite(*layer, &path, &token);
                }
                Box::pin(std::future::ready(()))
            }
        })
    }

    /// Reads while a reply is wrong; and then again, when none is any more.
    pub(super) async fn read_lied(&mut self, handle: &Handle, at: u32, lie: Lie) -> Check {
        let object = &handle.held.object;
        let origin = &self.origins[object.0];
        let size = self.size_of(object);
        let is_there = self.at_origin(object).as_ref() == Some(&object.2);
        if size == 0 || origin.down.is_some() || !is_there || object.2.starts_with('w') {
            return Ok(());
        }
        let recorder = origin.recorder.clone();
        let at = u64::from(at) % size;
        self.lied.insert(object.clone());
        recorder.lie(Some(lie));
        self.read(handle, at, 1 << 20).await?;
        recorder.lie(None);
        for again in 0.. {
            if self.read(handle, at, 1 << 20).await? {
                break;
            }
            ensure!(again < 500, "one lie is never forgotten");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Whether `kind` may come of a lie about the object.
    pub(super) fn is_of_a_lie(&self, handle: &Handle, kind: Option<ErrorKind>) -> bool {
        let of_lies = [ErrorKind::Lied, ErrorKind::Changed, ErrorKind::Interrupted];
        self.lied.contains(&handle.held.object) && kind.is_some_and(|kind| of_lies.contains(&kind))
    }
}
