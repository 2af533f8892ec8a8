//! Reads a volume file, and says everything that is wrong with it.
//!
//! In order: the YAML itself, the version and the kind, the sources of each layer, the fields and
//! their types, what the fields say together. A problem at one of the first two steps ends the
//! search, since all else would be noise; the others are collected.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::decode::{DecodeErrorKind, NodeDecoder};
use super::error::{ConfigError, Place, Problem};
use super::node::{self, Node, Position, Step, Value};
use super::source::Source;
use super::volume::{ApiVersion, Kind, SOURCE_KINDS, Volume, wrong_sources};

/// How many problems are reported at once: more than a screen helps nobody.
const MAX_PROBLEMS: usize = 20;

impl Volume {
    /// Parses and checks the text of a volume file; `path` is only for messages. File names stay
    /// as they are.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let mut checker = Checker::new(path, &[]);
        let volume = checker.check(text);
        checker.finish()?;
        // Without a volume there was a problem; were there none, the file is as good as empty.
        volume.ok_or_else(|| whole(path, "holds no volume"))
    }
}

/// An error of the file as a whole.
pub(super) fn whole(path: &Path, what: impl Into<String>) -> ConfigError {
    ConfigError::new(
        Place::File {
            path: path.into(),
            line: 0,
            column: 0,
        },
        what,
    )
}

/// Collects what is wrong with a document.
pub(super) struct Checker {
    path: PathBuf,
    /// The way to the document's root, where it is a part of a larger one.
    prefix: Vec<Step>,
    problems: Vec<Problem>,
}

impl Checker {
    pub(super) fn new(path: &Path, prefix: &[Step]) -> Self {
        Self {
            path: path.into(),
            prefix: prefix.to_vec(),
            problems: Vec::new(),
        }
    }

    /// Returns what was reported, in the order of the document, as an error if there was any.
    pub(super) fn finish(mut self) -> Result<(), ConfigError> {
        self.problems.sort_by_key(|problem| match &problem.place {
            Place::File { line, column, .. } => (*line, *column),
            _ => (0, 0),
        });
        ConfigError::unless_empty(self.problems)
    }

    pub(super) fn problem(&self, at: Position, path: &[Step], what: impl Into<String>) -> Problem {
        Problem {
            place: Place::File {
                path: self.path.clone(),
                line: at.line,
                column: at.column,
            },
            field: node::field(&[&self.prefix, path].concat()),
            what: what.into(),
        }
    }

    pub(super) fn report(&mut self, at: Position, path: &[Step], what: impl Into<String>) {
        let problem = self.problem(at, path, what);
        self.problems.push(problem);
    }

    fn check(&mut self, text: &str) -> Option<Volume> {
        let mut root = match node::parse(text) {
            Ok(root) => root,
            Err((at, what)) => {
                self.report(at, &[], what);
                return None;
            }
        };
        if matches!(root.value, Value::Null) {
            self.report(root.at, &[], "the file is empty; write a volume");
            return None;
        }
        self.check_header::<ApiVersion>(&root, "apiVersion");
        self.check_header::<Kind>(&root, "kind");
        if !self.problems.is_empty() {
            return None;
        }
        self.check_sources(&mut root);
        let volume: Volume = self.decode(&mut root)?;
        self.check_together(&volume, &root);
        Some(volume)
    }

    /// Checks a field that says what the rest of the document is.
    fn check_header<'a, T: Deserialize<'a>>(&mut self, root: &'a Node, name: &str) {
        let path = [Step::Key(name.into())];
        if let Some(node) = root.get(&path)
            && let Err(error) = T::deserialize(NodeDecoder(node))
        {
            self.report(node.at, &path, error.to_string());
        }
    }

    /// Reports layers with more than one source, and sets all sources but the first aside.
    fn check_sources(&mut self, root: &mut Node) {
        let layers = layers_path();
        let Some(Node {
            value: Value::List(items),
            ..
        }) = root.get_mut(&layers)
        else {
            return;
        };
        for (index, layer) in items.iter_mut().enumerate() {
            let Value::Map(entries) = &mut layer.value else {
                continue;
            };
            let mut sources: Vec<_> = entries
                .iter_mut()
                .filter(|entry| SOURCE_KINDS.contains(&entry.key.as_str()))
                .collect();
            let kinds: Vec<String> = sources.iter().map(|entry| entry.key.clone()).collect();
            let Some(second) = sources.get(1).map(|entry| entry.key_at) else {
                continue;
            };
            for extra in sources.iter_mut().skip(1) {
                extra.node.value = Value::Pruned;
            }
            let mut path = layers.to_vec();
            path.push(Step::Index(index));
            self.report(second, &path, wrong_sources(&kinds));
        }
    }

