//! What a WebDAV server (RFC 4918) says of a collection or a file: replies to PROPFIND.
//!
//! Read as a stream of events: nothing is expanded, a document type is refused, and depth, texts and
//! the reply as a whole are bounded. What it says must be of what was asked: one file, or a
//! collection and its direct children.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use quick_xml::events::Event;
use quick_xml::name::{Namespace, ResolveResult};
use quick_xml::reader::NsReader;
use reqwest::StatusCode;
use reqwest::header::{self, HeaderMap, HeaderValue};
use url::Url;

use super::super::wire;
use super::super::{Error, ErrorKind, HiddenWhy, Listing, ListingBuilder, Result};
use super::validate::{described, listed};
use crate::entry::Entry;
use crate::path::{BadName, Name};

/// What is asked for: what an entry is made of, and no more, since servers may hash a file for others.
pub(super) const QUESTION: &str = concat!(
    r#"<?xml version="1.0" encoding="utf-8"?>"#,
    r#"<D:propfind xmlns:D="DAV:"><D:prop><D:resourcetype/><D:getcontentlength/>"#,
    r#"<D:getlastmodified/><D:getetag/></D:prop></D:propfind>"#
);

/// How deep elements may be nested: what we read is six deep.
const DEPTH: usize = 32;

/// The longest text of an element that is read, in bytes: a path of 4,096, escaped.
const TEXT: usize = 16 * 1024;

const DAV: ResolveResult<'static> = ResolveResult::Bound(Namespace("DAV:"));

/// The elements that matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Element {
    Multistatus,
    Response,
    Href,
    Status,
    Propstat,
    Prop,
    ResourceType,
    Collection,
    Length,
    Modified,
    ETag,
    Other,
}

impl Element {
    fn new(name: &str) -> Element {
        match name {
            "multistatus" => Element::Multistatus,
            "response" => Element::Response,
            "href" => Element::Href,
            "status" => Element::Status,
            "propstat" => Element::Propstat,
            "prop" => Element::Prop,
            "resourcetype" => Element::ResourceType,
            "collection" => Element::Collection,
            "getcontentlength" => Element::Length,
            "getlastmodified" => Element::Modified,
            "getetag" => Element::ETag,
            _ => Element::Other,
        }
    }
}

/// What a server says of one resource.
#[derive(Debug, Default)]
struct Said {
    hrefs: Vec<String>,
    status: Option<u16>,
    props: Props,
}

#[derive(Debug, Default)]
struct Props {
    /// Whether it is a collection, where the server says what it is.
    collection: Option<bool>,
    length: Option<u64>,
    modified: Option<String>,
    etag: Option<String>,
}

impl Props {
    fn take(&mut self, other: Props) {
        self.collection = self.collection.or(other.collection);
        self.length = self.length.or(other.length);
        self.modified = self.modified.take().or(other.modified);
        self.etag = self.etag.take().or(other.etag);
    }

    /// Returns a file's entry; its version and validator are as a reply with these as headers says.
    fn file(self, name: Name, date: Option<&HeaderValue>) -> Entry {
        let mut headers = HeaderMap::new();
        // Some leave the quotes out.
        let etag = self.etag.map(|etag| match etag.ends_with('"') {
            true => etag,
            false => format!("\"{etag}\""),
        });
        let texts = [(header::ETAG, etag), (header::LAST_MODIFIED, self.modified)];
        for (name, text) in texts {
            if let Some(value) = text.and_then(|text| HeaderValue::try_from(text).ok()) {
                headers.insert(name, value);
            }
        }
        headers.extend(date.map(|date| (header::DATE, date.clone())));
        match self.length {
            Some(length) => described(name, Some(length), &headers),
            // What its GET says is asked for before it is opened.
            None => listed(name, None, None),
        }
    }

    fn entry(self, name: Name, date: Option<&HeaderValue>) -> Entry {
        match self.collection {
            Some(true) => {
                let modified = self.modified.as_deref();
                let time = modified.and_then(|text| httpdate::parse_http_date(text).ok());
                Entry {
                    mtime: time.map(Into::into),
                    ..Entry::dir(name)
                }
            }
            _ => self.file(name, date),
        }
    }
}

fn odd(why: impl std::fmt::Display) -> Error {
    Error::lied(format!("the reply is not a WebDAV listing: {why}"))
}

