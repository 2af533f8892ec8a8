//! Names: lookups and listings.

use svol::entry::Kind;
use svol::vfs::{Attr, Error, Ino, Looked, ROOT};

use super::super::oracle::{Expect, ExpectList, Heard, Rows, What, join};
use super::super::world::Origin;
use super::{Check, Harness, Held, waits};

/// What is looked for: all names that there may be, and one that is never there.
pub(super) const NAMES: [&str; 7] = ["a", "b", "c", "g", "h", "0", "absent"];

impl Harness {
    /// Looks a name up, and compares.
    pub(super) async fn lookup(
        &mut self,
        parent: Ino,
        dir: &str,
        name: &str,
    ) -> Check<Option<Attr>> {
        let before = self.settled().await;
        let vfs = self.vfs().clone();
        let answer = match vfs.lookup_now(parent, name.as_bytes()) {
            Some(answer) => answer,
            None => waits(vfs.lookup(parent, name.as_bytes())).await?,
        };
        self.judge_lookup(&before, dir, name, answer)
    }

    /// Compares the answer to a lookup with the model; `before` is what was heard before it.
    pub(super) fn judge_lookup(
        &mut self,
        before: &[Heard],
        dir: &str,
        name: &str,
        answer: Result<Looked, Error>,
    ) -> Check<Option<Attr>> {
        if let Ok(looked) = &answer {
            *self.lookups.entry(looked.attr.ino).or_default() += 1;
            self.told.remove(&looked.attr.ino);
        }
        let path = join(dir, name);
        let expected = self.expect(before, |oracle| oracle.lookup(dir, name));
        let attr = match &answer {
            Err(Error::Absent) => {
                ensure!(
                    expected.contains(&Expect::Absent),
                    "{path} is absent, not {expected:?}"
                );
                return Ok(None);
            }
            Err(error) => {
                let unsized_file = |e: &Expect| {
                    matches!(e, Expect::Found { row, .. }
                        if row.what == What::File && row.token.is_none())
                };
                ensure!(
                    self.excused(error)
                        && expected
                            .iter()
                            .any(|e| *e == Expect::Failed || unsized_file(e)),
                    "{path}: {error}, not {expected:?}"
                );
                return Ok(None);
            }
            Ok(looked) => looked.attr,
        };
        let mut why = String::new();
        for expect in &expected {
            match self.agrees(&path, &attr, expect) {
                Ok(None) => return Ok(Some(attr)),
                Ok(Some(held)) => {
                    if !held.object.2.is_empty() && !self.held.iter().any(|h| h.ino == held.ino) {
                        self.held.push(held);
                    }
                    return Ok(Some(attr));
                }
                Err(e) => why = e,
            }
        }
        Err(format!("{path} is {attr:?}, not {expected:?}: {why}"))
    }

    /// Whether an inode is what the model says; returns it if it is a file.
    pub(super) fn agrees(
        &mut self,
        path: &str,
        attr: &Attr,
        expect: &Expect,
    ) -> Check<Option<Held>> {
        let (layer, inside, row) = match expect {
            Expect::Lead => {
                ensure!(attr.kind == Kind::Dir, "a graft is no directory");
                return self.same_dir(path, attr.ino).map(|()| None);
            }
            Expect::Found { layer, path, row } => (*layer, path, row),
            Expect::Absent | Expect::Failed => return Err("it should not be there".into()),
        };
        let kind = match row.what {
            What::Dir => Kind::Dir,
            What::File => Kind::File,
            What::Link => Kind::Symlink,
        };
        ensure!(attr.kind == kind, "a {:?}", attr.kind);
        let Some(token) = row.token.clone().filter(|_| row.what != What::Dir) else {
            ensure!(row.what == What::Dir, "of unknown size, but found");
            return self.same_dir(path, attr.ino).map(|()| None);
        };
        let now = self.vfs().attr(attr.ino);
        ensure!(now.as_ref().ok() == Some(attr), "then it is {now:?}");
        let said = self.vfs().xattr(attr.ino, "user.svol.version");
        ensure!(
            said.as_ref().ok() == Some(&token),
            "version {said:?}, not {token}"
        );
        let url = self.vfs().xattr(attr.ino, "user.svol.source").unwrap();
        let want = format!("memory:layer{layer}/{inside}");
        ensure!(url == want, "from {url}, not {want}");
        let object = (layer, inside.clone(), token);
        let number = self
            .numbers
            .entry((path.to_owned(), object.clone()))
            .or_insert(attr.ino);
        ensure!(*number == attr.ino, "inode {} and was {number}", attr.ino);
        let others = self
            .numbers
            .iter()
            .filter(|(_, ino)| **ino == attr.ino)
            .count();
        ensure!(others == 1, "inode {} is {others} files", attr.ino);
        if row.what == What::Link {
            let target = self.vfs().readlink(attr.ino).unwrap();
            ensure!(
                *target == *row.target,
                "leads to {target}, not {}",
                row.target
            );
            return Ok(None);
        }
        let size = self.size_of(&object);
        ensure!(attr.size == size, "{} bytes, not {size}", attr.size);
        Ok(Some(Held {
            ino: attr.ino,
            path: path.to_owned(),
            object,
        }))
    }

