//! A discrete-event simulator that runs shoal's real engine for thousands of nodes.
//!
//! It has no second implementation of anything the engine decides: it supplies time, links, an origin and faults, and
//! carries out what the engines say. The baselines are models of other systems on the same links.

pub mod baselines;
pub mod bound;
pub mod document;
pub mod net;
pub mod oracle;
pub mod outcome;
pub mod queue;
pub mod replay;
pub mod report;
pub mod scenario;
pub mod systems;
pub mod world;
