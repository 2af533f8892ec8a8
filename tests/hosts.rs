//! On a host: the package, mount(8) and /etc/fstab, the service manager, completions and pages.

mod common;

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::Duration;

use common::machine::{Machine, said};
use common::mount::Place;
use rustix::process::Signal;

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn svol(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_svol"));
    command.args(args).output().unwrap()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs `make` with the built program, without what debuggers need: it is copied and packed.
fn make(target: &str, variables: &[String]) {
    static SMALL: OnceLock<tempfile::TempDir> = OnceLock::new();
    let dir = SMALL.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let mut strip = Command::new("strip");
        strip.arg("-o").arg(dir.path().join("svol"));
        let done = strip.arg(env!("CARGO_BIN_EXE_svol")).status();
        assert!(done.unwrap().success());
        dir
    });
    let binary = dir.path().join("svol");
    let output = Command::new("make")
        .args(["-s", "-C"])
        .arg(project())
        .arg(target)
        .arg(format!("BINARY={}", binary.display()))
        .args(variables)
        .env_remove("MAKEFLAGS")
        .output()
        .unwrap();
    assert!(output.status.success(), "make {target}\n{}", said(&output));
}

/// All files below a directory, from there, and directories that are empty.
fn files(root: &Path) -> Vec<PathBuf> {
    let mut left = vec![root.to_owned()];
    let mut found = Vec::new();
    while let Some(dir) = left.pop() {
        for item in dir.read_dir().unwrap() {
            let item = item.unwrap();
            match item.file_type().unwrap().is_dir() {
                true => left.push(item.path()),
                false => found.push(item.path().strip_prefix(root).unwrap().to_owned()),
            }
        }
    }
    found.sort();
    found
}

/// The blocks of docs/HOSTS.md that are marked so.
fn blocks(mark: &str) -> Vec<String> {
    let docs = std::fs::read_to_string(project().join("docs/HOSTS.md")).unwrap();
    let begin = format!("```{mark}\n");
    let blocks = docs.split(&begin).skip(1);
    let blocks: Vec<String> = blocks
        .map(|block| block.split("```").next().unwrap().to_owned())
        .collect();
    assert!(!blocks.is_empty(), "no {mark} in docs/HOSTS.md");
    blocks
}

/// A machine where the package is to be had as /tmp/svol.deb.
fn machine() -> Machine {
    static PACKAGE: OnceLock<tempfile::TempDir> = OnceLock::new();
    let dir = PACKAGE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let package = dir.path().join("svol.deb");
        let deb = format!("DEB={}", package.display());
        make("deb", &[deb, "COMPRESSION=none".into()]);
        dir
    });
    let machine = Machine::start();
    machine.copy(&dir.path().join("svol.deb"), "/tmp/svol.deb");
    let volume = blocks("yaml").remove(0);
    machine.ok(&format!(
        "mkdir -p /srv/models /etc/svol; echo hello >/srv/models/f; \
         cat >/etc/svol/models.yaml <<'EOF'\n{volume}EOF"
    ));
    machine
}

#[test]
fn what_is_installed_can_be_uninstalled() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let at = format!("DESTDIR={}", root.display());
    make("install", &[at.clone(), "PREFIX=/opt/svol".into()]);
    let installed = files(root);
    let has = |name: &str| installed.contains(&name.into());
    for name in [
        "opt/svol/bin/svol",
        "sbin/mount.svol",
        "sbin/mount.fuse.svol",
        "opt/svol/share/man/man1/svol-cache-gc.1",
        "opt/svol/share/man/man8/mount.svol.8",
        "opt/svol/share/bash-completion/completions/svol",
        "opt/svol/share/zsh/vendor-completions/_svol",
        "opt/svol/share/fish/vendor_completions.d/svol.fish",
        "opt/svol/lib/systemd/system/svol@.service",
        "opt/svol/lib/systemd/user/svol@.service",
    ] {
        assert!(has(name), "no {name} in {installed:?}");
    }
    let link = std::fs::read_link(root.join("sbin/mount.svol")).unwrap();
    assert_eq!(link, Path::new("/opt/svol/bin/svol"));
    let unit = root.join("opt/svol/lib/systemd/system/svol@.service");
    let unit = std::fs::read_to_string(unit).unwrap();
    assert!(
        unit.contains("ExecStart=/opt/svol/bin/svol mount"),
        "{unit}"
    );
    make("uninstall", &[at, "PREFIX=/opt/svol".into()]);
    assert_eq!(files(root), Vec::<PathBuf>::new());
}

