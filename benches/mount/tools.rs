//! Real programs that walk and read a tree, and what they say compared with the truth.

use std::collections::HashMap;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::data::{LISTED_SIZE, Tree};
use crate::load::sum;
use crate::rows::Run;

/// Runs a program to its end, or to the `limit`; returns what it said and what it took.
pub fn output(mut command: Command, limit: Duration) -> (Vec<u8>, Run) {
    let started = Instant::now();
    let mut child: Child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // With its children it can be ended.
        .process_group(0)
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    // A thread, as a program that waits for a file can be waited for only from beside it.
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut said = Vec::with_capacity(64 << 20);
        let read = out.read_to_end(&mut said);
        let _ = sender.send((said, read.is_ok(), Instant::now()));
    });
    let (said, cut, ended) = match receiver.recv_timeout(limit) {
        Ok((said, fine, ended)) => {
            assert!(fine, "{command:?}: its output broke off");
            (said, false, ended)
        }
        Err(_) => (Vec::new(), true, Instant::now()),
    };
    if cut {
        let pid = rustix::process::Pid::from_child(&child);
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
    }
    let status = child.wait().unwrap();
    assert!(cut || status.success(), "{command:?}: {status}");
    let mut run = Run::plain(ended - started);
    run.cut = cut;
    (said, run)
}

/// Packs a tree with tar, and compares what is packed.
pub fn tar(root: &Path, truth: &[(String, u64)], limit: Duration) -> Run {
    let mut command = Command::new("tar");
    command.arg("-C").arg(root).args(["-cf", "-", "."]);
    let (packed, run) = output(command, limit);
    if run.cut {
        return run;
    }
    let mut wanted: HashMap<&str, u64> = truth
        .iter()
        .map(|(key, sum)| (key.strip_prefix("small").unwrap_or(key), *sum))
        .collect();
    let mut at = 0;
    // The head of a file: its name, its size in octal digits, its kind.
    while let Some(head) = packed.get(at..at + 512).filter(|head| head[0] != 0) {
        let text = |range: std::ops::Range<usize>| {
            let text = std::str::from_utf8(&head[range]).unwrap();
            text.trim_end_matches('\0').trim()
        };
        let size = usize::from_str_radix(text(124..136), 8).unwrap();
        at += 512;
        if head[156] == b'0' {
            let name = text(0..100).strip_prefix('.').unwrap();
            let truth = wanted.remove(name);
            assert_eq!(
                Some(sum(&packed[at..at + size])),
                truth,
                "{name}: not its bytes"
            );
        }
        at += size.next_multiple_of(512);
    }
    assert!(wanted.is_empty(), "{} files are missing", wanted.len());
    run
}

/// Lists a tree of the objects that are listed only by find, and compares each line.
pub fn find(root: &Path, tree: &Tree, limit: Duration) -> Run {
    let mut command = Command::new("find");
    command.arg(root.join(&tree.name)).arg("-ls");
    let (said, run) = output(command, limit);
    if run.cut {
        return run;
    }
    let said = String::from_utf8(said).unwrap();
    // Inode, blocks, mode, links, user, group, size, time in three, name.
    let mut files: Vec<(&str, u64)> = said
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields[2].starts_with('-'))
        .map(|fields| (fields[10], fields[6].parse().unwrap()))
        .collect();
    files.sort_unstable();
    let mut count = 0;
    for (key, (name, size)) in tree.keys().zip(&files) {
        assert_eq!(Path::new(name), root.join(&key));
        assert_eq!(*size, LISTED_SIZE, "{key}");
        count += 1;
    }
    assert_eq!((count, files.len()), (tree.count(), count), "files listed");
    run
}
