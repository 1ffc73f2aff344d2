//! What a request asks for, from its path and query.
//!
//! The path is read from its right end, because a repository may contain components named `manifests`, `blobs` or
//! `tags`. Three addressings lead to a registry, in this order: the query parameter `ns` (containerd), the registry
//! as first path component (podman, CRI-O, buildkit), the listener's default. What comes out of here has been
//! checked: nothing behind this module sees a name that does not match the specification's grammar.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use shoal_engine::name::NameError;
use shoal_engine::{Digest, Reference, Registry, Repository, Scope};
use url::form_urlencoded;

use crate::node::Listing;

/// Longest path and query, bytes. A repository of 255 characters, a digest and a page token fit several times over;
/// what is longer was not made by a registry client.
pub const URI_BYTES_MAX: usize = 8 * 1024;
/// Longest value of a listing's query parameter, bytes: page tokens of registries are a few hundred.
pub const LISTING_VALUE_BYTES_MAX: usize = 2048;
/// The prefix of a repository name on Docker Hub that users leave away.
const HUB_LIBRARY: &str = "library";

/// Characters of an address that must not stand in a path as they are: the brackets of an IPv6 registry.
const PATH_ESCAPES: &AsciiSet =
    &CONTROLS.add(b'[').add(b']').add(b'%').add(b' ').add(b'"').add(b'<').add(b'>');

/// The endpoints of the distribution specification that are served, as metrics and logs name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `/v2/`.
    Base,
    /// `/v2/<name>/manifests/<reference>`.
    Manifest,
    /// `/v2/<name>/blobs/<digest>`.
    Blob,
    /// `/v2/<name>/tags/list`.
    Tags,
    /// `/v2/<name>/referrers/<digest>`.
    Referrers,
    /// None of them.
    Other,
}

impl Kind {
    /// Value of the `kind` label and of the log field.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Base => "base",
            Kind::Manifest => "manifest",
            Kind::Blob => "blob",
            Kind::Tags => "tags",
            Kind::Referrers => "referrers",
            Kind::Other => "other",
        }
    }
}

/// How the client wrote the repository: what a link back to us has to look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addressing {
    /// The name between `/v2/` and the endpoint, decoded.
    pub name: String,
    /// The value of `ns`, if it was given.
    pub ns: Option<String>,
}

/// The repository of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Registry and repository meant.
    pub scope: Scope,
    /// How they were written.
    pub addressing: Addressing,
}

/// A request that can be served.
#[derive(Clone, Debug)]
pub enum Route {
    /// The version check.
    Base,
    /// A manifest.
    Manifest(Target, Reference),
    /// A blob.
    Blob(Target, Digest),
    /// Tags or referrers.
    Listing(Target, Listing),
}

/// Why a path or query asks for nothing that can be served. The client is at fault; asking again does not help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The path is no endpoint.
    #[error(
        "no such endpoint; this mirror serves /v2/<name>/manifests/, blobs/, tags/list and referrers/ for reading"
    )]
    NoEndpoint,
    /// Path and query are longer than any that a registry client makes.
    #[error("path and query have {0} bytes, at most {URI_BYTES_MAX} are accepted")]
    TooLong(usize),
    /// A percent-encoded component is not a component of a name.
    #[error("the path component {0:?} does not decode to a part of a name")]
    Encoding(String),
    /// Registry, repository or tag do not match the grammar.
    #[error(transparent)]
    Name(NameError),
    /// The digest is none.
    #[error(transparent)]
    Digest(#[from] shoal_engine::ids::DigestError),
    /// `ns` was given more than once.
    #[error("the query parameter ns was given {0} times; name one registry")]
    RepeatedNamespace(usize),
    /// No registry was named and the listener has no default.
    #[error(
        "the request for {0:?} names no registry: add ?ns=<registry>, or put the registry first (/v2/docker.io/{0}/...), or set default_registry for this listener"
    )]
    NoRegistry(String),
    /// A parameter of a listing is not usable.
    #[error("the query parameter {key} is not usable: {wanted}")]
    Parameter {
        /// Name of the parameter.
        key: &'static str,
        /// What it may be.
        wanted: &'static str,
    },
}

impl From<NameError> for RouteError {
    fn from(error: NameError) -> Self {
        match error {
            NameError::Digest(digest) => RouteError::Digest(digest),
            name => RouteError::Name(name),
        }
    }
}

