//! `shoal-sim`: runs scenarios from a terminal.

fn main() {}
