//! A few real engines in virtual time, and what becomes of their pulls when members, homes, links, disks and registries
//! behave as they do in the field. The cluster checks the invariants after each step; a test says what is special about
//! its story. Nothing here knows the simulator: what both say is said twice.

mod alone;
mod busy;
mod cluster;
mod driver;
mod faults;
mod held;
mod ledger;
mod lies;
mod node;
mod outside;
mod properties;
mod sharing;
mod stampede;
mod stories;
mod upstream;

const KIB: u64 = 1 << 10;
/// Length of a piece of all blobs here.
const PIECE: u64 = 256 * KIB;
