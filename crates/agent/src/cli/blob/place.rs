//! Where blobs are looked for: at the agent, or in the store of an agent that does not run.

use shoal_engine::{Algorithm, Digest};
use shoal_store::{Store, StoreError};

use crate::admin::blobs::{BlobEntry, PAGE_MAX, Verified, page};
use crate::admin::client::{AdminClient, ClientError};
use crate::admin::stock::{GcReport, GcRequest, collect};
use crate::cli::{AgentSocket, Failure};
use crate::stock::{self, NodeStock, StockAnswer, StockRequest};
use crate::warm::NodeName;

/// Digits of a digest that are enough to mean it, if no other begins so. Fewer are more likely a slip than a name.
const PREFIX_DIGITS_MIN: usize = 6;

/// A blob as people name it. Looked at before anybody is asked: what is none is the command's mistake, and nothing is done then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Named {
    /// By its digest.
    Digest(Digest),
    /// By the beginning of it.
    Prefix(Prefix),
}

impl Named {
    /// `sha256:4f2a91`, or the digits alone.
    pub fn parse(name: &str) -> Result<Self, Failure> {
        if let Ok(digest) = name.parse() {
            return Ok(Named::Digest(digest));
        }
        let wrong = |reason: String| Failure::NoDigest { name: name.to_owned(), reason };
        let (algorithm, digits) = name.split_once(':').unwrap_or(("sha256", name));
        let digits_max = match algorithm {
            "sha256" => 2 * Algorithm::Sha256.hash_len(),
            "sha512" => 2 * Algorithm::Sha512.hash_len(),
            _ => return Err(wrong("it begins with sha256: or sha512:".into())),
        };
        let is_digit = |digit: char| matches!(digit, '0'..='9' | 'a'..='f');
        match digits.chars().find(|digit| !is_digit(*digit)) {
            Some(other) => {
                Err(wrong(format!("{other:?} is none of its digits, which are 0 to 9 and a to f")))
            }
            None if digits.len() < PREFIX_DIGITS_MIN => {
                Err(wrong(format!("it is too short; give at least {PREFIX_DIGITS_MIN} digits")))
            }
            None if digits.len() > digits_max => {
                Err(wrong(format!("it has {} digits, which are {digits_max} at most", digits.len())))
            }
            None => Ok(Named::Prefix(Prefix(format!("{algorithm}:{digits}")))),
        }
    }

    /// All of them, or what is wrong with the first that is none.
    pub fn all(names: &[String]) -> Result<Vec<Self>, Failure> {
        names.iter().map(|name| Named::parse(name)).collect()
    }
}

/// The beginning of a digest, long enough to mean one blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Prefix(String);

impl Prefix {
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

    /// What is known of a blob, if it is there.
    pub async fn blob(&self, digest: &Digest) -> Result<Option<BlobEntry>, Failure> {
        match self {
            Place::Agent(client) => match client.blob(digest).await {
                Ok(blob) => Ok(Some(blob)),
                Err(ClientError::Refused { status, .. }) if status == http::StatusCode::NOT_FOUND => Ok(None),
                Err(error) => Err(error.into()),
            },
            Place::Store(store) => Ok(store.peek(digest)?.map(BlobEntry::from)),
        }
    }

    /// The digest that a name means: itself, or the one stored blob whose digest begins so.
    pub async fn resolve(&self, name: &Named) -> Result<Digest, Failure> {
        match name {
            Named::Digest(digest) => Ok(*digest),
            Named::Prefix(prefix) => prefix.only(self.all().await?.iter().map(|blob| blob.digest)),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_as_people_name_them() {
        let digest = format!("sha256:{}", "4f".repeat(32));
        assert_eq!(Named::parse(&digest).unwrap(), Named::Digest(digest.parse().unwrap()));
        for (name, prefix) in [
            ("sha256:4f2a91", "sha256:4f2a91"),
            ("4f2a91", "sha256:4f2a91"),
            ("sha512:0123456", "sha512:0123456"),
        ] {
            assert_eq!(Named::parse(name).unwrap(), Named::Prefix(Prefix(prefix.into())), "{name}");
        }
        for (name, reason) in [
            ("sha256:aaf", "too short; give at least 6 digits"),
            ("", "too short; give at least 6 digits"),
            ("foo", "'o' is none of its digits"),
            ("sha256:4F2A91", "'F' is none of its digits"),
            ("md5:4f2a91", "begins with sha256: or sha512:"),
            (&format!("{digest}00"), "has 66 digits, which are 64 at most"),
        ] {
            let failure = Named::parse(name).unwrap_err();
            assert!(matches!(failure, Failure::NoDigest { .. }), "{name}: {failure}");
            assert!(failure.to_string().contains(reason), "{name}: {failure}");
        }
    }
}
