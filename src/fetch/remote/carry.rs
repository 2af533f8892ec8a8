//! Carrying a flight out: claims, requests, and bodies that break off.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{Notify, OwnedMutexGuard};
use tokio::time::Instant;
use tracing::debug;

use svol_cache::SMALL;

use super::super::claims::Claims;
use super::super::flight::Flight;
use super::super::pour::{self, Broken};
use super::{Remote, blocking};
use crate::entry::Entry;
use crate::source::{Error, ErrorKind, Result, progress};

/// How often in a row a body that broke off with little to show is taken up again where it ended.
const RESUMES: u32 = 4;

/// What little is, in bytes.
const LITTLE: usize = 512 << 10;

/// How long a whole body that nobody asked for waits until all others have let go of their parts:
/// theirs come at about the same time.
const ALL_CLAIMS: Duration = Duration::from_secs(1);

/// The first and the longest pause between looks at what another process fetches; it cannot wake
/// us.
const POLL: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

impl Remote {
    /// Fetches a flight's range, after whoever else fetches some of it in another process.
    pub(super) async fn carry(self: &Arc<Self>, flight: &Flight) -> Result<()> {
        if self.size() <= SMALL && self.bring_small(&flight.demanded).await? {
            return Ok(());
        }
        let range = flight.range.clone();
        let began = Instant::now();
        let mut pause = POLL.0;
        let mut turn = None;
        let mut left = u64::MAX;
        loop {
            if turn.is_none() && self.whole_only.load(Ordering::Relaxed) {
                turn = Some(self.whole_turn.clone().lock_owned().await);
            }
            let missing = self.object.missing(range.clone());
            if missing.is_empty() {
                return Ok(());
            }
            // Half the time went without a sign of life: whoever has it may be stopped.
            let aside = Instant::now() + self.deadline / 2 >= self.deadline_from(began);
            let object = self.object.clone();
            let runs = missing.clone();
            let claims = blocking(move || Claims::next_of(&object, &runs, aside)).await?;
            if let Some(claims) = claims {
                if self.stream(claims, flight, &mut turn).await? {
                    continue;
                }
                if turn.is_none() {
                    continue;
                }
            }
            // Another process is at it. It cannot wake us, nor those who wait for us.
            let now_left = missing.iter().map(|m| m.end - m.start).sum();
            if now_left < left {
                left = now_left;
                pause = POLL.0;
                self.progressed();
            }
            if Instant::now() >= self.deadline_from(began) {
                return Err(Error::new(
                    ErrorKind::Timeout,
                    format!(
                        "{}: another process has been fetching it for too long",
                        self.url()
                    ),
                ));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(POLL.1);
        }
    }

    /// Streams the claimed runs into the cache, taking up broken bodies where they ended. Returns
    /// false, having brought nothing, where the server sends all and others are at that.
    async fn stream(
        self: &Arc<Self>,
        mut claims: Claims,
        flight: &Flight,
        turn: &mut Option<OwnedMutexGuard<()>>,
    ) -> Result<bool> {
        let began = Instant::now();
        let mut resumes = 0;
        while let Some(range) = claims.rest() {
            // Before any of them can be seen.
            self.asked.fetch_add(1, Ordering::AcqRel);
            let reading = self
                .source
                .read(&self.pin.path, self.entry(), range.clone());
            let sent = Instant::now();
            let body = self.while_alive(reading).await?;
            self.pace().answered(sent.elapsed());
            self.learn(&body)?;
            if body.range != range {
                if body.range != (0..self.size()) {
                    return Err(Error::lied(format!(
                        "{}: asked for bytes {range:?}, got {:?}",
                        self.url(),
                        body.range
                    )));
                }
                // A server without ranges sent the whole object: keep all of it, so that it is
                // asked only once.
                self.whole_only.store(true, Ordering::Relaxed);
                drop(claims);
                if turn.is_none() {
                    *turn = self.whole_turn.clone().try_lock_owned().ok();
                }
                claims = match turn {
                    Some(_) => match self.claim_all().await {
                        Some(all) => all.rewound(),
                        None => return Ok(false),
                    },
                    None => return Ok(false),
                };
            }
            let body = body.checked().stream;
            let landed = |bytes| {
                self.pace().arrived(bytes as u64, Instant::now().into_std());
                self.progressed();
            };
            let (buffers, demanded) = (&self.fetcher.buffers, &flight.demanded);
            match pour::pour(body, claims, buffers, demanded, landed).await {
                Ok(()) => return Ok(true),
                Err(Broken {
                    error,
                    claims: left,
                    written,
                }) => {
                    resumes = if written < LITTLE { resumes + 1 } else { 0 };
                    let Some(left) = left.filter(|_| resumes <= RESUMES) else {
                        return Err(error);
                    };
                    if !error.kind().is_transient() || Instant::now() >= self.deadline_from(began) {
                        return Err(error);
                    }
                    claims = left;
                    debug!(url = %self.url(), %error, rest = ?claims.rest(), "taking up a broken body");
                }
            }
        }
        Ok(true)
    }

    /// Waits for `work`, and takes each sign of life from it for progress: a source that serves
    /// others before us keeps nobody waiting in vain.
    pub(super) async fn while_alive<T>(&self, work: impl Future<Output = T>) -> T {
        let alive = Arc::new(Notify::new());
        let work = progress::watched(alive.clone(), work);
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = alive.notified() => self.progressed(),
            }
        }
    }

    /// Claims all that is missing, for a whole body that has come; nothing if others have some of
    /// it and do not let go soon, or have brought all.
    async fn claim_all(&self) -> Option<Claims> {
        let until = Instant::now() + ALL_CLAIMS;
        let mut pause = POLL.0;
        loop {
            let object = self.object.clone();
            let (claims, done) = blocking(move || {
                let missing = object.missing(0..object.size());
                (Claims::all_of(&object, &missing), missing.is_empty())
            })
            .await
            .ok()?;
            if claims.is_some() || done || Instant::now() >= until {
                return claims;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(POLL.1);
        }
    }

    /// Compares a reply with the pin, and pins to its validator if there was none.
    pub(super) fn learn(&self, body: &crate::source::Body) -> Result<()> {
        if body.size != self.size() {
            return Err(Error::changed(format!(
                "{}: its size is {} now and was {} when it was opened",
                self.url(),
                body.size,
                self.size()
            )));
        }
        if self.pin.entry.validator.is_none()
            && let Some(validator) = &body.validator
        {
            let learnt = self.learnt.get_or_init(|| Entry {
                validator: Some(validator.clone()),
                ..self.pin.entry.clone()
            });
            if learnt.validator.as_ref() != Some(validator) {
                return Err(Error::changed(format!(
                    "{}: it changed while being read",
                    self.url()
                )));
            }
        }
        Ok(())
    }
}
