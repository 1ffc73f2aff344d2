//! Where blobs are looked for: at the agent, or in the store of an agent that does not run.

use shoal_engine::Digest;
use shoal_store::{Store, StoreError};

use crate::admin::blobs::{BlobEntry, PAGE_MAX, Verified, page};
use crate::admin::client::{AdminClient, ClientError};
use crate::admin::stock::{GcReport, GcRequest, collect};
use crate::cli::{AgentSocket, Failure};
use crate::stock::{self, NodeStock, StockAnswer, StockRequest};
use crate::warm::NodeName;

/// Digits of a digest that are enough to mean it, if no other begins so. Fewer are more likely a slip than a name.
const PREFIX_DIGITS_MIN: usize = 6;

/// The beginning of a digest, long enough to mean one blob.
pub(in crate::cli) struct Prefix(String);

impl Prefix {
    /// `sha256:4f2a91`, or the digits alone; `None` for everything else.
    pub fn parse(name: &str) -> Option<Self> {
        let prefix = if name.contains(':') { name.to_owned() } else { format!("sha256:{name}") };
        let (algorithm, digits) = prefix.split_once(':')?;
        let is_prefix = ["sha256", "sha512"].contains(&algorithm)
            && digits.len() >= PREFIX_DIGITS_MIN
            && digits.bytes().all(|digit| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit));
        is_prefix.then_some(Prefix(prefix))
    }

    /// The one of these that begins so.
    pub fn only(&self, digests: impl IntoIterator<Item = Digest>) -> Result<Digest, Failure> {
        let Prefix(prefix) = self;
        let mut matching = digests.into_iter().filter(|digest| digest.to_string().starts_with(prefix));
        let first = matching.next().ok_or_else(|| Failure::NoSuchPrefix(prefix.clone()))?;
        match matching.count() {
            0 => Ok(first),
            others => Err(Failure::Ambiguous { prefix: prefix.clone(), count: others + 1, first }),
        }
    }
}

/// Where the blobs are.
pub(in crate::cli) enum Place {
    /// Behind a socket.
    Agent(AdminClient),
    /// In a store that this process has opened. Its calls block, which harms nobody in a process that does only this.
    Store(Store),
}

impl Place {
    /// Asks for an agent, and opens the store if there is none.
    pub async fn find(agent: &AgentSocket) -> Result<Self, Failure> {
        let client = agent.client()?;
        match client.status().await {
            Ok(_) => Ok(Place::Agent(client)),
            // Somebody who names a socket or an address means an agent.
            Err(ClientError::NoAgent { .. }) if agent.socket.is_none() && agent.api.is_none() => {
                let socket = agent.path()?;
                let options = agent.config.whereabouts()?.store_options();
                let (store, shown) = (options.path.clone(), socket.display().to_string());
                // Opening would make a store where there is none, owned by whoever asks.
                if !store.join("FORMAT").exists() {
                    return Err(Failure::NoStore { socket, store });
                }
                let opened = Store::open(options).map_err(|source| Failure::Open { socket, source })?;
                // Not on standard output, which carries the answer: it is a different store if another agent was meant.
                eprintln!("no agent answers on {shown}; the store at {} is opened directly", store.display());
                Ok(Place::Store(opened.store))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Every blob, ordered by digest.
    pub async fn all(&self) -> Result<Vec<BlobEntry>, Failure> {
        let mut blobs = Vec::new();
        let mut after = None;
        loop {
            let page = match self {
                Place::Agent(client) => client.blobs(after.as_ref()).await?,
                Place::Store(store) => page(store, after.as_ref(), PAGE_MAX)?,
            };
            blobs.extend(page.blobs);
            match page.next {
                Some(last) => after = Some(last),
                None => return Ok(blobs),
            }
        }
    }

    /// Does something with images.
    pub async fn stock(&self, request: &StockRequest) -> Result<StockAnswer, Failure> {
        match self {
            Place::Agent(client) => Ok(client.stock(request).await?),
            Place::Store(_) if request.cluster => Err(Failure::NoMembers),
            Place::Store(store) => {
                let reports = stock::carry_out(store, &request.parsed()?, request)?;
                Ok(StockAnswer { nodes: vec![NodeStock { node: NodeName::alone(), reports, error: None }] })
            }
        }
    }

    /// Cleans up.
    pub async fn gc(&self, request: &GcRequest) -> Result<GcReport, Failure> {
        Ok(match self {
            Place::Agent(client) => client.gc(request).await?,
            Place::Store(store) => collect(store, request)?,
        })
    }

    /// The digest that a name means: itself, or the one stored blob whose digest begins so.
    pub async fn resolve(&self, name: &str) -> Result<Digest, Failure> {
        if let Ok(digest) = name.parse() {
            return Ok(digest);
        }
        let prefix = Prefix::parse(name).ok_or_else(|| Failure::NoSuchPrefix(name.to_owned()))?;
        prefix.only(self.all().await?.iter().map(|blob| blob.digest))
    }

    /// Removes a blob; says whether there was one.
    pub async fn remove(&self, digest: &Digest) -> Result<bool, Failure> {
        match self {
            Place::Agent(client) => match client.remove(digest).await {
                Ok(()) => Ok(true),
                Err(ClientError::Refused { status, .. }) if status == http::StatusCode::NOT_FOUND => {
                    Ok(false)
                }
                Err(error) => Err(error.into()),
            },
            Place::Store(store) => Ok(store.remove(digest)?),
        }
    }

    /// Hashes a blob.
    pub async fn verify(&self, digest: &Digest) -> Result<Verified, Failure> {
        match self {
            Place::Agent(client) => Ok(client.verify(digest).await?),
            Place::Store(store) => Ok(store.verify(digest)?.into()),
        }
    }

    /// Keeps a blob from being evicted, or no longer.
    pub async fn pin(&self, digest: &Digest, pinned: bool) -> Result<(), Failure> {
        match self {
            Place::Agent(client) => Ok(client.pin(digest, pinned).await?),
            Place::Store(store) => {
                let change: fn(&Store, &Digest) -> Result<bool, StoreError> =
                    if pinned { Store::pin } else { Store::unpin };
                if change(store, digest)? { Ok(()) } else { Err(Failure::Missing(*digest)) }
            }
        }
    }
}
