use super::*;
use crate::entry::Kind;
use crate::source::ErrorKind;

fn page() -> Url {
    Url::parse("http://host/data%20set/").unwrap()
}

fn auto(body: &str) -> Result<Listing> {
    parse(
        &page(),
        Some("text/html"),
        body.as_bytes(),
        IndexFormat::Auto,
    )
}

/// Each entry as `name kind size seconds`.
fn shown(listing: &Listing) -> Vec<String> {
    let all = listing.entries.iter().map(|e| {
        let kind = if e.kind == Kind::Dir { "dir" } else { "file" };
        let size = e.size.map_or("-".into(), |s| s.to_string());
        let time = e
            .mtime
            .map_or("-".into(), |t| (t.0 / 1_000_000_000).to_string());
        format!("{} {kind} {size} {time}", e.name)
    });
    all.collect()
}

#[test]
fn nginx() {
    let listing = auto(
        "<html>\r\n<head><title>Index of /data set/</title></head>\r\n<body>\r\n\
         <h1>Index of /data set/</h1><hr><pre><a href=\"../\">../</a>\r\n\
         <a href=\"sub/\">sub/</a>              22-Nov-2026 11:20                   -\r\n\
         <a href=\"a%20very%20long%25name.bin\">a very lo..&gt;</a> 22-Nov-2026 11:20   1234\r\n\
         <a href=\"%0a%C3%BC%3Fq%23\">x</a>     01-Jan-1970 00:01   0\r\n\
         <a href=\"big\">big</a>     22-Nov-2026 11:20   12M\r\n\
         <a href=\"bad%FF\">bad</a>  22-Nov-2026 11:20   1\r\n\
         <a href=\"a%2fb\">bad</a>  22-Nov-2026 11:20   1\r\n\
         </pre><hr></body>\r\n</html>\r\n",
    )
    .unwrap();
    assert_eq!(
        shown(&listing),
        [
            "\nü?q# file 0 60",
            "a very long%name.bin file 1234 1795346400",
            "big file - 1795346400",
            "sub dir - 1795346400",
        ]
    );
    assert_eq!(&*listing.entries[1].version.token, "1234@1795346400m");
    assert_eq!(listing.hidden.iter().map(|h| h.count).sum::<u64>(), 2);
}

#[test]
fn apache_plain_and_table() {
    let plain = auto(
        "<html><head><title>Index of /data set</title></head><body><h1>Index of /data set</h1>\
         <pre><img src=\"/icons/blank.gif\"> <a href=\"?C=N;O=D\">Name</a> \
         <a href=\"?C=M;O=A\">Last modified</a><hr>\
         <img src=\"/icons/back.gif\"> <a href=\"/\">Parent Directory</a>   -\n\
         <a href=\"f.txt\"><img src=\"/icons/text.gif\"></a> <a href=\"f.txt\">f.txt</a>   \
         2026-11-22 11:20  973   a file of 3 lines\n\
         <a href=\"g.txt\">g.txt</a>   2026-11-22 11:20  1.2K  \n\
         <hr></pre></body></html>",
    )
    .unwrap();
    let want = ["f.txt file 973 1795346400", "g.txt file - 1795346400"];
    assert_eq!(shown(&plain), want);
    let table = auto(
        "<html><head><title>Index of /data set</title></head><body><h1>Index of /data set</h1>\
         <table><tr><td><a href=\"/\">Parent Directory</a></td></tr>\
         <tr><td><a href=\"f.txt\">f.txt</a></td><td align=\"right\">2026-11-22 11:20  </td>\
         <td align=\"right\">973 </td><td>&nbsp;</td></tr>\
         <tr><td><a href=\"g.txt\">g.txt</a></td><td align=\"right\">2026-11-22 11:20  </td>\
         <td align=\"right\">1.2K</td><td>&nbsp;</td></tr></table></body></html>",
    )
    .unwrap();
    assert_eq!(shown(&table), want);
    assert_eq!(&*table.entries[1].version.token, "", "stat gives one");
}

#[test]
fn caddy_and_lighttpd_and_python() {
    let caddy = auto(
        "<!DOCTYPE html><html><head><title>data set</title></head><body><h1>data set/</h1>\
         <a href=\"/\">root</a><tr class=\"file\"><td></td><td><a href=\"./f.bin\"><svg></svg>\
         <span class=\"name\">f.bin</span></a></td><td class=\"size\" data-size=\"1234\">\
         <div>1.2 KiB</div></td><td class=\"timestamp\"><time \
         datetime=\"2026-11-22T11:20:16Z\">11/22/2026</time></td></tr></body></html>",
    )
    .unwrap();
    assert_eq!(shown(&caddy), ["f.bin file 1234 1795346416"]);
    let lighttpd = auto(
        "<html><head><title>Index of /data set/</title></head><body><h2>Index of</h2><table>\
         <tr class=\"d\"><td class=\"n\"><a href=\"../\">..</a>/</td><td class=\"m\">&nbsp;</td>\
         </tr><tr><td class=\"n\"><a href=\"f.bin\">f.bin</a></td><td class=\"m\">\
         2026-Nov-22 11:20:16</td><td class=\"s\">1.2K</td></tr></table></body></html>",
    )
    .unwrap();
    assert_eq!(shown(&lighttpd), ["f.bin file - 1795346416"]);
    let python = auto(
        "<!DOCTYPE HTML><html><head><title>Directory listing for /data set/</title></head>\
         <body><ul><li><a href=\"f.bin\">f.bin</a></li><li><a href=\"d/\">d/</a></li></ul>\
         </body></html>",
    )
    .unwrap();
    assert_eq!(shown(&python), ["d dir - -", "f.bin file - -"]);
}

