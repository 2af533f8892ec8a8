//! A layer as the command line writes it: `SOURCE[=/path]`.
//!
//! `SOURCE` is a URL or the path of a directory, `/path` where it is grafted. The argument is
//! split at its last `=/`; a source that has those characters itself is followed by `=/`.
//! No message repeats a URL with credentials.

use std::path::{Path, PathBuf};

use url::Url;

use super::host::{ContainerName, HostName, RemotePath, UserName};
use super::names::{BucketName, GraftPath, HttpUrl, NameError};
use super::source::{
    AzureSource, FtpEncryption, FtpSource, GcsSource, GitSource, HttpSource, LocalSource, S3Source,
    SftpSource, Source, Ssh, WebdavSource,
};
use super::volume::Layer;

/// What a source may look like, for messages.
const FORMS: &str = "write s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX, http:// or \
                     https:// and a host, dav+https://, git+https://HOST/REPOSITORY#REF (or git+http, \
                     git+ssh, git+file, git://), sftp://USER@HOST/DIRECTORY, ftp:// or ftps://, \
                     file:///DIRECTORY, or a directory that begins with `/`, `./` or `../`";

/// What to do instead of writing credentials into a URL.
const NO_CREDENTIALS: &str = "credentials in a URL show in the process list; take them out. Give \
                              S3's by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or a profile, \
                              HTTP's in a volume file by reference (`auth`, with `fromEnv` or \
                              `fromFile`)";

/// Parses `SOURCE[=/path]`. A relative directory becomes absolute, from `directory`.
pub fn parse(argument: &str, directory: &Path) -> Result<Layer, NameError> {
    let (source, path) = match argument.rfind("=/") {
        Some(at) => (&argument[..at], argument[at + 1..].parse()?),
        None => (argument, GraftPath::default()),
    };
    Ok(Layer::new(parse_source(source, directory)?, path))
}

fn parse_source(text: &str, directory: &Path) -> Result<Source, NameError> {
    if text.contains('\0') {
        return Err(NameError("a source cannot hold a NUL character".into()));
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return parse_directory(text, directory);
    };
    match scheme.to_ascii_lowercase().as_str() {
        "s3" => parse_s3(rest),
        "http" | "https" => match text.parse::<HttpUrl>() {
            Ok(url) => Ok(Source::Http(HttpSource::new(url))),
            Err(_) if has_credentials(rest) => Err(NameError(NO_CREDENTIALS.into())),
            Err(why) => Err(why),
        },
        "gs" => parse_bucket(rest, |bucket, prefix| {
            let mut gcs = GcsSource::new(bucket);
            gcs.prefix = prefix;
            Source::Gcs(gcs)
        }),
        "az" => parse_bucket(rest, |container, prefix| {
            let mut azure = AzureSource::new(container);
            azure.prefix = prefix;
            Source::Azure(azure)
        }),
        "dav+http" | "dav+https" => Ok(Source::Webdav(WebdavSource::new(text[4..].parse()?))),
        "git+http" | "git+https" | "git+ssh" | "git+file" => parse_git(&text[4..], directory),
        "git" => parse_git(text, directory),
        "sftp" => parse_sftp(text),
        "ftp" => parse_ftp(text, FtpEncryption::None),
        // As curl and browsers have it; `encryption: explicit` is the volume file's.
        "ftps" => parse_ftp(text, FtpEncryption::Implicit),
        "file" => parse_file(text),
        other
            if other
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c)) =>
        {
            Err(NameError(format!(
                "`{other}://` is not a kind of source that is known; {FORMS}"
            )))
        }
        _ => Err(NameError(format!("not a source; {FORMS}"))),
    }
}

/// Returns whether the part of a URL after `://` begins with a user name or a password.
fn has_credentials(rest: &str) -> bool {
    rest.split(['/', '?', '#'])
        .next()
        .is_some_and(|authority| authority.contains('@'))
}

fn parse_directory(text: &str, directory: &Path) -> Result<Source, NameError> {
    let written_as_path = text.starts_with('/')
        || matches!(text, "." | "..")
        || text.starts_with("./")
        || text.starts_with("../");
    if written_as_path {
        return Ok(Source::Local(LocalSource {
            path: directory.join(text).components().collect(),
        }));
    }
    Err(NameError(format!("not a source; {FORMS}")))
}

/// Takes a bucket and a prefix as they are: the clouds' tools decode nothing in such a URL either.
fn parse_bucket(
    rest: &str,
    source: impl FnOnce(ContainerName, Option<String>) -> Source,
) -> Result<Source, NameError> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let prefix = prefix.trim_matches('/');
    if prefix.split('/').any(|part| part == "..") {
        return Err(NameError(
            "`..` leads nowhere in a bucket; write the prefix out".into(),
        ));
    }
    let prefix = (!prefix.is_empty()).then(|| prefix.to_owned());
    Ok(source(bucket.parse()?, prefix))
}

