//! Writes what came of a document as YAML, with the remarks where they belong.

use std::collections::BTreeMap;

use super::Converted;
use crate::config::node::{self, Node, Step};
use crate::config::note::NoteKind;

/// How wide a line of a comment may become, in characters.
const WIDTH: usize = 98;

/// Returns the volume as a file of ours. Fails where it holds a secret itself, since none is ever
/// written.
pub(crate) fn write(converted: &Converted) -> Result<String, String> {
    let yaml = serde_saphyr::to_string(&converted.volume).map_err(|error| error.to_string())?;
    let root = node::parse(&yaml).map_err(|(_, what)| what)?;
    let mut comments: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    let mut left_out = Vec::new();
    for note in &converted.notes {
        let text = format!("{}: {}", note.remark.field, note.remark.what);
        match note.kind {
            NoteKind::Decide => comments
                .entry(line(&root, &note.target))
                .or_default()
                .push(format!("TODO {text}")),
            NoteKind::Differs if !note.target.is_empty() => {
                comments
                    .entry(line(&root, &note.target))
                    .or_default()
                    .push(text);
            }
            NoteKind::Differs | NoteKind::NoEquivalent => left_out.push(text),
        }
    }
    let mut out = String::new();
    comment(
        &mut out,
        "",
        &format!("From {} {}.", converted.kind, converted.original),
    );
    for text in left_out {
        comment(&mut out, "", &text);
    }
    for (number, text) in (1..).zip(yaml.lines()) {
        let indent = &text[..text.len() - text.trim_start().len()];
        for remark in comments.get(&number).into_iter().flatten() {
            comment(&mut out, indent, remark);
        }
        out.push_str(text);
        out.push('\n');
    }
    Ok(out)
}

/// The line of a field, or of the last one on the way that is there.
fn line(root: &Node, path: &[Step]) -> u64 {
    let place = |path: &[Step]| {
        let (last, way) = path.split_last()?;
        let parent = root.get(way)?;
        match last {
            Step::Key(key) => {
                let entry = parent.entries().iter().find(|entry| entry.key == *key)?;
                Some(entry.key_at.line)
            }
            Step::Index(_) => Some(root.get(path)?.at.line),
        }
    };
    (1..=path.len())
        .rev()
        .find_map(|end| place(path.get(..end)?))
        .unwrap_or(1)
}

/// Writes lines of a comment. Words of the document are in it: none may end the comment.
fn comment(out: &mut String, indent: &str, text: &str) {
    let clean: String = text
        .chars()
        .map(
            |c| match c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') {
                true => ' ',
                false => c,
            },
        )
        .collect();
    let mut width = 0;
    for word in clean.split_whitespace() {
        let length = word.chars().count();
        if width == 0 || width + 1 + length > WIDTH {
            if width != 0 {
                out.push('\n');
            }
            out.push_str(indent);
            out.push('#');
            width = indent.len() + 1;
        }
        out.push(' ');
        out.push_str(word);
        width += 1 + length;
    }
    out.push('\n');
}
