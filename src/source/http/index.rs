//! Index pages: what nginx, Apache, Caddy, lighttpd, Python's http.server and their like write
//! for a directory.
//!
//! Only links to direct children of the page count. Names come from the links, since the shown
//! texts are cut short; sizes only where they are exact; and a page that is not an index is an
//! error, never an empty directory.

use std::collections::BTreeMap;

use html5gum::{HtmlString, Token, Tokenizer};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use url::Url;

use super::super::{Error, HiddenWhy, Listing, ListingBuilder, Result};
use super::IndexFormat;
use super::validate::{Resolution, listed};
use crate::entry::{Entry, Timestamp};
use crate::path::Name;

/// The most text that is kept after a link, in bytes: a date, a size, a description.
const MAX_DETAILS: usize = 512;

/// Parses the page at `page` (its URL after redirects).
pub(super) fn parse(
    page: &Url,
    content_type: Option<&str>,
    body: &[u8],
    format: IndexFormat,
) -> Result<Listing> {
    let first = body.iter().find(|b| !b.is_ascii_whitespace());
    let is_json = match content_type {
        Some(kind) => kind.starts_with("application/json"),
        None => false,
    };
    match format {
        IndexFormat::Json => json(body),
        IndexFormat::Auto if is_json || first == Some(&b'[') => json(body),
        _ => html(page, body, format == IndexFormat::Html),
    }
}

/// An entry as nginx or Caddy writes it in JSON.
#[derive(Debug, Deserialize)]
struct Item {
    name: String,
    /// nginx: `directory`, `file` or `other`.
    r#type: Option<String>,
    /// Caddy.
    is_dir: Option<bool>,
    size: Option<i64>,
    /// nginx: as in a header.
    mtime: Option<String>,
    /// Caddy: RFC 3339.
    mod_time: Option<String>,
}

fn json(body: &[u8]) -> Result<Listing> {
    let odd = |why: &dyn std::fmt::Display| {
        Error::lied(format!(
            "the reply is not a JSON listing of a directory: {why}"
        ))
    };
    let items: Vec<Item> = serde_json::from_slice(body).map_err(|e| odd(&e))?;
    let mut listing = ListingBuilder::default();
    for item in items {
        let is_dir = match (item.r#type.as_deref(), item.is_dir) {
            (Some("directory"), _) | (None, Some(true)) => true,
            (Some("file"), _) | (None, Some(false)) => false,
            (Some(_), _) => {
                listing.hide(HiddenWhy::Special, &item.name);
                continue;
            }
            (None, None) => return Err(odd(&"an entry without its type")),
        };
        let name = match is_dir {
            true => item.name.strip_suffix('/').unwrap_or(&item.name),
            false => &item.name,
        };
        let name = match Name::new(name) {
            Ok(name) => name,
            Err(why) => {
                listing.hide(why.into(), name);
                continue;
            }
        };
        let http = item.mtime.as_deref();
        let http = http.and_then(|t| httpdate::parse_http_date(t).ok());
        let rfc = item.mod_time.as_deref();
        let time = http.or_else(|| humantime::parse_rfc3339_weak(rfc?).ok());
        let time = time.map(|t| (whole_seconds(t.into()), Resolution::Second));
        let size = item.size.and_then(|size| u64::try_from(size).ok());
        listing.push(entry(name, is_dir, size, time));
    }
    Ok(listing.finish())
}

/// Returns `time` without its fraction, which headers do not have.
fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_secs(time.0.div_euclid(1_000_000_000))
}

fn entry(
    name: Name,
    is_dir: bool,
    size: Option<u64>,
    time: Option<(Timestamp, Resolution)>,
) -> Entry {
    match is_dir {
        false => listed(name, size, time),
        true => Entry {
            mtime: time.map(|t| t.0),
            ..Entry::dir(name)
        },
    }
}

