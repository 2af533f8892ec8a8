//! Pages of List Blobs, as XML.
//!
//! Read event by event: names stand there as they are, and what a deserialiser would trim (spaces and
//! line breaks at a name's ends) is part of them.

use percent_encoding::percent_decode_str;
use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use super::super::bucket::page::{Object, Page, etag};
use super::super::{Error, Result};
use crate::entry::Timestamp;

/// How deep elements may be in one another; Azure's are five.
const DEPTH: usize = 16;

/// What is known of a blob so far.
#[derive(Default)]
struct Blob {
    name: Option<String>,
    size: Option<u64>,
    mtime: Option<Timestamp>,
    tag: Option<String>,
    is_dir: bool,
}

/// Parses a page; also returns whether the account has true directories. What is not a listing is
/// [`super::super::ErrorKind::Lied`]: a gateway's page with status 200 must not look like an empty
/// container.
pub(super) fn parse(body: &[u8]) -> Result<(Page, bool)> {
    let odd = |why: &str| Error::lied(format!("the reply is not an Azure listing: {why}"));
    let text = std::str::from_utf8(body).map_err(|_| odd("it is not UTF-8"))?;
    let mut reader = Reader::from_str(text.trim_start_matches('\u{feff}'));
    reader.config_mut().expand_empty_elements = true;
    let (mut page, mut hierarchical) = (Page::default(), false);
    let mut open: Vec<String> = Vec::new();
    let (mut words, mut encoded) = (String::new(), false);
    let mut blob = Blob::default();
    let mut complete = false;
    loop {
        let event = reader.read_event().map_err(|e| odd(&e.to_string()))?;
        match event {
            Event::Start(tag) => {
                let name = tag.local_name().as_ref().to_owned();
                if open.is_empty() && (complete || name != "EnumerationResults") {
                    return Err(odd("another document"));
                }
                if open.len() == DEPTH {
                    return Err(odd("elements in elements without end"));
                }
                match name.as_str() {
                    "Blob" => blob = Blob::default(),
                    "Name" => encoded = is_encoded(&tag),
                    _ => {}
                }
                open.push(name);
                words.clear();
            }
            Event::Text(text) => words.push_str(&text),
            Event::CData(text) => words.push_str(&text),
            Event::GeneralRef(reference) => {
                let known = reference.resolve_char_ref().ok().flatten();
                let known = known.or_else(|| match reference.as_ref() {
                    "amp" => Some('&'),
                    "lt" => Some('<'),
                    "gt" => Some('>'),
                    "quot" => Some('"'),
                    "apos" => Some('\''),
                    _ => None,
                });
                words.push(known.ok_or_else(|| odd("an unknown entity"))?);
            }
            Event::End(_) => {
                let ended = open.pop().unwrap_or_default();
                let parent = open.last().map(String::as_str).unwrap_or_default();
                match (parent, ended.as_str()) {
                    ("Blob", "Name") => blob.name = Some(name(&words, encoded)?),
                    ("BlobPrefix", "Name") => page.prefixes.push(name(&words, encoded)?),
                    ("Properties", "Content-Length") => blob.size = words.trim().parse().ok(),
                    ("Properties", "Last-Modified") => blob.mtime = date(&words),
                    ("Properties", "Etag") => blob.tag = etag(&words),
                    ("Properties", "ResourceType") => {
                        hierarchical = true;
                        blob.is_dir |= words.trim() == "directory";
                    }
                    ("Metadata", key) if key.eq_ignore_ascii_case("hdi_isfolder") => {
                        blob.is_dir |= words.trim() == "true";
                    }
                    ("Blobs", "Blob") => page.objects.push(std::mem::take(&mut blob).object()?),
                    ("EnumerationResults", "NextMarker") if !words.is_empty() => {
                        page.next = Some(words.clone());
                    }
                    ("", "EnumerationResults") => complete = true,
                    _ => {}
                }
                words.clear();
            }
            Event::Eof if complete => return Ok((page, hierarchical)),
            Event::Eof => return Err(odd("it ends before its end")),
            _ => {}
        }
    }
}

impl Blob {
    fn object(self) -> Result<Object> {
        let whole = self.name.zip(self.size);
        let (key, size) = whole.ok_or_else(|| Error::lied("a blob without a name or a size"))?;
        Ok(Object {
            key,
            size,
            mtime: self.mtime,
            tag: self.tag,
            is_dir: self.is_dir && size == 0,
        })
    }
}

fn is_encoded(tag: &BytesStart) -> bool {
    let attribute = tag.try_get_attribute("Encoded").ok().flatten();
    attribute.is_some_and(|attribute| attribute.value.eq_ignore_ascii_case("true"))
}

fn name(words: &str, encoded: bool) -> Result<String> {
    if !encoded {
        return Ok(words.to_owned());
    }
    let decoded = percent_decode_str(words)
        .decode_utf8()
        .map_err(|_| Error::lied(format!("a name that is not UTF-8: {words:?}")))?;
    Ok(decoded.into_owned())
}

