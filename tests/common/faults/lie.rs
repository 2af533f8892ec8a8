//! The kinds of faults of an HTTP server, where each fits, and what it does to a reply.

use std::time::Duration;

use bytes::Bytes;

use super::Dice;
use super::wire::{Reply, Sent, Then};

/// What the server behind a proxy is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Server {
    /// An S3 service.
    S3,
    /// A web server that lists directories as nginx's JSON.
    Web,
    /// A web server whose files a manifest lists, with their digests; its path.
    Manifest(String),
}

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// A directory's names: a page of a listing, an index page, a manifest.
    List,
    /// An object's headers.
    Head,
    /// An object's bytes.
    Get,
}

impl Class {
    pub(super) const ALL: [Class; 3] = [Class::List, Class::Head, Class::Get];
}

/// A kind of fault. Statuses are in the server's own words unless it is said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// An honest reply, some tenths of a second late.
    Delay,
    /// An honest reply, as late as [`Kind::SLOW`] allows: the one in a thousand.
    Slow,
    /// No reply; the connection stays.
    Stall,
    /// Half of the body, then nothing more; the connection stays.
    StallInBody,
    /// A reset instead of a reply.
    Reset,
    /// A reset in the middle of the body.
    ResetInBody,
    /// An orderly end instead of a reply.
    Close,
    /// An orderly end in the middle of the body.
    Cut,
    /// A body that is shorter than was asked for, and a Content-Length that agrees with the body.
    Short,
    /// A body that is longer than was asked for, and a Content-Length that agrees with the body.
    Long,
    /// Bytes after the end of the reply that look like the next one, then an orderly end. (If the
    /// connection went on, each reply would be that to the request before; where a later reply is
    /// as plausible, no client of HTTP/1.1 can tell.)
    Tail,
    /// The body in small pieces with pauses.
    Drip,
    /// A Content-Range of other bytes than those asked for.
    OtherRange,
    /// Status 200, without a Content-Range: of S3 for the part that was asked for, of a web server
    /// with the whole object.
    Whole,
    /// A page that says sorry, with status 200.
    SorryPage,
    /// This status; with this Retry-After, in seconds.
    Status(u16, Option<u64>),
    /// 403, because the session's token has expired.
    Expired,
    /// A 404 that is a web server's, from an S3 service.
    StrangersNotFound,
    /// A clear "not found" for the bytes of an object that is there and is listed.
    Gone,
    /// Another ETag than before.
    OtherETag,
    /// One bit of the body is another, and nothing tells it but a digest.
    WrongByte,
    /// A page of a listing with no bytes at all.
    EmptyBody,
    /// Pages that hold nothing and name a next one, each a new one.
    EmptyPages,
    /// Pages that name the same next one again and again.
    LoopingPages,
    /// A clear "not found", for what is there. No client can tell it from the truth.
    AbsentLie,
    /// A valid listing without names, for a directory that has some. No client can tell it either.
    EmptyLie,
}

impl Kind {
    /// How late the one in a thousand is.
    pub const SLOW: Duration = Duration::from_millis(700);

