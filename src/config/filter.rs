//! Which of a layer's files its `include` and `exclude` patterns show.
//!
//! Patterns are relative to the layer's root. A `*` or `?` does not cross a `/`, `**` does; a
//! pattern without a `/` matches at any depth, one that begins with `/` only at the root; a
//! slash at the end does not matter. What matches a directory covers everything in it.
//! `exclude` is stronger than `include`. `include` never hides a directory, since only a listing
//! could tell whether anything in it is shown.

use std::path::Path;

use globset::{GlobSet, GlobSetBuilder};

use super::names::GlobPattern;
use super::volume::Layer;

/// The compiled `include` and `exclude` patterns of a layer.
#[derive(Debug, Clone)]
pub struct PathFilter {
    /// Nothing where all files are shown.
    include: Option<GlobSet>,
    exclude: GlobSet,
}

impl PathFilter {
    /// Compiles the patterns. Fails where all of them together are too large for the engine.
    pub fn new(include: &[GlobPattern], exclude: &[GlobPattern]) -> Result<Self, globset::Error> {
        let include = match include {
            [] => None,
            patterns => Some(compile(patterns)?),
        };
        Ok(Self {
            include,
            exclude: compile(exclude)?,
        })
    }

    /// Returns whether the patterns show everything, so that nothing needs to be asked.
    pub fn is_open(&self) -> bool {
        self.include.is_none() && self.exclude.is_empty()
    }

    /// Returns whether a file (anything but a directory) is shown. `path` is relative to the
    /// layer's root, without a slash at its beginning.
    pub fn shows_file(&self, path: &Path) -> bool {
        self.shows_dir(path)
            && self
                .include
                .as_ref()
                .is_none_or(|include| covers(include, path))
    }

    /// Returns whether a directory is shown. `path` is relative to the layer's root, without a
    /// slash at its beginning; the root itself, `""`, always is.
    pub fn shows_dir(&self, path: &Path) -> bool {
        !covers(&self.exclude, path)
    }
}

impl Layer {
    /// Returns the layer's compiled patterns.
    pub fn filter(&self) -> Result<PathFilter, globset::Error> {
        PathFilter::new(&self.include, &self.exclude)
    }
}

fn compile(patterns: &[GlobPattern]) -> Result<GlobSet, globset::Error> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(pattern.compile()?);
    }
    set.build()
}

/// Returns whether a pattern matches the path or a directory that it is in.
fn covers(set: &GlobSet, path: &Path) -> bool {
    !set.is_empty()
        && path
            .ancestors()
            .filter(|part| !part.as_os_str().is_empty())
            .any(|part| set.is_match(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(include: &[&str], exclude: &[&str]) -> PathFilter {
        let parse = |patterns: &[&str]| -> Vec<GlobPattern> {
            patterns
                .iter()
                .map(|pattern| pattern.parse().unwrap())
                .collect()
        };
        PathFilter::new(&parse(include), &parse(exclude)).unwrap()
    }

    #[test]
    fn a_pattern_without_a_slash_matches_at_any_depth() {
        let csv = filter(&["*.csv"], &[]);
        assert!(csv.shows_file(Path::new("a.csv")));
        assert!(csv.shows_file(Path::new("deep/er/a.csv")));
        assert!(!csv.shows_file(Path::new("a.txt")));
        assert!(csv.shows_dir(Path::new("anything")));
    }

    #[test]
    fn a_pattern_with_a_slash_starts_at_the_root() {
        let docs = filter(&["docs/*.md", "/top"], &[]);
        assert!(docs.shows_file(Path::new("docs/a.md")));
        assert!(!docs.shows_file(Path::new("docs/x/a.md")));
        assert!(!docs.shows_file(Path::new("x/docs/a.md")));
        assert!(docs.shows_file(Path::new("top")));
        assert!(!docs.shows_file(Path::new("x/top")));
    }

    #[test]
    fn a_matched_directory_covers_what_is_in_it() {
        let no_git = filter(&[], &[".git/"]);
        assert!(!no_git.shows_dir(Path::new("a/.git")));
        assert!(!no_git.shows_file(Path::new("a/.git/objects/00/x")));
        assert!(no_git.shows_file(Path::new("a/.gitignore")));
        assert!(no_git.shows_dir(Path::new("")));
        assert!(filter(&["data"], &[]).shows_file(Path::new("data/x/y")));
    }

    #[test]
    fn exclude_is_stronger_than_include() {
        let both = filter(&["**/*.csv"], &["tmp"]);
        assert!(both.shows_file(Path::new("a/b.csv")));
        assert!(!both.shows_file(Path::new("tmp/b.csv")));
        assert!(!both.is_open() && filter(&[], &[]).is_open());
    }
}
