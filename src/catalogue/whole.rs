//! Sources that change as one (the ability [`Whole`]): which generation is served, and when to look
//! for another.
//!
//! A directory's listing costs such a source no request, so it is the generation that ages, not the
//! listing: however many directories are due, the source is asked once. When it has moved, all that
//! is known is wrong at once, before anybody is answered from the new generation; so no reader is
//! told one name of the old generation after one of the new. What the kernel holds is told behind.
//!
//! Invariant: a listing of generation `n` that lands after the move to `n + 1` began before it, and
//! is marked wrong by the move (every flight is), so it is listed again before it is served.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::flight::Answer;
use super::{BACKOFF_MAX, BACKOFF_MIN, Catalogue, ERROR_MEMORY, FOREVER, bump, lock};
use crate::entry::Timestamp;
use crate::path::RelPath;
use crate::source::{Error, Result, Whole};

/// What is known of a source's generation.
#[derive(Default)]
pub(super) struct Look {
    /// When the newest generation was last asked for, with an answer.
    at: Option<Instant>,
    /// Since when somebody wants a newer look.
    wanted: Option<Instant>,
    /// When something was last found to be other than listed.
    doubted: Option<Instant>,
    /// Until when a failure is repeated, the pause that led there, and why.
    failed: Option<(Instant, Duration, Error)>,
    under_way: Option<Answer<()>>,
    /// What a move made wrong and nobody has listed again.
    wrong: Vec<RelPath>,
}

impl Look {
    /// Returns whether the source is to be asked at `now`.
    fn is_due(&self, refresh: Option<Duration>, now: Instant) -> bool {
        let Some(at) = self.at else {
            return true;
        };
        let after = |wanted: Option<Instant>| wanted.is_some_and(|wanted| wanted > at);
        // Who finds things wrong again and again makes no more requests than this.
        let doubted = after(self.doubted) && now > at + ERROR_MEMORY;
        after(self.wanted) || doubted || refresh.is_some_and(|refresh| now >= at + refresh)
    }
}

impl Catalogue {
    /// Makes sure that the generation that is listed next is no older than the refresh interval, or
    /// that the source was asked and has not answered: then what is known of an older one is
    /// served. Fails where there is none. Waits no longer than `patience` where one is known.
    pub(super) async fn look(
        self: &Arc<Self>,
        whole: &dyn Whole,
        patience: Duration,
    ) -> Result<()> {
        let now = Instant::now();
        let answer = {
            let mut look = lock(&self.look);
            if !look.is_due(self.policy.refresh, now) {
                return Ok(());
            }
            if let Some((until, _, error)) = &look.failed
                && now < *until
            {
                return match whole.current() {
                    Some(_) => Ok(()),
                    None => Err(error.clone()),
                };
            }
            match look.under_way.as_ref().filter(|answer| !answer.is_lost()) {
                Some(answer) => answer.clone(),
                None => {
                    let (sender, answer) = Answer::new();
                    look.under_way = Some(answer.clone());
                    let this = self.clone();
                    tokio::spawn(async move {
                        let outcome = this.advance(now).await;
                        sender.send_replace(Some(outcome));
                    });
                    answer
                }
            }
        };
        // It goes on by itself, and tells what it finds. A generation may be known only now: the
        // source may have found it on disk while it was asked for a newer one.
        let answered = tokio::time::timeout(patience, answer.clone().get()).await;
        match (whole.current(), answered) {
            (Some(_), _) => Ok(()),
            (None, Ok(outcome)) => outcome,
            (None, Err(_)) => answer.get().await.or_else(|error| match whole.current() {
                Some(_) => Ok(()),
                None => Err(error),
            }),
        }
    }

    /// Returns until when a listing made now is trusted, and why it is older than it should be, if
    /// it is; nothing for sources whose directories change one by one.
    pub(super) fn generation_trust(&self) -> Option<(Option<Instant>, Option<Error>)> {
        self.source.whole()?;
        let now = Instant::now();
        let look = lock(&self.look);
        Some(match (&look.failed, look.at) {
            (Some((until, _, error)), _) => (Some(*until), Some(error.clone())),
            (None, Some(at)) if !look.is_due(self.policy.refresh, now) => {
                (self.trusted_until(at), None)
            }
            // A look is under way: ask again soon.
            _ => (Some(now + self.policy.patience), None),
        })
    }

    /// Sees to it that the next listing is of a generation that was asked for from now on.
    pub(super) fn want_look(&self) {
        let mut look = lock(&self.look);
        look.wanted = Some(Instant::now());
        look.failed = None;
    }

    /// Looks now, for somebody who wants to be told what changed: returns the directories that a move
    /// made wrong. A failure shows where they are listed.
    pub(super) async fn look_again(self: &Arc<Self>) -> Vec<RelPath> {
        let Some(whole) = self.source.whole() else {
            return Vec::new();
        };
        let _told = self.telling.lock().await;
        self.want_look();
        // The answer has a deadline of its own.
        let _ = self.look(whole, FOREVER).await;
        std::mem::take(&mut lock(&self.look).wrong)
    }

    /// As [`Catalogue::want_look`], for what was found wrong: not oftener than once a second.
    pub(super) fn doubt(&self) {
        lock(&self.look).doubted = Some(Instant::now());
    }

    async fn advance(self: &Arc<Self>, asked: Instant) -> Result<()> {
        let Some(whole) = self.source.whole() else {
            return Ok(());
        };
        bump(&self.counters.looks);
        let before = whole.current();
        let outcome = whole.advance().await;
        let moved = before.is_some() && whole.current() != before;
        {
            let mut look = lock(&self.look);
            look.under_way = None;
            match &outcome {
                Ok(_) => {
                    look.at = Some(asked);
                    look.failed = None;
                }
                Err(error) => {
                    let pause = look
                        .failed
                        .as_ref()
                        .map_or(BACKOFF_MIN, |(_, pause, _)| *pause * 2)
                        .max(error.retry_after().unwrap_or_default())
                        .min(BACKOFF_MAX);
                    look.failed = Some((Instant::now() + pause, pause, error.clone()));
                }
            }
        }
        {
            let mut state = self.state();
            match &outcome {
                Ok(_) => state.last_success = Some(Timestamp::now()),
                Err(error) => {
                    bump(&self.counters.failures);
                    state.last_error = Some((Timestamp::now(), error.clone()));
                }
            }
        }
        if moved {
            self.moved();
        }
        outcome.map(|_| ())
    }

    /// Marks all that is known as wrong, and lists what is in memory again, so that listeners are
    /// told what changed.
    fn moved(self: &Arc<Self>) {
        let mut wrong: Vec<RelPath> = self.remembered().map(|(path, _)| path).collect();
        {
            let state = self.state();
            let flying = state.controls.iter().filter(|(_, c)| c.flight.is_some());
            wrong.extend(flying.map(|(path, _)| path.clone()));
        }
        wrong.sort_unstable();
        wrong.dedup();
        for dir in &wrong {
            self.invalidate_here(dir);
        }
        self.forgive(&RelPath::root(), true);
        lock(&self.look).wrong = wrong;
        let this = self.clone();
        tokio::spawn(async move {
            // Whoever asked for the look counts what changed; else it is only told.
            let told = this.telling.lock().await;
            let wrong = std::mem::take(&mut lock(&this.look).wrong);
            drop(told);
            this.list_again(wrong).await;
        });
    }
}

#[cfg(test)]
mod tests;