#[test]
fn json_of_nginx_and_caddy() {
    let parse = |body: &str| {
        parse(
            &page(),
            Some("application/json"),
            body.as_bytes(),
            IndexFormat::Auto,
        )
    };
    let nginx = parse(
        r#"[{"name":"d","type":"directory","mtime":"Sun, 22 Nov 2026 11:20:16 GMT"},
            {"name":"f","type":"file","mtime":"Sun, 22 Nov 2026 11:20:16 GMT","size":5},
            {"name":"..","type":"file","size":5},{"name":"p","type":"other"}]"#,
    )
    .unwrap();
    let want = ["d dir - 1795346416", "f file 5 1795346416"];
    assert_eq!(shown(&nginx), want);
    assert_eq!(nginx.hidden.len(), 2);
    let caddy = parse(
        r#"[{"name":"d/","size":4096,"url":"./d/","mod_time":"2026-11-22T11:20:16.5Z",
             "mode":2147484141,"is_dir":true,"is_symlink":false},
            {"name":"f","size":5,"url":"./f","mod_time":"2026-11-22T11:20:16.9Z",
             "mode":420,"is_dir":false,"is_symlink":false}]"#,
    )
    .unwrap();
    assert_eq!(shown(&caddy), want);
    for bad in [
        "{}",
        "[1]",
        "[{\"name\":\"x\"}]",
        "[",
        "[{\"type\":\"file\"}]",
        "",
    ] {
        assert_eq!(parse(bad).unwrap_err().kind(), ErrorKind::Lied, "{bad}");
    }
}

#[test]
fn what_is_no_index_is_an_error() {
    for bad in [
        "",
        "<html><head><title>404</title></head><body>not found</body></html>",
        "<html><body><a href=\"about.html\">About us</a> <a href=\"shop/\">Shop</a></body></html>",
        "plain text",
        // Cut in the middle.
        "<html><head><title>Index of /</title></head><pre><a href=\"f\">f</a> 22-Nov-2026 11:20",
    ] {
        assert_eq!(auto(bad).unwrap_err().kind(), ErrorKind::Lied, "{bad}");
    }
    let empty = "<html><head><title>Index of /x/</title></head><body><h1>Index of /x/</h1><hr>\
                 <pre><a href=\"../\">../</a>\r\n</pre><hr></body></html>";
    assert!(auto(empty).unwrap().entries.is_empty());
    let custom = "<a href=\"about.html\">About us</a>";
    let taken = parse(&page(), None, custom.as_bytes(), IndexFormat::Html).unwrap();
    assert_eq!(shown(&taken), ["about.html file - -"]);
}

#[test]
fn only_direct_children_count() {
    let is_child = |href: &str| child(&page(), href).is_some();
    for yes in [
        "f",
        "./f",
        "/data%20set/f",
        "/data set/f",
        "http://host/data%20set/f",
        "d/",
        "f#top",
        "%2e%2e%2fx",
    ] {
        assert!(is_child(yes), "{yes}");
    }
    for no in [
        "",
        ".",
        "./",
        "..",
        "../",
        "../x",
        "%2e%2e/x",
        "/",
        "/f",
        "/data%20set",
        "/data%20set/",
        "/data%20setting/f",
        "a/b",
        "f?C=N",
        "?C=N;O=D",
        "#top",
        "https://host/data%20set/f",
        "http://other/data%20set/f",
        "//other/f",
        "mailto:x@y",
        "javascript:f()",
        "http://",
    ] {
        assert!(!is_child(no), "{no}");
    }
}

#[test]
fn dates() {
    let secs = |date, time| date_and_time(date, time).map(|t| t.0.0 / 1_000_000_000);
    assert_eq!(secs("01-Jan-1970", "00:00"), Some(0));
    assert_eq!(secs("1970-01-02", "00:00:01"), Some(86_401));
    assert_eq!(secs("29-Feb-2024", "12:30"), Some(1_709_209_800));
    assert_eq!(secs("2024-Mar-01", "00:00"), Some(1_709_251_200));
    for (date, time) in [
        ("2024-13-01", "00:00"),
        ("2024-01-32", "00:00"),
        ("1-2-3-4", "00:00"),
        ("2024-01-01", "24:00"),
        ("2024-01-01", "1"),
        ("2024-01-01", "00:00:00:00"),
        ("99999999999999999999-01-01", "00:00"),
        ("a-b-c", "d:e"),
    ] {
        assert_eq!(date_and_time(date, time), None, "{date} {time}");
    }
}
