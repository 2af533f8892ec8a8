//! What a source sent in confidence, so that it is not repeated when the server does.
//!
//! Some servers quote the request in their error page, header and all, and a page's words go into
//! messages, from there into logs and the status. Only what was sent can come back.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use reqwest::header::{self, HeaderMap};

use super::Error;

/// How many are remembered: more than are in use at a time while keys rotate. Signatures differ with
/// each request, so this is also how many requests may be under way.
const MOST: usize = 256;

/// The shortest text that counts as a secret: to hide each "a" would hide everything.
const SHORTEST: usize = 4;

/// What goes into a message instead.
const HIDDEN: &str = "[secret]";

/// Credentials that a source sent lately.
#[derive(Default)]
pub(crate) struct Confidences(Mutex<VecDeque<String>>);

impl Confidences {
    /// Takes note of the credentials in a request's headers.
    pub(crate) fn note(&self, headers: &HeaderMap) {
        let named = [
            header::AUTHORIZATION,
            header::HeaderName::from_static("x-amz-security-token"),
        ];
        for value in named.iter().filter_map(|name| headers.get(name)) {
            for part in parts(&String::from_utf8_lossy(value.as_bytes())) {
                self.remember(part);
            }
        }
    }

    /// Takes note of a secret that others send for us.
    pub(crate) fn remember(&self, secret: String) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if secret.len() < SHORTEST || all.contains(&secret) {
            return;
        }
        if all.len() == MOST {
            all.pop_front();
        }
        all.push_back(secret);
    }

    /// Returns the error without what was sent in confidence.
    pub(crate) fn conceal(&self, error: Error) -> Error {
        let before = error.to_string();
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = before.clone();
        for secret in all.iter() {
            for form in forms(secret) {
                text = text.replace(&form, HIDDEN);
            }
        }
        match text == before {
            true => error,
            false => error.in_other_words(text),
        }
    }
}

/// Returns what of a header's value is secret: of `Authorization: Basic` the password too, of a
/// signed request the signature.
fn parts(value: &str) -> Vec<String> {
    let Some((scheme, rest)) = value.split_once(' ') else {
        return vec![value.to_owned()];
    };
    if let Some((_, signature)) = rest.rsplit_once("Signature=") {
        return vec![signature.to_owned()];
    }
    if let Some((_, signature)) = rest.split_once(':').filter(|_| scheme == "SharedKey") {
        return vec![signature.to_owned()];
    }
    let mut parts = vec![rest.to_owned()];
    if scheme.eq_ignore_ascii_case("basic")
        && let Some(pair) = unbase64(rest)
    {
        parts.extend(pair.split_once(':').map(|(_, word)| word.to_owned()));
        parts.push(pair);
    }
    parts
}

/// The ways in which a server may write a secret, the longer ones first.
fn forms(secret: &str) -> Vec<String> {
    let escaped = utf8_percent_encode(secret, NON_ALPHANUMERIC).to_string();
    let markup = secret
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    let mut forms = vec![
        escaped.to_ascii_lowercase(),
        escaped,
        markup.replace('"', "&quot;").replace('\'', "&#39;"),
        markup,
        format!("{secret:?}").trim_matches('"').to_owned(),
        percent_decode_str(secret).decode_utf8_lossy().into_owned(),
        secret.to_owned(),
    ];
    for alphabet in [STANDARD, URL_SAFE] {
        // By what comes before it, a text looks in three ways.
        forms.extend((0..3).map(|before| base64(secret, before, alphabet)));
    }
    forms.retain(|form| form.len() >= SHORTEST);
    forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
    forms
}

const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const URL_SAFE: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Writes base64 of a text with `before` bytes (0 to 2) in front of it, without the digits at both
/// ends that depend on what is around it.
fn base64(text: &str, before: usize, alphabet: &[u8; 64]) -> String {
    let bytes = [&[0; 2][..before], text.as_bytes()].concat();
    let digits = bytes.chunks_exact(3).flat_map(|three| {
        let bits = u32::from(three[0]) << 16 | u32::from(three[1]) << 8 | u32::from(three[2]);
        [18, 12, 6, 0].map(|shift| char::from(alphabet[(bits >> shift & 63) as usize]))
    });
    digits.skip([0, 2, 3][before]).collect()
}

fn unbase64(text: &str) -> Option<String> {
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0u32, 0);
    for digit in text.trim_end_matches('=').bytes() {
        let value = STANDARD.iter().position(|d| *d == digit)?;
        bits = bits << 6 | value as u32;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::super::ErrorKind;
    use super::*;

    fn concealed(headers: &[(&'static str, &str)], said: &str) -> String {
        let confidences = Confidences::default();
        let mut sent = HeaderMap::new();
        for (name, value) in headers {
            sent.insert(*name, value.parse().unwrap());
        }
        confidences.note(&sent);
        let error = confidences.conceal(Error::new(ErrorKind::Denied, said));
        assert_eq!(error.kind(), ErrorKind::Denied);
        error.to_string()
    }

    #[test]
    fn what_was_sent_does_not_come_back() {
        // me:hunter2&more
        let basic = [("authorization", "Basic bWU6aHVudGVyMiZtb3Jl")];
        for said in [
            "you said Basic bWU6aHVudGVyMiZtb3Jl",
            "you are me:hunter2&more",
            "your password is hunter2&more!",
            "in a page hunter2&amp;more",
            "in a URL hunter2%26more",
            "encoded again aHVudGVyMiZtb3Jl",
            "and a longer one eHh4bWU6aHVudGVyMiZtb3Jl",
            "not at the same place eG1lOmh1bnRlcjImbW9yZQ==",
        ] {
            let text = concealed(&basic, said);
            assert!(text.contains(HIDDEN), "{said}: {text}");
            for part in ["hunter2", "aHVudGVy", "h1bnRlcj", "odW50ZXIy"] {
                assert!(!text.contains(part), "{said}: {text}");
            }
        }
        assert_eq!(concealed(&basic, "no such file"), "no such file");
        let bearer = [("authorization", "Bearer tok-en")];
        assert_eq!(concealed(&bearer, "not tok-en"), "not [secret]");
        let token = [("x-amz-security-token", "se/cret+")];
        assert_eq!(concealed(&token, "x se%2Fcret%2B"), "x [secret]");
        let shared = [("authorization", "SharedKey acc:c2lnbmF0dXJl")];
        let said = "the MAC 'c2lnbmF0dXJl' of acc";
        assert_eq!(concealed(&shared, said), "the MAC '[secret]' of acc");
        let signed = "AWS4-HMAC-SHA256 Credential=AKID/x, SignedHeaders=host, Signature=abcdef99";
        let text = concealed(&[("authorization", signed)], signed);
        assert!(
            text.contains("AKID") && !text.contains("abcdef99"),
            "{text}"
        );
    }

    #[test]
    fn base64_goes_both_ways() {
        for text in ["", "abc", "abcdef", "hunter2 hunter2 ?>~"] {
            let whole = base64(text, 0, STANDARD);
            assert_eq!(
                unbase64(&whole).as_deref(),
                Some(&text[..text.len() / 3 * 3])
            );
        }
        assert_eq!(unbase64("YQ==").as_deref(), Some("a"));
        assert_eq!(unbase64("not base64!"), None);
    }
}