/// A link and what stands after it.
#[derive(Debug, Default)]
struct Link {
    href: String,
    details: String,
    /// Caddy's `<td data-size=…>` and `<time datetime=…>`.
    size: Option<u64>,
    datetime: Option<String>,
}

/// What a page holds, as far as it matters here.
#[derive(Debug, Default)]
struct Page {
    links: Vec<Link>,
    /// The texts of the title and of the first heading.
    titles: String,
    /// Whether it came to its end.
    ends: bool,
    has_parent_link: bool,
}

fn html(page: &Url, body: &[u8], trusted: bool) -> Result<Listing> {
    let read = read_html(body);
    let mut listing = ListingBuilder::default();
    let mut files: BTreeMap<Name, Entry> = BTreeMap::new();
    let mut dated = false;
    for link in &read.links {
        let Some(child) = child(page, &link.href) else {
            continue;
        };
        let details = Details::of(link);
        dated |= details.time.is_some();
        let name = match Name::from_bytes(&child.name) {
            Ok(name) => name,
            Err(why) => {
                listing.hide(why.into(), &String::from_utf8_lossy(&child.name));
                continue;
            }
        };
        let entry = entry(name, child.is_dir, details.size, details.time);
        if child.is_dir {
            listing.push(entry);
        } else {
            // An icon may link to the same file before the name does, with nothing after it.
            let known = files
                .entry(entry.name.clone())
                .or_insert_with(|| entry.clone());
            if known.mtime.is_none() {
                *known = entry;
            }
        }
    }
    let title = read.titles.to_ascii_lowercase();
    let titled = ["index of", "directory listing", "directory:"]
        .iter()
        .any(|words| title.contains(words));
    let found = !listing.is_empty() || !files.is_empty();
    let recognised = titled || dated || (trusted && (found || read.has_parent_link));
    if !recognised {
        return Err(Error::lied(
            "the page is not the listing of a directory; name a file or a manifest, or set \
             `index: html` if its links are the directory's files",
        ));
    }
    if !read.ends && !trusted {
        return Err(Error::lied("the listing of the directory is cut short"));
    }
    listing.extend(files.into_values());
    Ok(listing.finish())
}

fn read_html(body: &[u8]) -> Page {
    let mut page = Page::default();
    let mut in_title = false;
    let mut in_link = false;
    let text_of = |s: &HtmlString| String::from_utf8_lossy(s).into_owned();
    for Ok(token) in Tokenizer::new(body) {
        match token {
            Token::StartTag(tag) => {
                let attribute = |name: &[u8]| tag.attributes.get(name).map(|v| text_of(v));
                match tag.name.as_slice() {
                    b"a" => {
                        if let Some(href) = attribute(b"href") {
                            in_link = true;
                            page.has_parent_link |= matches!(&*href, "../" | "..");
                            page.links.push(Link {
                                href,
                                ..Link::default()
                            });
                        }
                    }
                    b"title" | b"h1" => in_title = true,
                    b"time" => {
                        if let Some(link) = page.links.last_mut() {
                            link.datetime = link.datetime.take().or(attribute(b"datetime"));
                        }
                    }
                    _ => {
                        if let (Some(link), Some(size)) =
                            (page.links.last_mut(), attribute(b"data-size"))
                        {
                            link.size = link.size.or(size.parse().ok());
                        }
                    }
                }
            }
            Token::EndTag(tag) => match tag.name.as_slice() {
                b"a" => in_link = false,
                b"title" | b"h1" => {
                    in_title = false;
                    page.titles.push('\n');
                }
                b"html" => page.ends = true,
                b"td" => {
                    if let Some(link) = page.links.last_mut() {
                        link.details.push(' ');
                    }
                }
                _ => {}
            },
            Token::String(text) if in_title => page.titles.push_str(&text_of(&text)),
            Token::String(text) if !in_link => {
                if let Some(link) = page.links.last_mut()
                    && link.details.len() < MAX_DETAILS
                {
                    link.details.push_str(&text_of(&text));
                }
            }
            _ => {}
        }
    }
    page
}