    /// Whether a directory has the number that it always had.
    fn same_dir(&mut self, path: &str, ino: Ino) -> Check {
        let number = *self.dirs.entry(path.to_owned()).or_insert(ino);
        ensure!(number == ino, "{path} is inode {ino} and was {number}");
        Ok(())
    }

    /// Looks up a path component by component; returns what is there.
    pub(super) async fn walk(&mut self, path: &str) -> Check<Option<Attr>> {
        let (mut parent, mut dir) = (ROOT, String::new());
        let mut found = None;
        for name in path.split('/') {
            let Some(attr) = self.lookup(parent, &dir, name).await? else {
                return Ok(None);
            };
            dir = join(&dir, name);
            found = Some(attr);
            if attr.kind != Kind::Dir && dir != path {
                return Ok(None);
            }
            parent = attr.ino;
        }
        Ok(found)
    }

    pub(super) async fn dir_ino(&mut self, path: &str) -> Check<Option<Ino>> {
        if path.is_empty() {
            return Ok(Some(ROOT));
        }
        let attr = self.walk(path).await?;
        Ok(attr.filter(|a| a.kind == Kind::Dir).map(|a| a.ino))
    }

    pub(super) async fn opendir(&mut self, ino: Ino, path: &str) -> Check<Option<u64>> {
        let before = self.settled().await;
        let vfs = self.vfs().clone();
        let answer = match vfs.opendir_now(ino) {
            Some(answer) => answer,
            None => waits(vfs.opendir(ino)).await?,
        };
        let expected = self.expect(&before, |oracle| oracle.list(path));
        match answer {
            Ok(opened) => {
                let there = expected.iter().any(|e| matches!(e, ExpectList::Names(_)));
                ensure!(there, "{path} opens, but should be {expected:?}");
                Ok(Some(opened.handle))
            }
            Err(Error::Absent) => {
                ensure!(
                    expected.contains(&ExpectList::Absent),
                    "{path} is gone: {expected:?}"
                );
                Ok(None)
            }
            Err(error) => {
                ensure!(
                    self.excused(&error) && expected.contains(&ExpectList::Failed),
                    "{path}: {error}, not {expected:?}"
                );
                Ok(None)
            }
        }
    }

    /// Reads up to `most` names from `offset` on, `chunk` at a time; returns where it stopped.
    pub(super) fn read_names(
        &mut self,
        (handle, ino): (u64, Ino),
        mut offset: u64,
        (chunk, most): (usize, usize),
        count: bool,
        names: &mut Vec<(String, Attr)>,
    ) -> Check<u64> {
        let vfs = self.vfs().clone();
        // Which of them count as looked up is not told for those of unknown size.
        let count = count && !self.origins.iter().any(Origin::is_coarse);
        loop {
            let from = names.len();
            let chunk = chunk.min(most - from);
            let mut next = offset;
            let mut full = false;
            let read = vfs.readdir(handle, ino, offset, count, |entry| {
                let dots = entry.name == "." || entry.name == "..";
                if !dots && names.len() - from == chunk {
                    full = true;
                    return false;
                }
                next = entry.next;
                if !dots {
                    names.push((entry.name.to_owned(), entry.attr));
                }
                true
            });
            read.map_err(|e| format!("readdir: {e}"))?;
            if count {
                for (_, attr) in &names[from..] {
                    *self.lookups.entry(attr.ino).or_default() += 1;
                    self.told.remove(&attr.ino);
                }
            }
            if !full || next == offset || names.len() == most {
                return Ok(next);
            }
            offset = next;
        }
    }

