//! The object store: its URL and which of the other keys mean anything there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

use super::registries::{certificates, readable};
use super::{Findings, TIMEOUT_MAX, quoted};
use crate::config::schema::{CredentialsFrom, ObjectStore};
use crate::tier::{Bucket, BucketCredentials, PREFIX_CHARS_MAX, TierSettings};

/// Most uploads at a time: each holds a part in memory.
const UPLOADS_MAX: usize = 16;
/// Region of stores that know none.
const NO_REGION: &str = "us-east-1";

/// The settings, if there is a store.
pub(super) fn resolve(
    store: &ObjectStore,
    user_agent: &str,
    found: &mut Findings<'_, '_>,
) -> Option<TierSettings> {
    let tenth = Duration::from_millis(100);
    found.period("object_store.connect_timeout", store.connect_timeout, tenth, TIMEOUT_MAX);
    found.period("object_store.header_timeout", store.header_timeout, tenth, TIMEOUT_MAX);
    found.period("object_store.idle_timeout", store.idle_timeout, tenth, TIMEOUT_MAX);
    found.number("object_store.uploads_max", store.uploads_max, UPLOADS_MAX);
    let Some(text) = &store.url else {
        if *store != ObjectStore::default() {
            found.add("object_store.url", None, "is missing; without it there is no object store");
        }
        return None;
    };
    let endpoint = store.endpoint.as_deref().and_then(|text| endpoint(text, store.allow_http, found));
    let credentials = credentials(store, found);
    let ca = store.ca.as_deref().and_then(|path| certificates("object_store.ca", path, found));
    let (bucket, prefix) = bucket(text, store, endpoint, found)?;
    meaningless(store, &bucket, found);
    Some(TierSettings {
        bucket,
        prefix,
        credentials,
        ca,
        user_agent: user_agent.to_owned(),
        connect_timeout: store.connect_timeout.0,
        header_timeout: store.header_timeout.0,
        idle_timeout: store.idle_timeout.0,
        write: store.write,
        uploads_max: store.uploads_max,
    })
}

/// What the URL names, and the prefix in it.
fn bucket(
    text: &str,
    store: &ObjectStore,
    endpoint: Option<Url>,
    found: &mut Findings<'_, '_>,
) -> Option<(Bucket, String)> {
    const FORM: &str =
        "must be s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or file:///directory";
    const KEY: &str = "object_store.url";
    // What stands before an @ may be a password.
    let shown = (!text.contains('@')).then(|| quoted(text));
    let url = Url::parse(text).ok().filter(|url| {
        url.username().is_empty()
            && url.password().is_none()
            && url.port().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
    });
    let Some(url) = url else {
        found.add(KEY, shown, format!("{FORM}, with nothing else in it"));
        return None;
    };
    let name = url.host_str().unwrap_or_default().to_owned();
    let prefix = url.path().trim_matches('/').to_owned();
    if url.scheme() == "file" {
        return match directory(&url) {
            Some(path) => Some((Bucket::Directory { path }, String::new())),
            None => {
                found.add(KEY, shown, "must be file:/// and the absolute path of a directory other than /");
                None
            }
        };
    }
    if prefix.len() > PREFIX_CHARS_MAX || !prefix.bytes().all(is_plain) || prefix.split('/').any(is_odd) {
        let remedy = format!(
            "the prefix may have {PREFIX_CHARS_MAX} letters, digits and . _ - in components between single slashes"
        );
        found.add(KEY, shown, remedy);
        return None;
    }
    if name.is_empty() || !name.bytes().all(is_plain) {
        found.add(KEY, shown, FORM);
        return None;
    }
    let bucket = match url.scheme() {
        "s3" => Bucket::S3 {
            bucket: name,
            region: region(store, found)?,
            path_style: store.path_style.unwrap_or(endpoint.is_some()),
            endpoint,
        },
        "gs" => Bucket::Google { bucket: name, endpoint },
        "az" => Bucket::Azure { account: account(store, found)?, container: name, endpoint },
        _ => {
            found.add(KEY, shown, FORM);
            return None;
        }
    };
    Some((bucket, prefix))
}

