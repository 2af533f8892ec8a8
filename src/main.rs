//! The `svol` command.
fn main() {}
