//! Output for people: names come from servers, and a terminal obeys what is in them.

use std::borrow::Cow;
use std::io::{self, Write};

/// Returns a name as it may be shown on a terminal: what a terminal would obey is escaped.
pub fn printable(name: &str) -> Cow<'_, str> {
    if !name.contains(char::is_control) {
        return name.into();
    }
    let shown = name.chars().map(|c| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    });
    shown.collect::<String>().into()
}

/// A writer of lines without anything that a terminal obeys, but for the lines' ends.
#[derive(Debug)]
pub struct Lines<W>(pub W);

impl<W: Write> Write for Lines<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let text = String::from_utf8_lossy(bytes);
        let lines: Vec<Cow<'_, str>> = text.split('\n').map(printable).collect();
        // At once: others append to the same log.
        self.0.write_all(lines.join("\n").as_bytes())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_escaped() {
        assert_eq!(printable("a é \"b\""), "a é \"b\"");
        assert_eq!(printable("\x1b[31m\n\u{9b}"), "\\u{1b}[31m\\n\\u{9b}");
        let mut out = Lines(Vec::new());
        out.write_all(b"a\x07\nb\tc\n").unwrap();
        assert_eq!(out.0, b"a\\u{7}\nb\\tc\n");
    }
}
