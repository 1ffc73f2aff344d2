//! Which agents are the homes of a blob, and which fetch it: those that a fault has to hit.

use anyhow::{Context as _, Result};
use futures_util::future::try_join_all;
use shoal_agent::admin::client::AdminClient;
use shoal_agent::driver::BlobStory;
use shoal_engine::Digest;

use crate::image::Blob;

/// The homes of a blob, the first one first, by their places among `agents`.
///
/// # Errors
/// An agent does not answer, or knows a home that is none of them.
pub async fn homes(agents: &[AdminClient], blob: &Blob) -> Result<Vec<usize>> {
    let names = names(agents).await?;
    let homes = agents.first().context("there is no agent")?.explain(&blob.digest.parse()?).await?.homes;
    let place = |home| names.iter().position(|name| name == home);
    homes.iter().map(|home| place(home).context("a home is no agent of this test")).collect()
}

/// Who fetches a part of a blob from upstream for all just now, and has received at least so many bytes of it from there, by their
/// places among `agents`.
///
/// # Errors
/// An agent does not answer.
pub async fn fetchers(agents: &[AdminClient], blob: &Blob, bytes: u64) -> Result<Vec<usize>> {
    let digest: Digest = blob.digest.parse()?;
    let names = names(agents).await?;
    let stories = try_join_all(agents.iter().map(|agent| agent.explain(&digest))).await?;
    let all = names.iter().zip(&stories).enumerate();
    Ok(all.filter_map(|(place, (name, story))| fetches(story, name, bytes).then_some(place)).collect())
}

/// Whether an agent of this name, whose story this is, has a lease and has got so much by it.
fn fetches(story: &BlobStory, name: &str, bytes: u64) -> bool {
    let upstream = story.sources.iter().filter(|share| !share.is_member);
    let received: u64 = upstream.map(|share| share.bytes).sum();
    let mut leases = story.books.iter().flat_map(|book| &book.leases);
    received >= bytes && leases.any(|lease| lease.holder == name)
}

/// What the agents are called among members.
async fn names(agents: &[AdminClient]) -> Result<Vec<String>> {
    let asked = agents.iter().map(|agent| async move {
        let members = agent.peers().await?.members;
        let own = members.into_iter().find(|member| member.is_self);
        anyhow::Ok(own.context("an agent does not know itself")?.peer)
    });
    try_join_all(asked).await
}