/// Reads path (still percent-encoded) and query. The kind is told even of a request that is refused, for metrics.
pub fn parse(
    path: &str,
    query: Option<&str>,
    default: Option<&Registry>,
) -> (Kind, Result<Route, RouteError>) {
    let length = path.len() + query.map_or(0, |query| 1 + query.len());
    if length > URI_BYTES_MAX {
        return (Kind::Other, Err(RouteError::TooLong(length)));
    }
    let query = query.unwrap_or_default();
    let rest = match path.strip_prefix("/v2") {
        Some("" | "/") => return (Kind::Base, Ok(Route::Base)),
        Some(rest) => rest,
        None => return (Kind::Other, Err(RouteError::NoEndpoint)),
    };
    let Some(endpoint) = rest.strip_prefix('/').and_then(Endpoint::from_right) else {
        return (Kind::Other, Err(RouteError::NoEndpoint));
    };
    (endpoint.kind, endpoint.route(query, default))
}

/// A path taken apart, nothing checked yet.
struct Endpoint<'a> {
    kind: Kind,
    name: &'a str,
    last: &'a str,
}

impl<'a> Endpoint<'a> {
    fn from_right(path: &'a str) -> Option<Self> {
        let (head, last) = path.rsplit_once('/')?;
        let (name, word) = head.rsplit_once('/')?;
        let kind = match word {
            "manifests" => Kind::Manifest,
            "blobs" => Kind::Blob,
            "tags" if last == "list" => Kind::Tags,
            "referrers" => Kind::Referrers,
            _ => return None,
        };
        // A trailing slash names nothing, and no name is left for `/v2/manifests/x`.
        (!last.is_empty() && !name.is_empty()).then_some(Endpoint { kind, name, last })
    }

    fn route(&self, query: &str, default: Option<&Registry>) -> Result<Route, RouteError> {
        let target = target(&decoded_name(self.name)?, query, default)?;
        let last = decoded(self.last)?;
        Ok(match self.kind {
            Kind::Manifest => Route::Manifest(target, last.parse()?),
            Kind::Blob => Route::Blob(target, last.parse()?),
            Kind::Tags => Route::Listing(target, tags(query)?),
            Kind::Referrers => Route::Listing(target, referrers(last.parse()?, query)?),
            Kind::Base | Kind::Other => return Err(RouteError::NoEndpoint),
        })
    }
}

fn decoded_name(name: &str) -> Result<String, RouteError> {
    let components = name.split('/').map(decoded).collect::<Result<Vec<_>, _>>()?;
    Ok(components.join("/"))
}

/// One component, decoded. A slash that was hidden in an escape must not become a separator.
fn decoded(component: &str) -> Result<Cow<'_, str>, RouteError> {
    let refused = || RouteError::Encoding(component.chars().take(80).collect());
    let text = percent_decode_str(component).decode_utf8().map_err(|_| refused())?;
    if text.contains(['/', '\0']) { Err(refused()) } else { Ok(text) }
}

/// Which registry and repository `name` means.
fn target(name: &str, query: &str, default: Option<&Registry>) -> Result<Target, RouteError> {
    let given: Vec<_> = values(query, "ns").collect();
    let (registry, repository) = match given.as_slice() {
        [] => without_namespace(name, default)?,
        [ns] => {
            let registry: Registry = ns.parse()?;
            // buildkit puts the mirror's path prefix after /v2 and sends ns as well: the registry is there twice.
            let repository = match name.split_once('/') {
                Some((first, rest)) if first.parse().is_ok_and(|first: Registry| first == registry) => rest,
                _ => name,
            };
            (registry, repository)
        }
        more => return Err(RouteError::RepeatedNamespace(more.len())),
    };
    let repository: Repository = if registry.as_str() == Registry::DOCKER_HUB && !repository.contains('/') {
        format!("{HUB_LIBRARY}/{repository}").parse()?
    } else {
        repository.parse()?
    };
    let ns = given.first().map(|ns| ns.to_string());
    Ok(Target { scope: Scope { registry, repository }, addressing: Addressing { name: name.to_owned(), ns } })
}

fn without_namespace<'n>(
    name: &'n str,
    default: Option<&Registry>,
) -> Result<(Registry, &'n str), RouteError> {
    if let Some((first, rest)) = name.split_once('/')
        && Registry::looks_like(first)
    {
        return Ok((with_port(first).parse()?, rest));
    }
    match default {
        Some(registry) => Ok((registry.clone(), name)),
        None => {
            // The message shows the name as part of a path, so it must be one.
            let repository: Repository = name.parse()?;
            Err(RouteError::NoRegistry(repository.as_str().to_owned()))
        }
    }
}

