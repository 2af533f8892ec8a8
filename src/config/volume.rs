//! The volume document: what a user declares and mounts.
//!
//! The types here parse the document, print it, and generate its JSON Schema. Every field has the
//! name of its flag and of its `SVOL_*` variable. What cannot be said by types alone is checked in
//! `validate`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::names::{GlobPattern, GraftPath, Label};
use super::on_change::OnChange;
use super::source::{
    AzureSource, FtpSource, GcsSource, GitSource, HttpSource, LocalSource, S3Source, SftpSource,
    Source, WebdavSource, is_false,
};
use super::units::{ByteRate, ByteSize, CacheSize, HumanDuration, Refresh, Umask};
use crate::filter::{BadPattern, Filter};

/// How long a reader waits for a source, where nothing else is said.
pub const DEFAULT_TIMEOUT: HumanDuration = HumanDuration::from_secs(30);

/// How often a layer looks for changes, where nothing else is said: often enough for a person who
/// waits for a change, rare enough for a server that bills requests.
pub const DEFAULT_REFRESH: Refresh = Refresh::Every(HumanDuration::from_secs(300));

/// For how long a weak version that was seen is believed at open, where nothing else is said: one
/// walk over a tree then probes each file at most once.
pub const DEFAULT_REVALIDATE: HumanDuration = HumanDuration::from_secs(60);

/// A volume: ordered layers, merged into one read-only tree.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Volume {
    /// The version of this format.
    pub api_version: ApiVersion,
    /// The kind of the document.
    pub kind: Kind,
    /// What the volume is called.
    pub metadata: Metadata,
    /// What the volume is made of.
    pub spec: Spec,
}

/// The versions of the volume format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ApiVersion {
    /// The first one.
    #[serde(rename = "sharedvolume.io/v1")]
    V1,
}

/// The kinds of documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Kind {
    /// A volume.
    Volume,
}

/// What a volume is called.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// The volume's name.
    pub name: Label,
    /// Labels for other tools; kept, not used.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Notes for other tools; kept, not used.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// What a volume is made of, and how it is served.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    /// The layers, at least one. Where two have a file of one name, the later one wins.
    #[schemars(length(min = 1))]
    pub layers: Vec<Layer>,
    /// How often layers that say nothing themselves look for changes: an interval, or `never`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<Refresh>,
    /// For how long layers that say nothing themselves believe a weak version at open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revalidate: Option<HumanDuration>,
    /// How long a reader waits for layers that say nothing themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<HumanDuration>,
    /// The cache on disk.
    #[serde(default, skip_serializing_if = "CacheSpec::is_empty")]
    pub cache: CacheSpec,
    /// How the volume is mounted.
    #[serde(default, skip_serializing_if = "MountSpec::is_empty")]
    pub mount: MountSpec,
    /// Where the mount tells how it is.
    #[serde(default, skip_serializing_if = "ControlSpec::is_empty")]
    pub control: ControlSpec,
    /// Who is told when files changed.
    #[serde(default, skip_serializing_if = "OnChange::is_empty")]
    pub on_change: OnChange,
}

/// Where a mount tells how it is, beside its control socket.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ControlSpec {
    /// A TCP address with its port, such as `127.0.0.1:9465`. `--listen`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub listen: Option<SocketAddr>,
    /// The file with the bearer token that is asked for there. `--listen-token-file`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen_token_file: Option<PathBuf>,
    /// The file with the certificate to show there, in PEM: then it is HTTPS. `--listen-tls-cert`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen_tls_cert: Option<PathBuf>,
    /// The file with that certificate's private key, in PEM. `--listen-tls-key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen_tls_key: Option<PathBuf>,
    /// The file with the authorities, in PEM, of which whoever asks there must have a certificate.
    /// `--listen-client-ca`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen_client_ca: Option<PathBuf>,
}

