//! Files: opening and reading.

use std::time::{Duration, Instant};

use svol::entry::Kind;
use svol::source::ErrorKind;
use svol::vfs::{Error, Ino};

use super::super::oracle::Expect;
use super::super::world::{Item, REPEATED};
use super::allowed::Probe;
use super::{Check, GRAIN, Handle, Harness, Object, pick, waits};

impl Harness {
    pub(super) async fn try_open(&mut self, ino: Ino) -> Check<Result<u64, Error>> {
        let vfs = self.vfs().clone();
        let answer = match vfs.open_now(ino) {
            Some(answer) => answer,
            None => waits(vfs.open(ino)).await?,
        };
        if matches!(answer, Err(Error::Stale)) {
            self.told.insert(ino);
        }
        Ok(answer)
    }

    /// Opens a path as the kernel does: once more with a new lookup where the answer is "stale".
    /// Returns whether it was rightly refused.
    pub(super) async fn open(&mut self, path: &str) -> Check<bool> {
        for _ in 0..3 {
            let Some(attr) = self.walk(path).await? else {
                return Ok(false);
            };
            let held = self.held.iter().find(|h| h.ino == attr.ino).cloned();
            let Some(held) = held.filter(|_| attr.kind == Kind::File) else {
                return Ok(false);
            };
            let probe = self.probe_of(&held.object);
            match self.try_open(attr.ino).await? {
                Ok(number) => {
                    ensure!(
                        !matches!(probe, Probe::Gone | Probe::Refused(_)),
                        "{held:?} opens, but {probe:?}"
                    );
                    self.handles.push(Handle { number, held });
                    return Ok(false);
                }
                Err(Error::Stale) => {}
                Err(error) => {
                    ensure!(
                        is_refusal(&error, probe),
                        "{path} does not open: {error}; {probe:?}"
                    );
                    return Ok(true);
                }
            }
        }
        Err(format!("{path} is stale again and again"))
    }

    pub(super) async fn open_held(&mut self, inode: usize) -> Check {
        let Some(held) = pick(&self.held, inode).cloned() else {
            return Ok(());
        };
        let before = self.settled().await;
        let told = self.told.contains(&held.ino);
        let probe = self.probe_of(&held.object);
        let answer = self.try_open(held.ino).await?;
        let expected = self.expect(&before, |oracle| oracle.walk(&held.path));
        let is_it = |e: &Expect| match e {
            Expect::Found { layer, path, row } => {
                let same = *layer == held.object.0 && *path == held.object.1;
                // A size that is not known says nothing of the version.
                row.token
                    .as_ref()
                    .map(|token| same && *token == held.object.2)
            }
            Expect::Failed => Some(true),
            Expect::Lead | Expect::Absent => Some(false),
        };
        match answer {
            Ok(number) => {
                ensure!(
                    told || expected.iter().any(|e| is_it(e) != Some(false)),
                    "{held:?} opens although it is {expected:?} by now"
                );
                ensure!(
                    told || !matches!(probe, Probe::Gone | Probe::Refused(_)),
                    "{held:?} opens, but {probe:?}"
                );
                self.handles.push(Handle { number, held });
            }
            Err(Error::Stale) => {
                ensure!(
                    !told
                        && (probe == Probe::Gone
                            || expected.iter().any(|e| is_it(e) != Some(true))),
                    "{held:?} is stale (told before: {told}): {expected:?}"
                );
            }
            Err(error) => ensure!(
                is_refusal(&error, probe),
                "{held:?} does not open: {error}; {probe:?}"
            ),
        }
        Ok(())
    }

    pub(super) async fn read_whole(&mut self, handle: &Handle) -> Check {
        let size = self.size_of(&handle.held.object);
        let mut at = 0;
        while at < size {
            if !self.read(handle, at, 1 << 20).await? {
                return Ok(());
            }
            at += 1 << 20;
        }
        Ok(())
    }

    /// Reads and compares; returns whether there were bytes.
    pub(super) async fn read(&mut self, handle: &Handle, at: u64, len: usize) -> Check<bool> {
        let there = self.at_origin(&handle.held.object);
        let vfs = self.vfs().clone();
        let mut buf = vec![0; len];
        let answer = match vfs.read_now(handle.number, at, &mut buf) {
            Some(answer) => answer.map(|n| {
                buf.truncate(n);
                buf
            }),
            None => waits(vfs.read(handle.number, handle.held.ino, at, len)).await?,
        };
        self.compare(handle, at, len, answer, there)
    }