/// Parses `URL[#REF[:DIRECTORY]]`.
fn parse_git(text: &str, directory: &Path) -> Result<Source, NameError> {
    let (url, fragment) = text.split_once('#').unwrap_or((text, ""));
    let mut git = GitSource::new(url.parse()?);
    git.resolve_paths(directory);
    let (reference, subdirectory) = fragment.split_once(':').unwrap_or((fragment, ""));
    if !reference.is_empty() {
        git.reference = Some(reference.parse()?);
    }
    if !subdirectory.is_empty() {
        git.subdirectory = Some(subdirectory.to_owned());
    }
    match git_problem(&git) {
        Some(what) => Err(NameError(what)),
        None => Ok(Source::Git(git)),
    }
}

fn git_problem(git: &GitSource) -> Option<String> {
    let problems = Source::Git(git.clone()).problems();
    problems.0.into_iter().next().map(|(_, what)| what)
}

/// A machine, a user and a directory on it.
struct OnHost {
    host: HostName,
    port: Option<u16>,
    user: Option<UserName>,
    path: RemotePath,
}

fn parse_on_host(text: &str) -> Result<OnHost, NameError> {
    let refuse = |what: &str| NameError(what.into());
    let url = Url::parse(text).map_err(|_| {
        refuse("not a URL; write the host and an absolute path, such as sftp://joe@host/srv/data")
    })?;
    if url.password().is_some() {
        return Err(refuse(NO_PASSWORD));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refuse("write `?` as %3F and `#` as %23 in this URL"));
    }
    let decode = |text: &str| {
        let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
        decoded
            .map(|text| text.into_owned())
            .map_err(|_| refuse("the URL is not UTF-8 once decoded"))
    };
    let host = url
        .host_str()
        .ok_or_else(|| refuse("the URL names no host"))?;
    let user = decode(url.username())?;
    let path = decode(url.path())?;
    Ok(OnHost {
        host: host.parse()?,
        port: url.port(),
        user: match user.is_empty() {
            true => None,
            false => Some(user.parse()?),
        },
        path: match path.is_empty() {
            true => RemotePath::default(),
            false => path.parse()?,
        },
    })
}

/// What to do instead of writing a password into a URL.
const NO_PASSWORD: &str = "a password in a URL shows in the process list; take it out, and give it \
                           in a volume file by reference (`password`, with `fromEnv` or `fromFile`)";

fn parse_sftp(text: &str) -> Result<Source, NameError> {
    let place = parse_on_host(text)?;
    Ok(Source::Sftp(SftpSource {
        host: place.host,
        port: place.port,
        user: place.user,
        path: place.path,
        ssh: Ssh::default(),
    }))
}

fn parse_ftp(text: &str, encryption: FtpEncryption) -> Result<Source, NameError> {
    let place = parse_on_host(text)?;
    let mut ftp = FtpSource::new(place.host, place.path);
    // The URL's parser leaves out the port that a scheme has by itself.
    ftp.port = place.port;
    ftp.user = place.user;
    ftp.encryption = encryption;
    Ok(Source::Ftp(ftp))
}

/// Takes the key's prefix as it is: the AWS tools decode nothing in such a URL either.
fn parse_s3(rest: &str) -> Result<Source, NameError> {
    if has_credentials(rest) {
        return Err(NameError(NO_CREDENTIALS.into()));
    }
    // An access point's ARN has a slash of its own: `arn:aws:s3:REGION:ACCOUNT:accesspoint/NAME`.
    let from = if rest.starts_with("arn:") {
        rest.find('/').map_or(0, |at| at + 1)
    } else {
        0
    };
    let end = rest[from..].find('/').map_or(rest.len(), |at| from + at);
    let mut source = S3Source::new(rest[..end].parse::<BucketName>()?);
    let prefix = rest[end..].trim_matches('/');
    if prefix.split('/').any(|part| part == "..") {
        return Err(NameError(
            "`..` leads nowhere in a bucket; write the prefix out".into(),
        ));
    }
    source.prefix = (!prefix.is_empty()).then(|| prefix.to_owned());
    Ok(Source::S3(source))
}

