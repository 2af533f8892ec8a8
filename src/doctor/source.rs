//! A source: whether it can be reached, lets us in, and tells the same time.

use std::time::Duration;

use super::Finding;
use crate::source::ErrorKind;

/// How far a clock may be off before it is told, in seconds: what comes of a machine that sets its
/// clock from the network is far below.
const NOTICEABLE: u64 = 60;

/// How far a clock may be off before signatures are refused, in seconds: S3 allows 15 minutes, others
/// and tokens five.
const TOO_FAR: u64 = 300;

/// What was found of a layer's source.
#[derive(Debug, Clone, PartialEq)]
pub struct Visit {
    /// The layer's name.
    pub layer: String,
    /// The source, as a URL without credentials.
    pub url: String,
    /// Why nothing could be asked: settings that make no sense.
    pub unusable: Option<String>,
    /// Whether what is asked is signed with the time.
    pub signs: bool,
    /// How the way to the server went; nothing where there is none, or a proxy knows it.
    pub way: Option<Way>,
    /// How far the server's clock is ahead of this machine's, in seconds; nothing where it said no
    /// time.
    pub ahead: Option<i64>,
    /// The listing of its root: how many entries and how long it took, or the failure. Nothing where
    /// it was not asked for, since it could not succeed.
    pub listed: Option<Result<(usize, Duration), (ErrorKind, String)>>,
}

/// How the way to a server went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// The server, as `host:port`.
    pub to: String,
    /// How far it went.
    pub went: Went,
}

/// How far the way to a server went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Went {
    /// A connection was made.
    Connected,
    /// The name has no address.
    Unresolved(String),
    /// It has, and nobody lets us connect.
    Refused(String),
    /// It has, and nobody answers.
    Silent(Duration),
}

/// Judges a source.
pub fn judge(visit: &Visit) -> Vec<Finding> {
    let findings = [Some(reach(visit)), clock(visit)];
    let findings = findings.into_iter().flatten();
    findings.map(|f| f.of(visit.layer.as_str())).collect()
}

fn reach(visit: &Visit) -> Finding {
    let url = &visit.url;
    if let Some(why) = &visit.unusable {
        let remedy = "correct the layer (`svol validate FILE` checks a file)";
        return Finding::fail("source/settings", why, remedy);
    }
    match (&visit.listed, &visit.way) {
        (Some(Ok((entries, took))), _) => {
            let took = took.as_secs_f64() * 1e3;
            let entries = match entries {
                1 => "1 entry".to_owned(),
                n => format!("{n} entries"),
            };
            let saw = format!("{url}: {entries} at its root, {took:.0} ms");
            Finding::ok("source/lists", saw)
        }
        // What the way says of an outage is plainer than what the source says.
        (Some(Err((kind, _))), Some(way)) if kind.is_outage() && way.went != Went::Connected => {
            way_failed(url, way)
        }
        (Some(Err((kind, why))), _) => listing_failed(url, *kind, why),
        (None, Some(way)) => way_failed(url, way),
        (None, None) => not_asked(url),
    }
}

fn not_asked(url: &str) -> Finding {
    let saw = format!("{url} was not asked");
    Finding::fail("source/lists", saw, "run it again")
}

fn way_failed(url: &str, way: &Way) -> Finding {
    let to = &way.to;
    let host = to.rsplit_once(':').map_or(to.as_str(), |(host, _)| host);
    match &way.went {
        Went::Unresolved(why) => Finding::fail(
            "source/resolves",
            format!("{url}: no address for {host} ({why})"),
            format!("check the name, and what answers for names here: `getent hosts {host}`"),
        ),
        Went::Refused(why) => Finding::fail(
            "source/connects",
            format!("{url}: no connection to {to} ({why})"),
            "see that the server runs and listens there, and that the port is right",
        ),
        Went::Silent(limit) => Finding::fail(
            "source/connects",
            format!("{url}: {to} did not answer within {limit:?}"),
            "see whether a firewall or a network policy drops what is sent there, or a proxy is \
             needed (HTTPS_PROXY, or `proxy` of the layer)",
        ),
        Went::Connected => not_asked(url),
    }
}

fn listing_failed(url: &str, kind: ErrorKind, why: &str) -> Finding {
    let (check, remedy) = match kind {
        ErrorKind::Denied => (
            "source/credentials",
            "check the credentials and what they may do, as said above; `volume/secret` tells \
             whether they can be read",
        ),
        ErrorKind::NotNow => ("source/credentials", "do what is said above, at the source"),
        ErrorKind::NotFound => (
            "source/place",
            "the server answers and has no such place: check the path, prefix or ref",
        ),
        ErrorKind::Invalid => (
            "source/place",
            "what is asked makes no sense there: correct the layer as said above",
        ),
        ErrorKind::Lied => (
            "source/speaks",
            "something else than such a server seems to answer there, or something between: check \
             the address and the port",
        ),
        ErrorKind::Timeout => (
            "source/answers",
            "it takes connections and does not answer in time: look at the server, or allow it \
             more (--timeout)",
        ),
        ErrorKind::Unreachable => (
            "source/connects",
            "see that the server runs, and that a firewall or proxy lets us through",
        ),
        ErrorKind::Changed | ErrorKind::Interrupted | ErrorKind::Throttled | ErrorKind::Server => (
            "source/answers",
            "the server has trouble of its own: ask again later, or look at its log",
        ),
    };
    Finding::fail(check, format!("{url}: {why}"), remedy)
}

