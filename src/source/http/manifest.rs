//! Manifests: lists of a tree's files, for servers that list no directories.

use std::collections::{BTreeSet, HashMap};

use super::super::{Error, HiddenWhy, Listing, ListingBuilder, Result};
use super::ManifestFormat;
use super::validate;
use crate::entry::{Digest, Entry};
use crate::path::{Name, RelPath};

/// How many times a manifest's own size its directories' paths may take: a line of 4,000 bytes can
/// name 2,000 directories, which would take 4 MB. Reached only where most lines are nested deeper
/// than 30 directories that no other line has.
const NESTED: usize = 16;

/// What they may take whatever the manifest's size, in bytes.
const NESTED_ANYWAY: usize = 8 << 20;

/// The tree that a manifest describes, each directory ready to be listed.
#[derive(Debug, Default)]
pub(super) struct Tree {
    dirs: HashMap<RelPath, Listing>,
    files: HashMap<RelPath, Option<Digest>>,
}

impl Tree {
    /// Parses a manifest. A line that makes no sense fails it as a whole: half a tree would look
    /// like a whole one.
    pub(super) fn parse(text: &[u8], format: ManifestFormat) -> Result<Tree> {
        let mut tree = Tree::default();
        let mut hidden = ListingBuilder::default();
        let mut dirs: HashMap<RelPath, BTreeSet<Name>> = HashMap::new();
        dirs.insert(RelPath::root(), BTreeSet::new());
        let mut nested = 0;
        for (number, line) in text.split(|b| *b == b'\n').enumerate() {
            let number = number + 1;
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let Ok(line) = std::str::from_utf8(line) else {
                let name = String::from_utf8_lossy(line);
                hidden.hide(crate::path::BadName::NotUtf8.into(), &name);
                continue;
            };
            if number == 1 && line.trim_start().starts_with('<') {
                return Err(Error::lied(
                    "the manifest is a page (HTML or XML), not a list",
                ));
            }
            let (path, digest) = match format {
                ManifestFormat::List => (line.to_owned(), None),
                ManifestFormat::Sha256sum => {
                    let parsed = sha256sum(line).ok_or_else(|| {
                        Error::lied(format!("line {number} of the manifest is not sha256sum's"))
                    })?;
                    (parsed.0, Some(parsed.1))
                }
            };
            nested += tree.add(&path, digest, &mut dirs, &mut hidden);
            if nested > NESTED * text.len() + NESTED_ANYWAY {
                return Err(Error::lied(
                    "the manifest's directories are nested too deeply",
                ));
            }
        }
        if tree.files.is_empty() && dirs.len() == 1 {
            return Err(Error::lied("the manifest names no file"));
        }
        tree.list(dirs, hidden);
        Ok(tree)
    }

    /// Returns how many bytes the paths of directories take that were not known before.
    fn add(
        &mut self,
        line: &str,
        digest: Option<Digest>,
        dirs: &mut HashMap<RelPath, BTreeSet<Name>>,
        hidden: &mut ListingBuilder,
    ) -> usize {
        let mut text = line;
        while let Some(rest) = text.strip_prefix("./") {
            text = rest;
        }
        let is_dir = text.ends_with('/');
        let text = text.strip_suffix('/').unwrap_or(text);
        if is_dir && (text.is_empty() || text == ".") {
            return 0;
        }
        let mut hide = |why: HiddenWhy| {
            hidden.hide(why, line);
            0
        };

        let path = match RelPath::new(text) {
            Ok(path) if !path.is_root() => path,
            Ok(_) => return hide(crate::path::BadName::Empty.into()),
            Err(why) => return hide(HiddenWhy::Name(why)),
        };
        let mut dir = match is_dir {
            true => Some(path.clone()),
            false => path.parent(),
        };
        if !is_dir {
            self.files.insert(path, digest);
        }
        let mut nested = 0;
        // All directories above, until one that is known.
        while let Some(at) = dir {
            if dirs.contains_key(&at) {
                break;
            }
            nested += at.as_str().len();
            dirs.insert(at.clone(), BTreeSet::new());
            dir = at.parent();
        }
        nested
    }

    fn list(&mut self, mut dirs: HashMap<RelPath, BTreeSet<Name>>, hidden: ListingBuilder) {
        let paths: Vec<RelPath> = dirs.keys().cloned().collect();
        for path in paths {
            if let (Some(parent), Some(name)) = (path.parent(), path.file_name()) {
                dirs.entry(parent).or_default().insert(name);
            }
        }
        let mut builders: HashMap<RelPath, ListingBuilder> = HashMap::new();
        builders.insert(RelPath::root(), hidden);
        for (path, children) in dirs {
            let builder = builders.entry(path).or_default();
            builder.extend(children.into_iter().map(Entry::dir));
        }
        for (path, digest) in &self.files {
            if let (Some(parent), Some(name)) = (path.parent(), path.file_name()) {
                let entry = validate::promised(validate::listed(name, None, None), *digest);
                builders.entry(parent).or_default().push(entry);
            }
        }
        self.dirs = builders
            .into_iter()
            .map(|(path, builder)| (path, builder.finish()))
            .collect();
    }