/// A registry's port as a path component can carry it: image references allow no colon there, so skopeo and podman
/// write `registry.test__5000` for `registry.test:5000`.
fn with_port(component: &str) -> Cow<'_, str> {
    match component.rsplit_once("__") {
        Some((host, port)) if !host.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => {
            Cow::Owned(format!("{host}:{port}"))
        }
        _ => Cow::Borrowed(component),
    }
}

fn values<'q>(query: &'q str, key: &'static str) -> impl Iterator<Item = Cow<'q, str>> {
    form_urlencoded::parse(query.as_bytes()).filter(move |(name, _)| name == key).map(|(_, value)| value)
}

fn tags(query: &str) -> Result<Listing, RouteError> {
    let number = |text: Cow<'_, str>| {
        text.parse()
            .map_err(|_| RouteError::Parameter { key: "n", wanted: "a number of tags, for example n=100" })
    };
    Ok(Listing::Tags { n: values(query, "n").next().map(number).transpose()?, last: bounded(query, "last")? })
}

fn referrers(digest: Digest, query: &str) -> Result<Listing, RouteError> {
    let (artifact_type, page) = (bounded(query, "artifactType")?, bounded(query, "page")?);
    Ok(Listing::Referrers { digest, artifact_type, page })
}

fn bounded(query: &str, key: &'static str) -> Result<Option<String>, RouteError> {
    match values(query, key).next() {
        None => Ok(None),
        Some(value) if value.is_empty() => Ok(None),
        Some(value) if value.len() > LISTING_VALUE_BYTES_MAX => {
            Err(RouteError::Parameter { key, wanted: "a text of at most 2048 bytes" })
        }
        Some(value) => Ok(Some(value.into_owned())),
    }
}

