//! Pkt-lines: what all of Git's protocol is written in.
//!
//! gix-packetline takes one apart; its readers want an `AsyncRead` or a blocking one, and what we
//! have is pieces of a body.

use bytes::{Buf, Bytes, BytesMut};
use gix_packetline::{PacketLineRef, decode};

use super::super::{Error, Result};

/// The longest payload that we send, in bytes.
const LONGEST: usize = 65_516;

/// One line, or a mark between lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Pkt {
    /// What a line holds, with its newline if it has one.
    Line(Bytes),
    /// `0000`: the end of a message.
    Flush,
    /// `0001`: the end of a section.
    Delimiter,
    /// `0002`: the end of a reply.
    End,
}

impl Pkt {
    /// Returns a line as text without its newline.
    pub(super) fn text(&self) -> Option<String> {
        match self {
            Pkt::Line(bytes) => {
                let text = String::from_utf8_lossy(bytes);
                Some(text.strip_suffix('\n').unwrap_or(&text).to_owned())
            }
            _ => None,
        }
    }
}

/// Takes the first line off what came so far; nothing if it is not complete.
pub(super) fn take(buffer: &mut BytesMut) -> Result<Option<Pkt>> {
    let lied = |e| Error::lied(format!("not Git's protocol: {e}"));
    let (line, consumed) = match decode::streaming(buffer).map_err(lied)? {
        decode::Stream::Incomplete { .. } => return Ok(None),
        decode::Stream::Complete {
            line,
            bytes_consumed,
        } => {
            let line = match line {
                PacketLineRef::Data(_) => None,
                PacketLineRef::Flush => Some(Pkt::Flush),
                PacketLineRef::Delimiter => Some(Pkt::Delimiter),
                PacketLineRef::ResponseEnd => Some(Pkt::End),
            };
            (line, bytes_consumed)
        }
    };
    Ok(Some(match line {
        Some(mark) => {
            buffer.advance(consumed);
            mark
        }
        None => {
            let mut line = buffer.split_to(consumed);
            line.advance(4);
            Pkt::Line(line.freeze())
        }
    }))
}

/// A request, line by line.
#[derive(Debug, Default)]
pub(super) struct Request(Vec<u8>);

impl Request {
    /// Adds a line; what would not fit into one is cut, and nothing that we send is as long.
    pub(super) fn line(&mut self, text: &str) -> &mut Request {
        let text = text.as_bytes();
        let text = text.get(..LONGEST - 1).unwrap_or(text);
        self.0
            .extend_from_slice(format!("{:04x}", text.len() + 5).as_bytes());
        self.0.extend_from_slice(text);
        self.0.push(b'\n');
        self
    }

    /// Adds the mark between a command and its arguments.
    pub(super) fn delimiter(&mut self) -> &mut Request {
        self.0.extend_from_slice(b"0001");
        self
    }

    /// Ends the request.
    pub(super) fn flush(mut self) -> Bytes {
        self.0.extend_from_slice(b"0000");
        self.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_come_back() {
        let mut request = Request::default();
        request.line("command=ls-refs").delimiter().line("peel");
        let mut buffer = BytesMut::from(&request.flush()[..]);
        let line = |text: &'static str| Pkt::Line(Bytes::from_static(text.as_bytes()));
        let mut all = Vec::new();
        while let Some(pkt) = take(&mut buffer).unwrap() {
            all.push(pkt);
        }
        let want = [
            line("command=ls-refs\n"),
            Pkt::Delimiter,
            line("peel\n"),
            Pkt::Flush,
        ];
        assert_eq!(all, want);
        assert_eq!(all[0].text().unwrap(), "command=ls-refs");
    }

    proptest! {
        /// Whatever comes, in whatever pieces: no panic, and no more than came.
        #[test]
        fn any_bytes_are_taken(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), b'0'..=b'9'], 0..400),
        ) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = take(&mut buffer) {}
            prop_assert!(buffer.len() <= bytes.len());
        }

        /// A line that comes in two pieces is the line.
        #[test]
        fn pieces_do_not_matter(text in "[ -~]{1,60}", cut in 0usize..64) {
            let mut request = Request::default();
            request.line(&text);
            let whole = request.flush();
            let cut = cut.min(whole.len() - 5);
            let mut buffer = BytesMut::from(&whole[..cut]);
            if cut < text.len() + 5 {
                prop_assert_eq!(take(&mut buffer).unwrap(), None);
            }
            buffer.extend_from_slice(&whole[cut..]);
            prop_assert_eq!(take(&mut buffer).unwrap().unwrap().text().unwrap(), text);
        }
    }
}
