//! Single entries: what a `stat` or a reply teaches beyond the listing.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::db::Op;
use super::directory::next_generation;
use super::flight::Answer;
use super::{Catalogue, bump};
use crate::entry::{Entry, Kind, Timestamp, Version};
use crate::path::{Name, RelPath};
use crate::rows::{Note, Row};
use crate::source::{Error, ErrorKind, Result, Source};

impl Catalogue {
    /// Returns the entry `name` of `dir` with its exact size: what is known, or what the source
    /// says when asked, once for each version however many ask.
    ///
    /// [`NotFound`](ErrorKind::NotFound) if the source clearly has no such entry any more; the
    /// directory is listed again before it is next served then.
    pub async fn resolve(self: &Arc<Self>, dir: &RelPath, name: &Name) -> Result<Entry> {
        let known = self.dir(dir).await?;
        let path = dir.join(name);
        let Some(entry) = known.get(name.as_str())? else {
            return Err(absent(&path));
        };
        if entry.size.is_some() || entry.kind == Kind::Dir {
            return Ok(entry);
        }
        self.ask(dir, name).await
    }

    /// Asks the source for the entry at `path` now, whatever is known: for versions that do not
    /// prove their bytes. `entry` is what the caller holds.
    ///
    /// Returns `entry`, with a validator if the reply taught one, where the version is the same;
    /// otherwise what is there now, and the directory has changed.
    pub async fn probe(self: &Arc<Self>, path: &RelPath, entry: &Entry) -> Result<Entry> {
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(absent(path));
        };
        let now = self.ask(&dir, &name).await?;
        Ok(match same(&*self.source, entry, &now) {
            Same::Yes => entry.clone(),
            Same::Learnt(validator) => Entry {
                validator: Some(validator),
                ..entry.clone()
            },
            Same::No => {
                let current = self.recall(&dir).and_then(|dir| {
                    let entry = dir.get(name.as_str()).ok()??;
                    Some(entry.version == now.version)
                });
                if current != Some(true) {
                    // The directory was not in memory, and what SQLite holds is the old version.
                    self.invalidate(&dir);
                }
                now
            }
        })
    }

    /// Returns when `path` was last seen as it is: by a listing or by a probe. Nothing if its
    /// directory is not in memory.
    pub fn last_seen(&self, path: &RelPath) -> Option<Timestamp> {
        let dir = self.recall(&path.parent()?)?;
        Some(dir.seen(path.file_name()?.as_str()))
    }

    /// Keeps the validator that a reply taught, if the entry at `path` still has `version` and
    /// none yet.
    pub fn learn(&self, path: &RelPath, version: &Version, validator: Arc<str>) {
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            return;
        };
        self.patch(&dir, &name, |row| {
            let fits = row.entry.version == *version && row.entry.validator.is_none();
            fits.then(|| {
                let mut row = row.clone();
                row.entry.validator = Some(validator);
                (row, false)
            })
        });
    }

    /// Notes that a read found `path` changed or gone: its directory is listed again before it is
    /// next served, and readers wait for that unless the source cannot be reached.
    pub fn report_changed(&self, path: &RelPath) {
        if let Some(dir) = path.parent() {
            self.invalidate(&dir);
        }
    }

    /// Asks the source for one entry, once for all who ask at the same time.
    async fn ask(self: &Arc<Self>, dir: &RelPath, name: &Name) -> Result<Entry> {
        let path = dir.join(name);
        let answer = {
            let mut state = self.state();
            match state.stats.get(&path).filter(|answer| !answer.is_lost()) {
                Some(answer) => answer.clone(),
                None => {
                    let (sender, answer) = Answer::new();
                    state.stats.insert(path.clone(), answer.clone());
                    let (this, dir, name) = (self.clone(), dir.clone(), name.clone());
                    tokio::spawn(async move {
                        let outcome = this.stat(&dir, &name).await;
                        this.state().stats.remove(&dir.join(&name));
                        sender.send_replace(Some(outcome));
                    });
                    answer
                }
            }
        };
        answer.get().await
    }

    async fn stat(&self, dir: &RelPath, name: &Name) -> Result<Entry> {
        let path = dir.join(name);
        // Never closed.
        let _asking = self.asking.acquire().await;
        bump(&self.counters.stats);
        let now = match self.source.stat(&path).await {
            Ok(now) => now,
            Err(error) => {
                if error.kind() == ErrorKind::NotFound {
                    self.report_changed(&path);
                    // It answers: no need to spare it after an earlier failure.
                    self.forgive(dir, false);
                }
                return Err(error);
            }
        };
        let now = Entry {
            name: name.clone(),
            ..now
        };
        if let Some(known) = self
            .recall(dir)
            .as_deref()
            .and_then(|d| d.get(name.as_str()).ok()?)
            && is_no_news(&*self.source, &known, &now)
        {
            return Err(Error::lied(format!(
                "{path}: a reply of another size, without the ETag or time that is known of the file"
            )));
        }
        let mut result = now.clone();
        let changed = self.patch(dir, name, |row| {
            let (row, news) = seen_as(row, now, &*self.source);
            result = row.entry.clone();
            Some((row, news))
        });
        if changed {
            self.tell(dir, std::slice::from_ref(name));
        }
        Ok(result)
    }

    /// Changes one row of a directory, in memory and in SQLite; `change` returns the new row and
    /// whether its content is new. Returns whether it was changed and is new.
    fn patch(
        &self,
        dir: &RelPath,
        name: &Name,
        change: impl FnOnce(&Row) -> Option<(Row, bool)>,
    ) -> bool {
        let state = self.state();
        let Some(known) = self.recall(dir) else {
            return false;
        };
        let Ok(Some(old)) = known.rows().get(name.as_str()) else {
            return false;
        };
        let old_version = old.entry.version.token.clone();
        let Some((row, news)) = change(&old) else {
            return false;
        };
        let generation = if news {
            next_generation(known.generation(), Timestamp::now())
        } else {
            known.generation()
        };
        let Ok(Some(new)) = known.patched(&row, generation) else {
            return false;
        };
        self.remember(dir, &Arc::new(new));
        if news {
            self.changes.fetch_add(1, Ordering::Release);
        }
        if let Some(source) = self.row {
            self.db.try_write(Op::Patch {
                source,
                dir: dir.clone(),
                row: Box::new(row),
                old_version,
                generation,
                supersedes: news,
            });
        }
        drop(state);
        news
    }
}

