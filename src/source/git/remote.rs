//! What is asked of a server: refs, a commit's trees, sizes, blobs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use gix_hash::ObjectId;

use super::super::{Error, ErrorKind, Result};
use super::pack::{self, Feeder, Limits, Outcome, Sink};
use super::pkt::{Pkt, Request};
use super::reference::Reference;
use super::sinks::{Blobs, Purpose, Snapshot, Stream};
use super::store::{LARGEST_KEPT, Store};
use super::transport::{Capabilities, Reply, Transport, refused};
use super::tree::{self, Reach};

/// The most refs that are looked at, where all are asked for to tell what is there.
const MAX_REFS: usize = 10_000;

/// The most objects of a snapshot: commits, trees and, where the server knows no filters, files.
const MAX_OBJECTS: u32 = 20_000_000;

/// The most bytes of trees. A million directories are some hundred megabytes.
const MAX_TREES: u64 = 4 * 1024 * 1024 * 1024;

/// The largest tree, in bytes: some 400,000 entries.
const LARGEST_TREE: u64 = 16 * 1024 * 1024;

/// How many links are asked for at once.
const LINKS: usize = 4096;

/// The most lines of a reply that are not the pack.
const MAX_LINES: usize = 100_000;

/// A repository that is reached by Git's protocol.
pub(super) struct Remote {
    pub(super) transport: Transport,
    pub(super) store: Store,
    /// The most bytes of a whole snapshot, where the server knows no filters.
    pub(super) full_limit: u64,
    pub(super) counters: Arc<Counters>,
}

/// What was asked of a server so far.
#[derive(Debug, Default)]
pub struct Counters {
    /// Requests for refs.
    pub refs: AtomicU64,
    /// Requests for objects.
    pub fetches: AtomicU64,
    /// Requests for sizes alone.
    pub infos: AtomicU64,
    /// Bytes of packs.
    pub bytes: AtomicU64,
}

impl Remote {
    /// Returns the commit that a ref stands for now.
    pub(super) async fn tip(&self, reference: &Reference) -> Result<ObjectId> {
        if let Reference::Commit(id) = reference {
            return Ok(*id);
        }
        let names = reference.names();
        let refs = self.refs(&names).await?;
        for name in &names {
            if let Some((_, id)) = refs.iter().find(|(there, _)| there == name) {
                return Ok(*id);
            }
        }
        let there = self
            .refs(&["refs/heads/".into(), "refs/tags/".into()])
            .await?;
        let there: Vec<String> = there.into_iter().map(|(name, _)| name).collect();
        Err(reference.missing(&there))
    }

    /// Returns the refs that begin so, with what they stand for in the end.
    async fn refs(&self, prefixes: &[String]) -> Result<Vec<(String, ObjectId)>> {
        let capabilities = self.transport.capabilities().await?;
        let mut request = command("ls-refs", &capabilities);
        request.line("peel").line("symrefs");
        for prefix in prefixes {
            request.line(&format!("ref-prefix {prefix}"));
        }
        self.counters.refs.fetch_add(1, Ordering::Relaxed);
        let mut reply = self.transport.send_anew(request.flush()).await?;
        let mut refs = Vec::new();
        while let Some(line) = reply.next().await?.text() {
            if refs.len() < MAX_REFS {
                refs.extend(parse_ref(&line)?);
            }
        }
        reply.finish().await;
        Ok(refs)
    }

    /// Brings a commit, all of its trees and its links into the store. `have` is a commit that is
    /// there as a whole: what it shares is not sent again.
    pub(super) async fn bring(&self, commit: ObjectId, have: Option<ObjectId>) -> Result<()> {
        let mut reach = self.reach(commit).await?;
        if !reach.missing.is_empty() {
            self.snapshot(commit, have).await?;
            reach = self.reach(commit).await?;
        }
        if !reach.missing.is_empty() && have.is_some() {
            // What we said we had counts for more at the server than it should.
            self.snapshot(commit, None).await?;
            reach = self.reach(commit).await?;
        }
        if let Some(missing) = reach.missing.first() {
            return Err(Error::lied(format!(
                "the server gave the commit {commit} without the tree {missing}"
            )));
        }
        for links in reach.links.chunks(LINKS) {
            let missing = self.blobs(links, Purpose::Links, |_, _| {}).await?;
            if let Some(missing) = missing.first() {
                return Err(Error::lied(format!("the server did not give {missing}")));
            }
        }
        Ok(())
    }

    /// Goes through what is here of a commit.
    async fn reach(&self, commit: ObjectId) -> Result<Reach> {
        let reach = move |store: &Store| {
            let mut reach = Reach::default();
            let here = |id: &ObjectId| store.has_link(id);
            tree::reach(store, &here, &commit, &mut reach)?;
            Ok(reach)
        };
        self.store.run(reach).await
    }