fn parse_file(text: &str) -> Result<Source, NameError> {
    let refuse = || {
        NameError(
            "a file:// URL names a directory of this machine by its absolute path, with three \
             slashes: file:///srv/data"
                .into(),
        )
    };
    let url = Url::parse(text).map_err(|_| refuse())?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err(NameError(
            "write `?` as %3F and `#` as %23 in a file:// URL".into(),
        ));
    }
    let path: PathBuf = url.to_file_path().map_err(|()| refuse())?;
    Ok(Source::Local(LocalSource { path }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(argument: &str) -> String {
        let layer = parse(argument, Path::new("/home/me")).unwrap();
        format!("{} at {}", layer.source, layer.path)
    }

    fn why(argument: &str) -> String {
        parse(argument, Path::new("/home/me"))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn sources_of_every_kind() {
        for (argument, layer) in [
            ("s3://models", "s3://models at /"),
            ("s3://models/", "s3://models at /"),
            ("s3://models/llama/3", "s3://models/llama/3 at /"),
            ("s3://models//a%20b/=/x/y", "s3://models/a%20b at /x/y"),
            (
                "s3://arn:aws:s3:eu:1:accesspoint/p/a/b",
                "s3://arn:aws:s3:eu:1:accesspoint/p/a/b at /",
            ),
            ("https://host/data/", "https://host/data/ at /"),
            ("http://host:8080/f.csv=/x", "http://host:8080/f.csv at /x"),
            ("https://host/f?sig=/a=/", "https://host/f at /"),
            ("gs://bucket/a/b=/g", "gs://bucket/a/b at /g"),
            ("az://container", "az://container at /"),
            (
                "dav+https://h/remote.php/dav/=/d",
                "dav+https://h/remote.php/dav/ at /d",
            ),
            (
                "git+https://h/r.git#v1.2=/src",
                "git+https://h/r.git#v1.2 at /src",
            ),
            ("git+ssh://git@h/r.git", "git+ssh://git@h/r.git at /"),
            (
                "git+file:///srv/r.git#main:docs",
                "git+file:///srv/r.git#main:docs at /",
            ),
            ("git://h/r#:docs", "git://h/r#:docs at /"),
            (
                "sftp://joe@h:2222/srv/data",
                "sftp://joe@h:2222/srv/data at /",
            ),
            ("sftp://[::1]/srv", "sftp://[::1]/srv at /"),
            ("ftp://h", "ftp://h/ at /"),
            ("ftps://joe@h/pub/=/x", "ftps://joe@h/pub at /x"),
            ("file:///srv/site=/site", "file:///srv/site at /site"),
            ("file:///srv/a%20b", "file:///srv/a b at /"),
            ("/srv/data", "file:///srv/data at /"),
            ("./data=/d/", "file:///home/me/data at /d"),
            ("../x=y", "file:///home/me/../x=y at /"),
        ] {
            assert_eq!(shown(argument), layer, "{argument}");
        }
    }

    #[test]
    fn an_access_point_keeps_its_slash() {
        let layer = parse("s3://arn:aws:s3:eu:1:accesspoint/p/a/b", Path::new("/")).unwrap();
        let Source::S3(s3) = layer.source else {
            panic!("another kind")
        };
        assert_eq!(s3.bucket.as_str(), "arn:aws:s3:eu:1:accesspoint/p");
        assert_eq!(s3.prefix.as_deref(), Some("a/b"));
    }

    #[test]
    fn credentials_are_refused_and_not_repeated() {
        for argument in [
            "https://joe:hunter2@host/d/",
            "https://joe:hunter2@host/d/=/x",
            "https://hunter2@:x/",
            "s3://AKIA:hunter2@bucket/p",
            "s3://hunter2@bucket",
            "gs://joe:hunter2@bucket",
            "az://hunter2@container/p",
            "sftp://joe:hunter2@h/x",
            "ftp://joe:hunter2@h/x",
            "git+https://joe:hunter2@h/r",
            "git+ssh://joe:hunter2@h/r",
            "dav+https://joe:hunter2@h/r",
        ] {
            let why = why(argument);
            assert!(
                why.contains("process list") && !why.contains("hunter2"),
                "{why}"
            );
        }
    }

    #[test]
    fn what_is_no_source_is_told_what_is() {
        for argument in [
            "",
            "data",
            "gopher://x/y",
            "bucket/prefix",
            "=/x",
            "a b://c",
        ] {
            let why = why(argument);
            assert!(why.contains("s3://BUCKET/PREFIX"), "{argument}: {why}");
        }
        assert!(why("gopher://x/y").contains("`gopher://`"));
        assert!(why("s3://").contains("bucket's name"));
        assert!(why("s3:///key").contains("bucket's name"));
        assert!(why("s3://b/../c").contains("`..`"));
        assert!(why("file://srv/data").contains("three slashes"));
        assert!(why("file:///a?b").contains("%3F"));
        assert!(why("/srv=/../x").contains("not a path of the volume"));
        assert!(why("https:///").contains("not a URL"));
        assert!(why("/a\0b").contains("NUL"));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in ".*") {
            let _ = parse(&text, Path::new("/"));
        }

        #[test]
        fn likely_text_is_parsed_or_refused(
            text in "(s3|http|https|file|S3|x)?(://|:|/)?[a-z@:.?#%=/\\[\\]é-]{0,30}"
        ) {
            if let Ok(layer) = parse(&text, Path::new("/")) {
                let relative = layer.path.to_string();
                prop_assert!(relative.starts_with('/'));
                prop_assert!(!relative.split('/').any(|part| part == ".."));
            }
        }
    }
}