impl ControlSpec {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The cache on disk.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CacheSpec {
    /// Its directory, on a local disk. `--cache-dir`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dir: Option<PathBuf>,
    /// How much disk it may take: a size, or a share of the disk such as `10%`. `--cache-size`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<CacheSize>,
}

impl CacheSpec {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How a volume is mounted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MountSpec {
    /// The user that owns all files, as a number. `--uid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The group that owns all files, as a number. `--gid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// The permission bits to take away, in octal and in quotes: `"022"`. `--umask`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub umask: Option<Umask>,
    /// Lets other users in. `--allow-other`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub allow_other: bool,
    /// The most that is fetched from all sources together, in bytes a second. `--bwlimit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bwlimit: Option<ByteRate>,
    /// The most memory that the daemon takes. `--memory`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteSize>,
}

impl MountSpec {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A source grafted at a path of the volume, with its view and policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "LayerFields", into = "LayerFields")]
pub struct Layer {
    /// The layer's name, unique in the volume. [`Volume::layer_name`] gives unnamed ones theirs.
    pub name: Option<Label>,
    /// Where the files come from.
    pub source: Source,
    /// Where the source's root appears in the volume.
    pub path: GraftPath,
    /// Shows only the files that one of these patterns matches; empty shows all.
    pub include: Vec<GlobPattern>,
    /// Hides what one of these patterns matches; stronger than `include`.
    pub exclude: Vec<GlobPattern>,
    /// How often the layer looks for changes.
    pub refresh: Option<Refresh>,
    /// Whether a directory that this layer shares with others fails where this layer fails.
    pub required: bool,
    /// Whether a file is refused, not served from the cache, where its version cannot be checked.
    pub strict: bool,
    /// For how long a weak version that was seen is believed at open.
    pub revalidate: Option<HumanDuration>,
    /// How long a reader waits for the source.
    pub timeout: Option<HumanDuration>,
}

impl Layer {
    /// Returns a layer that shows all of `source` at `path`, all else unset.
    pub fn new(source: Source, path: GraftPath) -> Self {
        Self {
            name: None,
            source,
            path,
            include: Vec::new(),
            exclude: Vec::new(),
            refresh: None,
            required: false,
            strict: false,
            revalidate: None,
            timeout: None,
        }
    }

    /// Returns what the layer shows. Fails where all patterns together are too large.
    pub fn filter(&self) -> Result<Filter, BadPattern> {
        Filter::new(&self.include, &self.exclude)
    }

    /// Returns how often the layer looks for changes, or [`DEFAULT_REFRESH`].
    pub fn refresh(&self) -> Refresh {
        self.refresh.unwrap_or(DEFAULT_REFRESH)
    }

    /// Returns for how long a weak version is believed at open, or [`DEFAULT_REVALIDATE`].
    pub fn revalidate(&self) -> Duration {
        self.revalidate.unwrap_or(DEFAULT_REVALIDATE).get()
    }

    /// Returns how long a reader waits for the source, or [`DEFAULT_TIMEOUT`].
    pub fn timeout(&self) -> Duration {
        self.timeout.unwrap_or(DEFAULT_TIMEOUT).get()
    }
}

/// The kinds of sources that a layer can have, as its fields are called.
pub const SOURCE_KINDS: [&str; 9] = [
    "s3", "gcs", "azure", "http", "webdav", "git", "sftp", "ftp", "local",
];

/// A source grafted at a path of the volume. Exactly one of the source fields, from `s3` to
/// `local`, is set.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename = "Layer", rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("oneOf" = one_source()))]
pub(crate) struct LayerFields {
    /// The layer's name, for status and messages; unique in the volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<Label>,
    /// A bucket, or a prefix of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    s3: Option<S3Source>,
    /// A bucket of Google Cloud Storage, or a prefix of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gcs: Option<GcsSource>,
    /// A container of Azure Blob Storage, or a prefix of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    azure: Option<AzureSource>,
    /// A file or a tree on a web server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    http: Option<HttpSource>,
    /// A collection of a WebDAV server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    webdav: Option<WebdavSource>,
    /// A branch, tag or commit of a Git repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    git: Option<GitSource>,
    /// A directory of a machine that speaks SSH.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sftp: Option<SftpSource>,
    /// A directory of an FTP server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ftp: Option<FtpSource>,
    /// A directory of this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    local: Option<LocalSource>,
    /// Where the source's root appears in the volume; `/` if left out.
    #[serde(default)]
    path: GraftPath,
    /// Shows only the files that one of these globs matches.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    include: Vec<GlobPattern>,
    /// Hides the files and directories that one of these globs matches; stronger than `include`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    exclude: Vec<GlobPattern>,
    /// How often the layer looks for changes: an interval such as `5m` (the default), or `never`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refresh: Option<Refresh>,
    /// Makes a directory that this layer shares with others fail while this layer fails, instead
    /// of showing the others' files alone.
    #[serde(default, skip_serializing_if = "is_false")]
    required: bool,
    /// Refuses a file whose version cannot be checked, instead of serving the cached copy.
    #[serde(default, skip_serializing_if = "is_false")]
    strict: bool,
    /// For how long a version that the source cannot pin (size and time only) is believed at
    /// open before it is checked again; `1m` if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revalidate: Option<HumanDuration>,
    /// How long a reader waits for the source before it gets an error; `30s` if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeout: Option<HumanDuration>,
}

fn one_source() -> serde_json::Value {
    SOURCE_KINDS
        .iter()
        .map(|kind| serde_json::json!({ "required": [kind] }))
        .collect()
}

impl TryFrom<LayerFields> for Layer {
    type Error = String;

