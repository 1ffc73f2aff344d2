//! How a registry would be asked, for somebody who wants to know before it is.

use std::sync::Arc;

use shoal_engine::Registry;
use url::Url;

use super::credentials::{CredentialSource, CredentialsError};
use super::{Settings, SettingsError, endpoint};

/// Where a registry is, and whether we identify ourselves there.
#[derive(Debug)]
pub struct Reach {
    /// Scheme, host, port and path prefix.
    pub endpoint: Url,
    /// Whether there are credentials for it; an error where they are configured and cannot be had.
    pub has_credentials: Result<bool, Arc<CredentialsError>>,
}

impl Settings {
    /// How a registry would be asked. Reads password files and runs credential helpers, as a request would; connects to
    /// nothing itself.
    ///
    /// # Errors
    /// If the registry's endpoint cannot be asked.
    pub async fn reach(&self, registry: &Registry) -> Result<Reach, SettingsError> {
        let own = self.registries.get(registry).unwrap_or(&self.default);
        let resolved = CredentialSource::new(registry.clone(), own.credentials.clone()).resolve().await;
        Ok(Reach {
            endpoint: endpoint(registry, own.endpoint.as_ref())?,
            has_credentials: match resolved.problem {
                Some(problem) => Err(problem),
                None => Ok(resolved.login.is_some()),
            },
        })
    }
}
