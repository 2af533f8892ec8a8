use super::*;
use crate::source::Secret;

fn settings(host: &str) -> FtpSettings {
    FtpSettings::new(host)
}

fn shown(settings: FtpSettings) -> (String, String) {
    let source = FtpSource::new(settings).unwrap();
    let path = RelPath::new("a b/c%ü").unwrap();
    (source.identity().to_owned(), source.url(&path))
}

#[test]
fn names_of_places() {
    let mut tree = settings("Host");
    tree.path = "pub/".into();
    let (identity, url) = shown(tree.clone());
    assert_eq!(identity, "ftp://host:21/pub");
    assert_eq!(url, "ftp://host/pub/a%20b/c%25%C3%BC");
    tree.path = "/pub".into();
    tree.user = Some("me".into());
    tree.password = Some(Secret::fixed("hunter2"));
    tree.tls = FtpTls::Implicit;
    tree.port = Some(2990);
    let (identity, url) = shown(tree);
    assert_eq!(identity, "ftp://me@host:2990/%2Fpub");
    assert_eq!(url, "ftps://host:2990/%2Fpub/a%20b/c%25%C3%BC");
    assert_eq!(shown(settings("[::1]")).0, "ftp://[::1]:21/");
}

#[test]
fn a_password_goes_in_the_clear_only_where_that_is_said() {
    let mut tree = settings("host");
    tree.user = Some("me".into());
    tree.password = Some(Secret::fixed("hunter2"));
    let error = FtpSource::new(tree.clone()).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(
        error.to_string().contains("encryption: explicit"),
        "{error}"
    );
    tree.clear_password = true;
    assert!(FtpSource::new(tree.clone()).is_ok());
    tree.clear_password = false;
    tree.tls = FtpTls::Explicit;
    assert!(FtpSource::new(tree).is_ok());
}

#[test]
fn no_setting_holds_a_command() {
    for (host, user, path) in [
        ("", "u", ""),
        ("h\r\nDELE x", "u", ""),
        ("h", "u\r\nDELE x", ""),
        ("h", "u", "a\nb"),
    ] {
        let mut tree = settings(host);
        tree.user = Some(user.into());
        tree.path = path.into();
        let error = FtpSource::new(tree).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}

#[test]
fn paths_begin_at_the_servers_root() {
    let path = RelPath::new("a/b").unwrap();
    for (home, tree, want, root) in [
        ("", "", "/a/b", "/"),
        ("/home/me", "", "/home/me/a/b", "/home/me"),
        ("/home/me", "pub", "/home/me/pub/a/b", "/home/me/pub"),
        ("/home/me", "/pub/", "/pub/a/b", "/pub"),
        ("/home/me", "/", "/a/b", "/"),
    ] {
        let mut settings = settings("host");
        settings.path = tree.into();
        let source = FtpSource::new(settings).unwrap();
        assert_eq!(source.absolute(home, &path), want);
        assert_eq!(source.absolute(home, &RelPath::root()), root);
    }
}
