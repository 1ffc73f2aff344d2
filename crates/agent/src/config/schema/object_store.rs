//! `[object_store]`: the second tier that nodes share.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::quantity::Period;

/// `[object_store]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ObjectStore {
    /// Where it is: `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`, `file:///directory`. Default:
    /// unset, there is none. What lies there is never removed by an agent: the bucket's lifecycle rules are yours.
    pub url: Option<String>,
    /// Azure only, and required there: the storage account. Default: unset.
    pub account: Option<String>,
    /// S3 only: the region, which every signature names. Default: unset, which only an `endpoint` of your own allows
    /// (`us-east-1` then, which such stores do not care about).
    pub region: Option<String>,
    /// Where to ask instead of the provider: a store that speaks S3, a private link, an emulator. Default: unset.
    pub endpoint: Option<String>,
    /// Whether an `http://` endpoint is meant: everything goes in the clear then. Default false.
    pub allow_http: bool,
    /// S3 only: whether the bucket's name stands in the path (true) or before the host's name (false). Default: unset,
    /// true with an `endpoint` and false without. Huawei's OBS wants false.
    pub path_style: Option<bool>,
    /// PEM file with CA certificates, trusted besides the system's. Default: unset. Read once, at the start.
    pub ca: Option<PathBuf>,
    /// Where credentials come from when there is no `credentials_file`: what the cloud gives to this process
    /// (`environment`), or nowhere (`anonymous`). Default `environment`.
    pub credentials: CredentialsFrom,
    /// File with credentials: TOML with `access_key_id` and `secret_access_key` (perhaps `session_token`) for S3, with
    /// `account_key` or `sas_token` for Azure; a service account's JSON key for Google. Default: unset. Read again when
    /// it changes. Should be readable to the agent's user alone.
    pub credentials_file: Option<PathBuf>,
    /// Longest time for a connection. Default 2 s: whoever pulls waits for it, and the origin can still be asked.
    pub connect_timeout: Period,
    /// Longest time from the connection to the response headers. Default 5 s.
    pub header_timeout: Period,
    /// Longest time between two pieces of a body; then the transfer goes on from another source. Default 15 s. There is
    /// no limit for the whole.
    pub idle_timeout: Period,
    /// Whether what this node fetched from an origin is uploaded. Default true. False for nodes that may only read.
    pub write: bool,
    /// Uploads at a time. Default 2. Each holds 8 MiB of memory and takes bandwidth from the pulls.
    pub uploads_max: usize,
}

impl Default for ObjectStore {
    fn default() -> Self {
        ObjectStore {
            url: None,
            account: None,
            region: None,
            endpoint: None,
            allow_http: false,
            path_style: None,
            ca: None,
            credentials: CredentialsFrom::Environment,
            credentials_file: None,
            connect_timeout: Period::from_secs(2),
            header_timeout: Period::from_secs(5),
            idle_timeout: Period::from_secs(15),
            write: true,
            uploads_max: 2,
        }
    }
}

/// Where credentials come from when no file has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CredentialsFrom {
    /// Variables that the cloud sets for this process, then the instance's metadata service.
    Environment,
    /// There are none.
    Anonymous,
}
