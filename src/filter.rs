//! Which names of a layer are shown: `include` and `exclude` globs.
//!
//! The rules are `.gitignore`'s, without negation (which `include` is for):
//!
//! - A pattern without a slash matches a name at any depth: `*.o`, `.git`.
//! - A pattern with a slash matches a whole path from the layer's root: `docs/*.md`, `/README`.
//! - A trailing slash matches directories only: `build/`.
//! - `*` and `?` stop at slashes, `**` does not; `[a-z]` and `{a,b}` work; `\` quotes.
//! - A pattern that matches a directory matches all that is below it.
//!
//! What matches `exclude` is hidden. Where there is an `include`, of the rest only files (and
//! symbolic links) that match it are shown; directories always are, since what they hold is known
//! only once they are listed. `exclude` wins over `include`.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::entry::Kind;

/// Why a pattern is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the pattern {pattern:?} cannot be used: {why}")]
pub struct BadPattern {
    /// The pattern as it was written.
    pub pattern: String,
    /// What is wrong with it, and what to write instead.
    pub why: String,
}

/// The globs of one layer.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    include: Option<Patterns>,
    exclude: Option<Patterns>,
    text: Vec<String>,
}

#[derive(Debug, Clone)]
struct Patterns {
    any: GlobSet,
    dirs: GlobSet,
}

impl Filter {
    /// Compiles patterns; an empty `include` includes everything.
    pub fn new<S: AsRef<str>>(include: &[S], exclude: &[S]) -> Result<Filter, BadPattern> {
        let mut text = Vec::new();
        for (sign, patterns) in [('+', include), ('-', exclude)] {
            text.extend(patterns.iter().map(|p| format!("{sign}{}", p.as_ref())));
        }
        Ok(Filter {
            include: Patterns::new(include)?,
            exclude: Patterns::new(exclude)?,
            text,
        })
    }

    /// Returns whether everything is shown.
    pub fn is_empty(&self) -> bool {
        self.include.is_none() && self.exclude.is_none()
    }

    /// Returns whether `path`, from the layer's root, is shown where its parent is.
    pub fn shows(&self, path: &str, kind: Kind) -> bool {
        if self.exclude.as_ref().is_some_and(|x| x.match_(path, kind)) {
            return false;
        }
        match &self.include {
            Some(include) => kind == Kind::Dir || include.match_(path, kind),
            None => true,
        }
    }

    /// Returns what two filters must have in common to show the same.
    pub(crate) fn text(&self) -> &[String] {
        &self.text
    }
}

impl Patterns {
    fn new<S: AsRef<str>>(patterns: &[S]) -> Result<Option<Patterns>, BadPattern> {
        if patterns.is_empty() {
            return Ok(None);
        }
        let (mut any, mut dirs) = (GlobSetBuilder::new(), GlobSetBuilder::new());
        for pattern in patterns {
            let pattern = pattern.as_ref();
            let bad = |why: &str| BadPattern {
                pattern: pattern.to_owned(),
                why: why.to_owned(),
            };
            if pattern.starts_with('!') {
                return Err(bad(
                    "it is negated; write what is to be shown under `include` instead (`\\!` for a name that begins with `!`)",
                ));
            }
            let (body, dirs_only) = match pattern.strip_suffix('/') {
                Some(body) => (body, true),
                None => (pattern, false),
            };
            let anchored = body.contains('/');
            let body = body.strip_prefix('/').unwrap_or(body);
            if body.is_empty() {
                return Err(bad("it is empty; write `**` for everything"));
            }
            if body
                .split('/')
                .any(|part| part.is_empty() || part == "." || part == "..")
            {
                return Err(bad(
                    "it has an empty, `.` or `..` component; write the path from the layer's root",
                ));
            }
            let rooted = if anchored {
                body.to_owned()
            } else {
                format!("**/{body}")
            };
            let glob = |text: &str| {
                GlobBuilder::new(text)
                    .literal_separator(true)
                    .backslash_escape(true)
                    .build()
                    .map_err(|error| bad(&format!("not a glob: {}", error.kind())))
            };
            any.add(glob(&format!("{rooted}/**"))?);
            if dirs_only { &mut dirs } else { &mut any }.add(glob(&rooted)?);
        }
        let build = |set: GlobSetBuilder| {
            set.build().map_err(|error| BadPattern {
                pattern: error.glob().unwrap_or_default().to_owned(),
                why: format!("{}", error.kind()),
            })
        };
        Ok(Some(Patterns {
            any: build(any)?,
            dirs: build(dirs)?,
        }))
    }

