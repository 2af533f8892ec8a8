//! `svol ls` and `svol cat`: looking into a volume without mounting it.

use std::io::{IsTerminal, Write};
use std::sync::Arc;

use tracing::warn;

use super::{Failure, decisions, runtime};
use crate::app::View;
use crate::cli::args::{CatArgs, LsArgs, VolumeArgs};
use crate::cli::printable::printable;
use crate::cli::{Env, ExitStatus, resolve_view};
use crate::entry::Kind;
use crate::path::RelPath;
use crate::vfs::{Attr, Ino, Owner, ROOT, Vfs};

/// Bytes of a file that are read and printed at a time.
const CHUNK: usize = 1 << 20;

/// How deep `ls -R` goes: a loop of symbolic links is not followed, so nothing real is deeper.
const DEPTH: usize = 256;

pub(super) fn open(
    args: &VolumeArgs,
    sources: &[std::ffi::OsString],
    runtime: &tokio::runtime::Runtime,
) -> Result<View, Failure> {
    let settings = resolve_view(args, sources, &Env::of_process()?)?;
    for note in decisions(&settings) {
        warn!("{note}");
    }
    let owner = Owner {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        umask: 0o022,
    };
    Ok(View::open(&settings, owner, runtime.handle())?)
}

fn parse(path: &str) -> Result<RelPath, Failure> {
    RelPath::new(path.trim_matches('/')).map_err(|why| Failure::usage(format!("{path}: {why}")))
}

/// Walks from the root to `path`.
async fn walk(vfs: &Vfs, path: &RelPath) -> Result<Attr, crate::vfs::Error> {
    let mut at = vfs.attr(ROOT)?;
    for name in path.components() {
        at = vfs.lookup(at.ino, name.as_str().as_bytes()).await?.attr;
    }
    Ok(at)
}

/// Lists a directory of a volume.
pub fn ls(args: &LsArgs, out: &mut dyn Write, err: &mut dyn Write) -> Result<ExitStatus, Failure> {
    let runtime = runtime()?;
    let view = open(&args.volume, &args.sources, &runtime)?;
    let path = parse(&args.path)?;
    let failed = |e| Failure::failed(format!("{path}: {e}"));
    let result = runtime.block_on(async {
        let attr = walk(&view.vfs, &path).await.map_err(failed)?;
        let mut listing = Listing {
            vfs: &view.vfs,
            long: args.long,
            recursive: args.recursive,
            out,
            err,
            terminal: std::io::stdout().is_terminal(),
            done: 0,
            failed: 0,
        };
        if attr.kind == Kind::Dir {
            listing.dir(attr.ino, &path, String::new(), 0).await?;
        } else {
            listing.line(
                &attr,
                &path,
                path.file_name().map_or(String::new(), |n| n.to_string()),
            )?;
        }
        Ok(ExitStatus::of_several(listing.done, listing.failed))
    });
    runtime.block_on(view.close());
    result
}

struct Listing<'a> {
    vfs: &'a Arc<Vfs>,
    long: bool,
    recursive: bool,
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    /// Whether a person looks at it: then names are escaped.
    terminal: bool,
    done: usize,
    failed: usize,
}

impl Listing<'_> {
    async fn dir(
        &mut self,
        ino: Ino,
        path: &RelPath,
        shown: String,
        depth: usize,
    ) -> Result<(), Failure> {
        let opened = match self.vfs.opendir(ino).await {
            Ok(opened) => opened,
            Err(error) => {
                writeln!(self.err, "svol: {path}: {error}")?;
                self.failed += 1;
                return Ok(());
            }
        };
        self.done += 1;
        let mut entries = Vec::new();
        let listed = self.vfs.readdir(opened.handle, ino, 2, false, |e| {
            entries.push((e.name.to_owned(), e.attr));
            true
        });
        self.vfs.releasedir(opened.handle);
        listed.map_err(Failure::failed)?;
        for (name, mut attr) in entries {
            let Ok(component) = crate::path::Name::new(&name) else {
                continue;
            };
            let inside = path.join(&component);
            let shown = match self.terminal {
                true => format!("{shown}{}", printable(&name)),
                false => format!("{shown}{name}"),
            };
            if self.long {
                // A listing need not know sizes; a lookup does.
                match self.vfs.lookup(ino, name.as_bytes()).await {
                    Ok(looked) => attr = looked.attr,
                    Err(error) => {
                        writeln!(self.err, "svol: {inside}: {error}")?;
                        self.failed += 1;
                        continue;
                    }
                }
            }
            self.line(&attr, &inside, shown.clone())?;
            if self.recursive && attr.kind == Kind::Dir && depth < DEPTH {
                self.vfs
                    .lookup(ino, name.as_bytes())
                    .await
                    .map_err(Failure::failed)?;
                Box::pin(self.dir(attr.ino, &inside, format!("{shown}/"), depth + 1)).await?;
            }
        }
        Ok(())
    }

    fn line(&mut self, attr: &Attr, path: &RelPath, shown: String) -> Result<(), Failure> {
        let mark = if attr.kind == Kind::Dir { "/" } else { "" };
        if !self.long {
            writeln!(self.out, "{shown}{mark}")?;
            return Ok(());
        }
        let kind = match attr.kind {
            Kind::Dir => 'd',
            Kind::File => '-',
            Kind::Symlink => 'l',
        };
        let time = humantime::format_rfc3339_seconds(attr.mtime.into());
        let source = self
            .vfs
            .xattr(attr.ino, "user.svol.source")
            .unwrap_or_default();
        let source = source.replace('\n', " ");
        let _ = path;
        writeln!(
            self.out,
            "{kind} {:>14}  {time}  {shown}{mark}  {source}",
            attr.size
        )?;
        Ok(())
    }
}

/// Prints files of a volume.
pub fn cat(
    args: &CatArgs,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<ExitStatus, Failure> {
    let runtime = runtime()?;
    let view = open(&args.volume, &args.sources, &runtime)?;
    let (mut done, mut failed) = (0, 0);
    for path in &args.paths {
        let path = parse(path)?;
        match runtime.block_on(print(&view.vfs, &path, out)) {
            Ok(()) => done += 1,
            Err(Printing::Output(error)) => return Err(error.into()),
            Err(Printing::Volume(error)) => {
                writeln!(err, "svol: {path}: {error}")?;
                failed += 1;
            }
        }
    }
    runtime.block_on(view.close());
    Ok(ExitStatus::of_several(done, failed))
}

enum Printing {
    Volume(crate::vfs::Error),
    Output(std::io::Error),
}

async fn print(vfs: &Arc<Vfs>, path: &RelPath, out: &mut dyn Write) -> Result<(), Printing> {
    let attr = walk(vfs, path).await.map_err(Printing::Volume)?;
    let handle = vfs.open(attr.ino).await.map_err(Printing::Volume)?;
    let mut at = 0;
    while at < attr.size {
        let bytes = match vfs.read(handle, attr.ino, at, CHUNK).await {
            Ok(bytes) if bytes.is_empty() => break,
            Ok(bytes) => bytes,
            Err(error) => {
                vfs.release(handle);
                return Err(Printing::Volume(error));
            }
        };
        out.write_all(&bytes).map_err(Printing::Output)?;
        at += bytes.len() as u64;
    }
    vfs.release(handle);
    Ok(())
}
