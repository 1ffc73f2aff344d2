//! The scenarios that come with the program, in the order of the document: first those with figures to reach, then one for each
//! fault.

macro_rules! library {
    ($($name:literal)*) => {
        [$(($name, include_str!(concat!("../../scenarios/", $name, ".toml")))),*]
    };
}

/// Names and texts of the built-in scenarios.
pub const LIBRARY: [(&str, &str); 29] = library![
    "layers"
    "large-layer"
    "kraken"
    "volcano"
    "image"
    "prewarm"
    "rollout"
    "slow-origin"
    "fast-origin"
    "zones"
    "faults"
    "cold-start"
    "late-joiner"
    "canary"
    "ten-thousand"
    "idle"
    "slow-nodes"
    "deaths"
    "partition"
    "isolated"
    "liar"
    "silent"
    "home-dies"
    "all-homes-die"
    "stalled-lease"
    "origin-down"
    "no-ranges"
    "rate-limit"
    "rolling-update"
];

/// The text of a built-in scenario.
pub fn built_in(name: &str) -> Option<&'static str> {
    LIBRARY.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}
