//! The upstream side: registries, their endpoints, files and credentials.
//!
//! Files that are read once are read here, so that a wrong path is a problem of the configuration and not of the first
//! pull. Invariant: no content of a file and no user part of a URL gets into a problem.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use http::HeaderValue;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use shoal_engine::Registry;
use url::Url;

use super::{Findings, TIMEOUT_MAX, TRANSFERS_MAX, quoted};
use crate::config::document::key;
use crate::config::regular;
use crate::config::schema::{Upstream, UpstreamRegistry};
use crate::tls;
use crate::upstream::{Credentials, RegistrySettings, Secret};

/// Largest PEM file: a system's whole list of CAs has 220 KiB.
const PEM_BYTES_MAX: u64 = 4 << 20;

pub(super) fn resolve(
    upstream: &Upstream,
    found: &mut Findings<'_, '_>,
) -> BTreeMap<Registry, RegistrySettings> {
    let tenth = Duration::from_millis(100);
    found.rate("upstream.rate", upstream.rate);
    found.period("upstream.connect_timeout", upstream.connect_timeout, tenth, TIMEOUT_MAX);
    found.period("upstream.header_timeout", upstream.header_timeout, tenth, TIMEOUT_MAX);
    found.period("upstream.idle_timeout", upstream.idle_timeout, tenth, TIMEOUT_MAX);
    found.number("upstream.transfers_max", upstream.transfers_max, TRANSFERS_MAX);
    if upstream.user_agent.trim().is_empty() || HeaderValue::from_str(&upstream.user_agent).is_err() {
        found.add(
            "upstream.user_agent",
            Some(quoted(&upstream.user_agent)),
            "must be visible ASCII characters, such as \"shoal/0.1 (ops@example.com)\"",
        );
    }
    for (key, path) in upstream.docker_config.named("upstream.docker_config") {
        readable(&key, path, found);
    }
    let fallback = default_credentials(upstream);
    let mut registries = BTreeMap::new();
    for (name, settings) in &upstream.registries {
        let table = format!("upstream.registries.{}", key(name));
        let resolved = registry(&table, settings, &fallback, found);
        let Some(registry) = found.registry(&table, name) else { continue };
        if registries.insert(registry.clone(), resolved).is_some() {
            found.add(
                &table,
                None,
                format!("is the same registry as another table, {registry}; put both into one"),
            );
        }
    }
    registries
}

/// The credentials of registries that have none of their own.
pub(in crate::config) fn default_credentials(upstream: &Upstream) -> Credentials {
    match upstream.docker_config.all() {
        [] => Credentials::Anonymous,
        paths => Credentials::DockerConfigs { paths: paths.to_vec() },
    }
}

fn registry(
    table: &str,
    settings: &UpstreamRegistry,
    fallback: &Credentials,
    found: &mut Findings<'_, '_>,
) -> RegistrySettings {
    let key = |name: &str| format!("{table}.{name}");
    let written = settings.endpoint.as_deref();
    let endpoint = written.and_then(|text| {
        endpoint(
            &key("endpoint"),
            text,
            "https://registry.example.com:8443",
            "username and password_file",
            found,
        )
    });
    let is_plain = endpoint.as_ref().is_some_and(|url| url.scheme() == "http");
    let ca = settings.ca.as_deref().and_then(|path| certificates(&key("ca"), path, found));
    if is_plain {
        let tls =
            [("ca", settings.ca.is_some()), ("client_certificate", settings.client_certificate.is_some())];
        for (name, _) in tls.into_iter().filter(|(_, is_set)| *is_set) {
            found.add(
                &key(name),
                None,
                "has no meaning for an http:// endpoint; make it https:// or remove the key",
            );
        }
    }
    for (index, realm) in settings.trusted_realms.iter().enumerate() {
        if realm.parse::<Registry>().is_err() {
            found.add(
                &format!("{table}.trusted_realms[{index}]"),
                Some(quoted(realm)),
                "must be a host or host:port, such as \"auth.example.com\", without scheme and path",
            );
        }
    }
    RegistrySettings {
        endpoint,
        ca,
        client_identity: identity(table, settings, found),
        credentials: credentials(table, settings, fallback, found),
        trusted_realms: settings.trusted_realms.clone(),
        access: settings.access,
        cache: settings.cache,
    }
}

