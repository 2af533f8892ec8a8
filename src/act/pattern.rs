//! Patterns of paths: `*` and `?` stop at slashes, `**` does not, `[a-z]` and `{a,b}` work, `\`
//! quotes. What is below a directory that matches belongs to it.

use globset::{GlobBuilder, GlobSet};

use crate::path::RelPath;

/// The longest pattern, in bytes: as long as a path may be.
const LONGEST: usize = 4096;

/// A pattern of paths of a volume.
#[derive(Debug, Clone)]
pub struct Pattern {
    all: GlobSet,
    /// The components up to the first one that may stand for several.
    leading: Vec<GlobSet>,
    /// Whether more components may follow than `leading` has.
    is_deep: bool,
    base: RelPath,
}

/// Returns whether a path has something of a pattern in it.
pub fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '[', '{', '\\'])
}

/// Returns the part of a path, up to a slash, that has nothing of a pattern in it, and the rest.
pub fn split(path: &str) -> (&str, &str) {
    let first = path.find(['*', '?', '[', '{', '\\']).unwrap_or(path.len());
    let slash = path[..first].rfind('/').map_or(0, |at| at + 1);
    path.split_at(slash)
}

impl Pattern {
    /// Compiles a pattern of paths from the volume's root on. Says in words why it cannot be one.
    pub fn new(text: &str) -> Result<Pattern, String> {
        let text = text.trim_matches('/');
        if text.len() > LONGEST {
            return Err(format!("a pattern has at most {LONGEST} bytes"));
        }
        if text.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err("an empty, `.` or `..` component matches nothing".into());
        }
        let base = RelPath::new(split(text).0.trim_end_matches('/')).map_err(|e| e.to_string())?;
        let all = compile(text)?;
        // A group or a class that spans a slash cannot be looked at by components.
        let mut leading = Vec::new();
        let mut is_deep = false;
        for part in text.split('/') {
            match compile(part) {
                Ok(one) if !part.contains("**") => leading.push(one),
                _ => {
                    is_deep = true;
                    break;
                }
            }
        }
        Ok(Pattern {
            all,
            leading,
            is_deep,
            base,
        })
    }

    /// Returns the directory that all matches are in.
    pub fn base(&self) -> &RelPath {
        &self.base
    }

    /// Returns whether a path matches.
    pub fn matches(&self, path: &RelPath) -> bool {
        self.all.is_match(path.as_str())
    }

    /// Returns whether a path or a directory that it is in matches.
    pub fn covers(&self, path: &RelPath) -> bool {
        let mut at = Some(path.clone());
        while let Some(path) = at.filter(|path| !path.is_root()) {
            if self.matches(&path) {
                return true;
            }
            at = path.parent();
        }
        false
    }

    /// Returns whether something in a directory may match.
    pub fn leads_into(&self, dir: &RelPath) -> bool {
        let mut depth = 0;
        for (name, leading) in dir.components().zip(&self.leading) {
            if !leading.is_match(name.as_str()) {
                return false;
            }
            depth += 1;
        }
        self.is_deep || depth < self.leading.len()
    }
}

/// As a set of one: a matcher of its own panics on what is too large for it.
fn compile(text: &str) -> Result<GlobSet, String> {
    let glob = GlobBuilder::new(text)
        .literal_separator(true)
        .backslash_escape(true)
        .build();
    let glob = glob.map_err(|e| e.kind().to_string())?;
    let set = GlobSet::builder().add(glob).build();
    set.map_err(|e| e.kind().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text).unwrap()
    }

    #[test]
    fn a_pattern_matches_and_leads_where_it_may_match() {
        let p = Pattern::new("/a/*/c?.bin").unwrap();
        assert_eq!(p.base().as_str(), "a");
        assert!(p.matches(&path("a/b/c1.bin")) && !p.matches(&path("a/b/x/c1.bin")));
        assert!(p.leads_into(&RelPath::root()) && p.leads_into(&path("a/b")));
        assert!(!p.leads_into(&path("b")) && !p.leads_into(&path("a/b/c1.bin")));
        let p = Pattern::new("a/**/*.bin").unwrap();
        assert!(p.matches(&path("a/x.bin")) && p.matches(&path("a/b/c/x.bin")));
        assert!(p.leads_into(&path("a/b/c/d")) && !p.leads_into(&path("b")));
        assert!(p.covers(&path("a/dir.bin/below/it")) && !p.covers(&path("a/dir/below")));
        let p = Pattern::new("{a/b,c}/*.txt").unwrap();
        assert!(p.matches(&path("a/b/x.txt")) && p.matches(&path("c/x.txt")));
        assert!(p.leads_into(&path("a/b")) && p.leads_into(&path("c")));
        assert!(Pattern::new("**").unwrap().matches(&path("any/thing")));
        assert!(Pattern::new(r"a\[1\]").unwrap().matches(&path("a[1]")));
    }

    #[test]
    fn hostile_patterns_are_refused_in_words() {
        for bad in ["[", "{a", "a//b", "../x*", "*/./x", r"\"] {
            assert!(!Pattern::new(bad).unwrap_err().is_empty(), "{bad}");
        }
        assert!(Pattern::new(&"*a".repeat(5000)).is_err());
        let nested = format!("{}a{}", "{".repeat(300), "}".repeat(300));
        let _ = Pattern::new(&nested);
        let stars = "*a".repeat(1000);
        let _ = Pattern::new(&stars).map(|p| p.matches(&path(&"a".repeat(200))));
    }

    proptest! {
        #[test]
        fn no_pattern_panics(text in r"[a-c*?\[\]{},/\\!-]{0,40}", at in "[a-c]{1,3}(/[a-c]{1,3}){0,4}") {
            if let Ok(pattern) = Pattern::new(&text) {
                let at = path(&at);
                // Whoever walks down comes to all that matches.
                if pattern.matches(&at) {
                    let mut dir = at.parent();
                    while let Some(above) = dir {
                        prop_assert!(pattern.leads_into(&above), "{text} {above}");
                        dir = above.parent();
                    }
                    prop_assert!(pattern.covers(&at));
                }
                let base = pattern.base().as_str();
                let below = pattern.matches(&at) && !base.is_empty();
                prop_assert!(!below || at.as_str().starts_with(base));
            }
        }
    }
}