    /// Fetches a commit with its trees, and with its files where the server cannot leave them out.
    async fn snapshot(&self, commit: ObjectId, have: Option<ObjectId>) -> Result<()> {
        let capabilities = self.transport.capabilities().await?;
        if !capabilities.fetch.contains("shallow") {
            let message = "the server gives whole histories only (it has no shallow fetches)";
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let filters = capabilities.fetch.contains("filter");
        let mut request = command("fetch", &capabilities);
        request.line("ofs-delta").line("no-progress");
        request.line(&format!("want {commit}")).line("deepen 1");
        if let Some(have) = have {
            request.line("thin-pack");
            request
                .line(&format!("have {have}"))
                .line(&format!("shallow {have}"));
        }
        if filters {
            request.line("filter blob:none");
        }
        request.line("done");
        let limits = Limits {
            object: LARGEST_TREE,
            objects: MAX_OBJECTS,
            total: match filters {
                true => MAX_TREES,
                false => MAX_TREES.saturating_add(self.full_limit),
            },
        };
        let sink = Snapshot::new(
            self.store.clone(),
            match filters {
                true => MAX_TREES,
                false => self.full_limit,
            },
        );
        let fetched = self
            .fetch(&capabilities, request.flush(), limits, sink)
            .await;
        fetched.map(drop).map_err(|error| match error.kind() {
            ErrorKind::Changed => Error::new(
                ErrorKind::Invalid,
                format!(
                    "the commit {commit} cannot be had: {error}. Either it is not there, or the \
                     server gives only what a branch or tag names; its owner may set \
                     uploadpack.allowAnySHA1InWant"
                ),
            ),
            _ => error.context(format!("cannot fetch the commit {commit}")),
        })
    }

    /// Fetches blobs, hands each to `take`, and keeps of them what `purpose` says. Returns what did
    /// not come: of those that were to be read, what is too large to be held whole.
    pub(super) async fn blobs(
        &self,
        ids: &[ObjectId],
        purpose: Purpose,
        take: impl FnMut(ObjectId, Bytes) + Send + 'static,
    ) -> Result<Vec<ObjectId>> {
        let capabilities = self.transport.capabilities().await?;
        let request = wanting(ids, &capabilities);
        let limits = Limits {
            object: LARGEST_KEPT,
            // A server may send trees along that it holds to be needed.
            objects: MAX_OBJECTS,
            total: u64::MAX,
        };
        let sink = Blobs::new(self.store.clone(), ids, purpose, Box::new(take));
        let (_, sink) = self
            .fetch(&capabilities, request, limits, sink)
            .await
            .map_err(without_blob)?;
        Ok(sink.missing())
    }

    /// Fetches one blob, handing it on as it comes.
    pub(super) async fn stream(&self, sink: Stream) -> Result<()> {
        let capabilities = self.transport.capabilities().await?;
        let request = wanting(&[sink.id()], &capabilities);
        let limits = Limits {
            object: 0,
            objects: 1,
            total: u64::MAX,
        };
        let fetched = self.fetch(&capabilities, request, limits, sink).await;
        fetched.map(drop).map_err(without_blob)
    }

    /// Asks for sizes alone; nothing where the server does not tell them.
    pub(super) async fn sizes(&self, ids: &[ObjectId]) -> Result<Option<Vec<(ObjectId, u64)>>> {
        let capabilities = self.transport.capabilities().await?;
        if !capabilities.object_info {
            return Ok(None);
        }
        let mut request = command("object-info", &capabilities);
        request.line("size");
        for id in ids {
            request.line(&format!("oid {id}"));
        }
        self.counters.infos.fetch_add(1, Ordering::Relaxed);
        let mut reply = self.transport.send(request.flush()).await?;
        let mut sizes = Vec::new();
        while let Some(line) = reply.next().await?.text() {
            if line == "size" {
                continue;
            }
            let bad = || Error::lied(format!("{line:?} where a size was asked for"));
            let (id, size) = line.split_once(' ').ok_or_else(bad)?;
            let id = ObjectId::from_hex(id.as_bytes()).map_err(|_| bad())?;
            if size.is_empty() {
                continue;
            }
            sizes.push((id, size.parse().map_err(|_| bad())?));
            if sizes.len() > ids.len() {
                return Err(Error::lied("more sizes than were asked for"));
            }
        }
        reply.finish().await;
        sizes.retain(|(id, _)| ids.contains(id));
        Ok(Some(sizes))
    }

    /// Sends a request for objects, and reads the pack that comes into `sink`.
    async fn fetch<S: Sink + Send + 'static>(
        &self,
        capabilities: &Capabilities,
        request: Bytes,
        limits: Limits,
        mut sink: S,
    ) -> Result<(Outcome, S)> {
        self.counters.fetches.fetch_add(1, Ordering::Relaxed);
        let mut reply = self.transport.send(request).await?;
        skip_to_pack(&mut reply).await?;
        let (feeder, mut channel) = pack::feed();
        let format = capabilities.format;
        let reading = tokio::task::spawn_blocking(move || {
            let read = pack::read(&mut channel, format, limits, &mut sink);
            // What came before a failure is good, and need not come again.
            let written = sink.flush();
            let outcome = read?;
            written?;
            Ok((outcome, sink))
        });
        let fed = self.feed(reply, feeder).await;
        let read = reading
            .await
            .map_err(|_| Error::new(ErrorKind::Unreachable, "the program is ending"))?;
        // A connection that broke is why the pack was too short, not the other way round.
        match (fed, read) {
            (Err(error), Err(_)) => Err(error),
            (_, read) => read,
        }
    }