/// Calls `each` with what the server says of each resource.
fn parse(body: &[u8], mut each: impl FnMut(Said) -> Result<()>) -> Result<()> {
    let text = String::from_utf8_lossy(body);
    let mut reader = NsReader::from_str(&text);
    reader.config_mut().expand_empty_elements = true;
    let mut path: Vec<Element> = Vec::new();
    let mut text = String::new();
    let (mut said, mut props, mut status) = (Said::default(), Props::default(), None);
    let mut complete = false;
    loop {
        use Element::*;
        let (namespace, event) = reader.read_resolved_event().map_err(odd)?;
        match event {
            Event::Start(tag) => {
                let element = match namespace == DAV {
                    true => Element::new(tag.local_name().as_ref()),
                    false => Other,
                };
                if path.is_empty() && (element != Multistatus || complete) {
                    return Err(odd("another document"));
                }
                if path.len() == DEPTH {
                    return Err(odd("elements are nested too deeply"));
                }
                path.push(element);
                text.clear();
                match *path {
                    [Multistatus, Response] => said = Said::default(),
                    [Multistatus, Response, Propstat] => (props, status) = (Props::default(), None),
                    [.., Propstat, Prop, ResourceType] => props.collection = Some(false),
                    [.., Prop, ResourceType, Collection] => props.collection = Some(true),
                    _ => {}
                }
            }
            Event::End(_) => {
                let value = text.trim();
                match *path {
                    [Multistatus] => complete = true,
                    [Multistatus, Response] => each(std::mem::take(&mut said))?,
                    [Multistatus, Response, Href] => said.hrefs.push(value.to_owned()),
                    [Multistatus, Response, Status] => said.status = Some(code(value)?),
                    [Multistatus, Response, Propstat, Status] => status = Some(code(value)?),
                    [Multistatus, Response, Propstat] if status.is_none_or(is_success) => {
                        said.props.take(std::mem::take(&mut props));
                    }
                    [Multistatus, Response, Propstat, Prop, property] => match property {
                        Length if !value.is_empty() => {
                            let length = value.parse();
                            let wrong = |_| odd(format!("a length of {value:?}"));
                            props.length = Some(length.map_err(wrong)?);
                        }
                        Modified if !value.is_empty() => props.modified = Some(value.to_owned()),
                        ETag if !value.is_empty() => props.etag = Some(value.to_owned()),
                        _ => {}
                    },
                    _ => {}
                }
                text.clear();
                path.pop();
            }
            Event::Text(more) => add(&mut text, &more)?,
            Event::CData(more) => add(&mut text, &more)?,
            Event::GeneralRef(entity) => {
                let known = quick_xml::escape::resolve_predefined_entity(&entity);
                match (known, entity.resolve_char_ref().map_err(odd)?) {
                    (Some(known), _) => add(&mut text, known)?,
                    (None, Some(char)) => add(&mut text, char.encode_utf8(&mut [0; 4]))?,
                    (None, None) => return Err(odd("an entity of its own")),
                }
            }
            Event::DocType(_) => return Err(odd("it has a document type")),
            Event::Eof if complete && path.is_empty() => return Ok(()),
            Event::Eof => return Err(odd("it is cut short")),
            _ => {}
        }
    }
}

fn add(text: &mut String, more: &str) -> Result<()> {
    if text.len() + more.len() > TEXT {
        return Err(odd("a text of more than 16 KiB"));
    }
    text.push_str(more);
    Ok(())
}

/// Parses `HTTP/1.1 200 OK`.
fn code(status: &str) -> Result<u16> {
    let code = status.split(' ').nth(1).and_then(|code| code.parse().ok());
    code.filter(|code| (100..600).contains(code))
        .ok_or_else(|| odd(format!("a status of {status:?}")))
}

fn is_success(code: u16) -> bool {
    (200..300).contains(&code)
}

