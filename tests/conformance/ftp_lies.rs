//! FTP servers that lie, break off or make no sense, by script.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use svol::entry::Entry;
use svol::path::RelPath;
use svol::source::ftp::{FtpSettings, FtpSource, FtpTls};
use svol::source::guard::{GuardOptions, Guarded};
use svol::source::{ErrorKind, Result, Secret, Source};

use crate::common::ftp_script::{Answer, FILE, ScriptedFtp, data, say};
use crate::common::noise;
use crate::suite::*;

fn source(settings: FtpSettings) -> FtpSource {
    FtpSource::new(settings).unwrap()
}

async fn file(source: &dyn Source) -> Entry {
    source.stat(&at("f")).await.unwrap()
}

async fn list(source: &dyn Source) -> Result<Vec<String>> {
    let listing = source.list(&RelPath::root()).await?;
    Ok(listing
        .entries
        .iter()
        .map(|e| e.name.as_str().to_owned())
        .collect())
}

/// What a script with one odd answer makes of everything that is asked.
async fn kinds(verb: &'static str, answer: fn() -> Option<Answer>) -> [Option<ErrorKind>; 3] {
    let server = ScriptedFtp::start(move |command| {
        let is_it = command.split(' ').next() == Some(verb);
        is_it.then(answer).flatten()
    })
    .await;
    let source = source(server.settings());
    let listed = list(&source).await.map(|_| ());
    let entry = source.stat(&at("f")).await;
    let read = match &entry {
        Ok(entry) => read(&source, "f", entry, 100, 1000).await.map(|_| ()),
        Err(_) => Ok(()),
    };
    [listed, entry.map(|_| ()), read].map(|result| result.err().map(|e| e.kind()))
}

#[tokio::test]
async fn what_makes_no_sense_is_a_lie() {
    const LIE: Option<ErrorKind> = Some(ErrorKind::Lied);
    let endless = || Some(Answer::Say(vec![b'2'; 1 << 20]));
    assert_eq!(kinds("", endless).await, [LIE, LIE, None], "the greeting");
    assert_eq!(kinds("CWD", endless).await, [LIE, None, None]);
    let endless = || Some(Answer::Data(vec![b'-'; 1 << 20], "226 Done".into()));
    assert_eq!(kinds("LIST", endless).await, [LIE, None, None]);
    let junk = || data("<html>\r\nWe will be back soon.\r\n");
    assert_eq!(kinds("LIST", junk).await, [LIE, None, None]);
    assert_eq!(kinds("SIZE", || say("213 many")).await, [None, LIE, None]);
    assert_eq!(kinds("SIZE", || say("150 Wait")).await, [None, LIE, None]);
    assert_eq!(kinds("RETR", || say("226 Done")).await, [None, None, LIE]);
    let too_much = || data(vec![b'x'; 901]);
    assert_eq!(kinds("RETR", too_much).await, [None, None, LIE]);
    assert_eq!(
        kinds("PWD", || say("257 C:\\")).await[0],
        Some(ErrorKind::Invalid)
    );
}

#[tokio::test]
async fn what_breaks_off_is_interrupted() {
    const BROKEN: Option<ErrorKind> = Some(ErrorKind::Interrupted);
    let cut = || {
        Some(Answer::Data(
            FILE[..500].into(),
            "426 The disk is gone".into(),
        ))
    };
    assert_eq!(kinds("RETR", cut).await, [None, None, BROKEN]);
    let cut = || data(&FILE[..500]);
    assert_eq!(kinds("RETR", cut).await, [None, None, BROKEN]);
    assert_eq!(
        kinds("RETR", || Some(Answer::Close)).await,
        [None, None, BROKEN]
    );
    assert_eq!(
        kinds("LIST", || Some(Answer::Close)).await,
        [BROKEN, None, None]
    );
    let cut = || Some(Answer::Data(b"-rw-r--r-- 1 u g".into(), "426 Oh".into()));
    assert_eq!(kinds("LIST", cut).await, [BROKEN, None, None]);
    let gone = || Some(Answer::Close);
    assert_eq!(kinds("", gone).await[0], Some(ErrorKind::Unreachable));
}

