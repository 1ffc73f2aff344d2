//! The sans-IO heart of shoal: what to fetch, from where, for whom, and when.
//!
//! This crate does *not* read a clock, open a socket, touch a file, spawn a task or hold a byte of any blob. It is a
//! state machine: [`Engine::handle`] takes an [`Input`] and the current [`Time`], [`Engine::poll_output`] is drained
//! until it is empty, and [`Engine::next_wakeup`] says when to call again if nothing happens before. The same inputs
//! give the same outputs, always (invariant I1), so every behaviour can be tested in virtual time.
//!
//! Start reading at [`io`](crate::io): the whole boundary is on one screen. Then [`engine`](crate::engine).

pub mod access;
pub mod breaker;
pub mod demand;
pub mod engine;
pub mod fault;
pub mod flight;
pub mod homes;
pub mod ids;
pub mod io;
pub mod limits;
pub mod location;
pub mod membership;
pub mod mirrors;
pub mod name;
pub mod peer;
pub mod pieces;
pub mod prefetch;
pub mod ranges;
pub mod record;
pub mod retry;
pub mod swarm;
pub mod tags;
pub mod time;
pub mod walk;
pub mod wire;

pub use engine::Engine;
pub use fault::{LocalFault, SourceFault};
pub use homes::Homes;
pub use ids::{Algorithm, Digest, DigestError, FetchId, TicketId, WarmSetId};
pub use io::{Input, Output};
pub use location::Location;
pub use membership::Membership;
pub use name::{NameError, Reference, Registry, Repository, Scope, Tag};
pub use peer::{Member, PeerId, Roster};
pub use ranges::ByteRanges;
pub use time::Time;
