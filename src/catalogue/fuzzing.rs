//! What a fuzzer throws at what the catalogue wrote. Never in a release.

/// The text of what was hidden: what is understood of it is what is understood of it written anew.
pub fn catalogue_text(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let once = super::db::hidden_again(&text);
    assert_eq!(super::db::hidden_again(&once), once, "{text:?}");
}
