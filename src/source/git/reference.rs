//! Which commit is shown: by a branch's name, a tag's, or its own.

use gix_hash::ObjectId;

use super::super::{Error, ErrorKind, Result};

/// The longest name of a ref, in bytes: git's own limit is a path's.
const LONGEST: usize = 1024;

/// What a user called the commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reference {
    /// The repository's default branch.
    Head,
    /// A commit by its whole id.
    Commit(ObjectId),
    /// A name that may stand for several refs: their full names, the first that is there counts.
    Name(Vec<String>),
}

impl Reference {
    /// Understands what a user wrote; nothing is the default branch.
    pub(super) fn parse(text: Option<&str>) -> Result<Reference> {
        let text = match text {
            None | Some("" | "HEAD") => return Ok(Reference::Head),
            Some(text) => text,
        };
        if let Ok(id) = ObjectId::from_hex(text.as_bytes()) {
            return Ok(Reference::Commit(id));
        }
        let odd = |c: char| c.is_control() || c.is_whitespace() || "~^:?*[\\".contains(c);
        let bad = text.len() > LONGEST
            || text.starts_with(['-', '/'])
            || text.ends_with(['/', '.'])
            || text.contains("..")
            || text.contains("@{")
            || text.contains("//")
            || text.contains(odd);
        if bad {
            let message = format!(
                "{text:?} is no name of a branch or tag (revisions such as `main~1` are for a \
                 repository that is here as a whole)"
            );
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        Ok(Reference::Name(match text.starts_with("refs/") {
            true => vec![text.into()],
            // A branch before a tag, as `git clone --branch` has it.
            false => vec![format!("refs/heads/{text}"), format!("refs/tags/{text}")],
        }))
    }

    /// Returns the full names of the refs that may be meant.
    pub(super) fn names(&self) -> Vec<String> {
        match self {
            Reference::Head => vec!["HEAD".into()],
            Reference::Commit(_) => Vec::new(),
            Reference::Name(names) => names.clone(),
        }
    }

    /// Returns the error for a ref that is not among those that `there` names in full.
    pub(super) fn missing(&self, there: &[String]) -> Error {
        let short = |name: &str| {
            let name = name.strip_prefix("refs/heads/").unwrap_or(name);
            name.strip_prefix("refs/tags/").unwrap_or(name).to_owned()
        };
        let wanted = self.names().first().map(|n| short(n)).unwrap_or_default();
        let mut near: Vec<(f64, String)> = there
            .iter()
            .map(|name| short(name))
            .filter(|name| name != "HEAD")
            .map(|name| (strsim::jaro_winkler(&name, &wanted), name))
            .collect();
        near.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        near.dedup_by(|a, b| a.1 == b.1);
        let near: Vec<_> = near.into_iter().take(3).map(|(_, name)| name).collect();
        let message = match (self, near.is_empty()) {
            (Reference::Head, true) => "the repository is empty".to_owned(),
            (Reference::Head, false) => format!(
                "the repository has no default branch; name one as `ref`, such as {}",
                near.join(", ")
            ),
            (_, true) => format!("no branch or tag {wanted:?}: the repository shows none"),
            (_, false) => format!("no branch or tag {wanted:?}; there is {}", near.join(", ")),
        };
        Error::new(ErrorKind::Invalid, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_understood() {
        let parse = |text| Reference::parse(Some(text));
        assert_eq!(Reference::parse(None).unwrap(), Reference::Head);
        assert_eq!(parse("HEAD").unwrap(), Reference::Head);
        assert_eq!(
            parse("v1.0/x").unwrap().names(),
            ["refs/heads/v1.0/x", "refs/tags/v1.0/x"]
        );
        assert_eq!(
            parse("refs/pull/1/head").unwrap().names(),
            ["refs/pull/1/head"]
        );
        let id = "95dcfa3633004da0049d3d0fa03f80589cbcaf31";
        let commit = ObjectId::from_hex(id.as_bytes()).unwrap();
        assert_eq!(parse(id).unwrap(), Reference::Commit(commit));
        for bad in [
            "--upload-pack=x",
            "-x",
            "a b",
            "a\nb",
            "a..b",
            "main~1",
            "x^{}",
            "/x",
            "x/",
        ] {
            assert_eq!(parse(bad).unwrap_err().kind(), ErrorKind::Invalid, "{bad}");
        }
    }

    #[test]
    fn near_names_are_told() {
        let there = [
            "refs/heads/main",
            "refs/heads/develop",
            "refs/tags/v1",
            "refs/tags/x",
        ];
        let there: Vec<String> = there.iter().map(|n| n.to_string()).collect();
        let error = Reference::parse(Some("mian")).unwrap().missing(&there);
        assert!(error.to_string().contains("there is main"), "{error}");
        assert!(Reference::Head.missing(&[]).to_string().contains("empty"));
    }
}