#[test]
fn what_the_documentation_shows_works() {
    if !is_root() {
        // A machine of one's own takes root; `make test` of another user leaves this out, in words.
        eprintln!("NOT RUN: what docs/HOSTS.md shows takes root");
        return;
    }
    let machine = machine();
    let fstab = blocks("fstab").remove(0);
    machine.ok(&format!("cat >/etc/fstab <<'EOF'\n{fstab}EOF"));
    let mut all = String::new();
    for block in blocks("sh") {
        all += &machine.ok(&format!("cd /tmp\n{block}"));
    }
    for shown in [
        "svol 0.",
        "svol-mount(1)",
        "/etc/svol/models.yaml fuse.svol",
    ] {
        let squeezed = all.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(squeezed.contains(shown), "no {shown:?} in {squeezed}");
    }
    make_user(&machine);
    for block in blocks("sh as a user") {
        let user = as_user(&machine, &block);
        assert!(user.status.success(), "{}", said(&user));
        assert!(said(&user).contains('f'), "{}", said(&user));
    }
    // Nothing is left of it.
    assert!(!machine.ok("cat /proc/self/mounts").contains("svol"));
}

/// Makes a user without privileges.
fn make_user(machine: &Machine) {
    machine.ok(
        "echo somebody:x:4321:4321::/home/user:/bin/sh >>/etc/passwd; \
         mkdir -m 755 /home/user; chown 4321:4321 /home/user",
    );
}

/// Runs a script as a user without privileges, whose home is /home/user.
fn as_user(machine: &Machine, script: &str) -> Output {
    let mut user = machine.command("setpriv");
    user.args(["--reuid", "4321", "--regid", "4321", "--clear-groups"])
        .args(["env", "HOME=/home/user", "sh", "-euc", script])
        .output()
        .unwrap()
}

#[test]
fn a_package_is_installed_used_and_removed() {
    if !is_root() {
        eprintln!("NOT RUN: installing a package takes root");
        return;
    }
    let machine = machine();
    // dpkg's own database counts too, and looks at what it depends on.
    machine.ok("dpkg -i /tmp/svol.deb");
    let version = machine.ok("dpkg-query -W -f '${Version} ${Status}' svol");
    let wanted = format!("{} install ok installed", env!("CARGO_PKG_VERSION"));
    assert_eq!(version, wanted);
    let depends = machine.ok("dpkg-query -W -f '${Depends}' svol");
    assert!(depends.contains("libc6 (>= 2."), "{depends}");
    assert!(depends.contains("fuse3, ca-certificates"), "{depends}");
    // Each of its files is there, and of nobody else's making.
    machine.ok("dpkg -V svol");
    machine.ok("ls /usr/share/man/man8/mount.svol.8.gz /usr/share/doc/svol/copyright");

    // systemd finds nothing to say against its units, wherever its tool is.
    let verified = machine.ok("systemd-analyze verify svol@models.service 2>&1");
    assert_eq!(verified, "");
    let user =
        machine.ok("XDG_RUNTIME_DIR=/run systemd-analyze --user verify svol@models.service 2>&1");
    assert!(!user.contains("svol@"), "{user}");

    // Mounted while it is removed: the program goes on, and its mount can still be ended.
    machine.ok("mkdir /mnt/m; mount -t svol -o ro /etc/svol/models.yaml /mnt/m");
    assert_eq!(machine.ok("cat /mnt/m/f"), "hello\n");
    machine.ok("dpkg -r svol");
    assert_eq!(machine.ok("cat /mnt/m/f"), "hello\n");
    machine.ok("umount /mnt/m; test -d /var/cache/svol; test ! -e /usr/bin/svol");
    machine.ok("test ! -e /usr/sbin/mount.svol; test ! -e /usr/lib/systemd/system/svol@.service");
    machine.ok("dpkg --purge svol; test ! -e /var/cache/svol; test -e /etc/svol/models.yaml");
    let gone = machine.shell("dpkg-query -W svol");
    assert!(!gone.status.success(), "{}", said(&gone));
}

