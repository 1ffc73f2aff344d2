//! Classes: how the pieces of one blob are dealt to trees.
//!
//! Question: along how many trees does a blob travel, and how many members does one member feed in each? Answer: piece
//! `p` is of class `p mod K`, and each class has a tree of its own, so a member that receives all K classes at the rate
//! of its link needs to send K times a K-th of it. In a class it either feeds [`FANOUT`] members or nobody: with a small
//! fan-out a piece leaves a member soon after it came, with feeding in few classes the trees stay shallow. Many classes
//! balance finer (a member with one child too many is 1/K slower), few have less of a blob under way at a time.
//! Prevents: the latency of a mesh, in which a piece waits at each hop for a have, a request and a turn.

/// Members that one member feeds in a class in which it feeds at all. Three to five are equally fast in the simulator;
/// four divides the classes.
pub const FANOUT: usize = 4;

/// Classes at most.
pub const CLASSES_MAX: usize = 16;

/// Number of classes of a blob of `pieces` pieces.
pub const fn class_count(pieces: u32) -> u8 {
    match pieces {
        0..=3 => 1,
        4..=63 => 4,
        64..=511 => 8,
        _ => CLASSES_MAX as u8,
    }
}

/// The class whose tree also carries hashes, see [`Message::Hashes`](crate::wire::Message::Hashes).
pub const RELAY: u8 = 0;

/// Class of a piece.
pub const fn class_of(piece: u32, classes: u8) -> u8 {
    (piece % classes as u32) as u8
}

/// Members are dealt to this many groups; a member of group g feeds in the classes that are g modulo the groups.
pub const fn group_count(classes: u8) -> u8 {
    if classes < FANOUT as u8 { classes } else { FANOUT as u8 }
}

/// Members that one member should feed, over all classes: as many as it has classes to receive, and in a blob of one
/// class as many as the fan-out.
pub const fn nominal_slots(classes: u8) -> u32 {
    if classes == 1 { FANOUT as u32 } else { classes as u32 }
}
