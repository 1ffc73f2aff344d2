//! The answers of a registry that does everything right: status, headers and the whole content they are cut from.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;

use super::{Auth, Kind, Seen, Shared, lock};
use crate::image;

/// An answer before a plan has been applied to it.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    /// The whole content; a range is cut from it.
    pub(super) content: Bytes,
    /// Whether `Range` applies.
    pub(super) ranges: bool,
}

impl Answer {
    pub(super) fn new(status: u16, content_type: &str, content: impl Into<Bytes>) -> Self {
        Answer {
            status,
            headers: vec![("Content-Type".into(), content_type.into())],
            content: content.into(),
            ranges: false,
        }
    }

    pub(super) fn error(status: u16, code: &str) -> Self {
        let body = json!({"errors": [{"code": code, "message": code.to_lowercase(), "detail": null}]});
        Answer::new(status, "application/json", body.to_string())
    }

    fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

/// Path and query taken apart, from the right, because a repository may contain `manifests` or `blobs`.
pub(super) fn classify(path: &str) -> (Kind, String, String) {
    let path = path.split('?').next().unwrap_or_default();
    let of = |kind, repository: &str, reference: &str| (kind, repository.to_owned(), reference.to_owned());
    if path == "/v2/" || path == "/v2" {
        return of(Kind::Base, "", "");
    }
    if path == "/token" {
        return of(Kind::Token, "", "");
    }
    if let Some(digest) = path.strip_prefix("/storage/") {
        return of(Kind::Storage, "", digest);
    }
    let Some(rest) = path.strip_prefix("/v2/") else {
        return of(Kind::Other, "", "");
    };
    if let Some(repository) = rest.strip_suffix("/tags/list") {
        return of(Kind::Tags, repository, "");
    }
    let Some((head, reference)) = rest.rsplit_once('/') else {
        return of(Kind::Other, "", "");
    };
    match head.rsplit_once('/') {
        Some((repository, "manifests")) => of(Kind::Manifest, repository, reference),
        Some((repository, "blobs")) => of(Kind::Blob, repository, reference),
        Some((repository, "referrers")) => of(Kind::Referrers, repository, reference),
        _ => of(Kind::Other, "", ""),
    }
}

/// The right answer to a request.
pub(super) fn to(seen: &Seen, body: &[u8], shared: &Shared) -> Answer {
    if seen.kind == Kind::Token {
        return token(seen, body, shared);
    }
    if seen.kind != Kind::Storage
        && let Some(challenge) = challenge(seen, shared)
    {
        return Answer::error(401, "UNAUTHORIZED").with("WWW-Authenticate", challenge);
    }
    match seen.kind {
        Kind::Base => Answer::new(200, "application/json", "{}"),
        Kind::Manifest => manifest(seen, shared),
        Kind::Blob => blob(seen, shared),
        Kind::Storage => storage(seen, shared),
        Kind::Tags => tags(seen, shared),
        Kind::Referrers => referrers(seen, shared),
        Kind::Token | Kind::Other => Answer::error(404, "NAME_UNKNOWN"),
    }
}

fn manifest(seen: &Seen, shared: &Shared) -> Answer {
    let content = lock(&shared.content);
    let tag = (seen.repository.clone(), seen.reference.clone());
    let digest = content.tags.get(&tag).cloned().unwrap_or_else(|| seen.reference.clone());
    let Some(manifest) = content.manifests.get(&(seen.repository.clone(), digest.clone())) else {
        return Answer::error(404, "MANIFEST_UNKNOWN");
    };
    // Like distribution: a type that is not listed is not served, and `*/*` does not list it.
    let accept = seen.header("accept").unwrap_or_default();
    if !accept.contains(manifest.media_type) {
        return Answer::error(404, "MANIFEST_UNKNOWN");
    }
    let etag = format!("\"{digest}\"");
    let mut answer = if seen.header("if-none-match").is_some_and(|known| known.contains(&etag)) {
        Answer { status: 304, headers: Vec::new(), content: Bytes::new(), ranges: false }
    } else {
        Answer::new(200, manifest.media_type, manifest.bytes.clone())
    };
    answer.ranges = true;
    if let Some(seconds) = *lock(&shared.max_age) {
        answer = answer.with("Cache-Control", format!("max-age={seconds}"));
    }
    answer.with("Docker-Content-Digest", digest).with("ETag", etag)
}

fn blob(seen: &Seen, shared: &Shared) -> Answer {
    let content = lock(&shared.content);
    let is_here = content.homes.get(&seen.reference).is_none_or(|homes| homes.contains(&seen.repository));
    let Some(bytes) = content.blobs.get(&seen.reference).cloned().filter(|_| is_here) else {
        return Answer::error(404, "BLOB_UNKNOWN");
    };
    let mut answer = Answer::new(200, "application/octet-stream", bytes)
        .with("Docker-Content-Digest", &seen.reference)
        .with("ETag", format!("\"{}\"", seen.reference))
        .with("Accept-Ranges", "bytes");
    answer.ranges = true;
    answer
}

/// An object store: its own ETag, no digest, and two kinds of authorization are one too many. On the registry's own
/// host, where credentials are wanted, they may come along.
fn storage(seen: &Seen, shared: &Shared) -> Answer {
    if seen.header("authorization").is_some() && lock(&shared.auth).is_none() {
        return Answer::new(400, "application/xml", "<Error>Only one auth mechanism allowed</Error>");
    }
    let Some(bytes) = lock(&shared.content).blobs.get(&seen.reference).cloned() else {
        return Answer::new(404, "application/xml", "<Error>NoSuchKey</Error>");
    };
    let mut answer =
        Answer::new(200, "application/octet-stream", bytes).with("ETag", "\"an-object-version\"");
    answer.ranges = true;
    answer
}

pub(super) fn query(seen: &Seen, name: &str) -> Option<String> {
    let (_, query) = seen.path.split_once('?')?;
    let pair = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    Some(pair.replace("%2F", "/").replace("%2B", "+").replace("%3A", ":"))
}

fn tags(seen: &Seen, shared: &Shared) -> Answer {
    let content = lock(&shared.content);
    let all: Vec<String> = content
        .tags
        .keys()
        .filter(|(name, _)| *name == seen.repository)
        .map(|(_, tag)| tag.clone())
        .collect();
    if all.is_empty() {
        return Answer::error(404, "NAME_UNKNOWN");
    }
    let last = query(seen, "last").unwrap_or_default();
    let after: Vec<String> = all.into_iter().filter(|tag| *tag > last).collect();
    let n = query(seen, "n").and_then(|n| n.parse().ok()).unwrap_or(usize::MAX);
    let page = &after[..after.len().min(n)];
    let body = json!({"name": seen.repository, "tags": page}).to_string();
    let answer = Answer::new(200, "application/json", body);
    match page.last() {
        Some(last) if page.len() < after.len() => {
            let link = format!("</v2/{}/tags/list?last={last}&n={n}>; rel=\"next\"", seen.repository);
            answer.with("Link", link)
        }
        _ => answer,
    }
}

fn referrers(seen: &Seen, shared: &Shared) -> Answer {
    let content = lock(&shared.content);
    let wanted = query(seen, "artifactType");
    let mut found = Vec::new();
    for ((repository, _), manifest) in &content.manifests {
        let Ok(parsed) = serde_json::from_slice::<serde_json::Value>(&manifest.bytes) else { continue };
        let subject = parsed["subject"]["digest"].as_str();
        let kind = parsed["artifactType"].as_str();
        if *repository == seen.repository
            && subject == Some(seen.reference.as_str())
            && wanted.as_deref().is_none_or(|wanted| kind == Some(wanted))
        {
            let mut descriptor = manifest.descriptor();
            descriptor["artifactType"] = json!(kind);
            found.push(descriptor);
        }
    }
    let index = json!({"schemaVersion": 2, "mediaType": image::INDEX, "manifests": found});
    let answer = Answer::new(200, image::INDEX, index.to_string());
    if wanted.is_some() { answer.with("OCI-Filters-Applied", "artifactType") } else { answer }
}

pub(super) fn basic(user: &str, password: &str) -> String {
    use base64::Engine as _;
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
}

fn knows(token: &str, shared: &Shared) -> bool {
    let others = lock(&shared.other_tokens).clone();
    [Some(Arc::clone(&shared.tokens)), others]
        .iter()
        .flatten()
        .any(|list| lock(list).iter().any(|known| known == token))
}

/// The challenge to answer with, or `None` when the request may pass.
fn challenge(seen: &Seen, shared: &Shared) -> Option<String> {
    let auth = lock(&shared.auth).clone()?;
    let given = seen.header("authorization");
    match auth {
        Auth::Basic { user, password } => {
            let right = given == Some(basic(&user, &password));
            (!right).then(|| "Basic realm=\"the origin, \\\"quoted\\\"\"".to_owned())
        }
        Auth::Bearer { realm, .. } => {
            let right = given
                .as_deref()
                .and_then(|given| given.strip_prefix("Bearer "))
                .is_some_and(|token| knows(token, shared));
            let realm = realm.unwrap_or_else(|| format!("http://{}/token", shared.address));
            let scope = format!("repository:{}:pull", seen.repository);
            (!right).then(|| format!("Bearer realm=\"{realm}\",service=\"origin.test\",scope=\"{scope}\""))
        }
        Auth::Accounts(accounts) => accounts.challenge(seen, shared),
    }
}

fn token(seen: &Seen, body: &[u8], shared: &Shared) -> Answer {
    let (account, expires_in) = match lock(&shared.auth).clone() {
        Some(Auth::Bearer { account, expires_in, .. }) => (account, expires_in),
        Some(Auth::Accounts(accounts)) => return accounts.token(seen, body, shared),
        Some(Auth::Basic { .. }) | None => return Answer::error(404, "NAME_UNKNOWN"),
    };
    if let Some((user, password)) = account {
        let form = String::from_utf8_lossy(body);
        let by_form =
            form.contains(&format!("username={user}")) && form.contains(&format!("password={password}"));
        if seen.header("authorization") != Some(basic(&user, &password)) && !by_form {
            return Answer::error(401, "UNAUTHORIZED");
        }
    }
    let mut tokens = lock(&shared.tokens);
    let token = format!("token-{}-{}", shared.address.port(), lock(&shared.seen).len());
    tokens.push(token.clone());
    let body = json!({"token": token, "access_token": token, "expires_in": expires_in});
    Answer::new(200, "application/json", body.to_string())
}