fn is_plain(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/')
}

/// Components that object stores and file systems take for something else.
fn is_odd(component: &str) -> bool {
    matches!(component, "." | "..")
}

fn directory(url: &Url) -> Option<PathBuf> {
    if url.host_str().is_some_and(|host| !host.is_empty()) {
        return None;
    }
    url.to_file_path().ok().filter(|path| path.is_absolute() && path != Path::new("/"))
}

fn region(store: &ObjectStore, found: &mut Findings<'_, '_>) -> Option<String> {
    let Some(region) = &store.region else {
        if store.endpoint.is_some() {
            return Some(NO_REGION.to_owned());
        }
        found.add(
            "object_store.region",
            None,
            "is missing; S3's signatures name it, such as \"eu-central-1\"",
        );
        return None;
    };
    let is_region = !region.is_empty() && region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if !is_region {
        found.add("object_store.region", Some(quoted(region)), "must be a region such as \"eu-central-1\"");
    }
    is_region.then(|| region.clone())
}

fn account(store: &ObjectStore, found: &mut Findings<'_, '_>) -> Option<String> {
    let Some(account) = &store.account else {
        found.add("object_store.account", None, "is missing; an az:// URL needs the storage account's name");
        return None;
    };
    let is_name =
        !account.is_empty() && account.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if !is_name {
        found.add(
            "object_store.account",
            Some(quoted(account)),
            "must be a storage account's name: lower-case letters and digits",
        );
    }
    is_name.then(|| account.clone())
}

fn endpoint(text: &str, allow_http: bool, found: &mut Findings<'_, '_>) -> Option<Url> {
    const KEY: &str = "object_store.endpoint";
    let shown = (!text.contains('@')).then(|| quoted(text));
    let url = Url::parse(text).ok().filter(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
    });
    let Some(url) = url else {
        found.add(
            KEY,
            shown,
            "must be a URL such as \"https://s3.example.com:9000\": http or https, a host, perhaps a port and a path",
        );
        return None;
    };
    if url.scheme() == "http" && !allow_http {
        found.add(
            KEY,
            shown,
            "would send everything in the clear; make it https://, or set allow_http = true",
        );
        return None;
    }
    Some(url)
}

fn credentials(store: &ObjectStore, found: &mut Findings<'_, '_>) -> BucketCredentials {
    match (&store.credentials_file, store.credentials) {
        (None, CredentialsFrom::Environment) => BucketCredentials::Environment,
        (None, CredentialsFrom::Anonymous) => BucketCredentials::Anonymous,
        (Some(path), from) => {
            readable("object_store.credentials_file", path, found);
            if from == CredentialsFrom::Anonymous {
                found.add(
                    "object_store.credentials",
                    Some(quoted("anonymous")),
                    "contradicts credentials_file; remove one of the two",
                );
            }
            BucketCredentials::File(path.clone())
        }
    }
}

/// Keys that would change nothing: whoever set them expects something.
fn meaningless(store: &ObjectStore, bucket: &Bucket, found: &mut Findings<'_, '_>) {
    let (is_s3, is_azure) = (matches!(bucket, Bucket::S3 { .. }), matches!(bucket, Bucket::Azure { .. }));
    let is_directory = matches!(bucket, Bucket::Directory { .. });
    let is_plain = store.endpoint.as_deref().is_some_and(|text| text.starts_with("http://"));
    let table = [
        ("region", store.region.is_some() && !is_s3, "an s3:// URL"),
        ("path_style", store.path_style.is_some() && !is_s3, "an s3:// URL"),
        ("account", store.account.is_some() && !is_azure, "an az:// URL"),
        ("endpoint", store.endpoint.is_some() && is_directory, "a bucket"),
        ("credentials_file", store.credentials_file.is_some() && is_directory, "a bucket"),
        ("ca", store.ca.is_some() && (is_directory || is_plain), "https"),
    ];
    for (name, is_set, place) in table {
        if is_set {
            let remedy = format!("has no meaning here, only with {place}; remove the key");
            found.add(&format!("object_store.{name}"), None, remedy);
        }
    }
}
