//! What is made of an [`Outcome`](crate::outcome::Outcome): figures, a table for a terminal, one JSON object, verdicts on goals, plots.
//!
//! Invariant: everything here is a function of the outcomes; the same outcomes give the same bytes.

mod figures;
mod goals;
pub mod plots;
#[cfg(test)]
pub(crate) mod samples;
mod table;

pub use figures::{Figures, Summary};
pub use goals::{Verdict, judge};
pub(crate) use table::rows;
pub use table::{bytes, count, ratio, seconds, table};
