//! How a registry's content may be handed out: its access mode, and whether it is kept.

use serde::{Deserialize, Serialize};
use shoal_engine::Registry;

use super::credentials::{CredentialSource, Credentials};
use super::source::Source;
use super::{RegistrySettings, Upstream};

/// Who gets a registry's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccessMode {
    /// Whoever reaches the port. Asked with our own credentials.
    Open,
    /// Whoever reaches the port, of what everybody can pull: the registry is asked anonymously, even if we have
    /// credentials.
    PublicOnly,
    /// Who shows a token that the registry accepts for the repository.
    Verify,
}

/// What is done with a registry's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Who gets it.
    pub mode: AccessMode,
    /// Whether it is stored.
    pub cache: bool,
    /// Whether the operator has named the registry. Of the others nothing is known but that a client has named them.
    pub is_configured: bool,
}

impl Upstream {
    /// What is done with a registry's content, as of now: credentials in a Docker configuration come and go.
    pub async fn policy(&self, registry: &Registry) -> Policy {
        let configured = self.inner.registries.get(registry);
        let settings = configured.unwrap_or(&self.inner.default);
        let mode = match settings.access {
            Some(mode) => mode,
            None if settings.identifies_us() => AccessMode::Open,
            None if self.has_credentials(registry).await => AccessMode::Open,
            None => AccessMode::PublicOnly,
        };
        Policy { mode, cache: settings.cache, is_configured: configured.is_some() }
    }

    /// Whether the operator has named the registry.
    pub fn is_configured(&self, registry: &Registry) -> bool {
        self.inner.registries.contains_key(registry)
    }
}

impl RegistrySettings {
    /// Whether the registry knows us by something that was configured for it alone. A password file that cannot be read
    /// is no reason to ask for something else than was configured.
    fn identifies_us(&self) -> bool {
        let by_password = match self.credentials {
            Credentials::Password { .. } | Credentials::PasswordFile { .. } => true,
            Credentials::Anonymous | Credentials::DockerConfigs { .. } => false,
        };
        by_password || self.client_identity.is_some()
    }

    /// The credentials that the registry is shown.
    pub(super) fn shown(&self) -> Credentials {
        match self.access {
            Some(AccessMode::PublicOnly) => Credentials::Anonymous,
            Some(AccessMode::Open | AccessMode::Verify) | None => self.credentials.clone(),
        }
    }

    /// Whether the registry is shown the client certificate.
    pub(super) fn shows_certificate(&self) -> bool {
        self.access != Some(AccessMode::PublicOnly) && self.client_identity.is_some()
    }
}

impl Source {
    /// Whether we have a login for it, as of now.
    pub(super) async fn has_login(&self) -> bool {
        CredentialSource::resolve(&self.credentials).await.login.is_some()
    }
}