    fn match_(&self, path: &str, kind: Kind) -> bool {
        self.any.is_match(path) || (kind == Kind::Dir && self.dirs.is_match(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exclude(pattern: &str) -> Filter {
        Filter::new(&[], &[pattern]).unwrap()
    }

    fn include(pattern: &str) -> Filter {
        Filter::new(&[pattern], &[]).unwrap()
    }

    #[test]
    fn a_pattern_without_a_slash_matches_at_any_depth() {
        let filter = exclude("*.o");
        assert!(!filter.shows("a.o", Kind::File));
        assert!(!filter.shows("x/y/a.o", Kind::File));
        assert!(!filter.shows("d.o/inside", Kind::File), "below a match");
        assert!(filter.shows("a.oo", Kind::File));
    }

    #[test]
    fn a_pattern_with_a_slash_is_anchored() {
        for filter in [exclude("docs/*.md"), exclude("/docs/*.md")] {
            assert!(!filter.shows("docs/a.md", Kind::File));
            assert!(filter.shows("x/docs/a.md", Kind::File));
            assert!(
                filter.shows("docs/x/a.md", Kind::File),
                "* stops at a slash"
            );
        }
        assert!(!exclude("/a").shows("a", Kind::File));
        assert!(exclude("/a").shows("b/a", Kind::File));
        assert!(!exclude("docs/**/a.md").shows("docs/x/y/a.md", Kind::File));
        assert!(!exclude("docs/**/a.md").shows("docs/a.md", Kind::File));
    }

    #[test]
    fn a_trailing_slash_means_directories() {
        let filter = exclude("build/");
        assert!(!filter.shows("build", Kind::Dir));
        assert!(!filter.shows("x/build", Kind::Dir));
        assert!(filter.shows("build", Kind::File));
        assert!(!filter.shows("build/x", Kind::File));
    }

    #[test]
    fn include_keeps_directories() {
        let filter = include("*.txt");
        assert!(filter.shows("a", Kind::Dir));
        assert!(filter.shows("a/b.txt", Kind::File));
        assert!(filter.shows("a/b.txt", Kind::Symlink));
        assert!(!filter.shows("a/b.md", Kind::File));
        let below = include("src/");
        assert!(below.shows("src/a/b.rs", Kind::File));
        assert!(!below.shows("src", Kind::File));
        let both = Filter::new(&["*.txt"], &["secret*"]).unwrap();
        assert!(!both.shows("secret.txt", Kind::File));
        assert!(!both.shows("secrets", Kind::Dir));
    }

    #[test]
    fn braces_classes_and_quotes_work() {
        let filter = exclude("*.{o,a}");
        assert!(!filter.shows("x.a", Kind::File) && filter.shows("x.c", Kind::File));
        assert!(!exclude("[ab]").shows("b", Kind::File));
        assert!(!exclude("\\!x").shows("!x", Kind::File));
        assert!(!exclude("\\*").shows("*", Kind::File) && exclude("\\*").shows("a", Kind::File));
    }

    #[test]
    fn nonsense_is_refused_with_words() {
        for pattern in ["", "/", "!a", "a//b", "../a", "./a", "[", "{a"] {
            let error = Filter::new(&[pattern], &[]).unwrap_err();
            assert_eq!(error.pattern, pattern);
            assert!(error.to_string().len() > pattern.len() + 15, "{error}");
        }
        assert!(Filter::default().is_empty());
        assert!(Filter::default().shows("any", Kind::File));
    }
}
