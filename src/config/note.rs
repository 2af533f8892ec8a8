//! What there is to say of a document that was taken although not all of it could be kept.

use std::fmt;

use super::error::Problem;
use super::node::Step;

/// What a remark is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoteKind {
    /// The field asks for what is not there; it was left out.
    NoEquivalent,
    /// What the field asks for is there, but is said in another place or means something else.
    Differs,
    /// The user has to do something: to put a secret into a file, to name a host's key.
    Decide,
}

/// A remark on a field of a document of another format. Never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// What it is about.
    pub kind: NoteKind,
    /// The field, its place and the words.
    pub remark: Problem,
    /// The field of the volume that it came to; empty for the volume as a whole.
    pub(super) target: Vec<Step>,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.remark.fmt(f)
    }
}
