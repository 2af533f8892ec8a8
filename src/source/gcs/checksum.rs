//! Whether all of an object's bytes are those that were stored: its CRC32C, which Google keeps of
//! every object and sends with its bytes.

use crc_fast::{CrcAlgorithm, Digest};
use futures::StreamExt;
use reqwest::header::HeaderMap;

use super::super::{Body, Error};

/// Returns the checksum that a reply promises for the whole object.
pub(super) fn promised(headers: &HeaderMap) -> Option<u32> {
    let hashes = headers.get_all("x-goog-hash").iter();
    let hashes = hashes.filter_map(|value| value.to_str().ok());
    let sum = hashes
        .flat_map(|value| value.split(','))
        .find_map(|hash| hash.trim().strip_prefix("crc32c="))?;
    decode(sum)
}

/// Decodes the base64 of four bytes.
fn decode(text: &str) -> Option<u32> {
    let digits = text.strip_suffix("==").filter(|digits| digits.len() == 6)?;
    let mut bits = 0u64;
    for digit in digits.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u64::from(value);
    }
    // Six digits hold four bytes and four bits more.
    u32::try_from(bits >> 4).ok()
}

/// Returns a body of a whole object that ends in an error where its bytes are not those promised.
pub(super) fn checked(body: Body, sum: u32) -> Body {
    let digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    let stream = futures::stream::unfold(
        (body.stream, digest, false),
        move |(mut stream, mut digest, over)| async move {
            if over {
                return None;
            }
            match stream.next().await {
                Some(Ok(bytes)) => {
                    digest.update(&bytes);
                    Some((Ok(bytes), (stream, digest, false)))
                }
                Some(Err(error)) => Some((Err(error), (stream, digest, true))),
                None if digest.finalize() == u64::from(sum) => None,
                None => {
                    let what = "the bytes do not have the CRC32C that the server keeps of them";
                    Some((Err(Error::lied(what)), (stream, digest, true)))
                }
            }
        },
    );
    Body {
        stream: stream.boxed(),
        ..body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promises_are_read() {
        let mut headers = HeaderMap::new();
        assert_eq!(promised(&headers), None);
        headers.append(
            "x-goog-hash",
            "md5=XUFAKrxLKna5cZ2REBfFkg==".parse().unwrap(),
        );
        headers.append("x-goog-hash", "crc32c=mnG7TA==,md5=x".parse().unwrap());
        // Of `hello`, as Google's documentation has it.
        let sum = crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, b"hello");
        assert_eq!(promised(&headers).map(u64::from), Some(sum));
        for bad in ["", "mnG7TA", "mnG7T===", "mnG7T!==", "mnG7TAAA"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }
}
