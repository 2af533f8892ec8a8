//! What a fuzzer throws at the cache's files. Never in a release.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::sidecar::{HEADER, Header};
use crate::{Cache, Config, ObjectKey};

/// A sidecar's header: what is taken is what would be written.
pub fn cache_sidecar(data: &[u8]) {
    let mut bytes = [0; HEADER as usize];
    let n = data.len().min(bytes.len());
    bytes[..n].copy_from_slice(&data[..n]);
    for sum in [false, true] {
        if sum {
            // Past the checksum, which no fuzzer guesses.
            let checksum = blake3::hash(&bytes[..96]);
            bytes[96..128].copy_from_slice(checksum.as_bytes());
        }
        if let Some(header) = Header::decode(&bytes)
            && let Some(again) = Header::decode(&header.encode())
        {
            assert_eq!(again.encode(), header.encode());
        }
    }
}

/// A cache one of whose files is not what was written. The first two bytes choose the file and
/// where, the rest is written there: not one wrong byte may be read.
pub fn cache_directory(data: &[u8]) {
    let [which, at, rest @ ..] = data else { return };
    let dir = std::env::temp_dir().join(format!("svol-fuzz-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    let objects: [(ObjectKey, Vec<u8>); 3] =
        [(1, 700_000), (2, 5_000), (3, 100_000)].map(|(n, size)| {
            let bytes = (0..size)
                .map(|i: usize| (i * n as usize % 251) as u8)
                .collect();
            (ObjectKey::from_bytes([n; 32]), bytes)
        });
    let open = || Cache::open(Config::new(&dir));
    if let Ok(cache) = open() {
        for (n, (key, bytes)) in objects.iter().enumerate() {
            let object = cache.object(*key, bytes.len() as u64);
            // One is complete, one small, one not complete.
            let end = if n == 2 { 65_536 } else { bytes.len() };
            if let Some(mut fill) = object.try_claim(0..end as u64) {
                let _ = fill.push(&bytes[..end]);
                let _ = fill.finish();
            }
        }
    }
    let mut files = Vec::new();
    find(&dir, &mut files);
    files.sort();
    if let Some(file) = files.get(usize::from(*which) % files.len().max(1)) {
        let mut content = std::fs::read(file).unwrap_or_default();
        let at = content.len() * usize::from(*at) / 256;
        match rest.split_first() {
            // Cut, or overwritten.
            None => content.truncate(at),
            Some(_) => {
                let end = content.len().min(at + rest.len());
                content[at..end].copy_from_slice(&rest[..end - at]);
            }
        }
        let _ = std::fs::remove_file(file);
        if let Ok(mut file) = std::fs::File::create(file) {
            let _ = file.write_all(&content);
        }
    }
    if let Ok(cache) = open() {
        for (key, bytes) in &objects {
            let object = cache.object(*key, bytes.len() as u64);
            let mut read = vec![0; bytes.len()];
            if let Some(n) = object.read_at(0, &mut read) {
                assert_eq!(&read[..n], &bytes[..n], "wrong bytes");
            }
        }
        let _ = cache.verify(|_| {});
    }
    let _ = std::fs::remove_dir_all(&dir);
}

fn find(dir: &Path, files: &mut Vec<PathBuf>) {
    for item in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match item.path() {
            path if path.is_dir() => find(&path, files),
            path => files.push(path),
        }
    }
}
