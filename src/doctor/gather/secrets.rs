//! The files and variables that a volume names.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::super::Finding;
use super::super::secrets::{self, Exposure, Looked, Named, Place};
use crate::config::{SecretRef, Volume};

pub(super) async fn look(volume: &Volume) -> Vec<Finding> {
    let looks = of_volume(volume).into_iter().map(|named| async move {
        // Each by itself: one may be on a disk that does not answer.
        let field = named.field.clone();
        match super::bounded("volume", move || read(named)).await {
            Ok(looked) => secrets::judge(&looked),
            Err(finding) => finding.of(field),
        }
    });
    futures::future::join_all(looks).await
}

fn of_volume(volume: &Volume) -> Vec<Named> {
    let mut all = Vec::new();
    for (index, layer) in volume.spec.layers.iter().enumerate() {
        let name = volume.layer_name(index);
        match serde_json::to_value(layer) {
            Ok(value) => all.extend(secrets::of_section(&name, &value)),
            // A volume with a secret in it cannot be written.
            Err(_) => all.push(Named {
                field: name,
                place: Place::Inline,
            }),
        }
    }
    if let Ok(value) = serde_json::to_value(&volume.spec.on_change) {
        all.extend(secrets::of_section("onChange", &value));
    }
    let control = &volume.spec.control;
    for (field, file, is_secret) in [
        ("listenTokenFile", &control.listen_token_file, true),
        ("listenTlsKey", &control.listen_tls_key, true),
        ("listenTlsCert", &control.listen_tls_cert, false),
        ("listenClientCa", &control.listen_client_ca, false),
    ] {
        let Some(file) = file.clone() else { continue };
        all.push(Named {
            field: format!("control.{field}"),
            place: match is_secret {
                true => Place::Secret(file),
                false => Place::File(file),
            },
        });
    }
    all
}

fn read(named: Named) -> Looked {
    // The errors name the variable or the file, never what is in it.
    let secret = |secret: SecretRef| secret.read().map_err(|error| error.to_string());
    let read = match &named.place {
        Place::Variable(name) => secret(SecretRef::FromEnv(name.clone())).map(|_| Exposure::Closed),
        Place::Secret(path) => secret(SecretRef::FromFile(path.clone())).map(|_| exposure(path)),
        Place::File(path) => match File::open(path) {
            Ok(_) => Ok(exposure(path)),
            Err(error) => Err(format!("{}: {error}", path.display())),
        },
        Place::Inline => Ok(Exposure::Closed),
    };
    Looked { named, read }
}

/// Returns who can read a file: for everybody to, the way to it must be open as well.
fn exposure(path: &Path) -> Exposure {
    let Ok(real) = path.canonicalize() else {
        return Exposure::Closed;
    };
    let mode = |path: &Path| path.metadata().map_or(0, |metadata| metadata.mode());
    let is_open = mode(&real) & 0o004 != 0
        && real
            .ancestors()
            .skip(1)
            .all(|above| mode(above) & 0o001 != 0);
    match is_open {
        true => Exposure::Everybody,
        false => Exposure::Closed,
    }
}
