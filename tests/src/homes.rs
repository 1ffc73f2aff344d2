//! Which agents are the homes of a blob: those that a fault has to hit.

use anyhow::{Context as _, Result};
use shoal_agent::admin::client::AdminClient;

use crate::image::Blob;

/// The homes of a blob, the first one first, by their places among `agents`.
///
/// # Errors
/// An agent does not answer, or knows a home that is none of them.
pub async fn homes(agents: &[AdminClient], blob: &Blob) -> Result<Vec<usize>> {
    let mut names = Vec::new();
    for agent in agents {
        let members = agent.peers().await?.members;
        let own = members.into_iter().find(|member| member.is_self);
        names.push(own.context("an agent does not know itself")?.peer);
    }
    let homes = agents.first().context("there is no agent")?.explain(&blob.digest.parse()?).await?.homes;
    let place = |home| names.iter().position(|name| name == home);
    homes.iter().map(|home| place(home).context("a home is no agent of this test")).collect()
}
