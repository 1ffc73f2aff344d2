//! What the demo has seen, as a table for people and as one object for programs.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::agent::Counted;
use super::registry::Asked;

/// Images from the registry that still count as one: a transfer that is shortened because another node takes over its rest has
/// bytes on their way.
const RATIO_MAX: f64 = 1.05;

/// Agents that have a line of their own in the table.
const NODES_SHOWN_MAX: usize = 16;

/// One round: all clients pull at once.
#[derive(Clone, Debug)]
pub struct Round {
    /// From the first request to the last byte of the last client.
    pub took: Duration,
    /// What the registry was asked meanwhile.
    pub asked: Asked,
    /// Bytes that the clients received, all together.
    pub received: u64,
    /// What each agent counted meanwhile; empty where there was no agent.
    pub agents: Vec<Counted>,
}

/// All rounds, and what they were made with.
pub struct Report {
    /// Nodes, each with an agent and a client.
    pub nodes: u16,
    /// Bytes of the image.
    pub image_bytes: u64,
    /// Bytes per second of the way to the registry.
    pub link: u64,
    /// Through agents that had nothing.
    pub cold: Round,
    /// Through the agents, once more.
    pub warm: Round,
    /// Straight from the registry.
    pub direct: Round,
}

/// The object that `--json` ends with.
#[derive(Debug, Serialize)]
struct Summary {
    nodes: u16,
    image_bytes: u64,
    upstream_bytes: u64,
    upstream_ratio: f64,
    upstream_blob_requests: u64,
    upstream_manifest_requests: u64,
    seconds: f64,
    seconds_direct: f64,
    verified: bool,
}

impl Report {
    /// One line of JSON about the cold round.
    pub fn json(&self) -> serde_json::Result<String> {
        let asked = self.cold.asked;
        serde_json::to_string(&Summary {
            nodes: self.nodes,
            image_bytes: self.image_bytes,
            upstream_bytes: asked.bytes,
            upstream_ratio: rounded(self.ratio(), 4),
            upstream_blob_requests: asked.blobs,
            upstream_manifest_requests: asked.manifests,
            seconds: rounded(self.cold.took.as_secs_f64(), 3),
            seconds_direct: rounded(self.direct.took.as_secs_f64(), 3),
            verified: self.verified(),
        })
    }

    /// Bytes that left the registry in the cold round, in images.
    fn ratio(&self) -> f64 {
        self.cold.asked.bytes as f64 / self.image_bytes as f64
    }

    /// Whether every client got the whole image in every round. That every byte was right is checked while it
    /// arrives; a wrong one ends the demo with an error.
    fn verified(&self) -> bool {
        let all = self.image_bytes * u64::from(self.nodes);
        [&self.cold, &self.warm, &self.direct].iter().all(|round| round.received == all)
    }

    /// The table.
    pub fn table(&self) -> String {
        let rounds = [("shoal, cold", &self.cold), ("once more", &self.warm), ("straight", &self.direct)];
        let mut text = String::new();
        let mut row = |name: &str, cell: &dyn Fn(&Round) -> String| {
            let cells: String = rounds.iter().map(|(_, round)| format!("{:>14}", cell(round))).collect();
            let _ = writeln!(text, "  {name:<34}{cells}");
        };
        row("seconds", &|round| format!("{:.2}", round.took.as_secs_f64()));
        row("clients received", &|round| megabytes(round.received));
        row("registry: bytes sent", &|round| megabytes(round.asked.bytes));
        row("registry: blob requests", &|round| round.asked.blobs.to_string());
        row("registry: manifest requests", &|round| round.asked.manifests.to_string());
        let sum = |round: &Round, of: &dyn Fn(&Counted) -> u64| match round.agents.is_empty() {
            true => "-".to_owned(),
            false => megabytes(round.agents.iter().map(of).sum()),
        };
        row("agents: received from the registry", &|round| sum(round, &|agent| agent.upstream));
        row("agents: received from each other", &|round| sum(round, &|agent| agent.from_peers));
        let heads: String = rounds.iter().map(|(head, _)| format!("{head:>14}")).collect();
        format!("  {:<34}{heads}\n{text}", "")
    }

    /// Who sent what to whom in the cold round: a line for each agent.
    pub fn who_sent_what(&self) -> String {
        let mut text = format!(
            "  {:<10}{:>18}{:>18}{:>18}\n",
            "cold round", "from registry", "from agents", "to agents"
        );
        let mut line = |name: &str, agent: &Counted| {
            let cells = [agent.upstream, agent.from_peers, agent.to_peers].map(megabytes);
            let _ = writeln!(text, "  {name:<10}{:>18}{:>18}{:>18}", cells[0], cells[1], cells[2]);
        };
        for (node, agent) in self.cold.agents.iter().enumerate().take(NODES_SHOWN_MAX) {
            line(&format!("node {node}"), agent);
        }
        if let Some(rest) = self.cold.agents.get(NODES_SHOWN_MAX..).filter(|rest| !rest.is_empty()) {
            let mut all = Counted::default();
            for agent in rest {
                all.upstream += agent.upstream;
                all.from_peers += agent.from_peers;
                all.to_peers += agent.to_peers;
            }
            line(&format!("{} more", rest.len()), &all);
        }
        text
    }

    /// What it comes to, in one line.
    pub fn verdict(&self) -> String {
        format!(
            "{} nodes pulled {} each; the registry sent {:.2} x the image instead of {:.2} x, and all were done in \
             {:.2} s instead of {:.2} s. {}",
            self.nodes,
            megabytes(self.image_bytes),
            self.ratio(),
            self.direct.asked.bytes as f64 / self.image_bytes as f64,
            self.cold.took.as_secs_f64(),
            self.direct.took.as_secs_f64(),
            if self.verified() { "Every byte was right." } else { "NOT every client got the whole image." },
        )
    }

    /// What the figures hold for.
    pub fn conditions(&self) -> String {
        format!(
            "one machine, loopback, {} cores; the registry is behind a link of {}/s that all connections share, in \
             every round",
            std::thread::available_parallelism().map_or(1, usize::from),
            megabytes(self.link),
        )
    }

    /// Whether the demo showed what it is there to show: everything right, and nothing sent twice.
    pub fn success(&self) -> bool {
        self.verified() && self.ratio() < RATIO_MAX
    }
}

/// A number of bytes, in MB of a million each.
pub fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(received: u64, upstream: u64) -> Report {
        let round = |took, bytes| Round {
            took: Duration::from_millis(took),
            asked: Asked { manifests: 2, blobs: 4, blob_gets: 4, bytes },
            received,
            agents: vec![Counted { from_peers: received, ..Counted::default() }],
        };
        Report {
            nodes: 8,
            image_bytes: 1000,
            link: 100,
            cold: round(500, upstream),
            warm: round(100, 0),
            direct: round(4000, 8000),
        }
    }

    #[test]
    fn the_object_has_exactly_the_promised_keys() {
        let json: serde_json::Value =
            serde_json::from_str(&report(8000, 1000).json().expect("JSON")).expect("JSON");
        let expected = serde_json::json!({
            "nodes": 8, "image_bytes": 1000, "upstream_bytes": 1000, "upstream_ratio": 1.0,
            "upstream_blob_requests": 4, "upstream_manifest_requests": 2, "seconds": 0.5, "seconds_direct": 4.0,
            "verified": true,
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn missing_or_repeated_bytes_are_no_success() {
        assert!(report(8000, 1000).success());
        assert!(!report(7999, 1000).success());
        assert!(!report(8000, 2000).success());
    }
}
