//! What two volume files that follow each other have in common.

use crate::cli::MountSettings;
use crate::config::{Layer, Volume};

/// Returns what differs and belongs to the mount, so that only a new mount can change it: fields of
/// the volume file.
pub(super) fn fixed(served: &MountSettings, new: &MountSettings) -> Vec<&'static str> {
    let name = |settings: &MountSettings| settings.view.volume.metadata.name.clone();
    let differ = [
        // What /proc/mounts calls it.
        ("metadata.name", name(served) != name(new)),
        // The kernel keeps attributes for a day.
        ("spec.mount.uid", served.uid != new.uid),
        ("spec.mount.gid", served.gid != new.gid),
        ("spec.mount.umask", served.umask != new.umask),
        (
            "spec.mount.allowOther",
            served.allow_other != new.allow_other,
        ),
        // The kernel was told how much it may ask for at once.
        ("spec.mount.memory", served.view.memory != new.view.memory),
        // Open files are in it.
        (
            "spec.cache.dir",
            served.view.cache.dir != new.view.cache.dir,
        ),
        ("spec.control.listen", served.listen != new.listen),
        (
            "spec.control.listenTokenFile",
            served.listen_token_file != new.listen_token_file,
        ),
        (
            "spec.control.listenTlsCert, listenTlsKey or listenClientCa",
            served.listen_tls != new.listen_tls,
        ),
    ];
    let differ = differ.into_iter().filter(|(_, differs)| *differs);
    differ.map(|(field, _)| field).collect()
}

/// Returns the layers with the names that they go by.
pub(super) fn named(volume: &Volume) -> Vec<Layer> {
    let layers = volume.spec.layers.iter().enumerate();
    layers
        .map(|(at, layer)| Layer {
            name: { layer.name.clone() }.or_else(|| volume.layer_name(at).parse().ok()),
            ..layer.clone()
        })
        .collect()
}

/// Returns what is another with the layers, for people: nothing where it is something else.
pub(super) fn changes(served: &Volume, new: &Volume) -> Vec<String> {
    let (before, after) = (named(served), named(new));
    let find = |all: &[Layer], layer: &Layer| all.iter().position(|l| l.name == layer.name);
    let name = |layer: &Layer| layer.name.as_ref().map(ToString::to_string);
    let mut changes = Vec::new();
    for layer in after.iter().filter(|l| find(&before, l).is_none()) {
        changes.push(format!("layer {} is new", name(layer).unwrap_or_default()));
    }
    for layer in before.iter().filter(|l| find(&after, l).is_none()) {
        changes.push(format!("layer {} is gone", name(layer).unwrap_or_default()));
    }
    for layer in &after {
        if let Some(at) = find(&before, layer)
            && before[at] != *layer
        {
            changes.push(format!(
                "layer {} is another",
                name(layer).unwrap_or_default()
            ));
        }
    }
    let order = |all: &[Layer], other: &[Layer]| -> Vec<Option<String>> {
        let both = all.iter().filter(|layer| find(other, layer).is_some());
        both.map(name).collect()
    };
    if order(&before, &after) != order(&after, &before) {
        changes.push("layers are in another order".into());
    }
    if changes.is_empty() {
        changes.push("settings are others".into());
    }
    changes
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn volume(layers: &str) -> Volume {
        let head = "apiVersion: sharedvolume.io/v1\nkind: Volume\nmetadata: {name: demo}\nspec:\n";
        Volume::parse(&format!("{head}  layers: {layers}"), Path::new("v.yaml")).unwrap()
    }

    #[test]
    fn changes_are_told_by_layer() {
        let (a, b) = (
            "{name: a, local: {path: /a}}",
            "{name: b, local: {path: /b}, path: /b}",
        );
        let both = volume(&format!("[{a}, {b}]"));
        assert_eq!(
            changes(&both, &volume(&format!("[{b}, {a}]"))),
            ["layers are in another order"]
        );
        assert_eq!(
            changes(&both, &volume("[{name: a, local: {path: /c}}]")),
            ["layer b is gone", "layer a is another"]
        );
        assert_eq!(
            changes(&volume(&format!("[{a}]")), &both),
            ["layer b is new"]
        );
        assert_eq!(changes(&both, &both), ["settings are others"]);
        let unnamed = volume("[{local: {path: /a}}]");
        assert_eq!(
            named(&unnamed)[0].name.as_ref().unwrap().as_str(),
            "local-0"
        );
    }
}
