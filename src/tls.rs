//! TLS for every outgoing connection: rustls with the ring provider.

use std::sync::Once;

/// Makes ring the process's provider of cryptography. May be called any number of times; whoever
/// builds an HTTP client calls it first, since a client without a provider cannot be built.
pub fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // An error means that a provider is already there, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}