    /// Decodes the document again and again, each time without what was found wrong before, until
    /// all that is left is right.
    pub(super) fn decode<T: DeserializeOwned>(&mut self, root: &mut Node) -> Option<T> {
        while self.problems.len() < MAX_PROBLEMS {
            let error = match T::deserialize(NodeDecoder(root)) {
                Ok(document) => return Some(document),
                Err(error) => error,
            };
            let path: Vec<Step> = error.path.iter().rev().cloned().collect();
            let at = error.at.unwrap_or(root.at);
            let node = root
                .get_mut(&path)
                .filter(|node| !matches!(node.value, Value::Pruned));
            let Some(node) = node else {
                // Nothing to set aside: to go on would be to go round.
                self.report(at, &path, error.to_string());
                return None;
            };
            // What a map lacks may be what was set aside in it before.
            let follows = match (&error.kind, &node.value) {
                (DecodeErrorKind::UnknownField { .. }, _) => false,
                (_, Value::Map(entries)) => entries
                    .iter()
                    .any(|entry| matches!(entry.node.value, Value::Pruned)),
                _ => false,
            };
            node.value = Value::Pruned;
            if !follows {
                self.report(at, &path, error.to_string());
            }
            if path.is_empty() {
                return None;
            }
        }
        None
    }

    /// Checks what the fields say together, on a volume whose fields are right by themselves.
    fn check_together(&mut self, volume: &Volume, root: &Node) {
        let layers = layers_path();
        let Some(layers_node) = root.get(&layers) else {
            return;
        };
        let Value::List(items) = &layers_node.value else {
            return;
        };
        if items.is_empty() {
            self.report(layers_node.at, &layers, "no layer; write at least one");
        }
        if items.len() != volume.spec.layers.len() {
            // A layer was set aside: the others' places would be wrong.
            return;
        }
        let mut names = HashMap::new();
        for (index, layer) in volume.spec.layers.iter().enumerate() {
            let mut here = layers.to_vec();
            here.push(Step::Index(index));
            let name = volume.layer_name(index);
            if let Some(other) = names.insert(name.clone(), index) {
                // An unnamed layer's name can be taken by one that was written: say it there.
                let named = if layer.name.is_some() { index } else { other };
                let mut there = layers.to_vec();
                there.push(Step::Index(named));
                let what = format!(
                    "`{name}` is the name of spec.layers[{}] too; give each layer its own",
                    if named == index { other } else { index }
                );
                self.report_in(root, &there, &["name"], what);
            }
            if let Err(error) = layer.filter() {
                self.report_in(root, &here, &["include"], error.to_string());
            }
            self.check_source(&layer.source, root, &here);
        }
        for (field, what) in volume.spec.on_change.problems() {
            let path: Vec<&str> = ["onChange"].into_iter().chain(field).collect();
            self.report_in(root, &layers[..1], &path, what);
        }
    }

    fn check_source(&mut self, source: &Source, root: &Node, layer: &[Step]) {
        for (field, what) in source.problems().0 {
            let path: Vec<&str> = [source.kind()].into_iter().chain(field).collect();
            self.report_in(root, layer, &path, what);
        }
    }

    /// Reports a problem of the field that `fields` lead to from `base`.
    fn report_in(&mut self, root: &Node, base: &[Step], fields: &[&str], what: String) {
        let mut path = base.to_vec();
        path.extend(fields.iter().map(|name| Step::Key((*name).into())));
        let at = root
            .get(&path)
            .or_else(|| root.get(base))
            .unwrap_or(root)
            .at;
        self.report(at, &path, what);
    }
}

fn layers_path() -> [Step; 2] {
    [Step::Key("spec".into()), Step::Key("layers".into())]
}
