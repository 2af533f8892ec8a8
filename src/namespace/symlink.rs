//! Which symbolic links of a source may be shown.

use crate::path::RelPath;

/// Returns whether the target of a link in directory `dir` of the volume cannot lead out of the
/// volume, whatever else the volume holds.
///
/// The target must be relative, its `..` must all come first, and they must not climb above the
/// volume's root. A `..` after a name is refused even where it would stay inside when read as text:
/// the name may be a link to a directory higher up, and then it would not.
pub(crate) fn stays_inside(dir: &RelPath, target: &str) -> bool {
    if target.is_empty() || target.starts_with('/') || target.contains('\0') {
        return false;
    }
    let mut depth = dir.components().count();
    let mut named = false;
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." if named || depth == 0 => return false,
            ".." => depth -= 1,
            _ => named = true,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_inside() {
        let dir = RelPath::new("a/b").unwrap();
        for target in ["x", "./x", "x/y", "..", "../x", "../../x/y", "../..", "."] {
            assert!(stays_inside(&dir, target), "{target}");
        }
        for target in [
            "",
            "/x",
            "../../..",
            "../../../x",
            "x/../../../..",
            "x/../y",
        ] {
            assert!(!stays_inside(&dir, target), "{target}");
        }
        assert!(!stays_inside(&RelPath::root(), ".."));
        assert!(stays_inside(&RelPath::root(), "x"));
    }
}
