//! The figures of a mount as Prometheus wants them: made of the status document, so that the two
//! never disagree.
//!
//! Written by hand: every count is kept where it arises already, and a metrics library would keep it
//! a second time. Labels are bounded by the volume: a layer's name, and words from fixed lists.

use std::fmt::{Display, Write};

use super::status::{Layer, Mount};

/// The content type of the text format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Returns the figures of a mount in Prometheus' text format.
pub fn render(mount: &Mount) -> String {
    let mut page = Page::default();
    about(&mut page, mount);
    takeover(&mut page, mount);
    layers(&mut page, &mount.layers);
    latency(&mut page, &mount.layers);
    cache(&mut page, mount);
    memory(&mut page, mount);
    page.0
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (at, (label, text)) in labels.iter().enumerate() {
            let before = if at == 0 { '{' } else { ',' };
            let text = escaped(text);
            let _ = write!(self.0, "{before}{label}=\"{text}\"");
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    /// A family with a sample for each layer.
    fn each<T: Display>(
        &mut self,
        layers: &[Layer],
        name: &str,
        kind: &str,
        help: &str,
        value: impl Fn(&Layer) -> T,
    ) {
        self.family(name, kind, help);
        for layer in layers {
            self.sample(name, &[("layer", &layer.name)], value(layer));
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

const COUNTER: &str = "counter";
const GAUGE: &str = "gauge";

fn about(page: &mut Page, mount: &Mount) {
    page.family("svol_build_info", GAUGE, "The program that serves.");
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    page.sample("svol_build_info", &version, 1);
    page.family("svol_mount_info", GAUGE, "What is mounted where.");
    let at = mount.mountpoint.to_string_lossy();
    let labels = [("volume", mount.name.as_str()), ("mountpoint", &*at)];
    page.sample("svol_mount_info", &labels, 1);
    let help = "How long the mount has been served.";
    page.one("svol_uptime_seconds", GAUGE, help, mount.uptime_seconds);
    let help = "Inodes that the kernel knows.";
    page.one("svol_inodes", GAUGE, help, mount.inodes);
    let help = "Open files.";
    page.one("svol_open_files", GAUGE, help, mount.open_files);
    let help = "Opens whose reads the kernel does itself; such reads are counted nowhere.";
    let opens = mount.passthrough.opens;
    page.one("svol_passthrough_opens_total", COUNTER, help, opens);
    let help = "Paths that failed and have not worked since, of the last 256.";
    page.one("svol_failing_paths", GAUGE, help, mount.failing_paths);
    reloads(page, mount);
    hooks(page, mount);
}

/// How often the volume file was another one.
fn reloads(page: &mut Page, mount: &Mount) {
    let help = "The generation of the volume file that is served; 1 for the one that was mounted.";
    page.one("svol_volume_generation", GAUGE, help, mount.generation);
    let help = "Times that the volume file had changed, by what came of it.";
    page.family("svol_reload_total", COUNTER, help);
    for (result, times) in [
        ("applied", mount.reloads.applied),
        ("rejected", mount.reloads.rejected),
    ] {
        page.sample("svol_reload_total", &[("result", result)], times);
    }
    let help = "When the volume file that is served was taken up.";
    let name = "svol_reload_last_success_timestamp_seconds";
    page.one(name, GAUGE, help, mount.reloads.taken_up_seconds);
    let help = "Whether the volume file as it is now is what is served.";
    let accepted = mount.conditions.iter().all(|c| c.status == "True");
    page.one("svol_volume_accepted", GAUGE, help, u8::from(accepted));
}

/// Who was told of changes.
fn hooks(page: &mut Page, mount: &Mount) {
    if mount.on_change.is_empty() {
        return;
    }
    const NAME: &str = "svol_change_hook_runs_total";
    let help = "Times that the change hook ran, by what came of it.";
    page.family(NAME, COUNTER, help);
    for hook in &mount.on_change {
        let done = hook.runs.saturating_sub(hook.failures);
        for (result, runs) in [("done", done), ("failed", hook.failures)] {
            let labels = [("hook", hook.kind.as_str()), ("result", result)];
            page.sample(NAME, &labels, runs);
        }
    }
}

/// How the process that serves was followed by others.
fn takeover(page: &mut Page, mount: &Mount) {
    let Some(history) = &mount.takeover else {
        return;
    };
    let help = "Times that the process which serves was followed by another, by reason.";
    page.family("svol_worker_restarts_total", COUNTER, help);
    for (reason, count) in &history.restarts {
        let label = [("reason", reason.name())];
        page.sample("svol_worker_restarts_total", &label, count);
    }
    let help = "For how long nobody served the last time.";
    let stall = history.last.as_ref().map_or(0.0, |last| last.stall_seconds);
    page.one("svol_worker_restart_stall_seconds", GAUGE, help, stall);
}

fn layers(page: &mut Page, layers: &[Layer]) {
    page.family("svol_layer_info", GAUGE, "The layers of the volume.");
    for layer in layers {
        let labels = [
            ("layer", layer.name.as_str()),
            ("path", &layer.path),
            ("source", &layer.source),
        ];
        page.sample("svol_layer_info", &labels, 1);
    }
    let help =
        "Whether the layer's source answered the last request (0 also where it was not asked).";
    page.each(layers, "svol_layer_ready", GAUGE, help, |layer| {
        u8::from(layer.is_ready())
    });
    let help = "Reads of files, by whether they were answered from what was here or waited.";
    page.family("svol_reads_total", COUNTER, help);
    for layer in layers {
        for (result, reads) in [("hit", layer.hits), ("miss", layer.misses)] {
            let labels = [("layer", layer.name.as_str()), ("result", result)];
            page.sample("svol_reads_total", &labels, reads);
        }
    }
    let help = "Bytes given to readers: from the cache, after waiting for the source, or in place.";
    page.family("svol_read_bytes_total", COUNTER, help);
    for layer in layers {
        let bytes = match layer.in_place {
            true => [
                (0, "cache"),
                (0, "source"),
                (layer.hit_bytes + layer.miss_bytes, "local"),
            ],
            false => [
                (layer.hit_bytes, "cache"),
                (layer.miss_bytes, "source"),
                (0, "local"),
            ],
        };
        for (bytes, from) in bytes {
            let labels = [("layer", layer.name.as_str()), ("from", from)];
            page.sample("svol_read_bytes_total", &labels, bytes);
        }
    }
    let help = "Bytes of files that came from the source, used or not.";
    let name = "svol_source_fetched_bytes_total";
    page.each(layers, name, COUNTER, help, |layer| layer.bytes_fetched);
    let help = "Attempts of any operation, repetitions included.";
    let name = "svol_source_requests_total";
    page.each(layers, name, COUNTER, help, |layer| layer.requests);
    let help = "Repetitions of what failed.";
    let name = "svol_source_retries_total";
    page.each(layers, name, COUNTER, help, |layer| layer.retries);
    let help = "Operations that failed in the end, by reason.";
    page.family("svol_source_errors_total", COUNTER, help);
    for layer in layers {
        for (reason, errors) in &layer.errors_by_reason {
            let labels = [("layer", layer.name.as_str()), ("reason", reason)];
            page.sample("svol_source_errors_total", &labels, errors);
        }
    }
    let help = "Whether nothing is asked of the source for now, as it did not answer lately.";
    let name = "svol_source_breaker_open";
    page.each(layers, name, GAUGE, help, |layer| {
        u8::from(layer.breaker_open)
    });
    let help = "Operations and bodies under way.";
    let name = "svol_source_in_flight_requests";
    page.each(layers, name, GAUGE, help, |layer| layer.in_flight);
    let help = "Bytes fetched before anybody asked for them, by what became of them.";
    page.family("svol_prefetch_bytes_total", COUNTER, help);
    for layer in layers {
        let outcomes = [
            ("used", layer.prefetch_used),
            ("wasted", layer.prefetch_wasted),
        ];
        for (outcome, bytes) in outcomes {
            let labels = [("layer", layer.name.as_str()), ("outcome", outcome)];
            page.sample("svol_prefetch_bytes_total", &labels, bytes);
        }
    }
    let help = "Directories listed by the source.";
    let name = "svol_catalogue_listings_total";
    page.each(layers, name, COUNTER, help, |layer| layer.listings);
    let help = "Listings that failed.";
    let name = "svol_catalogue_listing_failures_total";
    page.each(layers, name, COUNTER, help, |layer| layer.listing_failures);
    let help = "Listings served although they were older than they should be.";
    let name = "svol_catalogue_stale_served_total";
    page.each(layers, name, COUNTER, help, |layer| layer.stale_served);
    let help = "Names that cannot be shown, in the directories listed so far.";
    let name = "svol_hidden_names";
    page.each(layers, name, GAUGE, help, |layer| layer.hidden);
}

/// How long sources take to answer.
fn latency(page: &mut Page, layers: &[Layer]) {
    const NAME: &str = "svol_source_answer_seconds";
    let help = "Time up to the source's answer; of a read, up to its first byte.";
    page.family(NAME, "histogram", help);
    for layer in layers {
        let answers = &layer.answers;
        let mut sum = 0;
        for bucket in &answers.buckets {
            sum += bucket.count;
            let le = match bucket.within_millis {
                Some(millis) => (millis as f64 / 1_000.0).to_string(),
                None => "+Inf".into(),
            };
            let labels = [("layer", layer.name.as_str()), ("le", &le)];
            page.sample(&format!("{NAME}_bucket"), &labels, sum);
        }
        let label = [("layer", layer.name.as_str())];
        page.sample(&format!("{NAME}_sum"), &label, answers.sum_seconds);
        page.sample(&format!("{NAME}_count"), &label, sum);
    }
}

fn cache(page: &mut Page, mount: &Mount) {
    let Some(cache) = &mount.cache else { return };
    let help = "What the cache takes on disk, whoever filled it.";
    page.one("svol_cache_size_bytes", GAUGE, help, cache.used_bytes);
    let help = "What the cache may take on disk.";
    page.one("svol_cache_limit_bytes", GAUGE, help, cache.limit_bytes);
    let help = "Bytes read from the cache by this process, by where in it they were.";
    let name = "svol_cache_read_bytes_total";
    page.family(name, COUNTER, help);
    let disk = cache.read_bytes.saturating_sub(cache.memory_read_bytes);
    page.sample(name, &[("tier", "memory")], cache.memory_read_bytes);
    page.sample(name, &[("tier", "disk")], disk);
    let help = "Bytes that this process evicted.";
    let name = "svol_cache_evicted_bytes_total";
    page.one(name, COUNTER, help, cache.evicted_bytes);
    let help = "Damaged parts that were dropped, to be fetched again.";
    page.one("svol_cache_healed_total", COUNTER, help, cache.healed);
    let help = "Bytes served without being kept, for want of room or a disk.";
    let name = "svol_cache_unkept_bytes_total";
    page.one(name, COUNTER, help, cache.unkept_bytes);
    let help = "Operations that the cache's disk or index refused.";
    page.one("svol_cache_troubles_total", COUNTER, help, cache.troubles);
}

fn memory(page: &mut Page, mount: &Mount) {
    let Some(memory) = &mount.memory else { return };
    let help = "The ceiling on the process's memory.";
    page.one("svol_memory_limit_bytes", GAUGE, help, memory.limit_bytes);
    let help = "What the process has in memory.";
    let resident = memory.resident_bytes;
    page.one("svol_memory_resident_bytes", GAUGE, help, resident);
    let help = "The most that it had.";
    page.one("svol_memory_peak_bytes", GAUGE, help, memory.peak_bytes);
    let help = "What the parts of the ceiling take.";
    page.family("svol_memory_part_bytes", GAUGE, help);
    for part in &memory.parts {
        let label = [("part", part.name.as_str())];
        page.sample("svol_memory_part_bytes", &label, part.used_bytes);
    }
    let help = "What the parts of the ceiling may take.";
    page.family("svol_memory_part_limit_bytes", GAUGE, help);
    for part in &memory.parts {
        let label = [("part", part.name.as_str())];
        page.sample("svol_memory_part_limit_bytes", &label, part.limit_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut page = Page::default();
        page.sample("m", &[("a", "x\"y\\z\n"), ("b", "c")], 1);
        assert_eq!(page.0, "m{a=\"x\\\"y\\\\z\\n\",b=\"c\"} 1\n");
    }
}
