//! Where our own credentials come from, and how they are kept from being seen: a [`Secret`] has no text form, and a
//! credential is resolved only when a registry asks for one.
//!
//! Files are read and helpers run off the async threads and with a deadline, so a sick disk or helper costs one
//! request its credentials, never the agent its threads. What was read is used again only while the file is
//! unchanged: Kubernetes replaces mounted secrets, and ECR's passwords live for twelve hours.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use shoal_engine::Registry;
use tokio::time::Instant;

use super::helper;
use super::limits::{CREDENTIALS_BYTES_MAX, CREDENTIALS_RETRY, HELPER_ANSWER_LIFETIME};
use crate::causes::chain;
use crate::stamp::Stamp;

/// A text that is never shown: not by `Debug`, not in an error, not in a log.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The text itself, for the one place that sends it.
    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// How this agent identifies itself to a registry. The client's own credentials are never used (C15).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Credentials {
    /// Not at all.
    #[default]
    Anonymous,
    /// With a user name and a password.
    Password {
        /// User name.
        username: String,
        /// Password.
        password: Secret,
    },
    /// With a user name and the password in a file, whose last line break does not count.
    PasswordFile {
        /// User name.
        username: String,
        /// File with the password, read again when it changes.
        path: PathBuf,
    },
    /// With what the first of several Docker `config.json` that knows the registry has for it: `auths`, `credHelpers`, `credsStore`.
    DockerConfigs {
        /// The files, read again when one of them changes.
        paths: Vec<PathBuf>,
    },
}

/// What a registry or a token endpoint is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Login {
    /// User name and password.
    Password { username: String, password: Secret },
    /// A refresh token, to be exchanged at the token endpoint.
    IdentityToken(Secret),
}

/// Why there is no credential although one is configured. The operator has to help; the request goes on anonymously,
/// because most images are public.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file cannot be read.
    #[error("{path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: std::io::Error,
    },
    /// The file is larger than any password or Docker configuration.
    #[error("{0} has more than {CREDENTIALS_BYTES_MAX} bytes")]
    TooLarge(PathBuf),
    /// The file is not a Docker configuration, or an entry of it is malformed. The parser's text is not passed on: it
    /// may quote the file.
    #[error("{path} is no usable Docker configuration for {server}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The registry that was looked up.
        server: String,
    },
    /// The credential helper failed.
    #[error(transparent)]
    Helper(#[from] helper::HelperError),
}

/// What was found for a registry.
#[derive(Clone, Debug, Default)]
pub(super) struct Resolved {
    /// The credential; none means anonymous.
    pub login: Option<Arc<Login>>,
    /// Why there is none although one is configured.
    pub problem: Option<Arc<CredentialsError>>,
}

/// Who gave a credential, which decides how long it can be relied on.
enum Origin {
    File,
    Helper,
}

struct Kept {
    resolved: Resolved,
    stamps: Vec<Option<Stamp>>,
    read_at: Instant,
    /// How long it may be used; without a limit, until the file changes.
    lifetime: Option<Duration>,
}

/// One registry's credentials, resolved when needed and kept while they are known to be current.
pub(super) struct CredentialSource {
    registry: Registry,
    credentials: Credentials,
    kept: Mutex<Option<Kept>>,
    /// One look-up at a time: a helper started forty times at once helps nobody.
    looking: tokio::sync::Mutex<()>,
}

impl CredentialSource {
    pub fn new(registry: Registry, credentials: Credentials) -> Self {
        CredentialSource {
            registry,
            credentials,
            kept: Mutex::new(None),
            looking: tokio::sync::Mutex::new(()),
        }
    }

    /// The credential as of now.
    pub async fn resolve(&self) -> Resolved {
        let paths = match &self.credentials {
            Credentials::Anonymous => return Resolved::default(),
            Credentials::Password { .. } => &[],
            Credentials::PasswordFile { path, .. } => std::slice::from_ref(path),
            Credentials::DockerConfigs { paths } => paths.as_slice(),
        };
        let _one = self.looking.lock().await;
        let stamps = stamps_of(paths).await;
        if let Some(kept) = &*self.kept.lock()
            && kept.stamps == stamps
            && kept.lifetime.is_none_or(|lifetime| kept.read_at.elapsed() < lifetime)
        {
            return kept.resolved.clone();
        }
        let (resolved, lifetime) = match self.look_up().await {
            Ok((login, Origin::File)) => (Resolved { login: login.map(Arc::new), problem: None }, None),
            Ok((login, Origin::Helper)) => {
                (Resolved { login: login.map(Arc::new), problem: None }, Some(HELPER_ANSWER_LIFETIME))
            }
            Err(error) => {
                tracing::warn!(registry = %self.registry, error = %chain(&error), "no credentials; asking anonymously");
                (Resolved { login: None, problem: Some(Arc::new(error)) }, Some(CREDENTIALS_RETRY))
            }
        };
        *self.kept.lock() =
            Some(Kept { resolved: resolved.clone(), stamps, read_at: Instant::now(), lifetime });
        resolved
    }