fn date(words: &str) -> Option<Timestamp> {
    Some(httpdate::parse_http_date(words.trim()).ok()?.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Kind;
    use crate::source::{ErrorKind, ListingBuilder};
    use proptest::prelude::*;

    fn blob(name: &str, properties: &str) -> String {
        format!(
            "<Blob><Name>{name}</Name><Properties>\
             <Last-Modified>Sun, 22 Nov 2026 11:20:16 GMT</Last-Modified><Etag>0x8D</Etag>\
             <Content-Length>5</Content-Length><BlobType>BlockBlob</BlobType>{properties}\
             </Properties><Metadata /></Blob>"
        )
    }

    fn page(inner: &str) -> String {
        format!(
            "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults \
             ServiceEndpoint=\"http://h/\" ContainerName=\"c\"><Prefix>p/</Prefix><Blobs>{inner}\
             </Blobs><NextMarker/></EnumerationResults>"
        )
    }

    #[test]
    fn odd_names_are_shown_exactly_or_hidden() {
        let xml = page(&[
            blob("p/a", ""),
            blob("p/ sp ace\n", ""),
            blob("p/amp&amp;&lt;&#13;&quot;", ""),
            blob("p/per%41", ""),
            blob("p/..", ""),
            blob("p/", ""),
            blob("p/d", ""),
            blob(&format!("p/{}", "x".repeat(256)), ""),
            "<BlobPrefix><Name>p/d/</Name></BlobPrefix>".into(),
            "<BlobPrefix><Name>p//</Name></BlobPrefix>".into(),
            "<Blob><Name Encoded=\"true\">p/odd%EF%BF%BE%2B</Name><Properties><Content-Length>0\
             </Content-Length></Properties></Blob>"
                .into(),
        ]
        .concat());
        let (page, hierarchical) = parse(xml.as_bytes()).unwrap();
        assert!(!hierarchical && page.next.is_none());
        let mut listing = ListingBuilder::default();
        page.add_to("p/", &mut listing).unwrap();
        let listing = listing.finish();
        let names: Vec<_> = listing.entries.iter().map(|e| e.name.as_str()).collect();
        let want = [" sp ace\n", "a", "amp&<\r\"", "d", "odd\u{fffe}+", "per%41"];
        assert_eq!(names, want);
        assert_eq!(listing.entries[1].validator.as_deref(), Some("\"0x8D\""));
        let time = Some(Timestamp::from_secs(1_795_346_416));
        assert_eq!(listing.entries[1].mtime, time);
        // `..`, `p//`, the marker with content, the long name, `d` beside `d/`.
        assert_eq!(listing.hidden.iter().map(|h| h.count).sum::<u64>(), 5);
    }

    #[test]
    fn directories_by_word_are_directories() {
        let xml = page(&[
            "<Blob><Name>p/hdi</Name><Properties><Content-Length>0</Content-Length></Properties>\
             <Metadata><Hdi_isfolder>true</Hdi_isfolder></Metadata></Blob>"
                .to_owned(),
            "<Blob><Name>p/true</Name><Properties><Content-Length>0</Content-Length>\
             <ResourceType>directory</ResourceType></Properties></Blob>"
                .to_owned(),
            blob("p/file", "<ResourceType>file</ResourceType>"),
            "<BlobPrefix><Name>p/hdi/</Name></BlobPrefix>".to_owned(),
        ]
        .concat());
        let (page, hierarchical) = parse(xml.as_bytes()).unwrap();
        assert!(hierarchical);
        let mut listing = ListingBuilder::default();
        page.add_to("p/", &mut listing).unwrap();
        let listing = listing.finish();
        let kinds: Vec<_> = listing
            .entries
            .iter()
            .map(|e| (e.name.as_str(), e.kind))
            .collect();
        let want = [
            ("file", Kind::File),
            ("hdi", Kind::Dir),
            ("true", Kind::Dir),
        ];
        assert_eq!(kinds, want);
        assert!(listing.hidden.is_empty(), "{:?}", listing.hidden);
    }

    #[test]
    fn what_is_no_listing_is_a_lie() {
        let whole = page(&blob("p/a", ""));
        for body in [
            &b"<html><body>Welcome</body></html>"[..],
            b"",
            b"\xff\xfe",
            &whole.as_bytes()[..whole.len() - 5],
            b"<EnumerationResults><Blobs><Blob><Name>a</Name></Blob></Blobs></EnumerationResults>",
            b"<EnumerationResults><Blobs><Blob><Name>a</Name><Properties><Content-Length>-1\
              </Content-Length></Properties></Blob></Blobs></EnumerationResults>",
            "<a>".repeat(100).as_bytes(),
            format!("<EnumerationResults>{}", "<a>".repeat(100)).as_bytes(),
            b"<EnumerationResults/><EnumerationResults/>",
        ] {
            assert_eq!(parse(body).map(|_| ()).unwrap_err().kind(), ErrorKind::Lied);
        }
    }

    proptest! {
        /// Any bytes in the place of a name: an answer or an error, and never another name.
        #[test]
        fn a_name_is_itself(name in "\\PC{0,40}[ \n\t]?") {
            let escaped = name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
            let (page, _) = parse(page(&blob(&escaped, "")).as_bytes()).unwrap();
            prop_assert_eq!(&page.objects[0].key, &name);
        }

        #[test]
        fn nothing_panics(cut in 0..400usize, junk in prop::collection::vec(any::<u8>(), 0..20)) {
            let mut bytes = page(&blob("p/a&#10;&amp;", "")).into_bytes();
            let at = cut.min(bytes.len());
            bytes.splice(at..at, junk);
            let _ = parse(&bytes);
        }
    }
}
