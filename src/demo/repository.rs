//! A small Git repository, written without Git: loose objects and one branch.

use std::io;
use std::path::{Path, PathBuf};

use gix_object::{Kind, Write};

/// A bare repository with flat trees.
pub(super) struct Repository {
    dir: PathBuf,
    objects: gix_odb::loose::Store,
    tip: Option<gix_hash::ObjectId>,
}

impl Repository {
    /// Makes an empty repository in a new directory.
    pub(super) fn new(dir: &Path) -> io::Result<Repository> {
        std::fs::create_dir_all(dir.join("objects"))?;
        std::fs::create_dir_all(dir.join("refs/heads"))?;
        std::fs::write(dir.join("HEAD"), "ref: refs/heads/main\n")?;
        std::fs::write(
            dir.join("config"),
            "[core]\n\trepositoryformatversion = 0\n\tbare = true\n",
        )?;
        Ok(Repository {
            dir: dir.to_owned(),
            objects: gix_odb::loose::Store::at(dir.join("objects"), gix_hash::Kind::Sha1),
            tip: None,
        })
    }

    /// Commits exactly these files, sorted by name, on the branch `main`. `at` is the time, in
    /// seconds since 1970. Returns the commit's id.
    pub(super) fn commit(
        &mut self,
        files: &[(&str, String)],
        message: &str,
        at: u64,
    ) -> io::Result<String> {
        let mut tree = Vec::new();
        for (name, content) in files {
            let blob = self.write(Kind::Blob, content.as_bytes())?;
            tree.extend_from_slice(format!("100644 {name}\0").as_bytes());
            tree.extend_from_slice(blob.as_slice());
        }
        let tree = self.write(Kind::Tree, &tree)?;
        let parent = match self.tip {
            Some(tip) => format!("parent {tip}\n"),
            None => String::new(),
        };
        let who = format!("svol demo <demo@localhost> {at} +0000");
        let text = format!("tree {tree}\n{parent}author {who}\ncommitter {who}\n\n{message}\n");
        let commit = self.write(Kind::Commit, text.as_bytes())?;
        // As git does: nobody sees half of it.
        let branch = self.dir.join("refs/heads/main");
        let lock = branch.with_extension("lock");
        std::fs::write(&lock, format!("{commit}\n"))?;
        std::fs::rename(lock, branch)?;
        self.tip = Some(commit);
        Ok(commit.to_string())
    }

    fn write(&self, kind: Kind, bytes: &[u8]) -> io::Result<gix_hash::ObjectId> {
        let written = self.objects.write_buf(kind, bytes);
        written.map_err(|error| io::Error::other(error.to_string()))
    }
}