    /// All kinds from which a client can tell that something is wrong.
    pub const TELLABLE: &'static [Kind] = &[
        Kind::Delay,
        Kind::Slow,
        Kind::Stall,
        Kind::StallInBody,
        Kind::Reset,
        Kind::ResetInBody,
        Kind::Close,
        Kind::Cut,
        Kind::Short,
        Kind::Long,
        Kind::Tail,
        Kind::Drip,
        Kind::OtherRange,
        Kind::Whole,
        Kind::SorryPage,
        Kind::Status(401, None),
        Kind::Status(403, None),
        Kind::Status(412, None),
        Kind::Status(416, None),
        Kind::Status(429, None),
        Kind::Status(429, Some(1)),
        Kind::Status(500, None),
        Kind::Status(502, None),
        Kind::Status(503, None),
        Kind::Status(503, Some(1)),
        Kind::Status(503, Some(600)),
        Kind::Status(504, None),
        Kind::Expired,
        Kind::StrangersNotFound,
        Kind::Gone,
        Kind::OtherETag,
        Kind::WrongByte,
        Kind::EmptyBody,
        Kind::EmptyPages,
        Kind::LoopingPages,
    ];

    /// The kinds that no client can tell from the truth.
    pub const LIES: &'static [Kind] = &[Kind::AbsentLie, Kind::EmptyLie];

    /// Returns whether the fault makes sense for such a request, and a client that is not mistaken
    /// can tell it (but for [`Kind::LIES`]).
    pub(super) fn fits(self, class: Class, server: &Server) -> bool {
        let s3 = *server == Server::S3;
        let manifest = matches!(server, Server::Manifest(_));
        match self {
            Kind::Delay
            | Kind::Slow
            | Kind::Stall
            | Kind::Reset
            | Kind::Close
            | Kind::Tail
            | Kind::Status(401 | 403 | 429 | 500.., _) => true,
            Kind::StallInBody | Kind::ResetInBody | Kind::Cut | Kind::Drip => class != Class::Head,
            // A manifest that ends after a whole line is a shorter manifest.
            Kind::Short => class == Class::Get || (class == Class::List && !manifest),
            Kind::Long | Kind::OtherRange | Kind::Whole | Kind::Gone => class == Class::Get,
            Kind::Status(..) => class == Class::Get,
            // What HEAD says of a web server's file is all that there is to know of it.
            Kind::SorryPage => class != Class::Head,
            Kind::Expired => s3 && class != Class::Head,
            Kind::StrangersNotFound => s3 && class != Class::Head,
            // A manifest's file is what its digest says, whatever its ETag.
            Kind::OtherETag => class != Class::List && !(manifest && class == Class::Head),
            Kind::WrongByte => manifest && class == Class::Get,
            Kind::EmptyBody => class == Class::List,
            Kind::EmptyPages | Kind::LoopingPages => s3 && class == Class::List,
            Kind::AbsentLie => !manifest,
            Kind::EmptyLie => !manifest && class == Class::List,
        }
    }

    /// Returns whether the fault needs the real server's reply.
    pub(super) fn needs_server(self) -> bool {
        !matches!(
            self,
            Kind::Stall
                | Kind::Reset
                | Kind::Close
                | Kind::SorryPage
                | Kind::Status(..)
                | Kind::Expired
                | Kind::StrangersNotFound
                | Kind::Gone
                | Kind::EmptyBody
                | Kind::EmptyPages
                | Kind::AbsentLie
                | Kind::EmptyLie
        )
    }

    /// Returns the name by which it is counted.
    pub fn name(self) -> String {
        match self {
            Kind::Status(code, None) => format!("http {code}"),
            Kind::Status(code, Some(pause)) => format!("http {code} retry-after {pause}"),
            other => {
                let mut name = "http".to_owned();
                for c in format!("{other:?}").chars() {
                    if c.is_uppercase() {
                        name.push(' ');
                    }
                    name.push(c.to_ascii_lowercase());
                }
                name
            }
        }
    }

    /// Returns how long to wait before the reply.
    pub(super) fn late(self, dice: &mut Dice) -> Duration {
        match self {
            Kind::Delay => Duration::from_millis(50 + dice.below(250)),
            Kind::Slow => Kind::SLOW,
            _ => Duration::ZERO,
        }
    }

    /// Makes up a reply, for the kinds that do not need the server's.
    pub(super) fn made_up(self, class: Class, server: &Server, number: u64) -> Reply {
        let s3 = *server == Server::S3;
        let silent = |then| Reply {
            sent: Sent::Nothing,
            then,
            ..Reply::page(500, "text/plain", "")
        };
        match self {
            Kind::Stall => silent(Then::Stall),
            Kind::Reset => silent(Then::Reset),
            Kind::Close => silent(Then::Close),
            Kind::Status(code, pause) => {
                let mut reply = said(code, words(code), s3);
                reply.set("Retry-After", pause.map(|secs| secs.to_string()));
                reply
            }
            Kind::Expired => said(403, "ExpiredToken", s3),
            Kind::Gone | Kind::AbsentLie if class != Class::List || !s3 => {
                said(404, "NoSuchKey", s3)
            }
            Kind::StrangersNotFound => Reply::page(404, "text/html", "<html>nginx</html>"),
            Kind::EmptyBody => Reply::page(200, list_type(s3), ""),
            Kind::EmptyPages => list_page("", Some(&format!("empty-{number}"))),
            Kind::AbsentLie | Kind::EmptyLie if s3 => list_page("", None),
            Kind::EmptyLie => Reply::page(200, list_type(s3), "[]"),
            _ => Reply::page(
                200,
                "text/html",
                "<html><body>We will be <a href=\"back.html\">back</a> soon.</body></html>",
            ),
        }
    }

    /// Damages the server's reply, for the kinds that need it.
    pub(super) fn damage(self, reply: &mut Reply, server: &Server, dice: &mut Dice) {
        let half = reply.body.len() / 2;
        match self {
            Kind::StallInBody => {
                reply.sent = Sent::Body(half);
                reply.then = Then::Stall;
            }
            Kind::ResetInBody => {
                reply.sent = Sent::Body(half);
                reply.then = Then::Reset;
            }
            Kind::Cut => {
                reply.sent = Sent::Body(half);
                reply.then = Then::Close;
            }
            Kind::Short => {
                reply.body = reply.body.slice(..half);
                reply.announced = half as u64;
            }
            Kind::Long => {
                // Before the rest: none of it is where it should be.
                let more = [0x5a; 1000];
                reply.body = [&more, &reply.body[..]].concat().into();
                reply.announced = reply.body.len() as u64;
            }
            Kind::Tail => {
                let bytes = "These are not the bytes that you asked for.\n";
                reply.tail = Bytes::from(format!(
                    "HTTP/1.1 206 As It Is\r\nContent-Length: {}\r\nContent-Range: bytes 0-{}/{}\
                     \r\n\r\n{bytes}",
                    bytes.len(),
                    bytes.len() - 1,
                    bytes.len()
                ));
                reply.then = Then::Close;
            }
            Kind::Drip => {
                let piece = (reply.body.len() / 20).max(1);
                reply.pace = Some((piece, Duration::from_millis(5 + dice.below(20))));
            }
            Kind::OtherRange => {
                if let Some(range) = reply.header("content-range").and_then(shifted) {
                    reply.set("Content-Range", Some(range));
                }
            }
            Kind::Whole if *server == Server::S3 => {
                reply.status = 200;
                reply.set("Content-Range", None);
            }
            Kind::OtherETag => reply.set("ETag", Some("\"not-the-one\"".into())),
            Kind::WrongByte if !reply.body.is_empty() => {
                let mut body = reply.body.to_vec();
                let at = dice.below(body.len() as u64) as usize;
                body[at] ^= 1;
                reply.body = body.into();
            }
            _ => {}
        }
    }
}