#[tokio::test]
async fn the_servers_words_are_in_the_error_and_secrets_are_not() {
    let server = ScriptedFtp::start(|command| match command.split_once(' ') {
        Some(("PASS", word)) => say(&format!("530 The word \x1b[31m{word} is wrong")),
        _ => None,
    })
    .await;
    let mut settings = server.settings();
    settings.user = Some("me".into());
    settings.password = Some(Secret::fixed("ftp-hunter2"));
    settings.clear_password = true;
    let error = list(&source(settings)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    let text = format!("{error} {error:?}");
    assert!(text.contains("is wrong"), "{text}");
    assert!(
        !text.contains("hunter2") && !text.contains('\x1b'),
        "{text}"
    );
}

#[tokio::test]
async fn without_tls_nothing_is_said() {
    let server = ScriptedFtp::start(|_| None).await;
    let mut settings = server.settings();
    settings.tls = FtpTls::Explicit;
    settings.user = Some("me".into());
    settings.password = Some(Secret::fixed("ftp-hunter2"));
    let error = list(&source(settings)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("does not do TLS"), "{error}");
    assert_eq!(server.seen(), ["", "AUTH TLS"]);
}

#[tokio::test]
async fn data_comes_from_the_server_whatever_its_reply_to_pasv_says() {
    // 192.0.2.1 is nobody's.
    let server = ScriptedFtp::start(|command| match command {
        "EPSV" => say("500 What?"),
        "PASV" => say("227 Passive (192,0,2,1,PORT)"),
        _ => None,
    })
    .await;
    let source = source(server.settings());
    assert_eq!(list(&source).await.unwrap(), ["f"]);
    let entry = file(&source).await;
    assert_eq!(
        read(&source, "f", &entry, 10, 20).await.unwrap(),
        &FILE[10..20]
    );
    assert_eq!(server.count("EPSV"), 1, "asked once");
}

#[tokio::test]
async fn where_epsv_leads_nowhere_pasv_is_tried() {
    let server = ScriptedFtp::start(|command| match command {
        // A port that nobody listens on.
        "EPSV" => say("229 Extended (|||1|)"),
        _ => None,
    })
    .await;
    let source = guarded(source(server.settings()));
    assert_eq!(list(&*source).await.unwrap(), ["f"]);
}

#[tokio::test]
async fn a_file_that_changes_under_a_reader_is_noticed() {
    for (verb, before, after) in [
        ("MDTM", "213 20200913122640", "213 20200913122641"),
        ("SIZE", "213 1000", "213 1001"),
        ("SIZE", "213 1000", "550 No such file"),
    ] {
        let retrieved = Arc::new(AtomicUsize::new(0));
        let server = ScriptedFtp::start({
            let retrieved = retrieved.clone();
            move |command| match command.split(' ').next()? {
                "RETR" => {
                    retrieved.fetch_add(1, Ordering::Relaxed);
                    None
                }
                of if of == verb => match retrieved.load(Ordering::Relaxed) {
                    0 => say(before),
                    _ => say(after),
                },
                _ => None,
            }
        })
        .await;
        let source = source(server.settings());
        let entry = file(&source).await;
        let body = source.read(&at("f"), &entry, 0..1000).await.unwrap();
        let error = collect(body).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Changed, "{verb}: {error}");
        assert_eq!(retrieved.load(Ordering::Relaxed), 1);
    }
}

#[tokio::test]
async fn names_are_never_commands() {
    let server = ScriptedFtp::start(|command| match command {
        "LIST -a" => data(
            "drwxr-xr-x 2 u g 4096 Sep 13  2020 .\r\n\
             -rw-r--r-- 1 u g 5 Sep 13  2020 a\rDELE f\r\n\
             -rw-r--r-- 1 u g 5 Sep 13  2020 b\0c\r\n\
             -rw-r--r-- 1 u g 5 Sep 13  2020 ../up\r\n\
             prw-r--r-- 1 u g 0 Sep 13  2020 pipe\r\n\
             lrwxrwxrwx 1 u g 3 Sep 13  2020 link -> f\r\n\
             -rw-r--r-- 1 u g 5 Sep 13  2020 fine\r\n",
        ),
        _ => None,
    })
    .await;
    let source = source(server.settings());
    let listing = source.list(&RelPath::root()).await.unwrap();
    let names: Vec<_> = listing.entries.iter().map(|e| e.name.as_str()).collect();
    assert_eq!(names, ["fine", "link"]);
    assert_eq!(listing.entries[1].target.as_deref(), Some("f"));
    assert_eq!(listing.hidden.iter().map(|h| h.count).sum::<u64>(), 4);
    let entry = file(&source).await;
    let before = server.seen().len();
    let path = at("f\r\nDELE f");
    assert_eq!(kind(source.stat(&path).await), ErrorKind::NotFound);
    assert_eq!(kind(source.list(&path).await), ErrorKind::NotFound);
    assert_eq!(
        kind(source.read(&path, &entry, 0..1).await),
        ErrorKind::NotFound
    );
    assert_eq!(server.seen().len(), before, "nothing was sent");
}

