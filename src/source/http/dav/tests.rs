//! Replies as servers write them, and as they should not.

use proptest::prelude::*;

use super::*;
use crate::entry::Kind;

fn page() -> Url {
    Url::parse("https://host/remote.php/dav/files/me/some%20dir/").unwrap()
}

fn shown(listing: &Listing) -> Vec<String> {
    let show = |entry: &Entry| {
        let size = entry.size.map_or("-".into(), |size| size.to_string());
        let slash = if entry.kind == Kind::Dir { "/" } else { "" };
        format!("{}{slash} {size}", entry.name.as_str())
    };
    listing.entries.iter().map(show).collect()
}

fn listed_by(responses: &str) -> Result<Listing> {
    let body = format!(r#"<D:multistatus xmlns:D="DAV:">{responses}</D:multistatus>"#);
    listing(&page(), None, body.as_bytes())
}

const SELF: &str = "<D:response><D:href>/remote.php/dav/files/me/some%20dir/</D:href><D:propstat>\
     <D:prop><D:resourcetype><D:collection/></D:resourcetype></D:prop>\
     <D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>";

fn file_of(href: &str) -> String {
    format!(
        "<D:response><D:href>{href}</D:href><D:propstat><D:prop><D:resourcetype/>\
         <D:getcontentlength>5</D:getcontentlength></D:prop><D:status>HTTP/1.1 200 OK</D:status>\
         </D:propstat></D:response>"
    )
}

#[test]
fn nextcloud() {
    let body = r#"<?xml version="1.0"?>
<d:multistatus xmlns:d="DAV:" xmlns:s="http://sabredav.org/ns" xmlns:oc="http://owncloud.org/ns" xmlns:nc="http://nextcloud.org/ns">
 <d:response><d:href>/remote.php/dav/files/me/some%20dir/</d:href>
  <d:propstat><d:prop><d:getlastmodified>Sun, 06 Nov 1994 08:49:37 GMT</d:getlastmodified><d:resourcetype><d:collection/></d:resourcetype><d:getetag>&quot;5f9&quot;</d:getetag><oc:size>1234</oc:size></d:prop><d:status>HTTP/1.1 200 OK</d:status></d:propstat>
  <d:propstat><d:prop><d:getcontentlength/></d:prop><d:status>HTTP/1.1 404 Not Found</d:status></d:propstat></d:response>
 <d:response><d:href>/remote.php/dav/files/me/some%20dir/a%20%26%20b%23%3f.txt</d:href>
  <d:propstat><d:prop><d:getlastmodified>Sun, 06 Nov 1994 08:49:37 GMT</d:getlastmodified><d:getcontentlength>1234</d:getcontentlength><d:resourcetype/><d:getetag>&quot;6a0&quot;</d:getetag><oc:collection/><oc:getcontentlength>77</oc:getcontentlength></d:prop><d:status>HTTP/1.1 200 OK</d:status></d:propstat></d:response>
 <d:response><d:href>/remote.php/dav/files/me/some%20dir/Fotos/</d:href>
  <d:propstat><d:prop><d:resourcetype><d:collection/></d:resourcetype><d:getetag>&quot;7&quot;</d:getetag></d:prop><d:status>HTTP/1.1 200 OK</d:status></d:propstat></d:response>
</d:multistatus>"#;
    let listing = listing(&page(), None, body.as_bytes()).unwrap();
    assert_eq!(shown(&listing), ["Fotos/ -", "a & b#?.txt 1234"]);
    let file = &listing.entries[1];
    assert_eq!(file.version, crate::entry::Version::strong("\"6a0\""));
    assert_eq!(file.validator.as_deref(), Some("\"6a0\""));
    assert!(file.mtime.is_some());
}

#[test]
fn apache_and_others() {
    // Apache: prefixes of its own; one with a default namespace; URLs; a relative one; no slash.
    let body = r#"<?xml version="1.0" encoding="utf-8"?>
<D:multistatus xmlns:D="DAV:" xmlns:ns0="DAV:">
<D:response xmlns:lp1="DAV:" xmlns:lp2="http://apache.org/dav/props/">
<D:href>/remote.php/dav/files/me/some%20dir</D:href>
<D:propstat><D:prop><lp1:resourcetype><D:collection/></lp1:resourcetype></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>
<D:response xmlns:lp1="DAV:"><D:href>/remote.php/dav/files/me/some%20dir/b</D:href>
<D:propstat><D:prop><lp1:resourcetype/><lp1:getcontentlength>5</lp1:getcontentlength><lp1:getetag>W/"x"</lp1:getetag></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>
<response xmlns="DAV:"><href>http://HOST:8080/remote.php/dav/files/me/some%20dir/c</href>
<propstat><prop><resourcetype xmlns="DAV:"><collection/></resourcetype></prop></propstat></response>
<response xmlns="DAV:"><href><![CDATA[d%41]]></href><propstat><prop><resourcetype/><getcontentlength> 7 </getcontentlength></prop><status>HTTP/1.1 200 OK</status></propstat></response>
</D:multistatus>"#;
    let listing = listing(&page(), None, body.as_bytes()).unwrap();
    assert_eq!(shown(&listing), ["b 5", "c/ -", "dA 7"]);
    assert!(!listing.entries[0].version.strong);
}

#[test]
fn each_resource_has_its_own_status() {
    let of = |name: &str, code: &str| {
        format!(
            "<D:response><D:href>/remote.php/dav/files/me/some%20dir/{name}</D:href>\
             <D:status>HTTP/1.1 {code} Words</D:status></D:response>"
        )
    };
    let all = [
        SELF,
        &of("gone", "404"),
        &of("secret", "403"),
        &of("odd", "507"),
    ]
    .concat();
    // What is there and cannot be described is no absence.
    assert_eq!(shown(&listed_by(&all).unwrap()), ["odd -", "secret -"]);
    let itself = |code| listed_by(&of("", code)).unwrap_err().kind();
    assert_eq!(itself("403"), ErrorKind::Denied);
    assert_eq!(itself("404"), ErrorKind::NotFound);
    assert_eq!(itself("503"), ErrorKind::Throttled);
}

#[test]
fn what_was_not_asked_for_is_a_lie() {
    for href in [
        "http://other/remote.php/dav/files/me/some%20dir/f",
        "/remote.php/dav/files/you/some%20dir/f",
        "/remote.php/dav/files/me/some%20dir/deep/f",
        "/etc/passwd",
        "/",
        "",
    ] {
        let result = listed_by(&[SELF, &file_of(href)].concat());
        let kind = result.map(|l| shown(&l)).map_err(|e| e.kind());
        match href {
            // The collection itself, said to be a file.
            "" => assert_eq!(kind, Err(ErrorKind::NotFound)),
            _ => assert_eq!(kind, Err(ErrorKind::Lied), "{href}"),
        }
    }
    assert!(listed_by("").is_err(), "nothing is not an empty directory");
    assert!(listed_by(SELF).unwrap().entries.is_empty());
}

#[test]
fn hostile_names_are_hidden() {
    let names = ["..", ".", "%2e%2e", "a%2fb", "a%00b", "%ff"];
    let hrefs = names.map(|n| file_of(&format!("/remote.php/dav/files/me/some%20dir/{n}")));
    let listing = listed_by(&[SELF, &hrefs.concat()].concat()).unwrap();
    assert!(listing.entries.is_empty(), "{:?}", shown(&listing));
    let hidden: u64 = listing.hidden.iter().map(|h| h.count).sum();
    assert_eq!(hidden, names.len() as u64);
}

#[test]
fn other_documents_are_no_listings() {
    let bomb =
        r#"<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><D:multistatus xmlns:D="DAV:"/>"#;
    let entity = r#"<D:multistatus xmlns:D="DAV:">&b;</D:multistatus>"#;
    let deep = format!("<D:multistatus xmlns:D='DAV:'>{}", "<a>".repeat(100_000));
    let long = format!(
        "<D:multistatus xmlns:D='DAV:'><D:response>{}",
        "a".repeat(100_000)
    );
    let cut = format!(r#"<D:multistatus xmlns:D="DAV:">{SELF}"#);
    for body in [
        "",
        "<html></html>",
        "{}",
        bomb,
        entity,
        &deep,
        &long,
        &cut,
        "<multistatus/>",
        r#"<D:multistatus xmlns:D="other:"></D:multistatus>"#,
        r#"<D:multistatus xmlns:D="DAV:"/><D:multistatus xmlns:D="DAV:"/>"#,
    ] {
        let error = listing(&page(), None, body.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Lied, "{body:.80}");
    }
}

#[test]
fn one_file() {
    let name = || Name::new("f").unwrap();
    let url = page().join("f").unwrap();
    let body = |response: &str| format!("<D:multistatus xmlns:D='DAV:'>{response}</D:multistatus>");
    let ask = |text: &str| file(&url, name(), None, body(text).as_bytes()).map_err(|e| e.kind());
    let own = file_of("/remote.php/dav/files/me/some%20dir/f");
    assert_eq!(ask(&own).unwrap().size, Some(5));
    assert_eq!(ask(&[&*own, &own].concat()), Err(ErrorKind::Lied));
    assert_eq!(ask(""), Err(ErrorKind::Lied));
    assert_eq!(ask(&file_of("/elsewhere")), Err(ErrorKind::Lied));
    let dir = SELF.replace("some%20dir/", "some%20dir/f/");
    assert_eq!(ask(&dir), Err(ErrorKind::NotFound));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Pieces of replies in any order: an answer or an error, never a panic.
    #[test]
    fn nothing_makes_it_panic(
        pieces in prop::collection::vec(prop::sample::select(vec![
            "<D:multistatus xmlns:D=\"DAV:\">", "</D:multistatus>", "<D:response>", "</D:response>",
            "<D:href>", "</D:href>", "/remote.php/dav/files/me/some%20dir/", "x", "%", "&amp;",
            "&#0;", "&#x110000;", "<D:propstat>", "</D:propstat>", "<D:prop>", "</D:prop>",
            "<D:status>", "</D:status>", "HTTP/1.1 200 OK", "<D:getcontentlength>",
            "</D:getcontentlength>", "99999999999999999999", "<![CDATA[", "]]>", "<!--", "-->",
            "<?x", "?>", "\u{fffd}", "\0", "<", ">", "xmlns:D=\"DAV:\"",
        ]), 0..60),
    ) {
        let body = pieces.concat();
        let _ = listing(&page(), None, body.as_bytes());
    }

    #[test]
    fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = listing(&page(), None, &body);
    }
}
