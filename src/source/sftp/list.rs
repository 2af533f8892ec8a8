//! Listing a directory: its names as they come, what its links lead to, what is missing of both.

use std::collections::VecDeque;

use super::session::{Handle, Pending, Session};
use super::version::{self, What, what};
use super::wire::{Ask, Attrs};
use crate::entry::Timestamp;
use crate::path::{BadName, Name};
use crate::source::{Error, ErrorKind, HiddenWhy, ListingBuilder, Result, progress};

/// How many requests for names are under way at once. OpenSSH sends a hundred names for each.
const READDIRS: usize = 4;

/// How many entries wait for what is missing of them.
const WAITING: usize = 64;

/// How many replies without a name a server may send in a row.
const MAX_EMPTY: usize = 16;

/// An entry of which something is missing.
struct Incomplete {
    name: Name,
    missing: Missing,
}

enum Missing {
    /// A link's target.
    Target(Attrs, Pending),
    /// All: the server listed the name alone.
    Attrs(Pending),
}

pub(super) struct Lister<'a> {
    pub(super) session: &'a Session,
    /// The directory's path on the server.
    pub(super) dir: &'a [u8],
    pub(super) into: &'a mut ListingBuilder,
    waiting: VecDeque<Incomplete>,
    now: Timestamp,
}

impl<'a> Lister<'a> {
    pub(super) fn new(
        session: &'a Session,
        dir: &'a [u8],
        into: &'a mut ListingBuilder,
    ) -> Lister<'a> {
        Lister {
            session,
            dir,
            into,
            waiting: VecDeque::new(),
            now: Timestamp::now(),
        }
    }

    /// Reads an open directory to its end.
    pub(super) async fn run(mut self, handle: &Handle) -> Result<()> {
        let mut under_way = VecDeque::new();
        let mut at_end = false;
        let mut empty = 0;
        loop {
            while !at_end && under_way.len() < READDIRS {
                let ask = Ask::Readdir(handle.raw());
                under_way.push_back(self.session.ask(ask).await?);
            }
            let Some(reply) = under_way.pop_front() else {
                break;
            };
            let Some(names) = reply.names().await? else {
                at_end = true;
                continue;
            };
            empty = if names.is_empty() { empty + 1 } else { 0 };
            if empty > MAX_EMPTY {
                return Err(Error::lied("a directory without names that does not end"));
            }
            self.now = Timestamp::now();
            for (raw, attrs) in names {
                self.take(&raw, attrs).await?;
            }
            progress::note();
        }
        while let Some(entry) = self.waiting.pop_front() {
            self.complete(entry).await?;
        }
        Ok(())
    }

    async fn take(&mut self, raw: &[u8], attrs: Attrs) -> Result<()> {
        if matches!(raw, b"." | b"..") {
            return Ok(());
        }
        let name = match Name::from_bytes(raw) {
            Ok(name) => name,
            Err(why) => {
                self.into.hide(why.into(), &String::from_utf8_lossy(raw));
                return Ok(());
            }
        };
        let path = super::join(self.dir, name.as_str());
        let missing = match what(&attrs) {
            What::Symlink => Missing::Target(attrs, self.session.ask(Ask::Readlink(&path)).await?),
            What::File if attrs.size.is_some() => {
                self.into.push(version::file(name, &attrs, self.now));
                return Ok(());
            }
            What::Dir => {
                self.into.push(version::dir(name, &attrs));
                return Ok(());
            }
            What::Special => {
                self.into.hide(HiddenWhy::Special, name.as_str());
                return Ok(());
            }
            What::File | What::Unknown => {
                Missing::Attrs(self.session.ask(Ask::Lstat(&path)).await?)
            }
        };
        self.waiting.push_back(Incomplete { name, missing });
        while self.waiting.len() > WAITING {
            if let Some(entry) = self.waiting.pop_front() {
                self.complete(entry).await?;
            }
        }
        Ok(())
    }

    async fn complete(&mut self, entry: Incomplete) -> Result<()> {
        let Incomplete { name, missing } = entry;
        match missing {
            Missing::Target(attrs, target) => self.link(name, &attrs, target).await,
            Missing::Attrs(attrs) => {
                let attrs = match attrs.attrs().await {
                    Ok(attrs) => attrs,
                    // Gone since it was listed.
                    Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                    Err(error) => return Err(error),
                };
                match what(&attrs) {
                    What::Symlink => {
                        let path = super::join(self.dir, name.as_str());
                        let target = self.session.ask(Ask::Readlink(&path)).await?;
                        return self.link(name, &attrs, target).await;
                    }
                    What::Dir => self.into.push(version::dir(name, &attrs)),
                    What::File if attrs.size.is_some() => {
                        self.into.push(version::file(name, &attrs, self.now));
                    }
                    What::Special => self.into.hide(HiddenWhy::Special, name.as_str()),
                    What::File | What::Unknown => {
                        return Err(Error::lied("the server does not tell what its files are"));
                    }
                }
                Ok(())
            }
        }
    }

    async fn link(&mut self, name: Name, attrs: &Attrs, target: Pending) -> Result<()> {
        match target.name().await {
            // Whether it leads out of the volume is for whoever knows the volume.
            Ok(target) => match std::str::from_utf8(&target) {
                Ok(target) => self.into.push(version::symlink(name, attrs, target)),
                Err(_) => self.into.hide(BadName::NotUtf8.into(), name.as_str()),
            },
            // Gone since it was listed, or no link any more.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Invalid) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
