//! A web server's files against the digests that a manifest promises, on a real mount.

mod common;

use common::mount::Place;
use common::noise;
use common::web::TestNginx;

/// `sha256sum`'s line for a file, as the tool itself writes it.
fn sha256sum(dir: &std::path::Path, file: &str) -> String {
    let output = std::process::Command::new("sha256sum")
        .arg(file)
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_file_that_is_not_what_the_manifest_promises_is_not_served() {
    let web = TestNginx::start();
    let root = web.root.join("sums");
    std::fs::create_dir_all(root.join("d")).unwrap();
    let files = [
        ("good.bin", noise(1, 3 << 20)),
        ("d/small", noise(2, 1000)),
        ("bad.bin", noise(3, 2 << 20)),
        ("d/bad-small", noise(4, 1000)),
    ];
    let mut sums = String::new();
    for (name, bytes) in &files {
        std::fs::write(root.join(name), bytes).unwrap();
        sums += &sha256sum(&root, name);
    }
    std::fs::write(root.join("SHA256SUMS"), sums).unwrap();
    // Same size, one byte another.
    let spoil = |name: &str, bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        bytes[500] ^= 1;
        std::fs::write(root.join(name), bytes).unwrap();
    };
    spoil(files[2].0, &files[2].1);
    spoil(files[3].0, &files[3].1);

    let place = Place::new();
    let volume = place.path("volume.yaml");
    std::fs::write(
        &volume,
        format!(
            "apiVersion: sharedvolume.io/v1\nkind: Volume\nmetadata:\n  name: sums\nspec:\n  layers:\n  \
             - http:\n      url: {url}/sums/\n      manifest:\n        url: {url}/sums/SHA256SUMS\n        \
             format: sha256sum\n",
            url = format!("{}/plain", web.url)
        ),
    )
    .unwrap();
    let mount = place.mount(&["-c", volume.to_str().unwrap()]);

    assert!(mount.read("good.bin") == files[0].1);
    assert!(mount.read("d/small") == files[1].1);
    for (name, _) in &files[2..] {
        let error = std::fs::read(mount.path(name)).unwrap_err();
        assert_eq!(
            error.raw_os_error(),
            Some(rustix::io::Errno::IO.raw_os_error()),
            "{name}"
        );
    }
    assert!(mount.log().contains("SHA-256"), "{}", mount.log());

    // Mended at the server: the next to open it gets it, nothing of the bad bytes was kept.
    for (name, bytes) in &files[2..] {
        std::fs::write(root.join(name), bytes).unwrap();
        // Of another time, and so of another ETag.
        let mended = std::fs::File::options().append(true).open(root.join(name));
        let time = std::time::SystemTime::now() - std::time::Duration::from_secs(100);
        mended.unwrap().set_modified(time).unwrap();
        common::wait_until("the mended file", || {
            std::fs::read(mount.path(name)).is_ok_and(|read| read == *bytes)
        });
    }
}

#[test]
fn lazily_verified_files_are_served_before_they_are_whole_and_never_after_a_mismatch() {
    let web = TestNginx::start();
    let root = web.root.join("sums");
    std::fs::create_dir_all(&root).unwrap();
    let files = [("good", noise(1, 32 << 20)), ("bad", noise(2, 32 << 20))];
    let mut sums = String::new();
    for (name, bytes) in &files {
        std::fs::write(root.join(name), bytes).unwrap();
        sums += &sha256sum(&root, name);
    }
    let promised = sums.lines().last().unwrap()[..64].to_owned();
    std::fs::write(root.join("SHA256SUMS"), sums).unwrap();
    let mut wrong = files[1].1.clone();
    wrong[20 << 20] ^= 1;
    std::fs::write(root.join("bad"), &wrong).unwrap();
    let found = sha256sum(&root, "bad")[..64].to_owned();

    let place = Place::new();
    let volume = place.path("volume.yaml");
    let text = format!(
        "apiVersion: sharedvolume.io/v1\nkind: Volume\nmetadata: {{name: sums}}\nspec:\n  layers:\n  \
         - http:\n      url: {url}/sums/\n      manifest: {{url: '{url}/sums/SHA256SUMS', format: \
         sha256sum, verify: lazy}}\n",
        url = format!("{}/plain", web.url)
    );
    std::fs::write(&volume, text).unwrap();
    let mount = place.mount(&["-c", volume.to_str().unwrap()]);

    let first = |name: &str| -> std::io::Result<Vec<u8>> {
        use std::os::unix::fs::FileExt;
        let mut bytes = vec![0; 4096];
        std::fs::File::open(mount.path(name))?.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    };
    // Two small reads: far less than the files is fetched.
    for (name, bytes) in &files {
        assert!(first(name).unwrap() == bytes[..4096], "{name}");
    }
    let fetched = place.sum("bytesFetched");
    assert!(fetched < 32 << 20, "{fetched}");
    assert!(mount.read("good") == files[0].1);
    assert_eq!(place.sum("quarantined"), 0);

    let eio = Some(rustix::io::Errno::IO.raw_os_error());
    let error = std::fs::read(mount.path("bad")).unwrap_err();
    assert_eq!(error.raw_os_error(), eio);
    let said = common::mount::xattr(&mount.path("bad"), "user.svol.error").unwrap();
    for text in [&mount.log(), &said] {
        assert!(text.contains(&promised) && text.contains(&found), "{text}");
    }
    assert!(place.sum("quarantined") >= 1);
    // What the kernel kept of it, and what a new fetch brings, is not served either.
    assert_eq!(first("bad").unwrap_err().raw_os_error(), eio);

    // Mended at the server: read in full before its first byte, and served again.
    std::fs::write(root.join("bad"), &files[1].1).unwrap();
    let mended = std::fs::File::options().append(true).open(root.join("bad"));
    let time = std::time::SystemTime::now() - std::time::Duration::from_secs(100);
    mended.unwrap().set_modified(time).unwrap();
    common::wait_until("the mended file", || {
        std::fs::read(mount.path("bad")).is_ok_and(|read| read == files[1].1)
    });
    assert!(common::mount::xattr(&mount.path("bad"), "user.svol.error").is_err());
}
