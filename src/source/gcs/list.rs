//! What the JSON API says of objects.

use serde::Deserialize;

use super::super::bucket::page::{Object, Page, rfc3339};
use super::super::{Error, Result};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reply {
    kind: String,
    #[serde(default)]
    items: Vec<Item>,
    #[serde(default)]
    prefixes: Vec<String>,
    next_page_token: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    name: String,
    /// Numbers of 64 bits are written as texts.
    size: Option<String>,
    generation: Option<String>,
    time_created: Option<String>,
    updated: Option<String>,
}

/// Parses a page. What is not a listing is [`super::super::ErrorKind::Lied`]: a gateway's page with
/// status 200 must not look like an empty bucket.
pub(super) fn parse(body: &[u8]) -> Result<Page> {
    let odd = |why: String| Error::lied(format!("the reply is not a bucket's listing: {why}"));
    let reply: Reply = serde_json::from_slice(body).map_err(|e| odd(without_words(&e)))?;
    if reply.kind != "storage#objects" {
        return Err(odd("another kind of object".into()));
    }
    let objects = reply.items.into_iter().map(Item::object);
    Ok(Page {
        objects: objects.collect::<Result<_>>()?,
        prefixes: reply.prefixes,
        next: reply.next_page_token.filter(|token| !token.is_empty()),
    })
}

/// Parses the description of the object `key`.
pub(super) fn parse_object(body: &[u8], key: &str) -> Result<Object> {
    let odd = |why: String| Error::lied(format!("the reply does not describe an object: {why}"));
    let item: Item = serde_json::from_slice(body).map_err(|e| odd(without_words(&e)))?;
    if item.name != key {
        return Err(odd(format!("it is about {:?}", item.name)));
    }
    item.object()
}

/// The parser's message may quote a name of any length.
fn without_words(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        serde_json::error::Category::Eof => "it ends before its end",
        serde_json::error::Category::Data => "a field is missing or of another type",
        _ => "it is not JSON",
    };
    format!("{what} (line {}, column {})", error.line(), error.column())
}

impl Item {
    fn object(self) -> Result<Object> {
        let size = self.size.as_deref().unwrap_or("0");
        let size = size
            .parse()
            .map_err(|_| Error::lied(format!("an object whose size is {:?}", short(size))))?;
        let generation = self.generation.filter(|text| is_number(text));
        // When these bytes came to be; `updated` moves with labels too.
        let time = self.time_created.or(self.updated);
        Ok(Object {
            key: self.name,
            size,
            mtime: time.as_deref().and_then(rfc3339),
            tag: generation,
            is_dir: false,
        })
    }
}

fn is_number(text: &str) -> bool {
    (1..=20).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())
}

fn short(text: &str) -> String {
    text.chars().take(32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Kind, Timestamp, Version};
    use crate::source::{ErrorKind, ListingBuilder};
    use proptest::prelude::*;
    use serde_json::json;

    fn item(name: &str) -> serde_json::Value {
        json!({"name": name, "size": "5", "generation": "1700000000000001",
               "timeCreated": "2026-11-22T11:20:16.123Z", "updated": "2026-11-23T00:00:00Z"})
    }

    #[test]
    fn odd_names_are_shown_exactly_or_hidden() {
        let names = ["p/a", "p/ sp ace\n", "p/..", "p/", "p/d", "p/ü\u{fffe}"];
        let long = format!("p/{}", "x".repeat(256));
        let items: Vec<_> = names.into_iter().chain([long.as_str()]).map(item).collect();
        let page = json!({"kind": "storage#objects", "items": items, "nextPageToken": "t",
                          "prefixes": ["p/d/", "p//", "p/../"]});
        let page = parse(page.to_string().as_bytes()).unwrap();
        assert_eq!(page.next.as_deref(), Some("t"));
        let mut listing = ListingBuilder::default();
        page.add_to("p/", &mut listing).unwrap();
        let listing = listing.finish();
        let names: Vec<_> = listing.entries.iter().map(|e| e.name.as_str()).collect();
        assert_eq!(names, [" sp ace\n", "a", "d", "ü\u{fffe}"]);
        assert_eq!(listing.entries[2].kind, Kind::Dir);
        let version = Version::strong("1700000000000001");
        assert_eq!(listing.entries[1].version, version);
        let time = Some(Timestamp::from_secs(1_795_346_416));
        assert_eq!(listing.entries[1].mtime, time);
        // `..` twice, `p//` and the marker with content, the long name, `d` under `d/`.
        assert_eq!(listing.hidden.iter().map(|h| h.count).sum::<u64>(), 6);
    }

    #[test]
    fn what_is_no_listing_is_a_lie() {
        let lied = |body: &str| parse(body.as_bytes()).map(|_| ()).unwrap_err();
        for body in [
            "",
            "{}",
            "[]",
            "<html>",
            r#"{"kind":"storage#bucket"}"#,
            r#"{"kind":"storage#objects","items":[{"name":"a""#,
            r#"{"kind":"storage#objects","items":[{"size":"1"}]}"#,
            r#"{"kind":"storage#objects","items":[{"name":"a","size":"-1"}]}"#,
        ] {
            assert_eq!(lied(body).kind(), ErrorKind::Lied, "{body}");
        }
        assert!(
            parse(br#"{"kind":"storage#objects"}"#)
                .unwrap()
                .objects
                .is_empty()
        );
        let other = parse_object(item("b").to_string().as_bytes(), "a").unwrap_err();
        assert_eq!(other.kind(), ErrorKind::Lied);
    }

    proptest! {
        #[test]
        fn nothing_panics(cut in 0..400usize, junk in prop::collection::vec(any::<u8>(), 0..20)) {
            let page = json!({"kind": "storage#objects", "items": [item("p/a"), item("p/b")]});
            let mut bytes = page.to_string().into_bytes();
            let at = cut.min(bytes.len());
            bytes.splice(at..at, junk);
            let _ = parse(&bytes);
        }
    }
}