    /// Returns the version that the origin has now of an object's file, if it has any.
    pub(super) fn at_origin(&self, (layer, path, _): &Object) -> Option<String> {
        match self.origins[*layer].tree.get(path) {
            Some(Item::File(token)) => Some(token.clone()),
            _ => None,
        }
    }

    pub(super) fn compare(
        &mut self,
        handle: &Handle,
        at: u64,
        len: usize,
        answer: Result<Vec<u8>, Error>,
        there: Option<String>,
    ) -> Check<bool> {
        let object = &handle.held.object;
        let size = self.size_of(object);
        let range = at.min(size)..(at + len as u64).min(size);
        let grains = if size <= svol_cache::SMALL {
            0..size.min(1)
        } else {
            range.start / GRAIN..range.end.div_ceil(GRAIN)
        };
        let what = format!("bytes {range:?} of {size} of {object:?}");
        match answer {
            Ok(bytes) => {
                let want = (range.end - range.start) as usize;
                ensure!(bytes.len() == want, "{what}: {} bytes came", bytes.len());
                if want == 0 {
                    return Ok(true);
                }
                let cached = self.cached.entry(object.clone()).or_default();
                cached.extend(grains);
                let origin = &self.origins[object.0];
                let own = origin.bytes[&object.2].clone();
                let candidates = self.learnt.entry(object.clone()).or_insert_with(|| {
                    let mut all = vec![own];
                    if object.2.starts_with('w') {
                        // Nothing but the size could tell that it was replaced in the meantime.
                        let now = there.as_ref().map(|token| origin.bytes[token].clone());
                        all.extend(now.filter(|now| now.len() as u64 == size));
                    }
                    all
                });
                let part = range.start as usize..range.end as usize;
                candidates.retain(|c| c[part.clone()] == bytes[..]);
                ensure!(!candidates.is_empty(), "{what}: other bytes came");
                Ok(true)
            }
            Err(error) => {
                let cached = self.cached.get(object);
                let has = |grain| cached.is_some_and(|cached| cached.contains(&grain));
                ensure!(
                    !grains.clone().all(has) || !self.keeps_all(),
                    "{what}: {error}, although all of it is cached"
                );
                let down = self.origins[object.0].down;
                let kind = match &error {
                    Error::Source(error) => Some(error.kind()),
                    _ => None,
                };
                let gone = there.as_deref() != Some(&object.2);
                let says_gone = matches!(kind, Some(ErrorKind::Changed | ErrorKind::NotFound));
                let as_it_is =
                    (down.is_some() && kind == down) || (down.is_none() && gone && says_gone);
                if as_it_is && kind == Some(ErrorKind::Timeout) {
                    self.timed_out.insert(object.clone(), Instant::now());
                }
                let told = self.timed_out.get(object);
                let repeated = kind == Some(ErrorKind::Timeout)
                    && told.is_some_and(|at| at.elapsed() < REPEATED);
                ensure!(
                    as_it_is || repeated || self.is_of_a_lie(handle, kind),
                    "{what}: {error:?}, with the source at {there:?} and down {down:?}"
                );
                Ok(false)
            }
        }
    }

    pub(super) async fn read_while_overwritten(&mut self, handle: &Handle, after: u64) -> Check {
        let object = handle.held.object.clone();
        let there = self.at_origin(&object);
        if there.as_deref() != Some(&object.2) || object.2.starts_with('w') {
            return Ok(());
        }
        let source = self.origins[object.0].source.clone();
        source.set_delay(Duration::from_millis(1));
        let len = self.size_of(&object) as usize;
        let (vfs, number, ino) = (self.vfs().clone(), handle.number, handle.held.ino);
        let reading = tokio::spawn(async move { vfs.read(number, ino, 0, len).await });
        tokio::time::sleep(Duration::from_micros(after * 400)).await;
        self.overwrite(object.0, &object.1, &object.2);
        let answer = waits(reading)
            .await?
            .map_err(|e| format!("a read panicked: {e}"))?;
        source.set_delay(Duration::ZERO);
        let there = self.at_origin(&object);
        self.compare(handle, 0, len, answer, there)?;
        Ok(())
    }
}

/// Whether an open failed as it must where the version cannot be looked at.
fn is_refusal(error: &Error, probe: Probe) -> bool {
    matches!((error, probe), (Error::Source(e), Probe::Refused(kind)) if e.kind() == kind)
}
