//! New inputs from old ones.

/// Pieces that parsers care about.
const PIECES: [&[u8]; 48] = [
    b"..",
    b"/",
    b"\0",
    b"\n",
    b"\r\n",
    b"\x1b[31m",
    b"\xff",
    b"\xe2\x80\xae",
    b"%2e%2e%2f",
    b"%00",
    b"%",
    b"<",
    b">",
    b"</",
    b"/>",
    b"&amp;",
    b"&#x0;",
    b"<![CDATA[",
    b"<!--",
    b"<!DOCTYPE a [",
    b"<!ENTITY a \"b\">",
    b"&a;",
    b"<a href=\"",
    b"\">",
    b"<pre>",
    b"</a>",
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"\\u0000",
    b"\\",
    b":",
    b"- ",
    b"    ",
    b"&a ",
    b"*a",
    b"!!str ",
    b"1e999",
    b"-1",
    b"18446744073709551616",
    b"9223372036854775807",
    b"**",
    b"{a,b}",
    b"[!a]",
    b"bytes ",
    b"W/",
];

/// Makes inputs, the same for the same seed.
pub(crate) struct Mutator {
    state: u64,
    corpus: Vec<Vec<u8>>,
}

impl Mutator {
    /// Begins with a corpus, which must not be empty.
    pub(crate) fn new(seed: u64, corpus: Vec<Vec<u8>>) -> Mutator {
        let state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Mutator { state, corpus }
    }

    fn dice(&mut self, below: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 11) as usize % below.max(1)
    }

    fn pick(&mut self) -> Vec<u8> {
        let n = self.dice(self.corpus.len());
        self.corpus[n].clone()
    }

    /// Returns an input of at most `longest` bytes.
    pub(crate) fn next(&mut self, longest: usize) -> Vec<u8> {
        let mut data = self.pick();
        for _ in 0..=self.dice(6) {
            self.change(&mut data);
        }
        data.truncate(longest);
        data
    }

    /// A part of `data`, as where it begins and ends.
    fn part(&mut self, data: &[u8]) -> (usize, usize) {
        let from = self.dice(data.len() + 1);
        let most = [1, 4, 32, data.len()][self.dice(4)];
        (from, (from + self.dice(most + 1)).min(data.len()))
    }

    fn change(&mut self, data: &mut Vec<u8>) {
        let (from, to) = self.part(data);
        match self.dice(9) {
            0 => {
                if let Some(byte) = data.get_mut(from) {
                    *byte ^= 1 << self.dice(8);
                }
            }
            1 => {
                if let Some(byte) = data.get_mut(from) {
                    *byte = self.dice(256) as u8;
                }
            }
            2 => drop(data.drain(from..to)),
            3 => {
                // Again and again: what is nested, what is long.
                let piece = data[from..to].to_vec();
                let times = [1, 2, 10, 200][self.dice(4)];
                let many = piece.repeat(times);
                data.splice(from..from, many.into_iter().take(8192));
            }
            4 | 5 => {
                let piece = PIECES[self.dice(PIECES.len())];
                let times = [1, 1, 1, 3, 300][self.dice(5)];
                data.splice(from..to, piece.repeat(times));
            }
            6 => {
                let other = self.pick();
                let (a, b) = self.part(&other);
                data.splice(from..to, other[a..b].to_vec());
            }
            7 => {
                let digits = self.dice(usize::MAX).to_string();
                data.splice(from..to, digits.into_bytes());
            }
            _ => {
                let other = self.pick();
                let at = self.dice(other.len() + 1);
                data.truncate(from);
                data.extend_from_slice(&other[at..]);
            }
        }
    }
}
