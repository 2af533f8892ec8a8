//! From a document of the original to a volume, and to what there is to say of it.
//!
//! Nothing here reads a file or the environment: whether a Secret's file is there is asked through
//! [`Secrets`]. No message repeats a value of the document but names.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::document::{Document, Metadata, Plain, SecretKey, Source, USED};
use super::secrets::{Inline, Secrets, given, private_key};
use super::why::{shell_word, why_not};
use super::{Converted, duration};
use crate::config::error::{ConfigError, Place};
use crate::config::names::{GraftPath, Label};
use crate::config::node::{Node, Step, Value};
use crate::config::note::{Note, NoteKind};
use crate::config::secret::SecretRef;
use crate::config::source;
use crate::config::units::{HumanDuration, Refresh};
use crate::config::validate::{Checker, whole};
use crate::config::volume::{Layer, Volume};

/// How often the original copies where nothing is said.
const SYNC_INTERVAL: HumanDuration = HumanDuration::from_secs(60);

/// Where `kubectl apply` keeps the whole document, with all that is secret in it.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

pub(super) struct Converter<'a> {
    pub(super) checker: Checker,
    /// The document's root.
    pub(super) root: &'a Node,
    pub(super) secrets: &'a Secrets<'a>,
    pub(super) notes: Vec<Note>,
    /// Whether it is a `ClusterSharedVolume`, which has no namespace.
    pub(super) cluster: bool,
    pub(super) name: String,
    pub(super) namespace: Option<String>,
}

/// The way to a field of the one layer of a volume.
fn layer(fields: &[&str]) -> Vec<Step> {
    let mut path = vec![
        Step::Key("spec".into()),
        Step::Key("layers".into()),
        Step::Index(0),
    ];
    path.extend(keys(fields));
    path
}

fn keys(fields: &[&str]) -> Vec<Step> {
    fields
        .iter()
        .map(|name| Step::Key((*name).into()))
        .collect()
}

/// A text that is there and not empty.
pub(super) fn filled(text: &Option<String>) -> Option<&str> {
    text.as_deref()
        .map(str::trim)
        .filter(|text| !text.is_empty())
}

fn filled_secret(text: &Option<Plain>) -> Option<&Plain> {
    text.as_ref().filter(|text| !text.expose().is_empty())
}