    /// Returns a directory's listing, if the manifest has it.
    pub(super) fn dir(&self, path: &RelPath) -> Option<&Listing> {
        self.dirs.get(path)
    }

    /// Returns whether the manifest has a file at `path`, and the digest that it promises.
    pub(super) fn file(&self, path: &RelPath) -> Option<Option<Digest>> {
        match self.dirs.contains_key(path) {
            true => None,
            false => self.files.get(path).copied(),
        }
    }
}

/// Parses `HASH  path`, `HASH *path`, `\HASH  escaped\npath` and `SHA256 (path) = HASH`.
fn sha256sum(line: &str) -> Option<(String, Digest)> {
    let (escaped, line) = match line.strip_prefix('\\') {
        Some(rest) => (true, rest),
        None => (false, line),
    };
    let (hex, path) = match line.strip_prefix("SHA256 (") {
        Some(rest) => {
            let (path, hex) = rest.rsplit_once(") = ")?;
            (hex, path)
        }
        None => {
            let (hex, rest) = line.split_at_checked(64)?;
            let path = rest
                .strip_prefix("  ")
                .or_else(|| rest.strip_prefix(" *"))?;
            (hex, path)
        }
    };
    let digest = sha256(hex)?;
    let path = match escaped {
        true => unescape(path)?,
        false => path.to_owned(),
    };
    (!path.is_empty()).then_some((path, digest))
}

fn sha256(hex: &str) -> Option<Digest> {
    let mut bytes = [0; 32];
    if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(Digest::Sha256(bytes))
}

fn unescape(path: &str) -> Option<String> {
    let mut plain = String::with_capacity(path.len());
    let mut chars = path.chars();
    while let Some(c) = chars.next() {
        plain.push(match c {
            '\\' => match chars.next()? {
                'n' => '\n',
                'r' => '\r',
                '\\' => '\\',
                _ => return None,
            },
            other => other,
        });
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Kind;
    use crate::source::ErrorKind;

    const A: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn path(text: &str) -> RelPath {
        RelPath::new(text).unwrap()
    }

    fn names(tree: &Tree, dir: &str) -> Vec<String> {
        let listing = tree.dir(&path(dir)).unwrap();
        listing.entries.iter().map(|e| e.name.to_string()).collect()
    }

    #[test]
    fn a_list_becomes_a_tree() {
        let text = b"# files\r\nb/c/d.txt\r\n./a\n\nb/e\nempty/\nb/c/d.txt\n";
        let tree = Tree::parse(text, ManifestFormat::List).unwrap();
        assert_eq!(names(&tree, ""), ["a", "b", "empty"]);
        assert_eq!(names(&tree, "b"), ["c", "e"]);
        assert_eq!(names(&tree, "b/c"), ["d.txt"]);
        assert!(names(&tree, "empty").is_empty());
        assert_eq!(tree.file(&path("b/e")), Some(None));
        assert_eq!(tree.file(&path("b/x")), None);
        let listing = tree.dir(&RelPath::root()).unwrap();
        assert_eq!(listing.entries[0].size, None);
        assert_eq!(listing.entries[1].kind, Kind::Dir);
    }

    #[test]
    fn all_forms_of_sha256sum() {
        let text =
            format!("{A}  ./plain\n{A} *binary\n\\{A}  new\\nline\\\\\nSHA256 (d/tag (1)) = {A}\n");
        let tree = Tree::parse(text.as_bytes(), ManifestFormat::Sha256sum).unwrap();
        assert_eq!(names(&tree, ""), ["binary", "d", "new\nline\\", "plain"]);
        let digest = tree.file(&path("d/tag (1)")).unwrap().unwrap();
        assert!(matches!(digest, Digest::Sha256(b) if b[0] == 0xba && b[31] == 0xad));
    }

    #[test]
    fn hostile_lines_are_hidden_and_odd_ones_refused() {
        let text = b"ok\n../up\n/etc/passwd\na//b\nx/../y\n\xff\nok/below\n";
        let tree = Tree::parse(text, ManifestFormat::List).unwrap();
        assert_eq!(names(&tree, ""), ["ok"]);
        let root = tree.dir(&RelPath::root()).unwrap();
        assert_eq!(root.entries[0].kind, Kind::Dir, "the directory wins");
        assert_eq!(root.hidden.iter().map(|h| h.count).sum::<u64>(), 6);
        assert_eq!(tree.file(&path("ok")), None);
        for (text, format) in [
            (&b"<!doctype html>\n<p>not found"[..], ManifestFormat::List),
            (b"", ManifestFormat::List),
            (b"# nothing\n", ManifestFormat::List),
            (b"abc  file\n", ManifestFormat::Sha256sum),
            (A.as_bytes(), ManifestFormat::Sha256sum),
        ] {
            let error = Tree::parse(text, format).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Lied);
        }
    }
}
