//! What the model allows at this moment.

use std::time::Duration;

use svol::source::ErrorKind;
use svol::vfs::Error;

use super::super::oracle::{ExpectList, Heard, Oracle, Rule, What, join};
use super::super::world::{Item, Origin};
use super::{Check, Harness, Object};

/// What comes of looking at open whether a version is still the present one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probe {
    /// It is not asked for.
    Not,
    Same,
    /// Something else is there by now, or nothing.
    Gone,
    /// Nobody knows, and it is served.
    Served,
    /// Nobody knows, and it is an error.
    Refused(ErrorKind),
}

impl Harness {
    pub(super) fn heard(&self) -> Vec<Heard> {
        self.origins.iter().map(|o| o.recorder.heard()).collect()
    }

    /// What was heard, once it counts: directories of an earlier mount are asked for behind the
    /// readers' backs.
    pub(super) async fn settled(&self) -> Vec<Heard> {
        if self.settings.refresh.is_some() && self.remounted {
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        self.heard()
    }

    pub(super) fn truth(&self) -> Vec<Heard> {
        self.origins.iter().map(Origin::truth).collect()
    }

    /// What the model says, by what was heard before and after an operation. Where a source is
    /// down, it may have forgotten that a directory is not there, which never lasts.
    pub(super) fn expect<T: PartialEq>(
        &self,
        before: &[Heard],
        mut ask: impl FnMut(&Oracle<'_>) -> T,
    ) -> Vec<T> {
        let layers = self.rules();
        let sure = vec![false; layers.len()];
        let doubt: Vec<bool> = self.origins.iter().map(Origin::may_fail).collect();
        let after = self.heard();
        let mut all = Vec::new();
        if self.clean {
            let heard = self.truth();
            all.push(ask(&Oracle {
                layers: &layers,
                heard: &heard,
                doubt_gone: &sure,
            }));
            return all;
        }
        // A source that is asked behind the readers' backs is heard before what it said counts, and
        // where it said it of a directory that was known; so each layer is as before, as after, or
        // as before where that was known at all.
        let choices: Vec<Vec<Heard>> = before
            .iter()
            .zip(&after)
            .map(|(before, after)| {
                if before == after {
                    return vec![after.clone()];
                }
                let mut both = after.clone();
                both.extend(before.clone());
                vec![before.clone(), after.clone(), both]
            })
            .collect();
        let many: usize = choices.iter().map(Vec::len).product();
        for choice in 0..many {
            let mut rest = choice;
            let heard: Vec<Heard> = choices
                .iter()
                .map(|of_layer| {
                    let at = rest % of_layer.len();
                    rest /= of_layer.len();
                    of_layer[at].clone()
                })
                .collect();
            for doubt_gone in [&sure, &doubt] {
                let oracle = Oracle {
                    layers: &layers,
                    heard: &heard,
                    doubt_gone,
                };
                let answer = ask(&oracle);
                if !all.contains(&answer) {
                    all.push(answer);
                }
            }
        }
        all
    }

    /// Whether `error` is of a kind that a source has been failing with.
    pub(super) fn excused(&self, error: &Error) -> bool {
        let Error::Source(error) = error else {
            return false;
        };
        self.origins
            .iter()
            .any(|origin| origin.may_fail() && origin.fails_with(error.kind()))
    }

    /// All directories that the model knows of now.
    pub(super) fn known_dirs(&self) -> Vec<String> {
        let heard = if self.clean {
            self.truth()
        } else {
            self.heard()
        };
        self.ask(&heard, |oracle| oracle.dirs())
    }

    /// All files that the volume truly shows.
    pub(super) fn shown_files(&self) -> Vec<String> {
        let mut files = Vec::new();
        self.ask(&self.truth(), |oracle| {
            for dir in oracle.dirs() {
                if let ExpectList::Names(names) = oracle.list(&dir) {
                    let shown = names.iter().filter(|(_, (what, _))| *what == What::File);
                    files.extend(shown.map(|(name, _)| join(&dir, name)));
                }
            }
        });
        files
    }

    fn ask<T>(&self, heard: &[Heard], ask: impl FnOnce(&Oracle<'_>) -> T) -> T {
        ask(&Oracle {
            layers: &self.rules(),
            heard,
            doubt_gone: &vec![false; self.origins.len()],
        })
    }

    fn rules(&self) -> Vec<Rule> {
        self.origins.iter().map(|o| o.rule.clone()).collect()
    }

    /// What comes of asking for the version of `object` at open, where it proves nothing.
    pub(super) fn probe_of(&self, (layer, path, token): &Object) -> Probe {
        let origin = &self.origins[*layer];
        if !origin.probed || !token.starts_with('w') {
            return Probe::Not;
        }
        match origin.down {
            None if matches!(origin.tree.get(path), Some(Item::File(now)) if now == token) => {
                Probe::Same
            }
            None => Probe::Gone,
            Some(ErrorKind::Timeout | ErrorKind::Unreachable) if !origin.strict => Probe::Served,
            Some(kind) => Probe::Refused(kind),
        }
    }

    /// Fails if a source was asked for bytes that were here, or on their way; begins `anew` where
    /// they need no longer be.
    pub(super) fn fetched_once(&self, anew: bool) -> Check {
        for origin in &self.origins {
            let twice = origin.recorder.given_twice(anew);
            let Some(twice) = twice.filter(|_| self.keeps_all()) else {
                continue;
            };
            return Err(format!("fetched twice: {twice}"));
        }
        Ok(())
    }

    /// Whether the cache has room for everything, and had no trouble to keep it.
    pub(super) fn keeps_all(&self) -> bool {
        let Some(mounted) = &self.mounted else {
            return false;
        };
        let stats = || mounted.cache.stats();
        self.settings.quota.is_none() && {
            let stats = stats();
            stats.unkept_bytes == 0 && stats.troubles == 0
        }
    }
}
