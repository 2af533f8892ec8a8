//! The merged tree.
