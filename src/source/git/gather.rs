//! Reads that come at about the same time, as one request.
//!
//! A blob costs a round trip, whatever its size, so small ones go together: those that arrive
//! within a moment, and those that arrive while others are on their way. A large one goes alone,
//! and streams.
//!
//! One lock, held for a few instructions, never across an await.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use gix_hash::ObjectId;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::super::{Body, Error, ErrorKind, Result};
use super::remote::Remote;
use super::sinks::{Part, Purpose, Stream};

/// How long the first of several waits for the others.
const MOMENT: Duration = Duration::from_millis(1);

/// How long they wait while others are on their way.
const LONGER: Duration = Duration::from_millis(20);

/// The largest blob that goes together with others, in bytes.
pub(super) const SMALL: u64 = 1024 * 1024;

/// The most blobs of a request.
const MOST: usize = 256;

/// The most bytes of a request: they are in memory until their readers take them.
const MOST_BYTES: u64 = 8 * 1024 * 1024;

/// The most requests at once. Each is a process at the server.
const AT_ONCE: usize = 4;

/// How many pieces (64 KiB each) of a stream may wait for their reader.
const AHEAD: usize = 4;

/// How often a request is made again without what the server does not have.
const WITHOUT: usize = 8;

/// Those who wait for blobs.
pub(super) struct Gather {
    remote: Arc<Remote>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// In the order in which they were asked for.
    queue: VecDeque<(ObjectId, u64)>,
    /// Also for what is on its way.
    readers: HashMap<ObjectId, Vec<Reader>>,
    /// Tasks that fetch or are about to.
    tasks: usize,
    /// Whether one of them is about to.
    gathering: bool,
}

/// Nothing for a blob that turned out too large to be held whole.
type Reader = oneshot::Sender<Result<Option<Bytes>>>;

impl Gather {
    pub(super) fn new(remote: Arc<Remote>) -> Gather {
        Gather {
            remote,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a small blob of about `size` bytes; nothing if it is not small at all.
    pub(super) async fn read(self: &Arc<Self>, id: ObjectId, size: u64) -> Result<Option<Bytes>> {
        let (sender, receiver) = oneshot::channel();
        let begin = {
            let mut state = self.state();
            let readers = state.readers.entry(id).or_default();
            readers.push(sender);
            if readers.len() == 1 {
                state.queue.push_back((id, size));
            }
            let pause = match state.tasks {
                0 => Some(MOMENT),
                n if n < AT_ONCE && !state.gathering => Some(LONGER),
                _ => None,
            };
            if pause.is_some() {
                state.tasks += 1;
                state.gathering = true;
            }
            pause
        };
        if let Some(pause) = begin {
            // Not part of this reader's future: others wait for it too. It ends when nobody waits,
            // and each of its requests is bounded by how long a server may be silent.
            tokio::spawn(self.clone().work(pause));
        }
        let ending = |_| Error::new(ErrorKind::Unreachable, "the program is ending");
        receiver.await.map_err(ending)?
    }

    /// Fetches what waits, until nothing does.
    async fn work(self: Arc<Self>, pause: Duration) {
        let mut working = Working {
            gather: &self,
            ids: Vec::new(),
        };
        tokio::time::sleep(pause).await;
        self.state().gathering = false;
        loop {
            working.ids = self.state().next();
            if working.ids.is_empty() {
                return;
            }
            let ids = working.ids.clone();
            let fetched = self.fetch(ids).await;
            working.answer(fetched);
        }
    }

    /// Fetches blobs, handing each to its readers. Of what the server does not have, those are told
    /// who asked for it; the others go on without it.
    async fn fetch(self: &Arc<Self>, mut ids: Vec<ObjectId>) -> Result<()> {
        let mut tries = 0;
        loop {
            let gather = self.clone();
            let hand_on = move |id: ObjectId, bytes: Bytes| {
                gather.answer(&id, &Ok(Some(bytes)));
            };
            match self.remote.blobs(&ids, Purpose::Read, hand_on).await {
                Ok(missing) => {
                    missing.iter().for_each(|id| self.answer(id, &Ok(None)));
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Changed && tries < WITHOUT => {
                    let text = error.to_string();
                    let Some(at) = ids.iter().position(|id| text.contains(&id.to_string())) else {
                        return Err(error);
                    };
                    self.answer(&ids.swap_remove(at), &Err(error));
                    if ids.is_empty() {
                        return Ok(());
                    }
                    tries += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn answer(&self, id: &ObjectId, answer: &Result<Option<Bytes>>) {
        let readers = self.state().readers.remove(id);
        for reader in readers.into_iter().flatten() {
            let _ = reader.send(answer.clone());
        }
    }
}

impl State {
    /// Takes off the queue what goes into one request, without what nobody waits for any more.
    fn next(&mut self) -> Vec<ObjectId> {
        let (mut ids, mut bytes) = (Vec::new(), 0);
        while let Some((id, size)) = self.queue.front().copied() {
            let full = ids.len() == MOST || bytes + size > MOST_BYTES;
            if full && !ids.is_empty() {
                break;
            }
            self.queue.pop_front();
            let waits = |readers: &Vec<Reader>| readers.iter().any(|r| !r.is_closed());
            if !self.readers.get(&id).is_some_and(waits) {
                self.readers.remove(&id);
                continue;
            }
            bytes += size;
            ids.push(id);
        }
        ids
    }
}

/// A task that works. However it ends, nobody waits for it in vain.
struct Working<'a> {
    gather: &'a Gather,
    ids: Vec<ObjectId>,
}

impl Working<'_> {
    /// Answers those who wait still.
    fn answer(&mut self, fetched: Result<()>) {
        let answer = fetched.map(|()| None);
        for id in self.ids.drain(..) {
            self.gather.answer(&id, &answer);
        }
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        let ending = Error::new(ErrorKind::Unreachable, "the program is ending");
        self.answer(Err(ending));
        self.gather.state().tasks -= 1;
    }
}

/// A task that goes with whoever waits for it.
struct Alone(JoinHandle<Result<()>>);

impl Drop for Alone {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Starts reading one blob by itself.
pub(super) async fn stream(remote: &Arc<Remote>, id: ObjectId) -> Result<Body> {
    let (sender, mut parts) = mpsc::channel(AHEAD);
    let remote = remote.clone();
    let work = async move { remote.stream(Stream::new(id, sender)).await };
    let mut task = Alone(tokio::spawn(work));
    let Some(Part::Size(size)) = parts.recv().await else {
        return Err(match ended(&mut task).await {
            Err(error) => error,
            Ok(()) => Error::lied(format!("the server did not give {id}")),
        });
    };
    let rest = futures::stream::unfold(Some((parts, task)), |state| async move {
        let (mut parts, mut task) = state?;
        match parts.recv().await {
            Some(Part::Piece(bytes)) => Some((Ok(bytes), Some((parts, task)))),
            Some(Part::Size(_)) => Some((Err(Error::lied("a second object")), None)),
            None => match ended(&mut task).await {
                Ok(()) => None,
                Err(error) => Some((Err(error), None)),
            },
        }
    });
    let body = Body {
        range: 0..size,
        size,
        validator: Some(id.to_string().into()),
        stream: rest.boxed(),
    };
    Ok(body.checked())
}

async fn ended(task: &mut Alone) -> Result<()> {
    let ending = |_| Error::new(ErrorKind::Unreachable, "the program is ending");
    (&mut task.0).await.map_err(ending)?
}