/// Returns a page of an S3 listing, with what is given before its end.
pub(super) fn list_page(inner: &str, next: Option<&str>) -> Reply {
    let next = match next {
        None => "<IsTruncated>false</IsTruncated>".to_owned(),
        Some(token) => format!(
            "<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>"
        ),
    };
    let page = format!("<?xml version=\"1.0\"?><ListBucketResult>{next}{inner}</ListBucketResult>");
    Reply::page(200, list_type(true), page)
}

fn list_type(s3: bool) -> &'static str {
    match s3 {
        true => "application/xml",
        false => "application/json",
    }
}

/// Returns an error in the server's words.
fn said(code: u16, words: &str, s3: bool) -> Reply {
    match s3 {
        true => Reply::page(
            code,
            "application/xml",
            format!(
                "<?xml version=\"1.0\"?><Error><Code>{words}</Code>\
                 <Message>as the fault laboratory wants it</Message></Error>"
            ),
        ),
        false => Reply::page(code, "text/html", format!("<html>{words}</html>")),
    }
}

fn words(code: u16) -> &'static str {
    match code {
        401 => "InvalidAccessKeyId",
        403 => "AccessDenied",
        404 => "NoSuchKey",
        412 => "PreconditionFailed",
        416 => "InvalidRange",
        429 => "TooManyRequests",
        503 => "SlowDown",
        _ => "InternalError",
    }
}

/// Returns a Content-Range of as many bytes, elsewhere in the object if there is room.
fn shifted(range: &str) -> Option<String> {
    let (range, size) = range.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let whole: u64 = size.parse().ok()?;
    Some(match last + 1 < whole {
        true => format!("bytes {}-{}/{size}", first + 1, last + 1),
        // The object's end, or all of it.
        false if first > 0 => format!("bytes {}-{}/{size}", first - 1, last - 1),
        false => format!("bytes {}-{last}/{size}", (first + 1).min(last)),
    })
}
