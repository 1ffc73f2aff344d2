//! The machine's own resolver.

use std::io;
use std::net::IpAddr;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::RData;

use super::{LookupError, Resolver};

/// Names by the C library, so that the hosts file and whatever else the machine is set up for count; services, which it
/// cannot look up, by the servers of `/etc/resolv.conf`.
#[derive(Clone, Debug, Default)]
pub struct SystemResolver(());

impl SystemResolver {
    /// Reads nothing yet: `/etc/resolv.conf` is read for each lookup of a service, for it changes on laptops.
    pub fn new() -> Self {
        Self(())
    }
}

impl Resolver for SystemResolver {
    fn addresses<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, LookupError>> {
        async move {
            let found =
                tokio::net::lookup_host((name, 0)).await.map_err(|error: io::Error| failed(&error))?;
            Ok(found.map(|address| address.ip()).collect())
        }
        .boxed()
    }

    fn service<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<(String, u16)>, LookupError>> {
        async move {
            let resolver = TokioResolver::builder_tokio()
                .and_then(|builder| builder.build())
                .map_err(|error| failed(&error))?;
            let found = resolver.srv_lookup(name).await.map_err(|error| failed(&error))?;
            let nodes = found.answers().iter().filter_map(|record| match &record.data {
                RData::SRV(node) => Some((node.target.to_utf8(), node.port)),
                _ => None,
            });
            Ok(nodes.collect())
        }
        .boxed()
    }
}

fn failed(error: &dyn std::error::Error) -> LookupError {
    LookupError::Failed(error.to_string())
}