struct Child {
    name: Vec<u8>,
    is_dir: bool,
}

/// Returns what a link names if it is a direct child of the page.
fn child(page: &Url, href: &str) -> Option<Child> {
    if href.starts_with(['?', '#']) {
        return None;
    }
    let url = page.join(href).ok()?;
    if url.origin() != page.origin() || url.query().is_some() {
        return None;
    }
    let parts = |url: &Url| -> Option<Vec<Vec<u8>>> {
        let parts = url.path_segments()?;
        Some(parts.map(|p| percent_decode_str(p).collect()).collect())
    };
    // The page's own path ends with an empty part: what follows its last slash.
    let (mut above, mut path) = (parts(page)?, parts(&url)?);
    above.pop();
    if path.len() <= above.len() || path[..above.len()] != above[..] {
        return None;
    }
    let mut rest = path.split_off(above.len());
    let is_dir = rest.len() == 2 && rest[1].is_empty();
    if !(rest.len() == 1 || is_dir) || rest[0].is_empty() {
        return None;
    }
    Some(Child {
        name: rest.swap_remove(0),
        is_dir,
    })
}

/// The size and time that stand after a link.
struct Details {
    size: Option<u64>,
    time: Option<(Timestamp, Resolution)>,
}

impl Details {
    fn of(link: &Link) -> Details {
        if let Some(datetime) = &link.datetime {
            let time = humantime::parse_rfc3339_weak(datetime).ok();
            return Details {
                size: link.size,
                time: time.map(|t| (whole_seconds(t.into()), Resolution::Second)),
            };
        }
        let words: Vec<&str> = link.details.split_whitespace().collect();
        for (i, pair) in words.windows(2).enumerate() {
            if let Some(time) = date_and_time(pair[0], pair[1]) {
                // `1.2K` is rounded, `-` is a directory's; digits alone are exact.
                let size = words.get(i + 2).and_then(|w| w.parse().ok());
                return Details {
                    size: size.or(link.size),
                    time: Some(time),
                };
            }
        }
        Details {
            size: link.size,
            time: None,
        }
    }
}

/// Parses `22-Nov-2026 11:20`, `2026-11-22 11:20` and `2026-Nov-22 11:20:16`.
fn date_and_time(date: &str, time: &str) -> Option<(Timestamp, Resolution)> {
    let mut parts = date.split('-');
    let (a, b, c) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let (year, day) = if a.len() == 4 { (a, c) } else { (c, a) };
    let month = match b.parse::<i64>() {
        Ok(number) => number,
        Err(_) => {
            let months = "janfebmaraprmayjunjulaugsepoctnovdec";
            let at = months
                .find(&b.to_ascii_lowercase())
                .filter(|_| b.len() == 3)?;
            i64::try_from(at / 3).ok()? + 1
        }
    };
    let (year, day): (i64, i64) = (year.parse().ok()?, day.parse().ok()?);
    let mut clock = time.split(':').map(|part| part.parse::<i64>());
    let hour = clock.next()?.ok()?;
    let minute = clock.next()?.ok()?;
    let second = clock.next().transpose().ok()?;
    let fits = (1900..10_000).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && second.is_none_or(|s| (0..=60).contains(&s))
        && clock.next().is_none();
    if !fits {
        return None;
    }
    let days = days_from_civil(year, month, day);
    let secs = ((days * 24 + hour) * 60 + minute) * 60 + second.unwrap_or(0);
    let resolution = match second {
        Some(_) => Resolution::Second,
        None => Resolution::Minute,
    };
    Some((Timestamp::from_secs(secs), resolution))
}

/// Returns the days from 1970-01-01 to a date of the Gregorian calendar.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March, so that the leap day is the last.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    era * 146_097 + days - 719_468
}

#[cfg(test)]
mod tests;
