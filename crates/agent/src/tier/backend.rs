//! From the settings to a store that can be asked: S3 and what speaks like it, Google, Azure, a directory.
//!
//! Making one connects to nothing. It is made anew when the file with the credentials has changed, and it is made late
//! where it needs something that may come late: a directory on a network file system that is not mounted yet.

use std::path::Path;
use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::{BackoffConfig, ObjectStore, RetryConfig};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use url::Url;

use super::credentials::{self, AzureKeys, BucketCredentials, S3Keys};
use super::error::TierFault;
use super::limits::{CREDENTIALS_CHECK, REPEAT_PAUSE};
use super::transport::Connector;
use super::{Bucket, TierSettings, TierSettingsError};
use crate::stamp::Stamp;

/// Looks at a directory at once. A healthy one answers in microseconds.
const LOOKS_MAX: usize = 4;

/// What a credentials file has to hold.
const S3_FORM: &str = "access_key_id and secret_access_key, perhaps session_token, in TOML";
const AZURE_FORM: &str = "account_key or sas_token in TOML";
const GOOGLE_FORM: &str = "a service account's key in JSON";

/// The store, made from the settings when it is needed.
pub(super) struct Backend {
    settings: TierSettings,
    connector: Connector,
    made: tokio::sync::Mutex<Option<Made>>,
    /// Threads that may look at a directory at once. A file system that hangs keeps them, and no others.
    looks: Arc<Semaphore>,
}

struct Made {
    store: Arc<dyn ObjectStore>,
    /// Of the credentials file, when the store was made.
    stamp: Option<Stamp>,
    looked_at: Instant,
}

impl Backend {
    /// Refuses what can be refused without asking anybody and reading anything.
    pub fn new(settings: &TierSettings) -> Result<Self, TierSettingsError> {
        let backend = Backend {
            settings: settings.clone(),
            connector: Connector::new(settings)?,
            made: tokio::sync::Mutex::new(None),
            looks: Arc::new(Semaphore::new(LOOKS_MAX)),
        };
        // A file may be unreadable for a moment, while it is replaced; an environment does not change.
        let is_fixed = !matches!(settings.credentials, BucketCredentials::File(_));
        if is_fixed && !matches!(settings.bucket, Bucket::Directory { .. }) {
            backend.make(None).map_err(TierSettingsError::Credentials)?;
        }
        Ok(backend)
    }

    /// A backend that is already there.
    #[cfg(test)]
    pub fn of(settings: &TierSettings, store: Arc<dyn ObjectStore>) -> Self {
        let made = Made { store, stamp: None, looked_at: Instant::now() };
        Backend {
            settings: settings.clone(),
            connector: Connector::new(settings).unwrap(),
            made: tokio::sync::Mutex::new(Some(made)),
            looks: Arc::new(Semaphore::new(LOOKS_MAX)),
        }
    }

    /// The store as of now.
    pub async fn store(&self) -> Result<Arc<dyn ObjectStore>, TierFault> {
        if let Bucket::Directory { path } = &self.settings.bucket {
            return self.directory(path).await;
        }
        let mut made = self.made.lock().await;
        let BucketCredentials::File(path) = &self.settings.credentials else {
            let made = match &mut *made {
                Some(made) => made,
                none => none.insert(self.made(self.make(None).map_err(TierFault::Credentials)?, None)),
            };
            return Ok(Arc::clone(&made.store));
        };
        if let Some(made) = &mut *made
            && made.looked_at.elapsed() < CREDENTIALS_CHECK
        {
            return Ok(Arc::clone(&made.store));
        }
        let stamp = Stamp::look(path).await;
        if let Some(made) = &mut *made
            && made.stamp == stamp
        {
            made.looked_at = Instant::now();
            return Ok(Arc::clone(&made.store));
        }
        let fresh = match credentials::read(path).await {
            Ok(text) => self.make(Some(&text)),
            Err(reason) => Err(reason),
        };
        match (fresh, &mut *made) {
            (Ok(store), made) => *made = Some(self.made(store, stamp)),
            (Err(reason), None) => return Err(TierFault::Credentials(reason)),
            (Err(reason), Some(old)) => {
                tracing::warn!(%reason, "the object store's new credentials cannot be used; going on with the old ones");
                old.looked_at = Instant::now();
            }
        }
        let made = made.as_ref().expect("it was there or has just been made");
        Ok(Arc::clone(&made.store))
    }

