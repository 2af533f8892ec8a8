//! The codes of SSH_FXP_STATUS, and what each means to a reader.

use crate::source::{Error, ErrorKind};

/// SSH_FX_EOF: the end of a file or of a directory.
pub(super) const EOF: u32 = 1;

/// SSH_FX_FAILURE: anything, also that a file stands where a path has a directory.
const FAILURE: u32 = 4;

/// Translates a status that is no success. Only "no such file" is an absence.
pub(super) fn error(code: u32, words: &str) -> Error {
    let (kind, name) = match code {
        2 => (ErrorKind::NotFound, "no such file"),
        3 => (ErrorKind::Denied, "permission denied"),
        FAILURE => (ErrorKind::Server, "failure"),
        5 => (ErrorKind::Invalid, "bad message"),
        6 => (ErrorKind::Unreachable, "no connection"),
        7 => (ErrorKind::Unreachable, "connection lost"),
        8 => (ErrorKind::Invalid, "operation unsupported"),
        0 | EOF => (ErrorKind::Lied, "success, without what was asked for"),
        _ => (ErrorKind::Server, "an unknown code"),
    };
    match words.is_empty() || words.eq_ignore_ascii_case(name) {
        true => Error::new(kind, format!("the server says: {name}")),
        false => Error::new(kind, format!("the server says: {name} ({words})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_no_such_file_is_an_absence() {
        for code in 0..40 {
            let is_absence = error(code, "No such file").kind() == ErrorKind::NotFound;
            assert_eq!(is_absence, code == 2, "{code}");
        }
        assert_eq!(error(3, "").kind(), ErrorKind::Denied);
        assert_eq!(error(4, "").kind(), ErrorKind::Server);
        let text = error(4, "Failure").to_string();
        assert_eq!(text, "the server says: failure");
    }
}
