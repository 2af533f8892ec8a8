//! A persistent, verified, content-addressed block cache that many processes share.
//!
//! It knows object keys, grains and hashes; never paths of sources, URLs or FUSE. How the parts
//! hang together, from the outside in:
//!
//! - [`Cache`] is one opened cache directory, [`Object`] one object in it, [`Fill`] the right to
//!   bring one range of it, which one process of all has.
//! - `memory` holds what cannot be kept on disk, and small objects.
//!
//! A reader does: [`Object::read_at`]; on None, [`Object::missing`] says what to fetch,
//! [`Object::try_claim`] makes it the one to fetch it, [`Fill::push`] takes the bytes, and
//! [`Watch::changed`] waits for others who have claimed it.

mod bitmap;
mod cache;
mod clock;
mod config;
mod dir;
mod error;
mod evict;
mod failpoint;
mod files;
mod fill;
mod grain;
mod index;
mod inner;
mod key;
mod lock;
mod memory;
mod object;
mod packs;
mod quota;
mod reading;
mod registry;
mod report;
mod scrub;
mod seal;
mod sidecar;
mod stats;
mod trouble;

pub use blake3::Hash;
pub use cache::Cache;
pub use config::{Config, DEFAULT_MEMORY};
pub use error::{Error, FillError};
pub use fill::Fill;
pub use grain::{BLOCK, GRAIN, SMALL};
pub use key::ObjectKey;
pub use object::{Object, Sealed, Watch};
pub use report::{GcReport, VerifyProgress, VerifyReport};
pub use stats::Stats;
