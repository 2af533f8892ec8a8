//! The documents of the original: `SharedVolume` and `ClusterSharedVolume`,
//! `sv.sharedvolume.io/v1alpha1`, as volumes of ours.
//!
//! [`parse`] finds the documents in a file, [`Documents::convert`] converts them, [`write`] writes
//! what came of one as YAML. To mount one, its secrets stay in memory; to write it, each is a file
//! that it names. Where the original is unsafe (host keys and certificates that nobody checks) the
//! volume is not, and a remark says what to set.

use std::path::Path;

mod convert;
mod document;
mod duration;
mod secrets;
mod sources;
#[cfg(test)]
mod tests;
mod why;
mod write;

use super::error::ConfigError;
use super::names::Label;
use super::node::{self, Node, Step, Value};
use super::note::Note;
use super::validate::{Checker, whole};
use super::volume::Volume;
use convert::Converter;
pub(crate) use secrets::{Inline, Secrets};
pub(crate) use write::write;

/// The one version of the original's documents.
const API_VERSION: &str = "sv.sharedvolume.io/v1alpha1";

/// What came of one document.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Converted {
    /// The volume; its file names are as the document and the directory of Secrets gave them.
    pub(crate) volume: Volume,
    /// What there is to say, in no order.
    pub(crate) notes: Vec<Note>,
    kind: &'static str,
    /// The document's name, with its namespace.
    original: String,
}

impl Converted {
    /// Returns names for the volume's file, the best one first.
    pub(crate) fn file_names(&self) -> impl Iterator<Item = String> {
        let name = self.volume.metadata.name.as_str();
        let long = Label::nearest(&self.original);
        [name, long.as_str()]
            .map(|name| format!("{name}.yaml"))
            .into_iter()
    }
}

/// The documents of a file.
#[derive(Debug)]
pub(crate) struct Documents {
    /// Those of the original.
    pub(crate) volumes: Vec<Document>,
    /// How many others there are.
    pub(crate) others: usize,
}

/// One document of the original, not looked into yet.
#[derive(Debug)]
pub(crate) struct Document {
    root: Node,
    /// The way to it, where it is an item of a list.
    prefix: Vec<Step>,
}

/// Finds the documents of the original in a file's text; nothing where there is none, and the file
/// is something else. `kubectl get -o yaml` makes lists of them, whose items are taken apart.
pub(crate) fn parse(text: &str, shown: &Path) -> Result<Option<Documents>, ConfigError> {
    // Our own files need not be read twice.
    if !text.contains("SharedVolume") {
        return Ok(None);
    }
    let nodes = node::parse_all(text).map_err(|(at, what)| {
        let mut checker = Checker::new(shown, &[]);
        checker.report(at, &[], what);
        checker
            .finish()
            .err()
            .unwrap_or_else(|| whole(shown, "not YAML"))
    })?;
    let mut documents = Documents {
        volumes: Vec::new(),
        others: 0,
    };
    for node in nodes {
        documents.add(node);
    }
    Ok((!documents.volumes.is_empty()).then_some(documents))
}

impl Documents {
    fn add(&mut self, mut node: Node) {
        let kind = node.text("kind").unwrap_or_default();
        if is_volume(kind) {
            let prefix = Vec::new();
            self.volumes.push(Document { root: node, prefix });
            return;
        }
        let list = kind == "List" || kind.strip_suffix("List").is_some_and(is_volume);
        let path = [Step::Key("items".into())];
        let items = node
            .get_mut(&path)
            .filter(|_| list)
            .map(|node| &mut node.value);
        let Some(Value::List(items)) = items else {
            self.others += 1;
            return;
        };
        for (index, root) in std::mem::take(items).into_iter().enumerate() {
            match root.text("kind").is_some_and(is_volume) {
                true => self.volumes.push(Document {
                    root,
                    prefix: vec![Step::Key("items".into()), Step::Index(index)],
                }),
                false => self.others += 1,
            }
        }
    }

    /// Returns the only volume there is.
    pub(crate) fn into_only(self, shown: &Path) -> Result<Document, ConfigError> {
        let count = self.volumes.len();
        match <[Document; 1]>::try_from(self.volumes) {
            Ok([one]) => Ok(one),
            Err(_) => Err(whole(
                shown,
                format!(
                    "{count} volumes in one file; `svol convert {} -o DIRECTORY` makes a file of each, \
                     mount one of them",
                    shown.display()
                ),
            )),
        }
    }
}

fn is_volume(kind: &str) -> bool {
    matches!(kind, "SharedVolume" | "ClusterSharedVolume")
}

impl Document {
    /// Converts the document; `shown` is what messages call its file. Everything that is wrong is
    /// in the error.
    pub(crate) fn convert(
        mut self,
        shown: &Path,
        secrets: &Secrets<'_>,
    ) -> Result<Converted, ConfigError> {
        let mut checker = Checker::new(shown, &self.prefix);
        if self.root.text("apiVersion") != Some(API_VERSION) {
            let path = [Step::Key("apiVersion".into())];
            let at = self.root.get(&path).unwrap_or(&self.root).at;
            checker.report(
                at,
                &path,
                format!("write {API_VERSION}, the version known here"),
            );
        }
        let decoded = checker.decode(&mut self.root);
        let Some(document) = decoded else {
            checker.finish()?;
            return Err(whole(shown, "holds no volume"));
        };
        let cluster = self.root.text("kind") == Some("ClusterSharedVolume");
        let converter = Converter {
            checker,
            root: &self.root,
            secrets,
            notes: Vec::new(),
            cluster,
            name: String::new(),
            namespace: None,
        };
        converter.run(document, shown)
    }
}