impl Converter<'_> {
    /// Converts the document, or reports why not.
    pub(super) fn run(
        mut self,
        document: Document,
        shown: &Path,
    ) -> Result<Converted, ConfigError> {
        self.name.clone_from(&document.metadata.name);
        self.namespace = match self.cluster {
            true => None,
            false => filled(&document.metadata.namespace).map(str::to_owned),
        };
        self.check_namespace();
        let volume = self.volume(document);
        self.checker.finish()?;
        self.notes.sort_by_key(|note| match &note.remark.place {
            Place::File { line, column, .. } => (*line, *column),
            _ => (0, 0),
        });
        // Without a volume there was a problem.
        let volume = volume.ok_or_else(|| whole(shown, "holds no volume"))?;
        Ok(Converted {
            volume,
            notes: self.notes,
            kind: if self.cluster {
                "ClusterSharedVolume"
            } else {
                "SharedVolume"
            },
            original: match self.namespace {
                Some(namespace) => format!("{namespace}/{}", self.name),
                None => self.name,
            },
        })
    }

    /// Sees to it that the document's own names can be those of directories.
    fn check_namespace(&mut self) {
        let own = SecretKey {
            name: self.name.clone(),
            key: "key".into(),
            namespace: self.namespace.clone(),
        };
        if let Some(field) = own.wrong_name() {
            let what =
                "not a name that Kubernetes takes; write lower-case letters, digits, `-` and `.`";
            self.problem(&["metadata", field], what);
        }
    }

    fn volume(&mut self, document: Document) -> Option<Volume> {
        self.unused();
        let name = self.volume_name();
        let source = match document.spec.source {
            Some(source) => self.source(source),
            None => {
                self.no_source();
                None
            }
        };
        let interval = self.interval(filled(&document.spec.sync_interval));
        let timeout = self.timeout(filled(&document.spec.sync_timeout));
        self.access(
            document
                .spec
                .storage
                .and_then(|storage| storage.access_mode),
        );
        if let Some(path) = filled(&document.spec.mount_path) {
            let what = format!(
                "is said at the command line now: `svol mount -c FILE {}`",
                shell_word(path)
            );
            self.note(NoteKind::Differs, &["spec", "mountPath"], Vec::new(), what);
        }
        // What the fields say together is checked as in a volume file, so that what is written is read.
        let wrong = source.as_ref().map(|source| source.problems().0);
        for (_, what) in wrong.into_iter().flatten() {
            self.problem(&["spec", "source"], what);
        }
        let mut volume = Volume::new(name, vec![Layer::new(source?, GraftPath::default())]);
        self.labels(document.metadata, &mut volume);
        volume.spec.refresh = Some(Refresh::Every(interval));
        volume.spec.timeout = timeout;
        Some(volume)
    }

    fn volume_name(&mut self) -> Label {
        match self.name.parse() {
            Ok(name) => name,
            Err(_) => {
                let name = Label::nearest(&self.name);
                let what =
                    format!("is `{name}` now: a volume's name has letters, digits and `-` only");
                self.note(
                    NoteKind::Differs,
                    &["metadata", "name"],
                    keys(&["metadata", "name"]),
                    what,
                );
                name
            }
        }
    }

    fn labels(&mut self, metadata: Metadata, volume: &mut Volume) {
        volume.metadata.labels = metadata.labels.unwrap_or_default();
        volume.metadata.annotations = metadata.annotations.unwrap_or_default();
        if volume.metadata.annotations.remove(LAST_APPLIED).is_some() {
            let what =
                "kubectl's copy of the whole document is left out, and all that is secret in it";
            self.note(
                NoteKind::Differs,
                &["metadata", "annotations"],
                Vec::new(),
                what,
            );
        }
    }

    /// Says of each field that is not used why it is not.
    fn unused(&mut self) {
        for entry in self.root.entries() {
            let known = ["apiVersion", "kind", "metadata", "spec", "status"];
            if !known.contains(&entry.key.as_str()) {
                self.left_out(&[&entry.key], why_not(&entry.key));
            }
        }
        let below = |field: &str| self.root.get(&keys(&["spec", field])).map(Node::entries);
        let storage: Vec<&str> = below("storage")
            .unwrap_or_default()
            .iter()
            .map(|entry| entry.key.as_str())
            .filter(|key| *key != "accessMode")
            .collect();
        let spec: Vec<&str> = self
            .root
            .get(&keys(&["spec"]))
            .map(Node::entries)
            .unwrap_or_default()
            .iter()
            .map(|entry| entry.key.as_str())
            .filter(|key| !USED.contains(key))
            .collect();
        for key in spec {
            self.left_out(&["spec", key], why_not(key));
        }
        for key in storage {
            self.left_out(&["spec", "storage", key], why_not(key));
        }
    }

    fn left_out(&mut self, fields: &[&str], why: &str) {
        let what = format!("has no equivalent: {why}");
        self.note(NoteKind::NoEquivalent, fields, Vec::new(), what);
    }

    fn access(&mut self, mode: Option<String>) {
        let fields = ["spec", "storage", "accessMode"];
        match filled(&mode) {
            None | Some("ReadOnly") => {}
            Some("ReadWrite") => {
                self.left_out(
                    &fields,
                    "a volume is read-only; what is to be written belongs elsewhere",
                );
            }
            Some(_) => self.problem(&fields, "not a mode of access; write ReadOnly"),
        }
    }

    fn interval(&mut self, text: Option<&str>) -> HumanDuration {
        const LEAST: HumanDuration = HumanDuration::from_secs(1);
        let fields = ["spec", "syncInterval"];
        let Some(text) = text else {
            return SYNC_INTERVAL;
        };
        match self.duration(&fields, text) {
            Some(duration) if duration.get() < LEAST.get() => {
                let what = "is 1s now, the shortest there is";
                self.note(NoteKind::Differs, &fields, keys(&["spec", "refresh"]), what);
                LEAST
            }
            Some(duration) => duration,
            None => SYNC_INTERVAL,
        }
    }

    fn timeout(&mut self, text: Option<&str>) -> Option<HumanDuration> {
        let fields = ["spec", "syncTimeout"];
        let duration = self.duration(&fields, text?)?;
        if duration.get() == Duration::ZERO {
            let what =
                "is left out: without any time nothing could be read; a reader waits for 30s";
            self.note(NoteKind::Differs, &fields, Vec::new(), what);
            return None;
        }
        let what = "was for a whole copy; now it is how long one reader waits for an answer";
        self.note(NoteKind::Differs, &fields, keys(&["spec", "timeout"]), what);
        Some(duration)
    }

    fn duration(&mut self, fields: &[&str], text: &str) -> Option<HumanDuration> {
        let parsed = duration::parse(text).map(|duration| {
            humantime::format_duration(duration)
                .to_string()
                .parse::<HumanDuration>()
        });
        match parsed {
            Some(Ok(duration)) => Some(duration),
            _ => {
                self.problem(fields, "not a duration; write one such as 30s, 5m or 1h30m");
                None
            }
        }
    }

    fn no_source(&mut self) {
        let what = "no source: the original makes an empty disk of it, to be written to; a volume is \
                    read-only and shows what a source has. Add git, s3, http or ssh";
        self.problem(&["spec", "source"], what);
    }

    fn source(&mut self, source: Source) -> Option<source::Source> {
        let kinds: Vec<&str> = [
            ("ssh", source.ssh.is_some()),
            ("http", source.http.is_some()),
            ("git", source.git.is_some()),
            ("s3", source.s3.is_some()),
        ]
        .into_iter()
        .filter_map(|(kind, there)| there.then_some(kind))
        .collect();
        if kinds.len() > 1 {
            let what = format!(
                "more than one source ({}); leave one, or convert each alone and make them layers",
                kinds.join(" and ")
            );
            self.problem(&["spec", "source"], what);
            return None;
        }
        if let Some(ssh) = source.ssh {
            return self.ssh(ssh).map(source::Source::Sftp);
        }
        if let Some(http) = source.http {
            return self.http(http).map(source::Source::Http);
        }
        if let Some(git) = source.git {
            return self.git(git).map(source::Source::Git);
        }
        if let Some(s3) = source.s3 {
            return self.s3(s3).map(source::Source::S3);
        }
        // A field that is not known was reported.
        if self
            .root
            .get(&keys(&["spec", "source"]))
            .is_none_or(|node| node.entries().is_empty())
        {
            self.no_source();
        }
        None
    }

    /// Returns where the secret of the field `name` of `section` is: in the document, or in the
    /// Secret that the field with `FromSecret` names. `target` is the field that it comes to.
    pub(super) fn secret(
        &mut self,
        (section, name): (&str, &str),
        plain: &Option<Plain>,
        selected: &Option<SecretKey>,
        target: &[&str],
    ) -> Option<SecretRef> {
        let by_secret = format!("{name}FromSecret");
        match (filled_secret(plain), selected) {
            (None, None) => None,
            (Some(_), Some(_)) => {
                let what = format!("`{name}` and `{by_secret}` together; write exactly one");
                self.problem(&["spec", "source", section, name], what);
                None
            }
            (Some(plain), None) => {
                let fields = ["spec", "source", section, name];
                let text = match (name, self.secrets.inline) {
                    ("privateKey", Inline::Keep) => private_key(plain),
                    _ => Some(plain.expose().to_owned()),
                };
                let Some(text) = text else {
                    let what = "not a private key: neither PEM nor PEM in base64";
                    self.problem(&fields, what);
                    return None;
                };
                Some(self.inline(&fields, (name, Some(&by_secret)), &text, target))
            }
            (None, Some(key)) => {
                self.selected(&["spec", "source", section, &by_secret], key, target)
            }
        }
    }

    /// Returns a reference to the secret `name` that stands in the document in the field `fields`;
    /// `by_secret` is the field that would name a Secret instead, where the original has one.
    pub(super) fn inline(
        &mut self,
        fields: &[&str],
        (name, by_secret): (&str, Option<&str>),
        text: &str,
        target: &[&str],
    ) -> SecretRef {
        match self.secrets.inline {
            Inline::Keep => {
                let instead = match by_secret {
                    Some(field) => {
                        format!(
                            "put it into a Secret and write `{field}: {{name: NAME, key: KEY}}`"
                        )
                    }
                    None => {
                        "`svol convert` makes a file of this that names another file for it".into()
                    }
                };
                let what = format!(
                    "a secret in plain text: whoever reads this file has it. It is kept in memory \
                     only; {instead}"
                );
                self.note(NoteKind::Decide, fields, layer(target), what);
                given(text)
            }
            Inline::Refer => {
                let file = self
                    .secrets
                    .file(self.namespace.as_deref(), &self.name, name)
                    .file;
                let decoded = match name {
                    "privateKey" => ", decoded from base64,",
                    _ => "",
                };
                let what = format!(
                    "a secret in plain text, which is not copied: put it{decoded} into the file {} \
                     (mode 0400), or write another place",
                    file.display()
                );
                self.note(NoteKind::Decide, fields, layer(target), what);
                SecretRef::FromFile(file)
            }
        }
    }

    fn selected(&mut self, fields: &[&str], key: &SecretKey, target: &[&str]) -> Option<SecretRef> {
        if let Some(field) = key.wrong_name() {
            let fields: Vec<&str> = fields.iter().copied().chain([field]).collect();
            let what = "not a name that Kubernetes takes; it would be one of a directory or a file";
            self.problem(&fields, what);
            return None;
        }
        // The original reads the Secrets of a SharedVolume from its own namespace, whatever is said.
        let namespace = match self.namespace.clone() {
            Some(own) => {
                if filled(&key.namespace).is_some_and(|named| named != own.as_str()) {
                    let fields: Vec<&str> = fields.iter().copied().chain(["namespace"]).collect();
                    let what = "is not heeded, as in the original: a SharedVolume's Secrets are in its \
                                own namespace";
                    self.note(NoteKind::Differs, &fields, Vec::new(), what);
                }
                Some(own)
            }
            None => filled(&key.namespace).map(str::to_owned),
        };
        let found = self.secrets.file(namespace.as_deref(), &key.name, &key.key);
        if !found.places.is_empty() {
            let places: Vec<String> = found
                .places
                .iter()
                .map(|place: &PathBuf| place.display().to_string())
                .collect();
            let what = format!(
                "no such file yet; mount the Secret so that the key is {} (--secrets-dir names the \
                 directory)",
                places.join(" or ")
            );
            self.note(NoteKind::Decide, fields, layer(target), what);
        }
        Some(SecretRef::FromFile(found.file))
    }

    /// Parses the text of a field, or reports why not.
    pub(super) fn parse<T: FromStr<Err: Display>>(
        &mut self,
        fields: &[&str],
        text: &str,
    ) -> Option<T> {
        match text.parse() {
            Ok(value) => Some(value),
            Err(why) => {
                self.problem(fields, why.to_string());
                None
            }
        }
    }

    /// Reports what is wrong with the field `fields`.
    pub(super) fn problem(&mut self, fields: &[&str], what: impl Into<String>) {
        let path = keys(fields);
        let at = self.nearest(&path).at;
        self.checker.report(at, &path, what);
    }

    /// Remarks on a field; `target` is the field of the volume that it came to.
    pub(super) fn note(
        &mut self,
        kind: NoteKind,
        fields: &[&str],
        target: Vec<Step>,
        what: impl Into<String>,
    ) {
        let path = keys(fields);
        let at = self.nearest(&path).at;
        self.notes.push(Note {
            kind,
            remark: self.checker.problem(at, &path, what),
            target,
        });
    }

    /// A remark on the host's key or certificate of the layer's field `target`.
    pub(super) fn layer_note(
        &mut self,
        kind: NoteKind,
        fields: &[&str],
        target: &[&str],
        what: &str,
    ) {
        self.note(kind, fields, layer(target), what);
    }

    /// The node at a path, or the last one on the way that is there.
    fn nearest(&self, path: &[Step]) -> &Node {
        (0..=path.len())
            .rev()
            .filter_map(|end| self.root.get(path.get(..end)?))
            .find(|node| !matches!(node.value, Value::Null))
            .unwrap_or(self.root)
    }
}