#[test]
fn mount_8_and_fstab_mount_volumes() {
    if !is_root() {
        eprintln!("NOT RUN: mount(8) takes root here");
        return;
    }
    let machine = machine();
    machine.ok("dpkg -i /tmp/svol.deb; mkdir /mnt/a /mnt/b /mnt/own; chown 4321 /mnt/own");
    let find = |at: &str| machine.ok(&format!("findmnt -rn -o SOURCE,FSTYPE,OPTIONS {at}"));
    let refused = |script: &str, status: i32, why: &str| {
        let output = machine.shell(script);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(status), "{script}\n{said}");
        assert!(said.contains(why), "{script}\n{said}");
    };

    // What nobody wrote is no reason to refuse, and what came of it is said.
    let note = machine.ok("mount -t svol /etc/svol/models.yaml /mnt/a");
    assert!(note.contains("/mnt/a: mounted read-only"), "{note}");
    let found = find("/mnt/a");
    assert!(
        found.starts_with("/etc/svol/models.yaml fuse.svol ro,nosuid,nodev"),
        "{found}"
    );
    refused("echo x >/mnt/a/new", 2, "Read-only file system");
    refused(
        "mount -t svol /etc/svol/models.yaml /mnt/a",
        1,
        "a volume is mounted there already",
    );
    machine.ok("umount /etc/svol/models.yaml");
    assert_eq!(
        machine.ok("mount -t svol -o ro /etc/svol/models.yaml /mnt/a"),
        ""
    );
    machine.ok("umount /mnt/a");

    // The type's other name, the usual options, all at once.
    let options = "ro,noauto,_netdev,x-systemd.automount,uid=1234,gid=77,umask=027,\
                   allow_other,nofail,noatime,noexec";
    machine.ok(&format!(
        "mount -t fuse.svol -o {options} /srv/models=/sub /mnt/a"
    ));
    assert_eq!(machine.ok("stat -c %u:%g:%a /mnt/a/sub/f"), "1234:77:440\n");
    let found = find("/mnt/a");
    assert!(found.starts_with("/srv/models=/sub fuse.svol "), "{found}");
    assert!(found.contains("noexec") && found.contains("allow_other"));
    refused("mount -o remount,ro /mnt/a", 1, "remount is refused");
    machine.ok("umount /mnt/a");

    // What is wrong is said, with mount(8)'s statuses.
    let sloppy = "-t svol -o ro,nonempty /srv/models /mnt/a";
    refused(
        &format!("mount {sloppy}"),
        1,
        "unknown mount option `nonempty`",
    );
    machine.ok(&format!("mount -s {sloppy}; umount /mnt/a"));
    refused(
        "mount -t svol /etc/svol/no.yaml /mnt/a",
        1,
        "/etc/svol/no.yaml",
    );
    refused("mount -t svol -o suid s3x://b /mnt/a", 1, "s3x://");
    refused(
        "mount -t svol -o ro,cache_dir=/dev/null/x /srv/models /mnt/a",
        32,
        "/dev/null/x",
    );
    let checked = machine.ok("mount -f -v -t svol -o ro /etc/svol/models.yaml /mnt/a");
    assert!(
        checked.contains("--config=/etc/svol/models.yaml"),
        "{checked}"
    );
    refused("mount -f -t svol /etc/svol/no.yaml /mnt/a", 1, "no.yaml");
    refused("findmnt /mnt/a", 1, "");

    // fstab: all at once, twice, by name, and by a user.
    machine.ok("cat >/etc/fstab <<'EOF'\n\
         /etc/svol/models.yaml /mnt/a svol defaults,_netdev 0 0\n\
         /srv/models=/deep/er /mnt/b fuse.svol ro,noauto,nofail 0 0\n\
         /srv/models /mnt/own svol ro,user,noauto 0 0\nEOF");
    machine.ok("mount -a; mount -a; mount /mnt/b");
    assert_eq!(machine.ok("grep -c fuse.svol /proc/self/mounts"), "2\n");
    assert_eq!(
        machine.ok("cat /mnt/a/f /mnt/b/deep/er/f"),
        "hello\nhello\n"
    );
    machine.ok("svol status; svol probe /mnt/a /mnt/b; umount -a -t fuse.svol");
    refused("grep fuse.svol /proc/self/mounts", 1, "");
    make_user(&machine);
    let user = as_user(
        &machine,
        "mount /mnt/own; cat /mnt/own/f; svol unmount /mnt/own",
    );
    assert!(user.status.success(), "{}", said(&user));
    assert_eq!(said(&user), "hello\n");
    let user = as_user(&machine, "mount /mnt/own; umount /mnt/own");
    assert!(user.status.success(), "{}", said(&user));
    let others = as_user(&machine, "mount /mnt/b");
    assert!(!others.status.success(), "{}", said(&others));
    // Not for all, unless the administrator says so.
    let others = "svol mount --allow-other /srv/models /mnt/own";
    let others = as_user(&machine, others);
    assert_eq!(others.status.code(), Some(1), "{}", said(&others));
    assert!(said(&others).contains("add user_allow_other to /etc/fuse.conf"));
    machine.ok("echo user_allow_other >>/etc/fuse.conf");
    let script = "svol mount --allow-other /srv/models /mnt/own";
    let user = as_user(&machine, script);
    assert!(user.status.success(), "{}", said(&user));
    assert_eq!(machine.ok("cat /mnt/own/f"), "hello\n");
    let user = as_user(&machine, "svol unmount /mnt/own");
    assert!(user.status.success(), "{}", said(&user));
    assert!(!machine.ok("cat /proc/self/mounts").contains("svol"));
}