    pub(super) fn same_names(&self, got: &[(String, Attr)], expected: &ExpectList) -> bool {
        let ExpectList::Names(want) = expected else {
            return false;
        };
        let kind = |what| match what {
            What::Dir => Kind::Dir,
            What::File => Kind::File,
            What::Link => Kind::Symlink,
        };
        got.len() == want.len()
            && got
                .iter()
                .zip(want)
                .all(|(got, want)| got.0 == *want.0 && got.1.kind == kind(want.1.0))
    }

    pub(super) async fn list(&mut self, path: &str, chunk: usize, count: bool) -> Check {
        let Some(ino) = self.dir_ino(path).await? else {
            return Ok(());
        };
        let before = self.settled().await;
        let Some(handle) = self.opendir(ino, path).await? else {
            return Ok(());
        };
        let mut names = Vec::new();
        self.read_names((handle, ino), 0, (chunk, usize::MAX), count, &mut names)?;
        self.vfs().releasedir(handle);
        let expected = self.expect(&before, |oracle| oracle.list(path));
        ensure!(
            expected.iter().any(|e| self.same_names(&names, e)),
            "{path:?} lists {:?}, not {expected:?}",
            names.iter().map(|n| &n.0).collect::<Vec<_>>()
        );
        // A file of unknown size has a number only once it is looked up.
        let coarse = self.origins.iter().any(Origin::is_coarse);
        if let ([ExpectList::Names(rows)], false) = (&expected[..], coarse) {
            self.same_numbers(path, &names, rows)?;
        }
        Ok(())
    }

    /// Whether names are listed with the inode numbers that looking them up gives.
    fn same_numbers(&mut self, dir: &str, names: &[(String, Attr)], rows: &Rows) -> Check {
        for (name, attr) in names {
            let path = join(dir, name);
            match rows.get(name) {
                Some((What::Dir, _)) => self.same_dir(&path, attr.ino)?,
                Some((_, Some((layer, token)))) => {
                    let mut known = self.numbers.iter();
                    let known = known.find(|((at, object), _)| {
                        *at == path && object.0 == *layer && object.2 == *token
                    });
                    ensure!(
                        known.is_none_or(|(_, ino)| *ino == attr.ino),
                        "{path} is listed as inode {}, and is {known:?}",
                        attr.ino
                    );
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) async fn slow_list(&mut self, path: &str, taken: usize, layer: usize) -> Check {
        let Some(ino) = self.dir_ino(path).await? else {
            return Ok(());
        };
        let before = self.settled().await;
        let Some(handle) = self.opendir(ino, path).await? else {
            return Ok(());
        };
        let expected = self.expect(&before, |oracle| oracle.list(path));
        let mut names = Vec::new();
        let next = self.read_names((handle, ino), 0, (taken, taken), false, &mut names)?;
        let origin = self.origin(layer);
        for name in ["0", "b0", "z"] {
            origin.put(&join(path, name), 1, false);
        }
        origin.remove(&join(path, "a"));
        self.clean = false;
        self.refresh_all().await?;
        if names.len() == taken {
            let most = (1, usize::MAX);
            self.read_names((handle, ino), next, most, false, &mut names)?;
        }
        self.vfs().releasedir(handle);
        ensure!(
            expected.iter().any(|e| self.same_names(&names, e)),
            "{path:?} changed under its reader: {:?}, not {expected:?}",
            names.iter().map(|n| &n.0).collect::<Vec<_>>()
        );
        Ok(())
    }
}