fn absent(path: &RelPath) -> Error {
    Error::new(ErrorKind::NotFound, format!("{path} is not listed"))
}

enum Same {
    Yes,
    Learnt(Arc<str>),
    No,
}

/// Returns whether a `stat` contradicts what is known and proves nothing: a page that a server
/// answers everything with has a size, and neither ETag nor time. The next listing will tell.
fn is_no_news(source: &dyn Source, known: &Entry, now: &Entry) -> bool {
    let tells = |entry: &Entry| entry.validator.is_some() || entry.mtime.is_some();
    let is_file = known.kind == Kind::File && now.kind == Kind::File;
    is_file && tells(known) && !tells(now) && matches!(same(source, known, now), Same::No)
}

/// Returns whether a `stat` found the version that is known. A listing and a `stat` need not speak
/// of a version in the same words: the source knows.
fn same(source: &dyn Source, known: &Entry, now: &Entry) -> Same {
    let sizes_differ = known.size.is_some() && known.size != now.size;
    if known.kind != now.kind || sizes_differ || !source.same_version(known, now) {
        return Same::No;
    }
    match (&known.validator, &now.validator) {
        (None, Some(validator)) => Same::Learnt(validator.clone()),
        // The digest says what the bytes are, whatever else the server calls them by now.
        (Some(before), Some(validator))
            if before != validator && known.digest.is_some() && known.digest == now.digest =>
        {
            Same::Learnt(validator.clone())
        }
        _ => Same::Yes,
    }
}

/// Returns the row after a `stat` said `now`, and whether that is new content.
fn seen_as(row: &Row, now: Entry, source: &dyn Source) -> (Row, bool) {
    let known = &row.entry;
    let listed = row.note.as_ref().and_then(|note| note.listed.clone());
    let seen = Some(Timestamp::now());
    let note = |listed| Some(Box::new(Note { listed, seen }));
    let unresolved = known.size.is_none() && known.kind == Kind::File;
    match same(source, known, &now) {
        Same::Yes if !unresolved => (
            Row {
                entry: known.clone(),
                note: note(listed),
            },
            false,
        ),
        Same::Learnt(validator) if !unresolved => (
            Row {
                entry: Entry {
                    validator: Some(validator),
                    ..known.clone()
                },
                note: note(listed),
            },
            false,
        ),
        _ => {
            // What the listing gave is kept, so that it is recognised when it comes again.
            let listed = listed.or_else(|| Some(known.version.clone()));
            // Where all changes as one, a time is the whole's, and what stays keeps its own.
            let mtime = match source.whole() {
                Some(_) if known.version == now.version => known.mtime.or(now.mtime),
                _ => now.mtime.or(known.mtime),
            };
            let entry = Entry {
                mtime,
                executable: now.executable.or(known.executable),
                // A promise of the listing holds for the bytes that it listed.
                digest: now.digest.or(known.digest.filter(|_| unresolved)),
                ..now
            };
            let news = !unresolved;
            (
                Row {
                    entry,
                    note: note(listed),
                },
                news,
            )
        }
    }
}