/// The next message to the service manager, as lines.
fn next(manager: &UnixDatagram) -> String {
    let mut message = [0; 4096];
    let length = manager.recv(&mut message).expect("a message in time");
    String::from_utf8(message[..length].to_vec()).unwrap()
}

#[cfg(feature = "failpoints")]
#[test]
fn the_service_manager_is_told_what_the_kernel_was_answered() {
    tell_the_service_manager(true);
}

#[cfg(feature = "failpoints")]
#[test]
fn a_daemon_alone_tells_the_service_manager_the_same() {
    tell_the_service_manager(false);
}

#[cfg(feature = "failpoints")]
fn tell_the_service_manager(takeover: bool) {
    let place = Place::new();
    let source = place.path("src");
    std::fs::create_dir(&source).unwrap();
    let path = place.path("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let args: &[&str] = match takeover {
        true => &[source.to_str().unwrap()],
        false => &["--no-takeover", source.to_str().unwrap()],
    };
    let mut mount = place.mount_with("mnt", args, |command| {
        command.env("NOTIFY_SOCKET", &path);
        // Who is meant (WATCHDOG_PID) may be left out.
        command.env("WATCHDOG_USEC", "1000000");
        // Silence is shorter than for those who wait for sources.
        command.env("SVOL_HOLDER", "limit=2000");
    });
    let ready = next(&manager);
    assert!(ready.contains("READY=1"), "{ready}");
    let serving = format!("STATUS=serving {}", mount.at().display());
    assert!(ready.contains(&serving), "{ready}");
    for _ in 0..3 {
        assert_eq!(next(&manager).trim(), "WATCHDOG=1");
    }
    let status = place.status();
    let socket = status["mounts"][0]["controlSocket"].as_str().unwrap();
    let tell = |what: &str| {
        let query = [("what", what), ("path", "")];
        let told = svol::control::client::ask::<Option<i32>>(
            Path::new(socket),
            true,
            "/attempt",
            &query,
            svol::control::client::PROMPT,
        );
        let runtime = tokio::runtime::Runtime::new().unwrap();
        assert_eq!(runtime.block_on(told).unwrap(), Some(0));
    };
    // The process is well, the mount is not: nothing keeps the watchdog quiet any longer.
    tell("wedge");
    let mut message = next(&manager);
    while message.contains("WATCHDOG=1") {
        message = next(&manager);
    }
    let silent = match takeover {
        true => "STATUS=the mount does not answer",
        false => "STATUS=does not serve: ",
    };
    assert!(message.contains(silent), "{message}");
    if !takeover {
        tell("free");
    }
    // Freed, or by another worker.
    loop {
        message = next(&manager);
        if message.contains("STATUS=serving") {
            break;
        }
        assert!(!message.contains("WATCHDOG=1"), "{message}");
    }
    while !message.contains("WATCHDOG=1") {
        message = next(&manager);
    }
    mount.signal(Signal::TERM);
    while !next(&manager).contains("STOPPING=1") {}
}

