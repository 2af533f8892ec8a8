//! Which commit answers come from, and how a source moves to the next.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use gix_hash::ObjectId;

use super::super::{Error, Result, progress};
use super::store::Store;
use super::tree::{self, Commit, Found, Objects};
use super::{Inner, Repository, blocking, not_found, notices};

/// How often those who wait for a commit see whether something comes.
const LOOK: Duration = Duration::from_secs(1);

impl Inner {
    pub(super) fn known(&self) -> Option<Arc<Commit>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.clone()
    }

    pub(super) fn move_to(&self, commit: Arc<Commit>) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = Some(commit);
    }

    /// Waits until no commit is being brought, as long as something comes.
    pub(super) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        let mut seen = 0;
        loop {
            tokio::select! {
                turn = self.turn.lock() => return turn,
                () = tokio::time::sleep(LOOK) => {
                    let bytes = self.counters.bytes.load(Ordering::Relaxed);
                    if std::mem::replace(&mut seen, bytes) != bytes {
                        progress::note();
                    }
                }
            }
        }
    }

    /// Returns the commit that answers come from: the one from before, the last that the store
    /// has, or the first that the server gives.
    pub(super) async fn commit(&self) -> Result<Arc<Commit>> {
        if let Some(known) = self.known() {
            return Ok(known);
        }
        let _turn = self.turn().await;
        if let Some(known) = self.known() {
            return Ok(known);
        }
        if let Some(stored) = self.stored().await? {
            self.move_to(stored.clone());
            return Ok(stored);
        }
        self.advance_in_turn().await
    }

    /// Returns the last commit that all is here of.
    pub(super) async fn stored(&self) -> Result<Option<Arc<Commit>>> {
        let Repository::Remote { .. } = self.repository else {
            return Ok(None);
        };
        let identity = self.identity.clone();
        let id = self.store.run(move |s| s.commit(&identity)).await?;
        let Some(id) = id else { return Ok(None) };
        Ok(match self.load(id).await? {
            Found::Here(commit) => Some(Arc::new(commit)),
            Found::Nowhere | Found::Missing(_) => None,
        })
    }

    pub(super) async fn load(&self, id: ObjectId) -> Result<Found<Commit>> {
        let below = self.below.clone();
        self.with_objects(move |objects| tree::commit(objects, id, &below))
            .await
    }

    pub(super) async fn with_objects<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Objects) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        match &self.repository {
            Repository::Remote { .. } => self.store.run(move |store| work(store)).await,
            Repository::Local(local) => {
                let local = local.clone();
                blocking(move || work(&*local)).await
            }
        }
    }

    pub(super) async fn advance_in_turn(&self) -> Result<Arc<Commit>> {
        // What is here serves meanwhile, and if nobody answers.
        if self.known().is_none()
            && let Some(stored) = self.stored().await?
        {
            self.move_to(stored);
        }
        let tip = match &self.repository {
            Repository::Remote { remote, .. } => remote.tip(&self.reference).await,
            Repository::Local(local) => {
                let (local, reference) = (local.clone(), self.reference.clone());
                blocking(move || local.tip(&reference)).await
            }
        };
        let tip = tip?;
        if let Some(known) = self.known().filter(|known| known.id == tip) {
            return Ok(known);
        }
        if let Repository::Remote { remote, .. } = &self.repository {
            let have = match self.known() {
                Some(known) => Some(known.id),
                None => {
                    let identity = self.identity.clone();
                    self.store.run(move |s| s.commit(&identity)).await?
                }
            };
            remote.bring(tip, have.filter(|have| *have != tip)).await?;
        }
        let commit = match self.load(tip).await? {
            Found::Here(commit) => Arc::new(commit),
            Found::Nowhere | Found::Missing(_) => {
                return Err(Error::lied(format!("the commit {tip} is not whole")));
            }
        };
        if let Repository::Remote { .. } = self.repository {
            let identity = self.identity.clone();
            let note = move |store: &Store| match store.note(&identity, &tip)? {
                true => notices::prune(store),
                false => Ok(()),
            };
            self.store.run(note).await?;
        }
        self.move_to(commit.clone());
        Ok(commit)
    }

    /// Brings a commit again of which something is missing or damaged.
    pub(super) async fn heal(&self, commit: &Commit, missing: ObjectId) -> Result<()> {
        let Repository::Remote { remote, .. } = &self.repository else {
            return Err(Error::changed(format!(
                "the repository does not have {missing} any more"
            )));
        };
        let _turn = self.turn().await;
        tracing::warn!(commit = %commit.text, %missing, "part of a commit is brought again");
        remote.bring(commit.id, None).await
    }

    /// Runs `work` over the objects of the current commit, once again if something was missing.
    pub(super) async fn in_commit<T: Send + 'static>(
        &self,
        work: impl Fn(&dyn Objects, &Commit) -> Result<Found<T>> + Clone + Send + 'static,
    ) -> Result<(Arc<Commit>, T)> {
        let commit = self.commit().await?;
        let mut healed = false;
        loop {
            let (work, of) = (work.clone(), commit.clone());
            let found = self.with_objects(move |objects| work(objects, &of)).await?;
            match found {
                Found::Here(found) => return Ok((commit, found)),
                Found::Nowhere => return Err(not_found()),
                Found::Missing(id) if healed => {
                    return Err(Error::lied(format!("{id} is missing of {}", commit.text)));
                }
                Found::Missing(id) => self.heal(&commit, id).await?,
            }
            healed = true;
        }
    }
}