    /// The store in a directory that can be looked at just now. Nothing else is asked of a file system that hangs: each question
    /// would keep a thread for as long as that lasts.
    async fn directory(&self, path: &Path) -> Result<Arc<dyn ObjectStore>, TierFault> {
        let permit = Arc::clone(&self.looks).acquire_owned().await.expect("never closed");
        let known = self.made.lock().await.as_ref().map(|made| Arc::clone(&made.store));
        let path = path.to_owned();
        let look = move || {
            let _permit = permit;
            // Whatever it says: what matters is that it comes back.
            let _ = std::fs::metadata(&path);
            known.map_or_else(|| directory(&path), Ok)
        };
        let ended = |_| TierFault::Directory("it could not be looked at".to_owned());
        let store = tokio::task::spawn_blocking(look).await.map_err(ended)?.map_err(TierFault::Directory)?;
        *self.made.lock().await = Some(self.made(Arc::clone(&store), None));
        Ok(store)
    }

    fn made(&self, store: Arc<dyn ObjectStore>, stamp: Option<Stamp>) -> Made {
        Made { store, stamp, looked_at: Instant::now() }
    }

    /// `file` is the text of the credentials file, if there is one.
    fn make(&self, file: Option<&str>) -> Result<Arc<dyn ObjectStore>, String> {
        match &self.settings.bucket {
            Bucket::S3 { bucket, region, endpoint, path_style } => {
                self.s3(file, bucket, region, endpoint.as_ref(), *path_style)
            }
            Bucket::Azure { account, container, endpoint } => {
                self.azure(file, account, container, endpoint.as_ref())
            }
            Bucket::Google { bucket, endpoint } => self.google(file, bucket, endpoint.as_ref()),
            Bucket::Directory { path } => directory(path),
        }
    }

    fn s3(
        &self,
        file: Option<&str>,
        bucket: &str,
        region: &str,
        endpoint: Option<&Url>,
        path_style: bool,
    ) -> Result<Arc<dyn ObjectStore>, String> {
        let is_plain = endpoint.is_some_and(|url| url.scheme() == "http");
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(bucket)
            .with_region(region)
            .with_virtual_hosted_style_request(!path_style)
            // Over TLS nothing changes on the way, and readers check the digest: no need to hash every part twice.
            .with_unsigned_payload(!is_plain)
            .with_retry(self.retry())
            .with_http_connector(self.connector.clone());
        if let Some(endpoint) = endpoint {
            let in_host = (!path_style).then_some(bucket);
            builder =
                builder.with_endpoint(endpoint_text(endpoint, in_host).ok_or("the endpoint is no host")?);
        }
        match (&self.settings.credentials, file) {
            (BucketCredentials::Anonymous, _) => builder = builder.with_skip_signature(true),
            (BucketCredentials::File(path), text) => {
                let keys: S3Keys = self.keys(path, text, S3_FORM)?;
                builder = builder
                    .with_access_key_id(keys.access_key_id)
                    .with_secret_access_key(keys.secret_access_key);
                if let Some(token) = keys.session_token {
                    builder = builder.with_token(token);
                }
            }
            (BucketCredentials::Environment, _) => {
                for (name, value) in credentials::environment(&credentials::S3_VARIABLES) {
                    builder = builder.with_config(known::<AmazonS3ConfigKey>(&name), value);
                }
            }
        }
        builder.build().map(arc).map_err(|_| self.unusable(S3_FORM))
    }

    fn azure(
        &self,
        file: Option<&str>,
        account: &str,
        container: &str,
        endpoint: Option<&Url>,
    ) -> Result<Arc<dyn ObjectStore>, String> {
        let mut builder = MicrosoftAzureBuilder::new()
            .with_account(account)
            .with_container_name(container)
            .with_retry(self.retry())
            .with_http_connector(self.connector.clone());
        if let Some(endpoint) = endpoint {
            builder = builder.with_endpoint(endpoint.as_str().trim_end_matches('/').to_owned());
        }
        match (&self.settings.credentials, file) {
            (BucketCredentials::Anonymous, _) => builder = builder.with_skip_signature(true),
            (BucketCredentials::File(path), text) => {
                let keys: AzureKeys = self.keys(path, text, AZURE_FORM)?;
                builder = match (keys.account_key, keys.sas_token) {
                    (Some(key), None) => builder.with_access_key(key),
                    (None, Some(token)) => builder.with_config(AzureConfigKey::SasKey, token),
                    _ => return Err(self.unusable(AZURE_FORM)),
                };
            }
            (BucketCredentials::Environment, _) => {
                for (name, value) in credentials::environment(&credentials::AZURE_VARIABLES) {
                    builder = builder.with_config(known::<AzureConfigKey>(&name), value);
                }
            }
        }
        builder.build().map(arc).map_err(|_| self.unusable(AZURE_FORM))
    }

