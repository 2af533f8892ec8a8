//! Words for what was left out.

/// Returns why the field `name` of a document has no equivalent.
pub(super) fn why_not(name: &str) -> &'static str {
    match name {
        "capacity" | "storage" => {
            "nothing is copied in whole, so no disk is set aside; `--cache-size` bounds the cache"
        }
        "storageClassName" | "storageClass" => "no disk of the cluster is used",
        "accessModes" => "a volume is read-only, for any number of readers",
        "nfsServer" | "nfsServerReplicas" | "nfsImage" => {
            "no server stands between; each mount reads the source itself, through its cache"
        }
        "resourceNamespace" | "referenceValue" => {
            "the original's controller finds its own objects by it, and there are none"
        }
        "resourcePolicy" | "resources" => {
            "no pods run for a volume; `--memory` and `--cache-size` bound a mount"
        }
        "image" | "imagePullPolicy" | "imagePullSecrets" | "replicas" => "no pods run for a volume",
        "retryPolicy" => "a request is tried again until the `timeout`",
        _ => "the original's v1alpha1 does not know this field and drops it",
    }
}

/// Writes a word as a shell takes it.
pub(super) fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,:@%+".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.into(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}
