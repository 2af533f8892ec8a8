//! Pages of ListObjectsV2, as XML.

use percent_encoding::percent_decode_str;
use serde::Deserialize;

use super::super::bucket::page::{Object, Page, etag, rfc3339};
use super::super::{Error, Result};

#[derive(Debug, Deserialize)]
#[serde(rename = "ListBucketResult", rename_all = "PascalCase")]
struct Reply {
    #[serde(default)]
    contents: Vec<Content>,
    #[serde(default)]
    common_prefixes: Vec<Prefix>,
    is_truncated: bool,
    next_continuation_token: Option<String>,
    encoding_type: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Content {
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

/// Parses a page. What is not a listing is [`super::super::ErrorKind::Lied`]: a gateway's page
/// with status 200 must not look like an empty bucket.
pub(super) fn parse(body: &[u8]) -> Result<Page> {
    let odd = |why: String| Error::lied(format!("the reply is not an S3 listing: {why}"));
    let text = std::str::from_utf8(body).map_err(|e| odd(e.to_string()))?;
    if !text.contains("<ListBucketResult") {
        return Err(odd("another document".into()));
    }
    let reply: Reply = quick_xml::de::from_str(text).map_err(|e| odd(e.to_string()))?;
    let next = match (reply.is_truncated, reply.next_continuation_token) {
        (false, _) => None,
        (true, Some(token)) if !token.is_empty() => Some(token),
        (true, _) => return Err(Error::lied("a listing that goes on without saying where")),
    };
    let encoded = reply.encoding_type.as_deref() == Some("url");
    let objects = reply.contents.into_iter().map(|content| {
        Ok(Object {
            key: decode(content.key, encoded)?,
            size: content.size,
            mtime: content.last_modified.as_deref().and_then(rfc3339),
            tag: content.e_tag.as_deref().and_then(etag),
            is_dir: false,
        })
    });
    let prefixes = reply.common_prefixes.into_iter();
    Ok(Page {
        objects: objects.collect::<Result<_>>()?,
        prefixes: prefixes
            .map(|common| decode(common.prefix, encoded))
            .collect::<Result<_>>()?,
        next,
    })
}

fn decode(key: String, encoded: bool) -> Result<String> {
    if !encoded {
        return Ok(key);
    }
    // As in a form: S3 writes a space as `+`, and a plus sign as `%2B`.
    let spaced = key.replace('+', " ");
    let decoded = percent_decode_str(&spaced)
        .decode_utf8()
        .map_err(|_| Error::lied(format!("a key that is not UTF-8: {key:?}")))?;
    Ok(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Kind, Timestamp, Version};
    use crate::source::{ErrorKind, ListingBuilder};

    fn page(inner: &str) -> Page {
        let xml = format!(
            "<?xml version=\"1.0\"?><ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/\
             2006-03-01/\"><Name>b</Name><IsTruncated>false</IsTruncated>{inner}\
             </ListBucketResult>"
        );
        parse(xml.as_bytes()).unwrap()
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
            assert_eq!(parse(body).unwrap_err().kind(), ErrorKind::Lied);
        }
        let elsewhere = page(&object("q/a"));
        let mut listing = ListingBuilder::default();
        let error = elsewhere.add_to("p/", &mut listing).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Lied);
    }

    #[test]
    fn a_truncated_page_must_say_where_it_goes_on() {
        let xml = b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>";
        let error = parse(xml).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Lied);
    }
}