/// Path and query under which `listing` is asked of this agent by a client that writes the repository as
/// `addressing` does.
pub fn listing_uri(addressing: &Addressing, listing: &Listing) -> String {
    let name = utf8_percent_encode(&addressing.name, PATH_ESCAPES);
    let mut query = form_urlencoded::Serializer::new(String::new());
    let path = match listing {
        Listing::Tags { n, last } => {
            if let Some(n) = n {
                query.append_pair("n", &n.to_string());
            }
            if let Some(last) = last {
                query.append_pair("last", last);
            }
            format!("/v2/{name}/tags/list")
        }
        Listing::Referrers { digest, artifact_type, page } => {
            if let Some(artifact_type) = artifact_type {
                query.append_pair("artifactType", artifact_type);
            }
            if let Some(page) = page {
                query.append_pair("page", page);
            }
            format!("/v2/{name}/referrers/{digest}")
        }
    };
    if let Some(ns) = &addressing.ns {
        query.append_pair("ns", ns);
    }
    let query = query.finish();
    if query.is_empty() { path } else { format!("{path}?{query}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn hub() -> Registry {
        Registry::DOCKER_HUB.parse().unwrap()
    }

    /// Kind, scope and reference of a route, as one text.
    fn shown(path: &str, query: &str, default: Option<&Registry>) -> String {
        let (kind, route) = parse(path, Some(query), default);
        let what = match route {
            Ok(Route::Base) => String::new(),
            Ok(Route::Manifest(target, reference)) => format!("{} {reference}", target.scope),
            Ok(Route::Blob(target, digest)) => format!("{} {}", target.scope, digest.short()),
            Ok(Route::Listing(target, Listing::Tags { n, last })) => {
                format!("{} {n:?} {last:?}", target.scope)
            }
            Ok(Route::Listing(target, Listing::Referrers { digest, artifact_type, page })) => {
                format!("{} {} {artifact_type:?} {page:?}", target.scope, digest.short())
            }
            Err(error) => format!("! {}", format!("{error:?}").split(" {").next().unwrap_or_default()),
        };
        format!("{} {what}", kind.as_str()).trim_end().to_owned()
    }

    #[test]
    fn what_is_asked_for() {
        let digest = format!("sha256:{HEX}");
        let encoded = format!("sha256%3A{HEX}");
        let table = [
            ("/v2", "", "base"),
            ("/v2/", "ns=docker.io", "base"),
            // The registry by ns, by path, by default; ns wins.
            ("/v2/a/b/manifests/v1", "ns=ghcr.io", "manifest ghcr.io/a/b v1"),
            ("/v2/a/b/manifests/v1", "ns=ghcr.io%3A443", "manifest ghcr.io:443/a/b v1"),
            ("/v2/ghcr.io/a/b/manifests/v1", "", "manifest ghcr.io/a/b v1"),
            ("/v2/localhost:5000/b/manifests/v1", "", "manifest localhost:5000/b v1"),
            ("/v2/localhost%3A5000/b/manifests/v1", "", "manifest localhost:5000/b v1"),
            ("/v2/[::1]:5000/b/manifests/v1", "", "manifest [::1]:5000/b v1"),
            // Image references allow no colon inside a path.
            ("/v2/r.test__5000/b/manifests/v1", "", "manifest r.test:5000/b v1"),
            ("/v2/localhost__5000/b/manifests/v1", "", "manifest localhost:5000/b v1"),
            ("/v2/r.test__x/b/manifests/v1", "", "manifest r.test__x/b v1"),
            ("/v2/a/b/manifests/v1", "", "manifest docker.io/a/b v1"),
            // buildkit sends the registry twice.
            ("/v2/ghcr.io/a/b/manifests/v1", "ns=ghcr.io", "manifest ghcr.io/a/b v1"),
            (
                "/v2/docker.io/library/b/manifests/v1",
                "ns=registry-1.docker.io",
                "manifest docker.io/library/b v1",
            ),
            ("/v2/ghcr.io/a/manifests/v1", "ns=quay.io", "manifest quay.io/ghcr.io/a v1"),
            // Docker Hub's short names.
            ("/v2/redis/manifests/7", "", "manifest docker.io/library/redis 7"),
            ("/v2/docker.io/redis/manifests/7", "", "manifest docker.io/library/redis 7"),
            ("/v2/redis/manifests/7", "ns=docker.io", "manifest docker.io/library/redis 7"),
            ("/v2/redis/manifests/7", "ns=ghcr.io", "manifest ghcr.io/redis 7"),
            // Words of the protocol inside the name.
            ("/v2/manifests/manifests/v1", "ns=r.test", "manifest r.test/manifests v1"),
            ("/v2/a/manifests/blobs/manifests/v1", "", "manifest docker.io/a/manifests/blobs v1"),
            ("/v2/a/blobs/tags/list", "", "tags docker.io/a/blobs None None"),
            ("/v2/a/tags/list/manifests/list", "", "manifest docker.io/a/tags/list list"),
            ("/v2/a/b/manifests/tags/list", "", "tags docker.io/a/b/manifests None None"),
            // Digests.
            ("/v2/a/b/blobs/{digest}", "", "blob docker.io/a/b sha256:e3b0c44298fc"),
            ("/v2/a/b/blobs/{encoded}", "", "blob docker.io/a/b sha256:e3b0c44298fc"),
            ("/v2/a/b/manifests/{digest}", "", "manifest docker.io/a/b {digest}"),
            // Listings; unknown parameters are nobody's business.
            ("/v2/a/b/tags/list", "n=5&last=x%2By&z=1", "tags docker.io/a/b Some(5) Some(\"x+y\")"),
            (
                "/v2/a/b/referrers/{digest}",
                "artifactType=a%2Fb&page=next%3D7",
                "referrers docker.io/a/b sha256:e3b0c44298fc Some(\"a/b\") Some(\"next=7\")",
            ),
            // Refused.
            ("/", "", "other ! NoEndpoint"),
            ("/v1/a/manifests/b", "", "other ! NoEndpoint"),
            ("/v2x/a/manifests/b", "", "other ! NoEndpoint"),
            ("/v2//", "", "other ! NoEndpoint"),
            ("/v2/_catalog", "", "other ! NoEndpoint"),
            ("/v2/manifests/v1", "", "other ! NoEndpoint"),
            ("/v2/a/manifests/", "", "other ! NoEndpoint"),
            ("/v2/a/tags/lists", "", "other ! NoEndpoint"),
            ("/v2/a/blobs/uploads/", "", "other ! NoEndpoint"),
            ("/v2/a/b%2Fc/manifests/v1", "", "manifest ! Encoding(\"b%2Fc\")"),
            ("/v2/a/b/manifests/%ff", "", "manifest ! Encoding(\"%ff\")"),
            ("/v2/a/b/manifests/v%00", "", "manifest ! Encoding(\"v%00\")"),
            ("/v2/a//b/manifests/v1", "", "manifest ! Name(Repository(\"a//b\"))"),
            ("/v2/../etc/manifests/v1", "", "manifest ! Name(Registry(\"..\"))"),
            ("/v2/a/B/manifests/v1", "", "manifest ! Name(Repository(\"a/B\"))"),
            ("/v2/a/b/manifests/-v1", "", "manifest ! Name(Tag(\"-v1\"))"),
            ("/v2/a/b/manifests/sha256:zz", "", "manifest ! Digest(WrongLength"),
            ("/v2/a/b/blobs/v1", "", "blob ! Digest(NoAlgorithm)"),
            ("/v2/a/b/blobs/sha256:baddigeststring", "", "blob ! Digest(WrongLength"),
            ("/v2/a/b/referrers/x", "", "referrers ! Digest(NoAlgorithm)"),
            ("/v2/a/b/manifests/v1", "ns=a.io&ns=a.io", "manifest ! RepeatedNamespace(2)"),
            ("/v2/a/b/manifests/v1", "ns=", "manifest ! Name(Registry(\"\"))"),
            ("/v2/a/b/manifests/v1", "ns=http://a.io", "manifest ! Name(Registry(\"http://a.io\"))"),
            ("/v2/a/b/tags/list", "n=-1", "tags ! Parameter"),
        ];
        for (path, query, want) in table {
            let fill = |text: &str| text.replace("{digest}", &digest).replace("{encoded}", &encoded);
            assert_eq!(shown(&fill(path), query, Some(&hub())), fill(want), "{path}?{query}");
        }
    }

    #[test]
    fn without_a_registry_the_remedy_is_named() {
        let (kind, route) = parse("/v2/a/b/manifests/v1", None, None);
        let message = route.unwrap_err().to_string();
        assert_eq!(kind, Kind::Manifest);
        for remedy in ["?ns=", "/v2/docker.io/a/b/", "default_registry"] {
            assert!(message.contains(remedy), "{message}");
        }
    }

    #[test]
    fn a_long_address_is_refused() {
        let path = format!("/v2/{}/manifests/v1", "a".repeat(URI_BYTES_MAX));
        assert!(matches!(parse(&path, None, None).1, Err(RouteError::TooLong(_))));
        let query = format!("last={}", "x".repeat(LISTING_VALUE_BYTES_MAX + 1));
        let (_, route) = parse("/v2/a/tags/list", Some(&query), Some(&hub()));
        assert!(matches!(route, Err(RouteError::Parameter { key: "last", .. })));
    }

    /// A link that we hand out leads to the same listing in the same scope.
    #[test]
    fn a_listing_uri_reads_back() {
        let digest = format!("sha256:{HEX}");
        let table = [
            ("/v2/a/b/tags/list".to_owned(), "n=3&last=x%2Fy+z&ns=ghcr.io%3A443"),
            ("/v2/docker.io/redis/tags/list".to_owned(), "n=3"),
            ("/v2/[::1]:5000/a/tags/list".to_owned(), ""),
            (
                format!("/v2/redis/referrers/{digest}"),
                "artifactType=a%2Fb%2Bc&page=n%3D1%26t%3D%2525&ns=docker.io",
            ),
        ];
        for (path, query) in table {
            let (_, route) = parse(&path, Some(query), Some(&hub()));
            let Ok(Route::Listing(target, listing)) = route else { panic!("{path}?{query}") };
            let link = listing_uri(&target.addressing, &listing);
            let uri: http::Uri = link.parse().unwrap();
            let (_, again) = parse(uri.path(), uri.query(), Some(&hub()));
            let Ok(Route::Listing(target_again, listing_again)) = again else { panic!("{link}") };
            assert_eq!(
                (target.scope, format!("{listing:?}")),
                (target_again.scope, format!("{listing_again:?}"))
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn no_address_panics(path in "(/v2)?(/[a-z.:%0-9A-F\\[\\]-]{0,9}){0,6}", query in "(ns|n|last|x)?=?[a-z%&=0-9]{0,20}") {
            let _ = parse(&path, Some(&query), Some(&hub()));
            let _ = parse(&path, None, None);
        }

        #[test]
        fn any_text_is_survived(path in ".{0,60}", query in ".{0,30}") {
            let _ = parse(&format!("/v2/{path}/manifests/{path}"), Some(&query), None);
            let _ = parse(&path, Some(&query), Some(&hub()));
        }

        #[test]
        fn a_name_is_found_whatever_it_contains(
            name in "(manifests|blobs|tags|list|referrers|[a-z0-9]{1,5})(/(manifests|blobs|tags|list|referrers|[a-z0-9]{1,5})){1,4}",
            tag in "[a-z0-9]{1,8}",
        ) {
            let (kind, route) = parse(&format!("/v2/{name}/manifests/{tag}"), Some("ns=r.test"), None);
            // `<name>/manifests/list` after a component `tags` cannot be told from a list of tags.
            proptest::prop_assume!(kind == Kind::Manifest);
            let Ok(Route::Manifest(target, reference)) = route else { panic!("{name}:{tag}") };
            proptest::prop_assert_eq!(target.scope.repository.as_str(), name);
            proptest::prop_assert_eq!(reference.to_string(), tag);
        }
    }
}