    /// The registry did not accept the credential: a helper is asked again soon. A file is read when it changes.
    pub fn doubt(&self) {
        if let Some(kept) = &mut *self.kept.lock() {
            kept.lifetime = kept.lifetime.map(|lifetime| lifetime.min(CREDENTIALS_RETRY));
        }
    }

    /// Why there is no credential although one is configured, as of the last look-up.
    pub fn problem(&self) -> Option<Arc<CredentialsError>> {
        self.kept.lock().as_ref()?.resolved.problem.clone()
    }

    async fn look_up(&self) -> Result<(Option<Login>, Origin), CredentialsError> {
        match &self.credentials {
            Credentials::Anonymous => Ok((None, Origin::File)),
            Credentials::Password { username, password } => {
                let login = Login::Password { username: username.clone(), password: password.clone() };
                Ok((Some(login), Origin::File))
            }
            Credentials::PasswordFile { username, path } => {
                let bytes = read_bounded(path).await?;
                let text = String::from_utf8_lossy(&bytes);
                let password = Secret::new(
                    text.strip_suffix('\n').map_or(&*text, |t| t.strip_suffix('\r').unwrap_or(t)),
                );
                Ok((Some(Login::Password { username: username.clone(), password }), Origin::File))
            }
            Credentials::DockerConfigs { paths } => self.docker_configs(paths).await,
        }
    }

    /// The first file that knows the registry. One that is of no use hides none of the others, and is told of.
    async fn docker_configs(&self, paths: &[PathBuf]) -> Result<(Option<Login>, Origin), CredentialsError> {
        let (mut failure, mut origin) = (None, Origin::File);
        for path in paths {
            match self.docker_config(path).await {
                Ok((Some(login), origin)) => {
                    if let Some(error) = &failure {
                        tracing::warn!(registry = %self.registry, error = %chain(error), file = %path.display(), "credentials are those of a later file");
                    }
                    return Ok((Some(login), origin));
                }
                Ok((None, Origin::Helper)) => origin = Origin::Helper,
                Ok((None, Origin::File)) => {}
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok((None, origin)), Err)
    }

    /// Docker's order: the registry's own helper, an entry of the file, the store of all others.
    async fn docker_config(&self, path: &Path) -> Result<(Option<Login>, Origin), CredentialsError> {
        let bytes = read_bounded(path).await?;
        let malformed =
            || CredentialsError::Malformed { path: path.to_owned(), server: self.registry.to_string() };
        let mut document: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&bytes).map_err(|_| malformed())?;
        let helpers = document.remove("credHelpers");
        let store = document.remove("credsStore");
        let names = server_names(&self.registry);
        let own = helpers
            .as_ref()
            .and_then(|helpers| names.iter().find_map(|name| Some((*name, helpers.get(name)?.as_str()?))));
        if let Some((server, helper)) = own.filter(|(_, helper)| !helper.is_empty()) {
            return Ok((helper::get(helper, server).await?, Origin::Helper));
        }
        let rest = serde_json::to_vec(&document).map_err(|_| malformed())?;
        if let Some(login) = entry(&rest, self.registry.as_str()).map_err(|()| malformed())? {
            return Ok((Some(login), Origin::File));
        }
        match store.as_ref().and_then(|store| store.as_str()).filter(|store| !store.is_empty()) {
            Some(store) => Ok((helper::get(store, names[0]).await?, Origin::Helper)),
            None => Ok((None, Origin::File)),
        }
    }
}

/// The names under which Docker's configuration may have a registry; the first is the one `docker login` writes.
fn server_names(registry: &Registry) -> Vec<&str> {
    if registry.as_str() == Registry::DOCKER_HUB {
        return vec!["https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io"];
    }
    vec![registry.as_str()]
}

/// An entry of `auths`. The document has no helpers any more, so nothing is started here.
fn entry(document: &[u8], server: &str) -> Result<Option<Login>, ()> {
    use docker_credential::{CredentialRetrievalError, DockerCredential, get_credential_from_reader};
    match get_credential_from_reader(document, server) {
        Ok(DockerCredential::IdentityToken(token)) => Ok(Some(Login::IdentityToken(Secret::new(token)))),
        Ok(DockerCredential::UsernamePassword(username, password)) => {
            Ok(Some(Login::Password { username, password: Secret::new(password) }))
        }
        Err(CredentialRetrievalError::NoCredentialConfigured) => Ok(None),
        Err(_) => Err(()),
    }
}

async fn stamps_of(paths: &[PathBuf]) -> Vec<Option<Stamp>> {
    let mut stamps = Vec::with_capacity(paths.len());
    for path in paths {
        stamps.push(Stamp::look(path).await);
    }
    stamps
}

async fn read_bounded(path: &Path) -> Result<Vec<u8>, CredentialsError> {
    use tokio::io::AsyncReadExt as _;
    let failed = |error| CredentialsError::Read { path: path.to_owned(), error };
    let mut bytes = Vec::new();
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    file.take(CREDENTIALS_BYTES_MAX + 1).read_to_end(&mut bytes).await.map_err(failed)?;
    if bytes.len() as u64 > CREDENTIALS_BYTES_MAX {
        return Err(CredentialsError::TooLarge(path.to_owned()));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
