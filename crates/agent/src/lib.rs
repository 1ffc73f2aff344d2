//! The shoal agent as a library: the registry front that clients talk to, the upstream client, the driver that
//! carries out what the engine decides, configuration, and the command line.
//!
//! This crate does *not* decide what is fetched when (that is `shoal-engine`) and does not know how blobs lie on disk
//! (that is `shoal-store`). It is the only place where the two meet, and the only one with HTTP types in it.

pub mod admin;
pub mod app;
mod causes;
pub mod cli;
pub mod config;
pub mod demo;
pub mod doctor;
pub mod driver;
mod due;
pub mod image;
pub mod import;
pub mod listing;
pub mod logging;
pub mod loopback;
pub mod manifest;
pub mod metrics;
pub mod node;
pub mod page;
pub mod pull;
pub mod rate;
pub mod registry;
pub mod runtime;
pub mod sources;
mod stamp;
pub mod stock;
pub mod store_health;
pub mod swarm;
pub mod tier;
mod tls;
pub mod trace;
pub mod upstream;
pub mod warm;
pub mod watch;
