//! Small images: how long their manifest and their blobs take from another member, which are a round trip each.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use shoal_tests::agent::Agent;
use shoal_tests::cluster::Cluster;
use shoal_tests::docker_registry::DockerRegistry;
use shoal_tests::http::{self, Client};
use shoal_tests::image::{Blob, Image, MANIFEST};

use super::setting::{self, REPOSITORY, say};
use super::table::{Figures, Metric, Table, times};

/// What can be chosen.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Print one JSON object at the end.
    #[arg(long)]
    pub json: bool,
    /// Agents.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(2..=50))]
    nodes: u16,
    /// Images, one after another, and as many again for all agents at once.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u16).range(1..=500))]
    images: u16,
}

/// Bytes of the only layer.
const LAYER_BYTES: usize = 12_000;

/// Milliseconds for each part of an image, and for all of it.
#[derive(Default)]
struct Samples {
    manifest: Vec<f64>,
    /// The configuration and the layer.
    blob: Vec<f64>,
    image: Vec<f64>,
}

impl Samples {
    fn figures(self) -> Figures {
        [times(self.manifest), times(self.blob), times(self.image)].concat()
    }

    fn extend(&mut self, others: Samples) {
        self.manifest.extend(others.manifest);
        self.blob.extend(others.blob);
        self.image.extend(others.image);
    }
}

/// Runs it.
pub async fn run(options: &Options) -> Result<Table> {
    let (nodes, images) = (usize::from(options.nodes), u64::from(options.images));
    let registry = DockerRegistry::start().await;
    say(&format!("pushing {} images", 2 * images));
    let image = |seed| Image::new(20_000 + seed, &[LAYER_BYTES]);
    let (one_by_one, at_once): (Vec<_>, Vec<_>) =
        ((0..images).map(image).collect(), (images..2 * images).map(image).collect());
    for (number, image) in one_by_one.iter().chain(&at_once).enumerate() {
        registry.push(REPOSITORY, &format!("v{number}"), image).await;
    }
    say(&format!("starting {nodes} agents"));
    let cluster = Cluster::start(&registry.url(), nodes).await;
    let straight = async |images: &[Image]| {
        let base = format!("{}/v2/{REPOSITORY}", registry.url());
        let client = Client::new();
        let mut samples = Samples::default();
        for image in images {
            samples.extend(pull(&client, image, |kind, digest| format!("{base}/{kind}/{digest}")).await?);
        }
        anyhow::Ok(samples)
    };
    say("straight from the registry, then by a first member, then by another one");
    let straight = straight(&one_by_one).await?;
    let first = all(&cluster.agents[0], &one_by_one).await?;
    let later = all(&cluster.agents[1], &one_by_one).await?;
    say("by all members at once");
    let mut crowd = Samples::default();
    for image in &at_once {
        let pulls = cluster.agents.iter().map(|agent| all(agent, std::slice::from_ref(image)));
        try_join_all(pulls).await?.into_iter().for_each(|samples| crowd.extend(samples));
    }
    // What was asked for straight, too, and what the members alone have asked for.
    for (images, expected) in [(&one_by_one, 2), (&at_once, 1)] {
        for blob in images.iter().flat_map(Image::blobs) {
            let gets = registry.blob_gets(&blob.digest);
            ensure!(gets == expected, "{} left the registry {gets} times and not {expected}", blob.digest);
        }
    }
    let metrics = vec![
        Metric { name: "manifest_p50", unit: "ms" },
        Metric { name: "manifest_p99", unit: "ms" },
        Metric { name: "blob_p50", unit: "ms" },
        Metric { name: "blob_p99", unit: "ms" },
        Metric { name: "image_p50", unit: "ms, one after the other" },
        Metric { name: "image_p99", unit: "ms" },
    ];
    let conditions = format!(
        "{images} images of a manifest, a configuration and a layer of {LAYER_BYTES} bytes, asked for by their digests by one of {nodes} \
         members after another one has them; {} cores for all of it",
        setting::cores(),
    );
    let mut table = Table::new("small", metrics, later.figures(), conditions);
    table.peer("first member", first.figures());
    table.peer("all at once", crowd.figures());
    table.peer("registry itself", straight.figures());
    table.peer("goal", vec![None, None, None, Some(5.0), None, None]);
    Ok(table)
}

/// Pulls images by an agent, one after another.
async fn all(agent: &Agent, images: &[Image]) -> Result<Samples> {
    let client = agent.client();
    let mut samples = Samples::default();
    for image in images {
        let url = |kind: &str, digest: &str| match kind {
            "manifests" => agent.manifest(REPOSITORY, digest),
            _ => agent.blob(REPOSITORY, digest),
        };
        samples.extend(pull(&client, image, url).await?);
    }
    Ok(samples)
}

/// Pulls an image as a runtime does: its manifest, then its configuration, then its layer.
async fn pull(client: &Client, image: &Image, url: impl Fn(&str, &str) -> String) -> Result<Samples> {
    let get = async |kind: &str, blob: &Blob| {
        // Without the type a registry takes the client for an old one.
        let asked = client.request("GET", &url(kind, &blob.digest)).header("Accept", MANIFEST);
        let answer = http::read(asked).await;
        ensure!(
            answer.status == 200 && answer.body == blob.bytes,
            "{}: wrong bytes or {}",
            blob.digest,
            answer.status
        );
        Ok(answer.total)
    };
    let manifest = get("manifests", &image.manifest).await?;
    let mut blobs = Vec::new();
    for blob in image.blobs() {
        blobs.push(get("blobs", blob).await?);
    }
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let image = manifest + blobs.iter().sum::<Duration>();
    Ok(Samples {
        manifest: vec![ms(manifest)],
        blob: blobs.into_iter().map(ms).collect(),
        image: vec![ms(image)],
    })
}
