//! Mirrors and the registry itself: which server is asked for what, in which order, and what clients see when some of
//! them fail. Real agents before servers that are scripted to the byte, then before real registries and nginx with real
//! clients. The names of the rows (F1, T4, M3, ...) are those of the contract.

mod blobs;
mod composition;
mod health;
mod lies;
mod pulls;
mod tags;

use std::time::Instant;

use shoal_tests::agent::{Agent, REGISTRY, Setup};
use shoal_tests::http::Client;
use shoal_tests::image::{Blob, Image};
use shoal_tests::origin::{Kind, Origin, Seen};
use toml::{Table, Value};

/// The repository that most tests use.
const REPOSITORY: &str = "team/app";

/// Bytes that a reset may take away although they had left the server.
const WINDOW_BYTES: u64 = 6 << 20;

/// What an agent calls its n-th mirror.
fn mirror(n: usize) -> String {
    format!("mirror-{n}.test")
}

/// A set of mirrors of a source, as the configuration has it.
struct Set(Table);

impl Set {
    fn new<'a>(source: &str, mirrors: impl IntoIterator<Item = &'a str>) -> Self {
        let mirrors: Vec<Value> = mirrors.into_iter().map(Value::from).collect();
        let mut table = Table::new();
        table.insert("source".into(), source.into());
        table.insert("mirrors".into(), mirrors.into());
        Set(table)
    }

    /// The first so many mirrors of [`REGISTRY`].
    fn first(count: usize) -> Self {
        let names: Vec<String> = (0..count).map(mirror).collect();
        Set::new(REGISTRY, names.iter().map(String::as_str))
    }

    fn key(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.into(), value.into());
        self
    }
}

/// Writes mirror sets into an agent's configuration.
fn with_sets(setup: Setup, sets: Vec<Set>) -> Setup {
    setup.set("mirrors.sets", sets.into_iter().map(|set| Value::Table(set.0)).collect::<Vec<_>>())
}

/// Tells where the mirrors are.
fn with_endpoints<'a>(setup: Setup, urls: impl IntoIterator<Item = &'a str>) -> Setup {
    urls.into_iter().enumerate().fold(setup, |setup, (n, url)| setup.registry(&mirror(n), url))
}

/// Some mirrors, the registry that they mirror, and an agent that knows all of them.
struct Stand {
    mirrors: Vec<Origin>,
    origin: Origin,
    agent: Agent,
    client: Client,
}

impl Stand {
    /// With so many mirrors, for digests only.
    async fn new(mirrors: usize) -> Self {
        let sets = if mirrors == 0 { Vec::new() } else { vec![Set::first(mirrors)] };
        Stand::with(mirrors, sets, |setup| setup).await
    }

    async fn with(mirrors: usize, sets: Vec<Set>, change: impl FnOnce(Setup) -> Setup) -> Self {
        let origin = Origin::start().await;
        let mut started = Vec::new();
        for _ in 0..mirrors {
            started.push(Origin::start().await);
        }
        let urls: Vec<String> = started.iter().map(Origin::url).collect();
        // A layer is asked for when the test asks for it, so that the order of requests is the test's own.
        let setup = Setup::new(&origin.url()).set("prefetch.layers", false);
        let setup = with_sets(with_endpoints(setup, urls.iter().map(String::as_str)), sets);
        let agent = change(setup).start().await;
        Stand { mirrors: started, origin, agent, client: Client::new() }
    }

    fn all(&self) -> impl Iterator<Item = &Origin> {
        self.mirrors.iter().chain([&self.origin])
    }

    /// Everybody has the blob.
    fn add_blob(&self, blob: &Blob) {
        self.all().for_each(|origin| origin.add_blob(blob));
    }

    /// Everybody has the image.
    fn add_image(&self, repository: &str, tag: &str, image: &Image) {
        self.all().for_each(|origin| origin.add_image(repository, tag, image));
    }

    /// GETs of a blob that each has seen, the registry's own last.
    fn blob_gets(&self, digest: &str) -> Vec<usize> {
        self.all().map(|origin| origin.blob_gets(digest)).collect()
    }

    /// Requests of a kind that each has seen, the registry's own last.
    fn requests(&self, kind: Kind) -> Vec<usize> {
        self.all().map(|origin| origin.seen().iter().filter(|seen| seen.kind == kind).count()).collect()
    }

    /// Who was asked what since then, in order: the number of the mirror, or of the registry, which comes last.
    fn order(&self, since: Instant, wanted: impl Fn(&Seen) -> bool) -> Vec<usize> {
        let mut asked: Vec<(Instant, usize)> = Vec::new();
        for (n, origin) in self.all().enumerate() {
            let seen = origin.seen();
            asked
                .extend(seen.iter().filter(|seen| seen.at >= since && wanted(seen)).map(|seen| (seen.at, n)));
        }
        asked.sort();
        asked.into_iter().map(|(_, n)| n).collect()
    }
}