/// Returns the names on the way to what an href stands for, each decoded; hrefs are URLs, absolute
/// paths, or relative to the collection that was asked for.
fn parts(href: &str, page: &Url) -> Result<Vec<Vec<u8>>> {
    let path: Cow<'_, str> = match href.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            // Servers behind a proxy may know neither its scheme nor its port, but their name.
            let named = Url::parse(&format!("{scheme}://{authority}/"));
            if named.as_ref().ok().and_then(Url::host) != page.host() {
                return Err(odd(format!("it names {href:?}, which is at another host")));
            }
            path.into()
        }
        _ if href.starts_with('/') => href.into(),
        _ => format!("{}/{href}", page.path().trim_end_matches('/')).into(),
    };
    let parts = path.split('/').filter(|part| !part.is_empty());
    Ok(parts
        .map(|part| percent_decode_str(part).collect())
        .collect())
}

/// What an href is, seen from what was asked for.
enum Place {
    Itself,
    /// A direct child, by its decoded name.
    Child(Vec<u8>),
}

fn place(href: &str, page: &Url) -> Result<Place> {
    let (mut own, above) = (parts(href, page)?, parts(page.path(), page)?);
    match own.len().checked_sub(above.len()) {
        Some(0) if own == above => Ok(Place::Itself),
        Some(1) if own.starts_with(&above) => Ok(Place::Child(own.pop().unwrap_or_default())),
        _ => Err(odd(format!(
            "it names {href:?}, which is not in {:?}; a proxy that changes paths?",
            page.path()
        ))),
    }
}

/// Returns the error that a resource's own status stands for.
fn refused(code: u16) -> Error {
    let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    wire::status_error(status, &HeaderMap::new(), "of this one")
}

/// Reads the reply to a PROPFIND of depth 1 for the collection at `page`.
pub(super) fn listing(page: &Url, date: Option<&HeaderValue>, body: &[u8]) -> Result<Listing> {
    let mut listing = ListingBuilder::default();
    let mut seen_itself = false;
    parse(body, |said| {
        for href in &said.hrefs {
            let name = match place(href, page)? {
                Place::Child(name) => name,
                Place::Itself => {
                    seen_itself = true;
                    if let Some(code) = said.status.filter(|code| !is_success(*code)) {
                        return Err(refused(code));
                    }
                    if said.props.collection == Some(false) {
                        let what = "a file, not a directory";
                        return Err(Error::new(ErrorKind::NotFound, what));
                    }
                    continue;
                }
            };
            let name = match Name::from_bytes(&name) {
                Ok(name) if !href.contains(char::REPLACEMENT_CHARACTER) => name,
                bad => {
                    let why = bad.err().unwrap_or(BadName::NotUtf8);
                    listing.hide(HiddenWhy::Name(why), &String::from_utf8_lossy(&name));
                    continue;
                }
            };
            match said.status {
                // Removed while the listing was made.
                Some(404 | 410) => {}
                // It is there, and whoever opens it is told why it cannot be had.
                Some(code) if !is_success(code) => listing.push(listed(name, None, None)),
                _ => {
                    let mut props = Props::default();
                    props.take(Props {
                        modified: said.props.modified.clone(),
                        etag: said.props.etag.clone(),
                        ..said.props
                    });
                    // A server that does not say what it is shows a collection by its slash.
                    props.collection = props.collection.or(Some(href.ends_with('/')));
                    listing.push(props.entry(name, date));
                }
            }
        }
        Ok(())
    })?;
    match seen_itself || !listing.is_empty() {
        true => Ok(listing.finish()),
        false => Err(odd("it names nothing, not even the directory")),
    }
}

/// Reads the reply to a PROPFIND of depth 0 for what is at `page`, which must be a file.
pub(super) fn file(
    page: &Url,
    name: Name,
    date: Option<&HeaderValue>,
    body: &[u8],
) -> Result<Entry> {
    let mut found = None;
    parse(body, |said| {
        let Some(href) = said.hrefs.first() else {
            return Err(odd("a response without its href"));
        };
        if !matches!(place(href, page)?, Place::Itself) || found.is_some() {
            return Err(odd("more than was asked for"));
        }
        if let Some(code) = said.status.filter(|code| !is_success(*code)) {
            return Err(refused(code));
        }
        found = Some(said.props);
        Ok(())
    })?;
    let props = found.ok_or_else(|| odd("it names nothing"))?;
    let entry = props.entry(name, date);
    match entry.kind {
        crate::entry::Kind::File => Ok(entry),
        _ => Err(Error::new(ErrorKind::NotFound, "a directory, not a file")),
    }
}

#[cfg(test)]
mod tests;
