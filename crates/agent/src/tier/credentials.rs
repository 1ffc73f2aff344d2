//! Where the credentials for the bucket come from: a file of ours, what a cloud gives to processes, or nowhere.
//!
//! From the environment only the names listed here are taken, and only when the configuration says so: they are how
//! clouds hand out identities (a role for a pod, a key for a container). Everything else about the store stands in the
//! configuration. Invariant: no credential is in an error, and none is kept but in the library's own types.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use tokio::io::AsyncReadExt as _;

use super::limits::CREDENTIALS_BYTES_MAX;

/// How the agent identifies itself to the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum BucketCredentials {
    /// Not at all.
    Anonymous,
    /// With what the cloud gives to this process: the variables listed below, then the instance's metadata service. The
    /// library looks them up and renews them.
    #[default]
    Environment,
    /// With what a file says; read again when it changes.
    File(PathBuf),
}

/// S3: static keys, a web identity (a Kubernetes service account), the container's or pod's endpoint.
pub(super) const S3_VARIABLES: [&str; 12] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_ENDPOINT_URL_STS",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_METADATA_ENDPOINT",
    "AWS_IMDSV1_FALLBACK",
];

/// Azure: a key or a token of the account, a service principal, a workload or managed identity.
pub(super) const AZURE_VARIABLES: [&str; 9] = [
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_CLIENT_ID",
    "AZURE_CLIENT_SECRET",
    "AZURE_TENANT_ID",
    "AZURE_AUTHORITY_HOST",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_MSI_ENDPOINT",
    "AZURE_OBJECT_ID",
];

/// Google: a service account's key or an application's default credentials.
pub(super) const GOOGLE_VARIABLES: [&str; 3] =
    ["GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_KEY", "GOOGLE_APPLICATION_CREDENTIALS"];

/// Those of the named variables that are set, by the names that the library's options have.
pub(super) fn environment(names: &[&str]) -> Vec<(String, String)> {
    let set = |name: &&str| {
        let value = std::env::var(name).ok().filter(|value| !value.is_empty())?;
        Some((name.to_ascii_lowercase(), value))
    };
    names.iter().filter_map(set).collect()
}

/// The file for S3 and what speaks like it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct S3Keys {
    pub access_key_id: String,
    pub secret_access_key: String,
    pub session_token: Option<String>,
}

/// The file for Azure: one of the two.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AzureKeys {
    pub account_key: Option<String>,
    pub sas_token: Option<String>,
}

/// Reads keys from TOML. The parser's words are not passed on: they quote the file.
pub(super) fn parse<T: serde::de::DeserializeOwned>(text: &str) -> Option<T> {
    toml::from_str(text).ok()
}

/// The text of a file with credentials, or why it cannot be had.
pub(super) async fn read(path: &Path) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("{} cannot be read: {error}", path.display());
    let mut text = String::new();
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    file.take(CREDENTIALS_BYTES_MAX).read_to_string(&mut text).await.map_err(failed)?;
    Ok(text)
}