#[tokio::test]
async fn a_refusal_is_an_absence_only_where_the_listing_shows_that() {
    let server = ScriptedFtp::start(|command| match command {
        "SIZE /f" | "RETR /f" => say("550 Permission denied"),
        "CWD /closed" => say("550 Permission denied"),
        "LIST -a" => data(
            "drwxr-xr-x 2 u g 4096 Sep 13  2020 .\r\n\
             drwx------ 2 u g 4096 Sep 13  2020 closed\r\n\
             -rw------- 1 u g 5 Sep 13  2020 f\r\n",
        ),
        _ => None,
    })
    .await;
    let source = source(server.settings());
    let error = source.stat(&at("f")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.to_string().contains("Permission denied"), "{error}");
    assert_eq!(kind(source.list(&at("closed")).await), ErrorKind::Denied);
    assert_eq!(kind(source.stat(&at("closed/x")).await), ErrorKind::Denied);
    for path in ["ghost", "f/x", "ghost/x"] {
        assert_eq!(
            kind(source.stat(&at(path)).await),
            ErrorKind::NotFound,
            "{path}"
        );
    }
    assert_eq!(server.count("USER"), 1, "refusals cost no connection");
}

#[tokio::test]
async fn a_server_with_little_is_enough() {
    let server = ScriptedFtp::start(|command| match command.split(' ').next()? {
        "FEAT" | "SIZE" | "MDTM" | "REST" | "EPSV" => say("502 Never heard of it"),
        "LIST" if command == "LIST -a" => say("550 -a: no such directory"),
        _ => None,
    })
    .await;
    let source = source(server.settings());
    assert_eq!(list(&source).await.unwrap(), ["f"]);
    let entry = file(&source).await;
    assert_eq!(entry.size, Some(1000));
    assert_eq!(read(&source, "f", &entry, 0, 1000).await.unwrap(), FILE);
    assert_eq!(
        read(&source, "f", &entry, 990, 1000).await.unwrap(),
        &FILE[990..]
    );
}

#[tokio::test]
async fn a_reader_that_goes_away_leaves_nothing_out_of_step() {
    let server = ScriptedFtp::start(|command| match command {
        "RETR /f" => Some(Answer::Stall(FILE[..10].into())),
        _ => None,
    })
    .await;
    let mut settings = server.settings();
    settings.connections = 1;
    let source = source(settings);
    let entry = file(&source).await;
    for _ in 0..3 {
        let body = source.read(&at("f"), &entry, 0..1000).await.unwrap();
        let short = tokio::time::timeout(Duration::from_millis(50), collect(body)).await;
        assert!(short.is_err(), "it stalls");
        // The one connection there may be is free again, and the next is in step.
        assert_eq!(file(&source).await.version, entry.version);
    }
    assert_eq!(server.count("USER"), 4);
}

#[tokio::test]
async fn whatever_a_server_says_there_is_an_end() {
    const REPLIES: &[&str] = &[
        "220 Ready\r\n",
        "230 In\r\n",
        "331 Word\r\n",
        "200 Yes\r\n",
        "213 1000\r\n",
        "550 No\r\n",
        "226 Done\r\n",
        "150 Soon\r\n",
        "421 Bye\r\n",
        "500 What\r\n",
        "257 \"/\"\r\n",
        "257 \"\r\n",
        "211-F\r\n MLST Type*;Size;\r\n211 End\r\n",
        "250 There\r\n",
        "227 (1,2,3)\r\n",
        "227 (127,0,0,1,0,1)\r\n",
        "229 (|||0|)\r\n",
        "229 (|||99999|)\r\n",
        "\r\n",
        "xyz\r\n",
        "12\r\n",
        "2\u{e9}\u{e9}\r\n",
        "250-a\r\n250 b\r\n",
        "213 99999999999999999999\r\n",
        "250-\r\n type=file;size=5; f\r\n250 End\r\n",
        "350 Go\r\n",
        "220-\u{0}\r\n220 \r\n",
    ];
    let mut hangs = Vec::new();
    for seed in 0..60u64 {
        let random = noise(seed, 4096);
        let at_byte = AtomicUsize::new(0);
        let server = ScriptedFtp::start(move |_| {
            let next = |n: usize| random[n % random.len()] as usize;
            let n = at_byte.fetch_add(2, Ordering::Relaxed);
            match next(n) {
                // Mostly as usual, or nothing would get far.
                0..160 => None,
                160..230 => Some(Answer::Say(REPLIES[next(n + 1) % REPLIES.len()].into())),
                230..250 => data(&random[n % 2048..n % 2048 + next(n + 1)]),
                _ => Some(Answer::Close),
            }
        })
        .await;
        let options = GuardOptions {
            deadline: Duration::from_millis(200),
            ..GuardOptions::default()
        };
        let guard = Guarded::new(Arc::new(source(server.settings())), "odd", options);
        let all = async {
            let _ = list(&guard).await;
            if let Ok(entry) = guard.stat(&at("f")).await
                && entry.size == Some(1000)
                && let Ok(body) = guard.read(&at("f"), &entry, 100..900).await
                && let Ok(bytes) = collect(body).await
            {
                // All of it, where it took the server to know no REST.
                assert!(matches!(bytes.len(), 800 | 1000));
            }
        };
        if tokio::time::timeout(Duration::from_secs(20), all)
            .await
            .is_err()
        {
            hangs.push(seed);
        }
    }
    assert!(hangs.is_empty(), "{hangs:?}");
}
