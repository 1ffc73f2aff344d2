//! Several real agents, one upstream: what is fetched, from whom, and what happens when some of them fail. Every byte that a
//! client gets is compared with what was pushed.

mod admission;
mod faults;
mod prewarm;
mod rollout;
mod runtime;

const REPOSITORY: &str = "team/app";
