//! What a report says of the machine that it was made on.

use std::path::Path;
use std::process::Command;

use crate::mounts;
use crate::peers::{self, installed};
use crate::settings::Settings;

/// Returns what kind of machine this is.
pub fn machine(settings: &Settings) -> String {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|l| l.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processors", |(_, model)| model);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel = kernel.trim();
    let version = |program: &Path, arg: &str| {
        let output = Command::new(program).arg(arg).output().ok();
        let text = output
            .map(|o| [o.stdout, o.stderr].concat())
            .unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        text.lines().next().unwrap_or("unknown").to_owned()
    };
    // What else went on, in processes that wanted a processor.
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    let mut programs = vec![
        version(mounts::SVOL.as_ref(), "--version"),
        version("/usr/sbin/nginx".as_ref(), "-v"),
    ];
    for peer in peers::S3.iter().filter(|p| settings.has_peer(p.name)) {
        let program = installed(peer.name);
        programs.push(version(
            &program,
            if peer.name == "rclone" {
                "version"
            } else {
                "--version"
            },
        ));
    }
    format!(
        "{cpus} x {model} (load {load} before), Linux {kernel},\nwith {}",
        programs.join(", ")
    )
}
