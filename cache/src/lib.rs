//! A persistent, verified, content-addressed block cache that many processes share.
