//! What the end-to-end tests are made of: real agents, real registries and container runtimes as child processes, and
//! an upstream that fails exactly as a test's script says.
//!
//! Nothing in here is the product, and nothing in here uses the product's code: a fault that both sides share would
//! otherwise be invisible. Every child process belongs to the test that started it and is ended by its own process
//! id. Nothing sleeps to be right: what takes time is polled with a deadline ([`wait`]).

pub mod agent;
pub mod browser;
pub mod clients;
pub mod clock;
pub mod cluster;
pub mod collector;
pub mod containerd;
pub mod control;
pub mod cri;
pub mod disk;
pub mod dns;
pub mod docker_registry;
pub mod helm;
pub mod homes;
pub mod http;
pub mod image;
pub mod inside;
pub mod netns;
pub mod nginx;
pub mod origin;
pub mod place;
pub mod process;
pub mod proxy;
pub mod s3;
pub mod tls;
pub mod token_server;
pub mod tree;
pub mod usage;
pub mod wait;