    /// Hands on a pack until its end, or until nobody wants more.
    async fn feed(&self, mut reply: Reply, feeder: Feeder) -> Result<()> {
        loop {
            match reply.next().await? {
                Pkt::Line(mut line) if !line.is_empty() => match line.split_to(1).first() {
                    Some(1) => {
                        let len = line.len() as u64;
                        self.counters.bytes.fetch_add(len, Ordering::Relaxed);
                        if !feeder.push(line).await {
                            // The connection goes with the reply.
                            return Ok(());
                        }
                    }
                    Some(2) => {}
                    Some(3) => return Err(refused(&String::from_utf8_lossy(&line))),
                    _ => return Err(Error::lied("a pack in an unknown band")),
                },
                Pkt::Line(_) => {}
                Pkt::Flush | Pkt::End => {
                    feeder.end().await;
                    reply.finish().await;
                    return Ok(());
                }
                Pkt::Delimiter => return Err(Error::lied("something after the pack")),
            }
        }
    }
}

/// Begins a request.
fn command(name: &str, capabilities: &Capabilities) -> Request {
    let mut request = Request::default();
    request.line(&format!("command={name}"));
    if capabilities.format != gix_hash::Kind::Sha1 {
        request.line(&format!("object-format={}", capabilities.format));
    }
    request.delimiter();
    request
}

/// Returns a request for these blobs and nothing else.
fn wanting(ids: &[ObjectId], capabilities: &Capabilities) -> Bytes {
    let mut request = command("fetch", capabilities);
    request.line("ofs-delta").line("no-progress");
    for id in ids {
        request.line(&format!("want {id}"));
    }
    request.line("done");
    request.flush()
}

/// Says what it means that a blob cannot be had.
fn without_blob(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Changed => Error::changed(format!(
            "{error}: it is of a commit that the server does not keep any more, or the server gives \
             only what a branch or tag names (its owner may set uploadpack.allowAnySHA1InWant)"
        )),
        _ => error,
    }
}

/// Reads `OID NAME [symref-target:NAME] [peeled:OID]`; nothing for one that is not born yet.
fn parse_ref(line: &str) -> Result<Option<(String, ObjectId)>> {
    let bad = || Error::lied(format!("{line:?} where a ref was asked for"));
    let mut parts = line.split(' ');
    let (id, name) = (parts.next(), parts.next().ok_or_else(bad)?);
    let id = parts
        .find_map(|part| part.strip_prefix("peeled:"))
        .or(id)
        .ok_or_else(bad)?;
    if id == "unborn" {
        return Ok(None);
    }
    let id = ObjectId::from_hex(id.as_bytes()).map_err(|_| bad())?;
    Ok(Some((name.to_owned(), id)))
}

/// Reads what comes before a pack.
async fn skip_to_pack(reply: &mut Reply) -> Result<()> {
    for _ in 0..MAX_LINES {
        match reply.next().await? {
            pkt @ Pkt::Line(_) if pkt.text().as_deref() == Some("packfile") => return Ok(()),
            Pkt::Line(_) | Pkt::Delimiter => {}
            Pkt::Flush | Pkt::End => return Err(Error::lied("a reply without the objects")),
        }
    }
    Err(Error::lied("a reply that does not come to the objects"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refs_are_peeled() {
        let (a, b) = ("a".repeat(40), "b".repeat(40));
        let of = |line: &str| parse_ref(line).unwrap();
        let (name, id) = of(&format!("{a} refs/tags/v1 peeled:{b}")).unwrap();
        assert_eq!((name.as_str(), id.to_string()), ("refs/tags/v1", b));
        let (name, id) = of(&format!("{a} HEAD symref-target:refs/heads/main")).unwrap();
        assert_eq!((name.as_str(), id.to_string()), ("HEAD", a));
        assert_eq!(of("unborn HEAD symref-target:refs/heads/main"), None);
        assert!(parse_ref("nonsense").is_err() && parse_ref("x y").is_err());
    }

    proptest! {
        #[test]
        fn any_line_is_taken(line in ".*") {
            let _ = parse_ref(&line);
        }
    }
}
