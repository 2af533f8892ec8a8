//! Pages of ListObjectsV2, read by ourselves.
//!
//! object_store's listing puts each key into its `Path`, which refuses `a//b`, `../x` and control
//! characters, and one such key fails its whole page. Here a hostile key is hidden and counted.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use serde::Deserialize;

use super::super::sweep::{Key, Keys};
use super::super::{Error, HiddenWhy, ListingBuilder, Result};
use crate::entry::{Entry, Timestamp, Version};
use crate::path::{BadName, Name};

/// A page of a listing, as the server writes it.
#[derive(Debug, Deserialize)]
#[serde(rename = "ListBucketResult", rename_all = "PascalCase")]
pub(super) struct Page {
    #[serde(default)]
    contents: Vec<Object>,
    #[serde(default)]
    common_prefixes: Vec<Prefix>,
    is_truncated: bool,
    next_continuation_token: Option<String>,
    encoding_type: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Object {
    key: String,
    size: u64,
    last_modified: Option<String>,
    #[serde(rename = "ETag")]
    e_tag: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Prefix {
    prefix: String,
}

impl Page {
    /// Parses a page. What is not a listing is [`super::super::ErrorKind::Lied`]: a gateway's page
    /// with status 200 must not look like an empty bucket.
    pub(super) fn parse(body: &[u8]) -> Result<Page> {
        let odd = |why: String| Error::lied(format!("the reply is not an S3 listing: {why}"));
        let text = std::str::from_utf8(body).map_err(|e| odd(e.to_string()))?;
        if !text.contains("<ListBucketResult") {
            return Err(odd("another document".into()));
        }
        quick_xml::de::from_str(text).map_err(|e| odd(e.to_string()))
    }

    /// Returns the token of the next page, or nothing for the last one.
    pub(super) fn next(&self) -> Result<Option<&str>> {
        match (self.is_truncated, self.next_continuation_token.as_deref()) {
            (false, _) => Ok(None),
            (true, Some(token)) if !token.is_empty() => Ok(Some(token)),
            (true, _) => Err(Error::lied("a listing that goes on without saying where")),
        }
    }

    /// Returns how many keys and prefixes the page holds.
    pub(super) fn len(&self) -> usize {
        self.contents.len() + self.common_prefixes.len()
    }

    /// Adds the page's entries, which all begin with `prefix` (empty, or ending in a slash).
    pub(super) fn add_to(&self, prefix: &str, listing: &mut ListingBuilder) -> Result<()> {
        for common in &self.common_prefixes {
            let key = self.decode(&common.prefix)?;
            add_dir(listing, below(&key, prefix)?);
        }
        for object in &self.contents {
            let key = self.decode(&object.key)?;
            let rest = below(&key, prefix)?;
            if rest.is_empty() {
                // The directory's own marker.
                if object.size > 0 {
                    listing.hide(HiddenWhy::Name(BadName::Empty), &key);
                }
            } else if rest.contains('/') {
                // A server that does not group by the delimiter.
                add_dir(listing, rest);
            } else {
                match Name::new(rest) {
                    Ok(name) => listing.push(object.entry(name)),
                    Err(why) => listing.hide(HiddenWhy::Name(why), &key),
                }
            }
        }
        Ok(())
    }

    /// Returns the keys of a page without a delimiter, which all begin with `prefix`.
    pub(super) fn into_keys(self, prefix: &str) -> Result<Keys> {
        if !self.common_prefixes.is_empty() {
            return Err(Error::lied("a recursive listing with common prefixes"));
        }
        let next = self.next()?.map(str::to_owned);
        let key = |object: &Object| {
            let whole = self.decode(&object.key)?;
            let key = below(&whole, prefix)?.to_owned();
            let last = key.rsplit('/').next().unwrap_or_default();
            Ok(Key {
                size: object.size,
                entry: Name::new(last).map(|name| object.entry(name)),
                key,
            })
        };
        let keys = self.contents.iter().map(key).collect::<Result<_>>()?;
        Ok(Keys { keys, next })
    }

    fn decode<'a>(&self, key: &'a str) -> Result<Cow<'a, str>> {
        if self.encoding_type.as_deref() != Some("url") {
            return Ok(key.into());
        }
        // As in a form: S3 writes a space as `+`, and a plus sign as `%2B`.
        let spaced = key.replace('+', " ");
        let decoded = percent_decode_str(&spaced)
            .decode_utf8()
            .map_err(|_| Error::lied(format!("a key that is not UTF-8: {key:?}")))?;
        Ok(decoded.into_owned().into())
    }
}

fn below<'a>(key: &'a str, prefix: &str) -> Result<&'a str> {
    key.strip_prefix(prefix).ok_or_else(|| {
        Error::lied(format!(
            "a listing of {prefix:?} that names {key:?}, which is elsewhere"
        ))
    })
}