fn clock(visit: &Visit) -> Option<Finding> {
    let check = "source/clock";
    let ahead = visit.ahead?;
    let off = ahead.unsigned_abs();
    if off <= NOTICEABLE {
        return Some(Finding::ok(check, "the same time as here"));
    }
    let way = match ahead > 0 {
        true => "behind",
        false => "ahead of",
    };
    let saw = format!("this machine's clock is {off} s {way} the server's");
    let remedy = "set the clock: `timedatectl set-ntp true`, or `chronyc makestep`";
    Some(match off > TOO_FAR && visit.signs {
        true => Finding::fail(check, format!("{saw}: signatures are refused"), remedy),
        false => Finding::warn(check, saw, remedy),
    })
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    fn good() -> Visit {
        Visit {
            layer: "data".into(),
            url: "s3://b".into(),
            unusable: None,
            signs: true,
            way: Some(Way {
                to: "h:443".into(),
                went: Went::Connected,
            }),
            ahead: Some(0),
            listed: Some(Ok((3, Duration::from_millis(5)))),
        }
    }

    #[test]
    fn a_source_that_answers_is_well() {
        let found = judge(&good());
        assert_eq!(found.len(), 2);
        assert!(found.iter().all(|f| f.level == Level::Ok));
        assert!(found.iter().all(|f| f.subject.as_deref() == Some("data")));
        assert!(found[0].saw.contains("3 entries"));
    }

    #[test]
    fn each_kind_of_failure_has_its_check() {
        for kind in ErrorKind::ALL {
            let visit = Visit {
                listed: Some(Err((kind, "in its words".into()))),
                ..good()
            };
            let found = &judge(&visit)[0];
            let expected = match kind {
                ErrorKind::Denied | ErrorKind::NotNow => "source/credentials",
                ErrorKind::NotFound | ErrorKind::Invalid => "source/place",
                ErrorKind::Lied => "source/speaks",
                ErrorKind::Unreachable => "source/connects",
                _ => "source/answers",
            };
            assert_eq!(found.check, expected, "{kind:?}");
            assert_eq!(found.level, Level::Fail);
            assert_eq!(found.saw, "s3://b: in its words");
            assert!(found.remedy.is_some());
        }
    }

    #[test]
    fn the_way_is_told_where_it_ends() {
        let way = |went| Visit {
            way: Some(Way {
                to: "files.example:443".into(),
                went,
            }),
            listed: None,
            ahead: None,
            ..good()
        };
        let unresolved = || Went::Unresolved("no".into());
        let refused = || Went::Refused("no".into());
        let silent = Went::Silent(Duration::from_secs(5));
        for (went, check, word) in [
            (
                unresolved(),
                "source/resolves",
                "getent hosts files.example`",
            ),
            (refused(), "source/connects", "listens"),
            (silent, "source/connects", "firewall"),
            (Went::Connected, "source/lists", "again"),
        ] {
            let found = judge(&way(went.clone()));
            assert_eq!(found.len(), 1, "no clock without an answer");
            assert_eq!(
                (found[0].check.as_str(), found[0].level),
                (check, Level::Fail)
            );
            assert!(found[0].remedy.as_ref().unwrap().contains(word), "{went:?}");
        }
        // What cannot be reached directly may be listed through a proxy.
        let listed = Visit {
            listed: good().listed,
            ..way(refused())
        };
        assert_eq!(judge(&listed)[0].level, Level::Ok);
        let both = Visit {
            listed: Some(Err((ErrorKind::Unreachable, "no".into()))),
            ..way(unresolved())
        };
        assert_eq!(judge(&both)[0].check, "source/resolves");
        let unusable = Visit {
            unusable: Some("no such profile".into()),
            ..way(Went::Connected)
        };
        assert_eq!(judge(&unusable)[0].check, "source/settings");
        let never = Visit {
            way: None,
            ..way(Went::Connected)
        };
        assert_eq!(judge(&never)[0].level, Level::Fail);
    }

    #[test]
    fn a_clock_that_is_off_breaks_signatures() {
        for (ahead, signs, level, word) in [
            (0, true, Level::Ok, ""),
            (60, true, Level::Ok, ""),
            (-60, false, Level::Ok, ""),
            (61, true, Level::Warn, "61 s behind"),
            (-61, true, Level::Warn, "61 s ahead of"),
            (300, true, Level::Warn, ""),
            (301, true, Level::Fail, "signatures"),
            (-301, true, Level::Fail, "signatures"),
            (-301, false, Level::Warn, ""),
        ] {
            let visit = Visit {
                ahead: Some(ahead),
                signs,
                ..good()
            };
            let found = judge(&visit).pop().unwrap();
            assert_eq!(
                (found.check.as_str(), found.level),
                ("source/clock", level),
                "{ahead}"
            );
            assert!(found.saw.contains(word), "{ahead}: {}", found.saw);
        }
    }
}