#[test]
fn shells_complete_commands_and_options() {
    let dir = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let script = dir.path().join(shell);
        let output = svol(&["completions", shell]);
        assert!(output.status.success(), "{}", said(&output));
        std::fs::write(&script, output.stdout).unwrap();
        let mut check = Command::new(shell);
        let check = match shell {
            "fish" => check.arg("--no-execute").arg(&script).output(),
            _ => check.arg("-n").arg(&script).output(),
        };
        let check = check.unwrap_or_else(|e| panic!("{shell}: {e}; run tests/setup.sh"));
        assert!(check.status.success(), "{shell}: {}", said(&check));
        assert_eq!(said(&check), "", "{shell}");
    }
    // What bash does when somebody presses the key.
    let press = |line: &str| {
        let script = format!(
            "set -- {line}; . {}; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); \
             _svol svol \"${{@: -1}}\" \"${{@: -2:1}}\"; echo \"${{COMPREPLY[*]}}\"",
            dir.path().join("bash").display()
        );
        let output = Command::new("bash").args(["-c", &script]).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        said(&output).trim().to_owned()
    };
    assert_eq!(press("svol val"), "validate");
    assert_eq!(press("svol mount --cache"), "--cache-dir --cache-size");
    assert_eq!(press("svol completions f"), "fish");
    // fish tells it by itself.
    let script = format!(
        "source {}; complete -C 'svol unm'",
        dir.path().join("fish").display()
    );
    let output = Command::new("fish")
        .args(["--no-config", "-c", &script])
        .env("HOME", dir.path())
        .output()
        .unwrap();
    assert!(said(&output).starts_with("unmount\t"), "{}", said(&output));
}

#[test]
fn manual_pages_are_whole() {
    let dir = tempfile::tempdir().unwrap();
    let output = svol(&["man", dir.path().to_str().unwrap()]);
    assert!(output.status.success(), "{}", said(&output));
    let pages = files(dir.path());
    assert!(pages.len() > 20, "{pages:?}");
    for page in &pages {
        // All warnings.
        let mut groff = Command::new("groff");
        groff.args(["-man", "-Tutf8", "-Kutf8", "-ww"]);
        groff.env("GROFF_NO_SGR", "1");
        let output = groff.arg(dir.path().join(page)).output().unwrap();
        let warnings = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && warnings.is_empty(), "{warnings}");
        // Bold is a letter over itself, as a printer has it.
        let struck = String::from_utf8(output.stdout).unwrap();
        let mut text = String::new();
        for letter in struck.chars() {
            match letter {
                '\x08' => drop(text.pop()),
                _ => text.push(letter),
            }
        }
        for part in ["NAME", "SYNOPSIS", "DESCRIPTION", "Examples:"] {
            assert!(text.contains(part), "no {part} in {page:?}\n{text}");
        }
        // Examples keep their lines.
        let examples = text.split("Examples:").nth(1).unwrap();
        let shown = examples.lines().filter(|line| line.contains("svol"));
        assert!(shown.count() >= 1, "{page:?}\n{text}");
    }
    let printed = svol(&["man"]).stdout;
    let whole = std::fs::read(dir.path().join("svol.1")).unwrap();
    assert!(printed == whole);
}