fn add_dir(listing: &mut ListingBuilder, rest: &str) {
    let first = rest.split('/').next().unwrap_or(rest);
    match Name::new(first) {
        Ok(name) => listing.push(Entry::dir(name)),
        Err(why) => listing.hide(HiddenWhy::Name(why), rest),
    }
}

impl Object {
    fn entry(&self, name: Name) -> Entry {
        let time = self.last_modified.as_deref();
        let mtime = time
            .and_then(|text| humantime::parse_rfc3339_weak(text).ok())
            .map(|time| whole_seconds(time.into()));
        entry(name, self.size, mtime, self.e_tag.as_deref())
    }
}

/// Returns `time` without its fraction: listings know milliseconds at some servers, HEAD never
/// does, and the two must agree.
fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_secs(time.0.div_euclid(1_000_000_000))
}

/// Returns the entry of an object, from a listing or from a reply's headers.
pub(super) fn entry(name: Name, size: u64, mtime: Option<Timestamp>, etag: Option<&str>) -> Entry {
    let etag = etag.map(quoted).filter(|etag| etag.len() > 2);
    let version = match &etag {
        Some(etag) => Version::strong(etag.as_str()),
        None => Version::weak(format!("{size}@{}", mtime.map_or(0, |t| t.0))),
    };
    Entry {
        validator: etag.map(Into::into),
        ..Entry::file(name, size, mtime, version)
    }
}

/// Returns an ETag in the quotes that belong around it and that some servers leave out.
pub(super) fn quoted(etag: &str) -> String {
    format!("\"{}\"", etag.trim().trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Kind;
    use crate::source::ErrorKind;

    fn page(inner: &str) -> Page {
        let xml = format!(
            "<?xml version=\"1.0\"?><ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/\
             2006-03-01/\"><Name>b</Name><IsTruncated>false</IsTruncated>{inner}\
             </ListBucketResult>"
        );
        Page::parse(xml.as_bytes()).unwrap()
    }

    fn object(key: &str) -> String {
        format!(
            "<Contents><Key>{key}</Key><LastModified>2026-11-22T11:20:16.123Z</LastModified>\
             <ETag>&quot;abc&quot;</ETag><Size>5</Size></Contents>"
        )
    }

    #[test]
    fn odd_keys_are_shown_exactly_or_hidden() {
        let page = page(&format!(
            "{}{}{}{}{}{}{}<CommonPrefixes><Prefix>p/d/</Prefix></CommonPrefixes>\
             <CommonPrefixes><Prefix>p//</Prefix></CommonPrefixes>\
             <CommonPrefixes><Prefix>p/../</Prefix></CommonPrefixes>{}\
             <EncodingType>url</EncodingType>",
            object("p/a"),
            object("p/sp+ace%2Bplus%2541"),
            object("p/nl%0A"),
            object("p/.."),
            object("p/"),
            object("p/d"),
            object(&format!("p/{}", "x".repeat(256))),
            object("p/z"),
        ));
        let mut listing = ListingBuilder::default();
        page.add_to("p/", &mut listing).unwrap();
        let listing = listing.finish();
        let names: Vec<_> = listing.entries.iter().map(|e| e.name.as_str()).collect();
        assert_eq!(names, ["a", "d", "nl\n", "sp ace+plus%41", "z"]);
        assert_eq!(listing.entries[1].kind, Kind::Dir);
        assert_eq!(listing.entries[0].version, Version::strong("\"abc\""));
        assert_eq!(
            listing.entries[0].mtime,
            Some(Timestamp::from_secs(1_795_346_416))
        );
        // `..` twice, `p//` and the marker with content, the long name, `d` under `d/`.
        assert_eq!(listing.hidden.iter().map(|h| h.count).sum::<u64>(), 6);
    }

    #[test]
    fn what_is_no_listing_is_a_lie() {
        for body in [
            &b"<html><body>Welcome</body></html>"[..],
            b"",
            b"\xff\xfe",
            b"<ListBucketResult><Contents><Key>a</Key>",
            b"<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>a</Key>\
              <Size>-1</Size></Contents></ListBucketResult>",
        ] {
            assert_eq!(Page::parse(body).unwrap_err().kind(), ErrorKind::Lied);
        }
        let elsewhere = page(&object("q/a"));
        let mut listing = ListingBuilder::default();
        let error = elsewhere.add_to("p/", &mut listing).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Lied);
    }

    #[test]
    fn a_truncated_page_must_say_where_it_goes_on() {
        let xml = b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>";
        let error = Page::parse(xml).unwrap().next().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Lied);
    }
}
