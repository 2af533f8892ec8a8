//! Web servers on a real mount: credentials that are replaced while it runs, files whose length the
//! server does not tell, and WebDAV.

mod common;

use std::path::Path;

use common::apache::TestApache;
use common::mount::{Mount, Place};
use common::noise;
use common::web::{PASSWORD, TestNginx, USER};

fn mounted(place: &Place, layers: &[String]) -> Mount {
    let volume = place.path("volume.yaml");
    let mut text =
        "apiVersion: sharedvolume.io/v1\nkind: Volume\nmetadata:\n  name: web\nspec:\n  \
                    layers:\n"
            .to_owned();
    for layer in layers {
        text += &format!("    - {layer}\n");
    }
    std::fs::write(&volume, text).unwrap();
    place.mount(&["-c", volume.to_str().unwrap()])
}

/// Puts a file in the place of another, as rotation does.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

fn errno(result: std::io::Result<Vec<u8>>) -> Option<i32> {
    result.unwrap_err().raw_os_error()
}

#[test]
fn credentials_that_are_replaced_need_no_restart() {
    let nginx = TestNginx::start();
    for n in 0..6 {
        std::fs::write(nginx.root.join(format!("f{n}")), format!("content {n}")).unwrap();
    }
    nginx.accept("first-token");
    let place = Place::new();
    let secrets = place.path("secrets");
    std::fs::create_dir(&secrets).unwrap();
    let (token, password) = (secrets.join("token"), secrets.join("password"));
    std::fs::write(&token, "first-token\n").unwrap();
    std::fs::write(&password, PASSWORD).unwrap();
    let mount = mounted(
        &place,
        &[
            format!(
                "{{path: /bearer, http: {{url: '{}/bearer/', auth: {{bearer: {{token: {{fromFile: \
                 '{}'}}}}}}}}}}",
                nginx.url,
                token.display()
            ),
            format!(
                "{{path: /basic, http: {{url: '{}/auth/', auth: {{basic: {{username: {USER}, \
                 password: {{fromFile: '{}'}}}}}}}}}}",
                nginx.url,
                password.display()
            ),
        ],
    );
    let both =
        |n: u32| ["bearer", "basic"].map(|way| std::fs::read(mount.path(&format!("{way}/f{n}"))));
    for read in both(0) {
        assert_eq!(read.unwrap(), b"content 0");
    }
    // The server takes others from now on.
    nginx.accept("second-token");
    nginx.want_password("second-password");
    for read in both(1) {
        assert_eq!(errno(read), Some(rustix::io::Errno::ACCESS.raw_os_error()));
    }
    replace(&token, "second-token\n");
    replace(&password, "second-password");
    for read in both(2) {
        assert_eq!(read.unwrap(), b"content 2");
    }
    let log = mount.log();
    assert!(log.contains("does not accept"), "{log}");
    for secret in ["first-token", "second-token", PASSWORD, "second-password"] {
        assert!(!log.contains(secret), "{log}");
    }
}

#[test]
fn files_without_a_length_are_counted_and_read() {
    let nginx = TestNginx::start();
    let files = [
        ("small", noise(1, 1000)),
        ("large", noise(2, 3 << 20)),
        ("empty", vec![]),
    ];
    for (name, bytes) in &files {
        std::fs::write(nginx.root.join(name), bytes).unwrap();
    }
    let place = Place::new();
    let mount = mounted(
        &place,
        &[format!("http: {{url: '{}/dynamic/'}}", nginx.url)],
    );
    for (name, bytes) in &files {
        let size = std::fs::metadata(mount.path(name)).unwrap().len();
        assert_eq!(size, bytes.len() as u64, "{name}");
        assert!(mount.read(name) == *bytes, "{name}");
        assert!(mount.read(name) == *bytes, "{name}, again");
    }
}

#[test]
fn a_webdav_tree_is_mounted_by_its_url() {
    let apache = TestApache::start();
    let bytes = noise(3, 5 << 20);
    std::fs::create_dir_all(apache.root.join("a b/c")).unwrap();
    std::fs::write(apache.root.join("a b/c/big"), &bytes).unwrap();
    let place = Place::new();
    let url = format!("dav+{}/dav/", apache.url);
    let mount = place.mount(&[&url]);
    assert!(mount.read("a b/c/big") == bytes);
    let source = common::mount::xattr(&mount.path("a b/c/big"), "user.svol.source").unwrap();
    assert_eq!(source, format!("{url}a%20b/c/big"));
}
