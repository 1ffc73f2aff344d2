//! How fast the digest of what arrives is computed: the agent's function, the alternatives, and a whole cold transfer
//! in which hashing is one step of several.

use std::time::Instant;

use anyhow::Result;
use bytes::Bytes;
use sha2::Digest as _;

use super::setting::{self, Setting, say};
use super::sink::together;
use super::table::{Metric, Table, median};

/// What can be chosen.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    pub common: super::Common,
}

/// Bytes that are hashed at a time, as they come from upstream.
const CHUNK_BYTES: usize = 256 * 1024;

/// Runs it.
pub async fn run(options: &Options) -> Result<Table> {
    let setting = Setting::new(options.common.size.as_u64()).await?;
    let (mut ring, mut sha2, mut cold) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..options.common.rounds {
        ring.push(hashed(&setting.blob.bytes, hash_ring).await?);
        sha2.push(hashed(&setting.blob.bytes, hash_sha2).await?);
        let folder = setting.subfolder(&format!("agent-{round}"))?;
        let agent = setting::agent(&folder, &setting.registry.url()).await?;
        let (got, took) = together(agent.address(), &setting.path(), 1).await?;
        cold.push(got[0].bytes as f64 / 1e6 / took.as_secs_f64());
        agent.end().await?;
        std::fs::remove_dir_all(&folder)?;
        if let (Some(ring), Some(sha2), Some(cold)) = (ring.last(), sha2.last(), cold.last()) {
            say(&format!(
                "ring {ring:.0} MB/s, sha2 {sha2:.0} MB/s, a cold transfer through the agent {cold:.0} MB/s"
            ));
        }
    }
    let metrics = vec![
        Metric { name: "sha256", unit: "MB/s on one core" },
        Metric { name: "cold", unit: "MB/s, cold transfer" },
    ];
    let conditions = format!(
        "{} bytes in chunks of {CHUNK_BYTES}; the agent hashes with ring; cold transfer: one client, through a fresh agent, \
         from docker-registry on loopback without a limit; {} cores; median of {}",
        options.common.size.as_u64(),
        setting::cores(),
        options.common.rounds,
    );
    let (ring, sha2) = (median(ring), median(sha2));
    let mut table = Table::new("verify", metrics, vec![Some(ring), Some(median(cold))], conditions);
    table.peer("ring", vec![Some(ring), Some(ring)]);
    table.peer("sha2", vec![Some(sha2), None]);
    Ok(table)
}

/// Megabytes per second of a hash function on one thread.
async fn hashed(bytes: &Bytes, hash: fn(&[u8]) -> [u8; 32]) -> Result<f64> {
    let bytes = bytes.clone();
    let rate = tokio::task::spawn_blocking(move || {
        let start = Instant::now();
        std::hint::black_box(hash(&bytes));
        bytes.len() as f64 / 1e6 / start.elapsed().as_secs_f64()
    });
    Ok(rate.await?)
}

fn hash_ring(bytes: &[u8]) -> [u8; 32] {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    bytes.chunks(CHUNK_BYTES).for_each(|chunk| context.update(chunk));
    context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

fn hash_sha2(bytes: &[u8]) -> [u8; 32] {
    let mut context = sha2::Sha256::new();
    bytes.chunks(CHUNK_BYTES).for_each(|chunk| context.update(chunk));
    context.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::{hash_ring, hash_sha2};

    #[test]
    fn both_compute_the_same() {
        let bytes = shoal_agent::demo::image::noise(1, 1_000_000);
        assert_eq!(hash_ring(&bytes), hash_sha2(&bytes));
    }
}
