//! What `-o` takes: mount(8)'s own options, and ours as fstab writes them.

use std::collections::BTreeMap;

use crate::config::{Place, Problem};

/// Our options that `-o` takes too, as their flags are called; with a `_` for a `-` they are the
/// same.
const OURS: [&str; 26] = [
    "allow-other",
    "bwlimit",
    "cache-dir",
    "cache-size",
    "endpoint-url",
    "fsname",
    "gid",
    "listen",
    "listen-client-ca",
    "listen-tls-cert",
    "listen-tls-key",
    "listen-token-file",
    "log-file",
    "log-format",
    "memory",
    "no-sign-request",
    "on-change",
    "passthrough",
    "profile",
    "refresh",
    "region",
    "revalidate",
    "secrets-dir",
    "timeout",
    "uid",
    "umask",
];

/// Options that stand without a value and then mean `true`.
const SWITCHES: [&str; 5] = [
    "allow-other",
    "no-sign-request",
    "no-takeover",
    "passthrough",
    "wait",
];

/// Options that say what is so anyway, or what is for mount(8), fstab and systemd alone.
const NO_EFFECT: [&str; 31] = [
    "ro",
    "nosuid",
    "nodev",
    "exec",
    "defaults",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "nofail",
    "_netdev",
    "async",
    "noatime",
    "nodiratime",
    "relatime",
    "norelatime",
    "strictatime",
    "lazytime",
    "nolazytime",
    "silent",
    "loud",
    "atime",
    "diratime",
    "nostrictatime",
    "sync",
    "dirsync",
    "nomand",
    "noiversion",
];

/// The options of all `-o` of a command line. The last of each name counts.
#[derive(Debug, Default)]
pub(super) struct MountOptions {
    values: BTreeMap<&'static str, String>,
    /// Whether programs from the mount may not be run.
    pub(super) noexec: bool,
}

impl MountOptions {
    /// Returns what was given for the option whose flag is `--name`.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// Parses comma-separated lists. What is refused is added to `problems`.
    pub(super) fn parse(lists: &[String], problems: &mut Vec<Problem>) -> Self {
        let mut options = Self::default();
        for option in lists.iter().flat_map(|list| list.split(',')) {
            if let Err(what) = options.take(option) {
                let place = Place::Argument("-o".into());
                problems.push(Problem {
                    place,
                    field: String::new(),
                    what,
                });
            }
        }
        options
    }

    fn take(&mut self, option: &str) -> Result<(), String> {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (option, None),
        };
        let for_others = name.starts_with("x-") || name.starts_with("X-") || name == "comment";
        if option.is_empty() || for_others {
            return Ok(());
        }
        match name {
            "remount" => {
                return Err("remount is refused: unmount, then mount with the new options".into());
            }
            // As mount(8) writes down for whom it mounts.
            "user" if value.is_some() => return Ok(()),
            "rw" => return Err("rw is refused: svol mounts are read-only; write ro".into()),
            "suid" | "dev" => {
                return Err(format!(
                    "{name} is refused: svol mounts are always no{name}"
                ));
            }
            "noexec" => self.noexec = true,
            "exec" => self.noexec = false,
            _ => {}
        }
        if name == "noexec" || (NO_EFFECT.contains(&name) && value.is_none()) {
            return Ok(());
        }
        let dashed = name.replace('_', "-");
        let known = OURS.iter().chain(&SWITCHES).find(|known| **known == dashed);
        match (known, value) {
            (Some(known), Some(value)) => {
                self.values.insert(known, value.into());
                Ok(())
            }
            (Some(known), None) if SWITCHES.contains(known) => {
                self.values.insert(known, "true".into());
                Ok(())
            }
            (Some(_), None) => Err(format!("{name} needs a value; write {name}=VALUE")),
            (None, _) => Err(format!(
                "unknown mount option `{name}`; known here: ro, noexec, no_takeover, wait, {}, and those that \
                 mount(8) and fstab handle themselves",
                OURS.map(|known| known.replace('-', "_")).join(", ")
            )),
        }
    }
}

/// What mount(8) tells its helper by `-o`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// The options but `rw`.
    pub(crate) options: Vec<String>,
    /// Whether the last of `ro` and `rw` is `rw`. mount(8) says it too where nobody wrote either.
    pub(crate) is_rw: bool,
}

/// Takes apart what mount(8) tells its helper; with `sloppy`, without what is refused.
pub(crate) fn of_mount(lists: &[String], sloppy: bool) -> Asked {
    let mut asked = Asked::default();
    for option in lists.iter().flat_map(|list| list.split(',')) {
        match option {
            "" => {}
            "rw" => asked.is_rw = true,
            _ if sloppy && MountOptions::default().take(option).is_err() => {}
            _ => {
                asked.is_rw &= option != "ro";
                asked.options.push(option.into());
            }
        }
    }
    asked
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(lists: &[&str]) -> (MountOptions, String) {
        let lists: Vec<String> = lists.iter().map(|list| (*list).into()).collect();
        let mut problems = Vec::new();
        let options = MountOptions::parse(&lists, &mut problems);
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        (options, problems.join("\n"))
    }

    #[test]
    fn options_of_ours_are_kept_and_of_fstab_ignored() {
        let (options, problems) = parse(&[
            "ro,uid=5,allow_other,cache-size=1GiB,_netdev,noauto,x-systemd.automount,nosuid,nodev",
            "uid=6,,noexec,comment=a",
        ]);
        assert_eq!(problems, "");
        assert_eq!(options.get("uid"), Some("6"));
        assert_eq!(options.get("allow-other"), Some("true"));
        assert_eq!(options.get("cache-size"), Some("1GiB"));
        assert_eq!(options.get("gid"), None);
        assert!(options.noexec);
        assert!(!parse(&["noexec,exec"]).0.noexec);
    }

    #[test]
    fn what_mount_says_by_itself_is_not_refused() {
        let lists = [
            "rw,noexec,user=me".to_owned(),
            "X-mount.mkdir,,uid=5".into(),
        ];
        let asked = of_mount(&lists, false);
        assert_eq!(
            asked.options.join(","),
            "noexec,user=me,X-mount.mkdir,uid=5"
        );
        assert!(asked.is_rw);
        assert_eq!(parse(&[&asked.options.join(",")]).1, "");
        assert!(!of_mount(&["rw,ro".into()], false).is_rw);
        // -s: unknown options are none.
        let asked = of_mount(&["ro,nonempty,uid,gid=1".into()], true);
        assert_eq!(asked.options, ["ro", "gid=1"]);
    }

    #[test]
    fn what_cannot_be_had_is_refused_by_name() {
        assert_eq!(
            parse(&["rw"]).1,
            "-o: rw is refused: svol mounts are read-only; write ro"
        );
        assert!(parse(&["suid"]).1.contains("always nosuid"));
        assert!(parse(&["dev"]).1.contains("always nodev"));
        assert!(parse(&["remount"]).1.contains("unmount, then mount"));
        assert!(parse(&["uid"]).1.contains("uid needs a value"));
        assert!(
            parse(&["nonempty"])
                .1
                .contains("unknown mount option `nonempty`")
        );
        assert_eq!(parse(&["rw,nope"]).1.lines().count(), 2);
    }
}
