//! What the simulator says of the setting of a benchmark, whose links lose nothing there.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use shoal_tests::place;

use super::setting::say;
use super::shaped::{Links, PAYLOAD};

/// Its figures.
pub struct Simulated {
    /// When the last node is done, in multiples of the benchmark's own bound.
    pub max: f64,
    /// The same of the median.
    pub p50: f64,
    /// Copies that left the registry.
    pub upstream_ratio: f64,
    /// Requests for blobs.
    pub upstream_requests: f64,
}

/// Asks the simulator about blobs of these sizes on these links, in a scenario of its library, in which `more` is set (`KEY=VALUE`).
pub fn simulate(scenario: &str, links: &Links, sizes: &[u64], more: &[String]) -> Result<Simulated> {
    say("asking the simulator about the same setting");
    let program = place::shoal_bin().with_file_name("shoal-sim");
    // What a link carries of a blob's bytes is less than its bits.
    let rate = |bits: u64| format!("{}B/s", (bits as f64 / 8.0 * PAYLOAD) as u64);
    let image: Vec<_> = sizes.iter().map(|size| format!("\"{size}B\"")).collect();
    let set = [
        format!("link.up={}", rate(links.link)),
        format!("link.down={}", rate(links.link)),
        format!("origin.bandwidth={}", rate(links.origin)),
        format!("image=[{}]", image.join(", ")),
    ];
    let mut command = Command::new(&program);
    command.args([scenario, "--json", "--nodes", &links.nodes().to_string()]);
    set.iter().chain(more).for_each(|set| {
        command.args(["--set", set]);
    });
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    ensure!(output.status.success(), "the simulator failed: {}", output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    let json: serde_json::Value =
        serde_json::from_str(text.trim()).context("the simulator's answer is no JSON")?;
    let json = if json.is_array() { json[0].clone() } else { json };
    let figure = |key: &str| json[key].as_f64().with_context(|| format!("the simulator does not tell {key}"));
    // In multiples of the benchmark's bound, whatever the simulator's has in it.
    let scale = figure("bound_s")? / links.bound(sizes);
    Ok(Simulated {
        max: figure("max")? * scale,
        p50: figure("p50")? * scale,
        upstream_ratio: figure("upstream_ratio")?,
        upstream_requests: figure("upstream_requests")?,
    })
}