    fn try_from(fields: LayerFields) -> Result<Self, String> {
        let given: Vec<Source> = [
            fields.s3.map(Source::S3),
            fields.gcs.map(Source::Gcs),
            fields.azure.map(Source::Azure),
            fields.http.map(Source::Http),
            fields.webdav.map(Source::Webdav),
            fields.git.map(Source::Git),
            fields.sftp.map(Source::Sftp),
            fields.ftp.map(Source::Ftp),
            fields.local.map(Source::Local),
        ]
        .into_iter()
        .flatten()
        .collect();
        let [source] = <[Source; 1]>::try_from(given)
            .map_err(|given| wrong_sources(&given.iter().map(Source::kind).collect::<Vec<_>>()))?;
        Ok(Self {
            name: fields.name,
            source,
            path: fields.path,
            include: fields.include,
            exclude: fields.exclude,
            refresh: fields.refresh,
            required: fields.required,
            strict: fields.strict,
            revalidate: fields.revalidate,
            timeout: fields.timeout,
        })
    }
}

/// Says what is wrong with a layer that has the sources `kinds`, which are not exactly one.
pub(super) fn wrong_sources(kinds: &[impl AsRef<str>]) -> String {
    let count = match kinds.len() {
        0 => {
            return format!(
                "no source; write exactly one of {}",
                SOURCE_KINDS.join(", ")
            );
        }
        2 => "two".to_owned(),
        3 => "three".to_owned(),
        more => more.to_string(),
    };
    let kinds: Vec<&str> = kinds.iter().map(AsRef::as_ref).collect();
    format!(
        "{count} sources ({}); write exactly one, make it {count} layers",
        kinds.join(" and ")
    )
}

impl From<Layer> for LayerFields {
    fn from(layer: Layer) -> Self {
        let mut fields = Self {
            name: layer.name,
            s3: None,
            gcs: None,
            azure: None,
            http: None,
            webdav: None,
            git: None,
            sftp: None,
            ftp: None,
            local: None,
            path: layer.path,
            include: layer.include,
            exclude: layer.exclude,
            refresh: layer.refresh,
            required: layer.required,
            strict: layer.strict,
            revalidate: layer.revalidate,
            timeout: layer.timeout,
        };
        match layer.source {
            Source::S3(source) => fields.s3 = Some(source),
            Source::Gcs(source) => fields.gcs = Some(source),
            Source::Azure(source) => fields.azure = Some(source),
            Source::Http(source) => fields.http = Some(source),
            Source::Webdav(source) => fields.webdav = Some(source),
            Source::Git(source) => fields.git = Some(source),
            Source::Sftp(source) => fields.sftp = Some(source),
            Source::Ftp(source) => fields.ftp = Some(source),
            Source::Local(source) => fields.local = Some(source),
        }
        fields
    }
}

impl JsonSchema for Layer {
    fn schema_name() -> Cow<'static, str> {
        LayerFields::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        LayerFields::json_schema(generator)
    }
}

impl Volume {
    /// Returns a volume of `layers` with nothing else set.
    pub fn new(name: Label, layers: Vec<Layer>) -> Self {
        Self {
            api_version: ApiVersion::V1,
            kind: Kind::Volume,
            metadata: Metadata {
                name,
                labels: BTreeMap::new(),
                annotations: BTreeMap::new(),
            },
            spec: Spec {
                layers,
                refresh: None,
                revalidate: None,
                timeout: None,
                cache: CacheSpec::default(),
                mount: MountSpec::default(),
                control: ControlSpec::default(),
                on_change: OnChange::default(),
            },
        }
    }

    /// Returns the name of the layer at `index`: its own, or its kind and place, such as `s3-0`.
    /// Unique in a validated volume. An index past the end gives `layer-N`.
    pub fn layer_name(&self, index: usize) -> String {
        match self.spec.layers.get(index) {
            Some(Layer {
                name: Some(name), ..
            }) => name.to_string(),
            Some(layer) => format!("{}-{index}", layer.source.kind()),
            None => format!("layer-{index}"),
        }
    }

    /// Makes every relative file name absolute, from `base`, which is absolute itself.
    pub fn resolve_paths(&mut self, base: &Path) {
        for layer in &mut self.spec.layers {
            layer.source.resolve_paths(base);
        }
        if let Some(dir) = &mut self.spec.cache.dir {
            *dir = base.join(&*dir);
        }
        let control = &mut self.spec.control;
        let files = [
            &mut control.listen_token_file,
            &mut control.listen_tls_cert,
            &mut control.listen_tls_key,
            &mut control.listen_client_ca,
        ];
        for file in files.into_iter().flatten() {
            *file = base.join(&*file);
        }
        self.spec.on_change.resolve_paths(base);
    }

    /// Returns the JSON Schema of the document, draft 2020-12.
    pub fn json_schema_document() -> Schema {
        let mut schema = schemars::schema_for!(Self);
        schema.insert(
            "$id".into(),
            "https://sharedvolume.io/schemas/v1/volume.json".into(),
        );
        schema
    }
}
