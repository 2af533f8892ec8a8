//! Which objects were found not to be what their sources promise.
//!
//! What was fetched of them is dropped, so what is kept here is who lied: such an object is verified
//! as a whole before its first byte is served, whatever its source says, until it once was right.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use svol_cache::ObjectKey;

use crate::source::Error;

/// How many are remembered, each with its message. Where there are more, all count.
const MOST: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Quarantine(Mutex<HashMap<ObjectKey, Error>>);

impl Quarantine {
    pub(super) fn add(&self, key: ObjectKey, error: Error) {
        let mut all = self.all();
        if all.len() < MOST || all.contains_key(&key) {
            all.insert(key, error);
        }
    }

    pub(super) fn remove(&self, key: &ObjectKey) {
        self.all().remove(key);
    }

    pub(super) fn get(&self, key: &ObjectKey) -> Option<Error> {
        let all = self.all();
        let known = all.get(key).cloned();
        known.or_else(|| match all.len() < MOST {
            true => None,
            false => Some(Error::lied(
                "too many files are not what their source promises",
            )),
        })
    }

    fn all(&self) -> MutexGuard<'_, HashMap<ObjectKey, Error>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
