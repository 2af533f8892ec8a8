//! Which files come next, by the listings that are in memory.

use super::super::opener::{Opener, pinned};
use crate::entry::{Entry, Kind};
use crate::namespace::Merged;
use crate::path::RelPath;

/// Names looked at for one advice: among them may be few files.
const LOOKS: usize = 4096;

/// A place in the order of a walk.
#[derive(Clone)]
pub(super) struct Cursor {
    pub(super) dir: RelPath,
    pub(super) position: usize,
}

/// A file that may be fetched ahead.
pub(super) struct Candidate {
    pub(super) layer: usize,
    pub(super) path: RelPath,
    pub(super) entry: Entry,
    pub(super) size: u64,
    pub(super) dir: RelPath,
    pub(super) position: usize,
}

/// Returns the next files behind `cursor`, at most `most`, and moves it behind them; and whether
/// it is at something that is not known. Where `is_walk`, it goes from directory to directory.
pub(super) fn find(
    opener: &Opener,
    cursor: &mut Cursor,
    is_walk: bool,
    most: u64,
) -> (Vec<Candidate>, bool) {
    let namespace = &opener.namespace;
    let mut found = Vec::new();
    let mut looks = 0;
    loop {
        let Some(Ok(listing)) = namespace.peek_list(&cursor.dir) else {
            return (found, true);
        };
        let mut down = None;
        for entry in listing.iter_from(cursor.position) {
            let Ok(entry) = entry else {
                return (found, true);
            };
            if found.len() as u64 >= most || looks >= LOOKS {
                return (found, false);
            }
            looks += 1;
            match entry.entry.kind {
                Kind::Dir if is_walk => {
                    down = Some(cursor.dir.join(&entry.entry.name));
                    break;
                }
                Kind::File => {
                    let path = entry.path();
                    let position = cursor.position;
                    found.extend(candidate(
                        opener,
                        cursor,
                        position,
                        entry.layer,
                        path,
                        entry.entry,
                    ));
                }
                Kind::Dir | Kind::Symlink => {}
            }
            cursor.position += 1;
        }
        match down {
            Some(child) if matches!(namespace.peek_list(&child), Some(Ok(_))) => {
                *cursor = Cursor {
                    dir: child,
                    position: 0,
                };
            }
            Some(_) => return (found, true),
            None if !is_walk => return (found, true),
            None => match behind(opener, &cursor.dir) {
                Some(next) => *cursor = next,
                None => return (found, true),
            },
        }
        looks += 1;
    }
}

/// Returns the place behind a directory in the one above it.
fn behind(opener: &Opener, dir: &RelPath) -> Option<Cursor> {
    let (above, name) = (dir.parent()?, dir.file_name()?);
    let listing = opener.namespace.peek_list(&above)?.ok()?;
    let position = position(&listing, name.as_str())? + 1;
    Some(Cursor {
        dir: above,
        position,
    })
}

/// Returns a file if an open would fetch it without asking anything first.
fn candidate(
    opener: &Opener,
    cursor: &Cursor,
    position: usize,
    layer: usize,
    path: RelPath,
    entry: Entry,
) -> Option<Candidate> {
    let size = entry.size.filter(|size| *size > 0)?;
    let is_fetched = opener.source(layer).in_place().is_none();
    let is_sure = pinned(&entry) && !opener.must_probe(layer, &path, &entry);
    (is_fetched && is_sure).then(|| Candidate {
        layer,
        path,
        entry,
        size,
        dir: cursor.dir.clone(),
        position,
    })
}

/// Returns whether a walk may go on in `dir` after `from`: below it, beside it, or beside what it is
/// in.
pub(super) fn is_next(dir: &RelPath, from: &RelPath) -> bool {
    dir != from
        && dir
            .parent()
            .is_some_and(|above| from.strip_prefix(&above).is_some())
}

/// Returns at which position of a listing a name is.
pub(super) fn position(listing: &Merged, name: &str) -> Option<usize> {
    let (mut low, mut high) = (0, listing.len());
    while low < high {
        let middle = low + (high - low) / 2;
        let entry = listing.iter_from(middle).next()?.ok()?;
        match entry.entry.name.as_str().cmp(name) {
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Equal => return Some(middle),
            std::cmp::Ordering::Greater => high = middle,
        }
    }
    None
}
