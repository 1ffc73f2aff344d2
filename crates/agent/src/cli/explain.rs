//! `shoal explain`: where a blob came from, or is coming from, who has to do with it, and what makes it slow.

mod image;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use clap::Args;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;
use shoal_engine::Digest;

use super::blob::place::{Named, Place};
use super::output::{Output, terminal_width};
use super::{AgentSocket, Failure};
use crate::admin::client::AdminClient;
use crate::admin::status::{LimitStatus, Status};
use crate::driver::BlobStory;
use crate::image::ImageError;
use crate::stock::Part;
use crate::watch::Event;

use image::Explained;

/// Blobs whose homes are asked at a time; each asks three members.
const AT_A_TIME: usize = 4;

const HELP: &str = "\
Examples:
  shoal explain sha256:4f2a91         one blob; the beginning of its digest is
                                      enough
  shoal explain quay.io/team/app:v2   each blob of an image, and which of them
                                      to look at

What the words mean:
  count     the members that keep count of who has this blob and who receives
            it; chosen by its digest
  members   what they say: how many have all of it, how many receive it, which
            of these say that it comes slowly, and who fetches which bytes
            from upstream for all
  FROM      who sent the bytes that have come: a member, a registry or a
            mirror, the object store. OF WHAT CAME is the share of these
            bytes; RATE from its first to its last one
  PART      blobs move in pieces, and these in parts that different members
            are asked for: part 2 of 4 has the pieces 2, 6, 10, ... MISSING is
            what has not come of it, NEXT where that begins, ASKED OF the
            members that should send it

Exit status: 0 told; 2 that is no digest and no image; 4 no agent answers;
5 no such blob is known here.";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct ExplainArgs {
    /// A blob, by its digest or the beginning of it (at least 6 digits), or an image.
    #[arg(value_name = "DIGEST|IMAGE")]
    name: String,
    #[command(flatten)]
    agent: AgentSocket,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// What is known beside the story itself.
#[derive(Debug, Default)]
struct Beside {
    /// Where members are, by their names in hex.
    addresses: BTreeMap<String, String>,
    /// This node's name in hex; empty if it works alone.
    me: String,
    limits: Vec<LimitStatus>,
    /// Why the store takes nothing, in words.
    full: Option<String>,
    now_ms: u64,
}

/// An image, for programs.
#[derive(Serialize)]
struct ImageStory<'s> {
    image: &'s str,
    blobs: &'s [Explained],
}

pub(super) async fn run(args: &ExplainArgs, out: &mut Output) -> Result<ExitCode, Failure> {
    let named = named(&args.name)?;
    let client = args.agent.client()?;
    let status = client.status().await?;
    match meaning(named, &args.name, &client, &status).await? {
        Meaning::Blob(digest) => {
            let story = client.explain(&digest).await?;
            if args.json {
                out.json(&story)?;
            } else {
                let beside = Beside::ask(&client, &status).await?;
                out.bytes(text::of(&story, &beside, terminal_width()).as_bytes())?;
            }
        }
        Meaning::Image(parts) => {
            let blobs = explained(&client, parts).await?;
            if args.json {
                out.json(&ImageStory { image: &args.name, blobs: &blobs })?;
            } else {
                let beside = Beside::ask(&client, &status).await?;
                out.bytes(image::text(&args.name, &blobs, &beside, terminal_width()).as_bytes())?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

enum Meaning {
    Blob(Digest),
    Image(Vec<Part>),
}

/// The blob that is named, or nothing where it is an image.
fn named(name: &str) -> Result<Option<Named>, Failure> {
    match Named::parse(name) {
        Ok(named) => Ok(Some(named)),
        Err(wrong) if name.starts_with("sha256:") || name.starts_with("sha512:") => Err(wrong),
        Err(_) => {
            name.parse::<crate::image::Image>().map_err(|error: ImageError| Failure::Image(error))?;
            Ok(None)
        }
    }
}

async fn meaning(
    named: Option<Named>,
    name: &str,
    client: &AdminClient,
    status: &Status,
) -> Result<Meaning, Failure> {
    match named {
        Some(Named::Digest(digest)) => return Ok(Meaning::Blob(digest)),
        Some(Named::Prefix(prefix)) => {
            return Ok(Meaning::Blob(prefix.only(known(client, status).await?)?));
        }
        None => {}
    }
    let contents = client.contents(name).await?;
    if contents.parts.is_empty() {
        return Err(Failure::NotHere(name.to_owned()));
    }
    Ok(Meaning::Image(contents.parts))
}

/// Every blob that this node stores, receives, or shows on its way over the members.
async fn known(client: &AdminClient, status: &Status) -> Result<BTreeSet<Digest>, Failure> {
    let mut known: BTreeSet<Digest> = status.flights.iter().map(|flight| flight.digest).collect();
    if let Some(Event::Snapshot(snapshot)) = client.events().await?.next().await? {
        known.extend(snapshot.blobs.iter().map(|blob| blob.digest));
    }
    known.extend(Place::Agent(client.clone()).all().await?.iter().map(|blob| blob.digest));
    Ok(known)
}

async fn explained(client: &AdminClient, parts: Vec<Part>) -> Result<Vec<Explained>, Failure> {
    let each = stream::iter(parts)
        .map(|part| async move { Ok(Explained { story: client.explain(&part.digest).await?, part }) });
    each.buffered(AT_A_TIME).try_collect().await
}

impl Beside {
    async fn ask(client: &AdminClient, status: &Status) -> Result<Self, Failure> {
        let members = client.peers().await?.members;
        let me = members.iter().find(|member| member.is_self).map(|member| member.peer.clone());
        let address = |member: &crate::swarm::MemberStatus| {
            Some((member.peer.clone(), member.addresses.first()?.ip().to_string()))
        };
        let store = &status.store;
        Ok(Beside {
            addresses: members.iter().filter_map(address).collect(),
            me: me.unwrap_or_default(),
            limits: status.limits.clone(),
            full: store.trouble.as_ref().map(|trouble| super::status::in_trouble(store, trouble)),
            now_ms: crate::watch::now_ms(),
        })
    }

    /// A member, and where it is.
    fn member(&self, peer: &str) -> String {
        let name = super::member_name(peer);
        match self.addresses.get(peer) {
            _ if peer == self.me => format!("{name} (this node)"),
            Some(address) => format!("{name} ({address})"),
            None => name,
        }
    }

    /// Those limits of this node that hold back what comes from there.
    fn holding_back(&self, story: &BlobStory) -> Vec<String> {
        let from = |is_member| story.sources.iter().any(|share| share.is_member == is_member);
        // What has begun just now has no source yet.
        let applies = |limit: &&LimitStatus| match &*limit.key {
            "upstream.rate" => from(false) || story.sources.is_empty(),
            "swarm.download_rate" => from(true) || story.classes.iter().any(|class| !class.feeds.is_empty()),
            _ => false,
        };
        let held = self.limits.iter().filter(|limit| limit.holds_back());
        held.filter(applies).map(LimitStatus::in_words).collect()
    }
}

#[cfg(test)]
mod tests;
