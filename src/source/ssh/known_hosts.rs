//! Files of host keys in OpenSSH's format (`sshd(8)`): plain, wildcard, negated and hashed names,
//! `[host]:port`, `@revoked`. `@cert-authority` lines vouch for certificates, which are never asked
//! for, and so count for nothing.

use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use ring::hmac;
use russh::keys::{Algorithm, PublicKey};

/// The largest file that is read, in bytes: tens of thousands of hosts.
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// What is known of a host.
#[derive(Debug, Default, Clone)]
pub(super) struct Known {
    /// Its keys, and where each was found.
    pub(super) keys: Vec<(PublicKey, String)>,
    /// Keys that nobody may show any more.
    pub(super) revoked: Vec<PublicKey>,
}

impl Known {
    /// Adds what a file says of `place` (`host` or `[host]:port`). A file that is not there says
    /// nothing; one that cannot be read is an error with words.
    pub(super) fn read(&mut self, file: &Path, place: &str) -> Result<(), String> {
        use std::io::Read;
        let open = match std::fs::File::open(file) {
            Ok(open) => open,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(format!("cannot read {}: {e}", file.display())),
        };
        let mut bytes = Vec::new();
        let read = open.take(MAX_FILE + 1).read_to_end(&mut bytes);
        read.map_err(|e| format!("cannot read {}: {e}", file.display()))?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(format!("{} is larger than 16 MiB", file.display()));
        }
        self.add(&String::from_utf8_lossy(&bytes), place, &|line| {
            format!("{}:{line}", file.display())
        });
        Ok(())
    }

    /// Adds what lines of text say of `place`. A line that makes no sense is passed over, as
    /// OpenSSH does: it can only make a host unknown.
    fn add(&mut self, text: &str, place: &str, at: &dyn Fn(usize) -> String) {
        let place = place.to_ascii_lowercase();
        for (n, line) in text.lines().enumerate() {
            let mut words = line.split_ascii_whitespace().peekable();
            let marker = words.next_if(|word| word.starts_with('@'));
            let (Some(hosts), Some(kind), Some(key)) = (words.next(), words.next(), words.next())
            else {
                continue;
            };
            if hosts.starts_with('#') || !matches(hosts, &place) {
                continue;
            }
            let Ok(key) = PublicKey::from_openssh(&format!("{kind} {key}")) else {
                continue;
            };
            match marker {
                None => self.keys.push((key, at(n + 1))),
                Some("@revoked") => self.revoked.push(key),
                Some(_) => {}
            }
        }
    }

    /// Returns the kinds of keys that are known, in the order in which they were found.
    pub(super) fn algorithms(&self) -> Vec<Algorithm> {
        let mut all: Vec<Algorithm> = Vec::new();
        for (key, _) in &self.keys {
            if !all.contains(&key.algorithm()) {
                all.push(key.algorithm());
            }
        }
        all
    }
}

/// Reads all of the files.
pub(super) fn read_all(files: &[PathBuf], place: &str) -> Result<Known, String> {
    let mut known = Known::default();
    for file in files {
        known.read(file, place)?;
    }
    Ok(known)
}

/// Returns whether a list of patterns names a host. A negated pattern that matches decides.
fn matches(patterns: &str, place: &str) -> bool {
    let mut found = false;
    for pattern in patterns.split(',') {
        if let Some(pattern) = pattern.strip_prefix('!') {
            if glob(&pattern.to_ascii_lowercase(), place) {
                return false;
            }
        } else if let Some(hashed) = pattern.strip_prefix("|1|") {
            found |= is_hash_of(hashed, place);
        } else {
            found |= glob(&pattern.to_ascii_lowercase(), place);
        }
    }
    found
}

fn is_hash_of(hashed: &str, place: &str) -> bool {
    let decode = |text: &str| BASE64.decode(text.as_bytes()).ok();
    let Some((salt, hash)) = hashed.split_once('|') else {
        return false;
    };
    let (Some(salt), Some(hash)) = (decode(salt), decode(hash)) else {
        return false;
    };
    // SHA-1 hides the name from who reads the file; it vouches for nothing.
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &salt);
    hmac::verify(&key, place.as_bytes(), &hash).is_ok()
}

/// Returns whether a pattern of `*` and `?` matches all of a text. In time of at most the product of
/// both lengths.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == b'?' || Some(c) == text.get(t) => {
                p += 1;
                t += 1;
            }
            _ => match &mut star {
                Some((at, from)) => {
                    *from += 1;
                    (p, t) = (*at + 1, *from);
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(p).all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ED: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    const OTHER: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPkG7qhBXmLyiRjvB7PmTKTWMGGzTLtZ5kmn5xXDFcOS";

    fn known(text: &str, place: &str) -> Known {
        let mut known = Known::default();
        known.add(text, place, &|n| format!("f:{n}"));
        known
    }

    fn count(text: &str, place: &str) -> usize {
        known(&format!("{text} {ED} comment"), place).keys.len()
    }

    #[test]
    fn names_are_found_as_openssh_finds_them() {
        for (patterns, place, want) in [
            ("host", "host", 1),
            ("HOST", "host", 1),
            ("host,other", "other", 1),
            ("host", "hosts", 0),
            ("host", "[host]:2222", 0),
            ("[host]:2222", "[host]:2222", 1),
            ("*.example.org", "a.example.org", 1),
            ("*.example.org,!b.example.org", "b.example.org", 0),
            ("10.0.0.?", "10.0.0.7", 1),
            ("10.0.0.?", "10.0.0.77", 0),
            ("2001:db8::1", "2001:db8::1", 1),
            ("#host", "host", 0),
        ] {
            assert_eq!(count(patterns, place), want, "{patterns} {place}");
        }
        // ssh-keygen -H of `[127.0.0.1]:2222`'s kind, made for `example.org` with this salt.
        let salt = [7u8; 20];
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &salt);
        let hash = hmac::sign(&key, b"example.org");
        let line = format!(
            "|1|{}|{}",
            BASE64.encode(&salt),
            BASE64.encode(hash.as_ref())
        );
        assert_eq!(count(&line, "example.org"), 1);
        assert_eq!(count(&line, "example.net"), 0);
    }

    #[test]
    fn markers_are_obeyed() {
        let text = format!("@revoked * {ED}\n@cert-authority * {OTHER}\nhost {OTHER}\n# {ED}\n");
        let known = known(&text, "host");
        assert_eq!(known.revoked.len(), 1);
        assert_eq!(known.keys.len(), 1);
        assert_eq!(known.keys[0].1, "f:3");
        assert_eq!(known.algorithms(), [Algorithm::Ed25519]);
    }

    proptest! {
        #[test]
        fn nothing_in_a_file_panics(text in ".{0,200}", place in ".{0,20}") {
            known(&text, &place);
            known(&format!("{text} {ED}"), &place);
            glob(&text, &place);
        }

        #[test]
        fn a_glob_is_what_it_says(pattern in "[ab*?]{0,8}", text in "[ab]{0,8}") {
            fn slow(p: &[u8], t: &[u8]) -> bool {
                match (p.first(), t.first()) {
                    (None, None) => true,
                    (Some(b'*'), _) => slow(&p[1..], t) || (!t.is_empty() && slow(p, &t[1..])),
                    (Some(b'?'), Some(_)) => slow(&p[1..], &t[1..]),
                    (Some(a), Some(b)) if a == b => slow(&p[1..], &t[1..]),
                    _ => false,
                }
            }
            prop_assert_eq!(glob(&pattern, &text), slow(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