    fn google(
        &self,
        file: Option<&str>,
        bucket: &str,
        endpoint: Option<&Url>,
    ) -> Result<Arc<dyn ObjectStore>, String> {
        let mut builder = GoogleCloudStorageBuilder::new()
            .with_bucket_name(bucket)
            .with_retry(self.retry())
            .with_http_connector(self.connector.clone());
        if let Some(endpoint) = endpoint {
            builder = builder.with_base_url(endpoint.as_str().trim_end_matches('/'));
        }
        match (&self.settings.credentials, file) {
            // A token keeps the library from looking for credentials; without a signature it is not sent.
            (BucketCredentials::Anonymous, _) => {
                builder = builder.with_bearer_token("").with_skip_signature(true);
            }
            (BucketCredentials::File(path), text) => {
                let text = text.ok_or_else(|| unread(path))?;
                builder = builder.with_service_account_key(text);
            }
            (BucketCredentials::Environment, _) => {
                for (name, value) in credentials::environment(&credentials::GOOGLE_VARIABLES) {
                    builder = builder.with_config(known::<GoogleConfigKey>(&name), value);
                }
            }
        }
        builder.build().map(arc).map_err(|_| self.unusable(GOOGLE_FORM))
    }

    fn keys<T: serde::de::DeserializeOwned>(
        &self,
        path: &Path,
        text: Option<&str>,
        form: &str,
    ) -> Result<T, String> {
        let text = text.ok_or_else(|| unread(path))?;
        credentials::parse(text).ok_or_else(|| self.unusable(form))
    }

    /// The library's words are not passed on: they may quote what it was given.
    fn unusable(&self, form: &str) -> String {
        match &self.settings.credentials {
            BucketCredentials::File(path) => format!("{} must hold {form}", path.display()),
            BucketCredentials::Environment | BucketCredentials::Anonymous => {
                "the credentials in the environment cannot be used".into()
            }
        }
    }

    /// One repetition, for a connection that the server had closed: whatever else fails is asked elsewhere.
    fn retry(&self) -> RetryConfig {
        let backoff = BackoffConfig {
            init_backoff: REPEAT_PAUSE,
            max_backoff: REPEAT_PAUSE,
            ..BackoffConfig::default()
        };
        RetryConfig { backoff, max_retries: 1, retry_timeout: self.settings.header_timeout }
    }
}

fn arc<S: ObjectStore>(store: S) -> Arc<dyn ObjectStore> {
    Arc::new(store)
}

fn unread(path: &Path) -> String {
    format!("{} has not been read", path.display())
}

/// One of the names listed in `credentials`; a test asks for every one.
fn known<K: std::str::FromStr<Err = object_store::Error>>(name: &str) -> K {
    name.parse().expect("the library knows the names that are listed")
}

/// The endpoint as the library takes it: without a slash at its end, and with the bucket where requests will go.
fn endpoint_text(endpoint: &Url, bucket: Option<&str>) -> Option<String> {
    let mut url = endpoint.clone();
    if let Some(bucket) = bucket {
        let host = format!("{bucket}.{}", endpoint.host_str()?);
        url.set_host(Some(&host)).ok()?;
    }
    Some(url.as_str().trim_end_matches('/').to_owned())
}

fn directory(path: &Path) -> Result<Arc<dyn ObjectStore>, String> {
    match LocalFileSystem::new_with_prefix(path) {
        Ok(store) => Ok(Arc::new(store.with_fsync(true))),
        // It is never made: an empty mount point would fill the node's own disk.
        Err(_) => Err(format!("{} is not there or may not be read", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_knows_every_variable() {
        for name in credentials::S3_VARIABLES {
            known::<AmazonS3ConfigKey>(&name.to_ascii_lowercase());
        }
        for name in credentials::AZURE_VARIABLES {
            known::<AzureConfigKey>(&name.to_ascii_lowercase());
        }
        for name in credentials::GOOGLE_VARIABLES {
            known::<GoogleConfigKey>(&name.to_ascii_lowercase());
        }
    }

    #[test]
    fn endpoints() {
        let table = [
            ("https://s3.test", None, "https://s3.test"),
            ("https://s3.test:9000/", Some("images"), "https://images.s3.test:9000"),
            ("http://s3.test/base/", Some("images"), "http://images.s3.test/base"),
        ];
        for (endpoint, bucket, expected) in table {
            assert_eq!(endpoint_text(&endpoint.parse().unwrap(), bucket).as_deref(), Some(expected));
        }
        assert_eq!(endpoint_text(&"http://127.0.0.1:9000".parse().unwrap(), Some("images")), None);
    }
}
