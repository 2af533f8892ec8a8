//! A persistent, verified, content-addressed block cache that many processes share.
//!
//! It knows object keys, grains and hashes; never paths of sources, URLs or FUSE.
//!
//! [`Cache`] is one opened cache directory, [`Object`] one object in it, [`Fill`] the right to
//! bring one range of it, which one process of all has. A reader does:
//!
//! 1. [`Object::read_at`]: the bytes, if all of them are here;
//! 2. if not, [`Object::watch`], and then [`Object::missing`] says what to bring;
//! 3. [`Object::try_claim`] makes it the one to bring a range, and [`Fill::push`] takes the bytes;
//! 4. where another has the claim, [`Watch::changed`] waits, and it begins anew; a reader that has
//!    waited too long for another process goes on with [`Object::try_claim_aside`].
//!
//! Lock order within a process: `creating` of an object, then any of the leaves (`claims`, `slot`,
//! `known`, the shards of registry and memory, the queues), of which none is held with another.
//! The appender's lock is held over sending to the index, which takes no lock but its own.
//!
//! The README has a table of the parts; docs/CACHE_FORMAT.md the format on disk.

mod backing;
mod bitmap;
mod cache;
mod clock;
mod collect;
mod config;
mod dir;
mod error;
mod evict;
mod failpoint;
mod files;
mod fill;
#[cfg(feature = "failpoints")]
#[doc(hidden)]
pub mod fuzzing;
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
mod sync;
mod trial;
mod trouble;

pub use blake3::Hash;
pub use cache::Cache;
pub use config::{Config, DEFAULT_MEMORY};
pub use dir::network_file_system;
pub use error::{Error, FillError};
pub use evict::Eviction;
pub use fill::Fill;
pub use grain::{BLOCK, GRAIN, SMALL};
pub use index::Pin;
pub use key::ObjectKey;
pub use object::{Object, Sealed, Watch};
pub use quota::{default_floor, default_limit};
pub use report::{GcReport, VerifyProgress, VerifyReport};
pub use stats::Stats;
pub use trial::{TrialError, try_out};
pub use trouble::Trouble;