/// `example` is what it should look like, `instead` are the keys for what a URL must not have in it.
pub(super) fn endpoint(
    key: &str,
    text: &str,
    example: &str,
    instead: &str,
    found: &mut Findings<'_, '_>,
) -> Option<Url> {
    let form = format!("must be a URL such as {example:?}: http or https, a host, perhaps a port and a path");
    // A URL that does not parse may still have a password in it.
    let may_show = !text.contains('@');
    let shown = may_show.then(|| quoted(text));
    let Ok(url) = Url::parse(text) else {
        found.add(key, shown, form);
        return None;
    };
    if !url.username().is_empty() || url.password().is_some() {
        found.add(key, None, format!("must not have credentials in it; use {instead}"));
        return None;
    }
    let is_usable = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.query().is_none()
        && url.fragment().is_none();
    if !is_usable {
        found.add(key, shown, form);
        return None;
    }
    Some(url)
}

fn credentials(
    table: &str,
    settings: &UpstreamRegistry,
    fallback: &Credentials,
    found: &mut Findings<'_, '_>,
) -> Credentials {
    match (&settings.username, &settings.password_file) {
        (Some(username), Some(path)) => {
            readable(&format!("{table}.password_file"), path, found);
            if username.is_empty() || username.contains(':') {
                found.add(
                    &format!("{table}.username"),
                    Some(quoted(username)),
                    "must not be empty or have a colon in it (RFC 7617)",
                );
            }
            Credentials::PasswordFile { username: username.clone(), path: path.clone() }
        }
        (None, None) => fallback.clone(),
        (Some(_), None) => {
            found.add(&format!("{table}.username"), None, "needs password_file beside it");
            Credentials::Anonymous
        }
        (None, Some(_)) => {
            found.add(&format!("{table}.password_file"), None, "needs username beside it");
            Credentials::Anonymous
        }
    }
}

/// Chain and key in one, as the client takes them.
fn identity(table: &str, settings: &UpstreamRegistry, found: &mut Findings<'_, '_>) -> Option<Secret> {
    let (certificate, private) = (format!("{table}.client_certificate"), format!("{table}.client_key"));
    let chain = settings.client_certificate.as_deref().map(|path| certificates(&certificate, path, found));
    let key = settings.client_key.as_deref().map(|path| private_key(&private, path, found));
    match (chain, key) {
        (Some(chain), Some(key)) => {
            let mut pem = String::from_utf8(chain?).ok()?;
            pem.push('\n');
            pem.push_str(&key?);
            Some(Secret::new(pem))
        }
        (None, None) => None,
        (Some(_), None) => {
            found.add(&certificate, None, "needs client_key beside it");
            None
        }
        (None, Some(_)) => {
            found.add(&private, None, "needs client_certificate beside it");
            None
        }
    }
}

pub(super) fn certificates(key: &str, path: &Path, found: &mut Findings<'_, '_>) -> Option<Vec<u8>> {
    let bytes = pem(key, path, found)?;
    if tls::certificates(&bytes).is_ok() {
        return Some(bytes);
    }
    found.add(
        key,
        Some(quoted(&path.to_string_lossy())),
        "must name a file with certificates in PEM form (-----BEGIN CERTIFICATE-----)",
    );
    None
}

fn private_key(key: &str, path: &Path, found: &mut Findings<'_, '_>) -> Option<String> {
    let text = String::from_utf8(pem(key, path, found)?).ok();
    let text = text.filter(|text| PrivateKeyDer::from_pem_slice(text.as_bytes()).is_ok());
    if text.is_none() {
        found.add(
            key,
            Some(quoted(&path.to_string_lossy())),
            "must name a file with a private key in PEM form, not encrypted (-----BEGIN PRIVATE KEY-----)",
        );
    }
    text
}

fn pem(key: &str, path: &Path, found: &mut Findings<'_, '_>) -> Option<Vec<u8>> {
    if !found.absolute(key, path) {
        return None;
    }
    match regular::read(path, PEM_BYTES_MAX) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            found.add(key, Some(quoted(&path.to_string_lossy())), format!("cannot be read: {error}"));
            None
        }
    }
}

/// A file that is read later, and again and again: it has to be there at the start.
pub(super) fn readable(key: &str, path: &Path, found: &mut Findings<'_, '_>) {
    if !found.absolute(key, path) {
        return;
    }
    if let Err(error) = regular::open(path) {
        found.add(key, Some(quoted(&path.to_string_lossy())), format!("cannot be read: {error}"));
    }
}
