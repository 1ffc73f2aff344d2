//! A host as containerd writes it, taken apart into what we call it and where it is.
//!
//! containerd appends `/v2` to a host's path, unless the path ends so already or `override_path` says that the path is the
//! API's root itself (`contract.md` 2.1). Here, a registry's endpoint is what stands before `/v2`, and what stands after it
//! is a location's prefix.

use shoal_engine::{Location, Registry, Repository};
use url::Url;

/// A host taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reached {
    /// Registry and prefix.
    pub location: Location,
    /// Scheme, host and what stands before `/v2`.
    pub endpoint: String,
}

/// Takes a host apart; otherwise says why that cannot be. Credentials in a URL are not repeated.
pub(super) fn take_apart(host: &str, is_path_the_root: bool) -> Result<Reached, String> {
    let text = if host.starts_with("http") { host.to_owned() } else { format!("https://{host}") };
    let url = Url::parse(&text).map_err(|error| format!("is no URL: {error}"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("has credentials in it; use username and password_file of upstream.registries".into());
    }
    let is_usable =
        matches!(url.scheme(), "http" | "https") && url.query().is_none() && url.fragment().is_none();
    let host = url.host_str().filter(|_| is_usable).ok_or("is no http or https URL of a host and a path")?;
    // The scheme's own port is the one that is left out.
    let name = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    let registry: Registry = name.parse().map_err(|error| format!("{error}"))?;
    let (before, after) = around_root(url.path(), is_path_the_root)?;
    let prefix =
        after.map(|prefix| prefix.parse::<Repository>()).transpose().map_err(|error| error.to_string())?;
    let endpoint =
        if registry.as_str() == Registry::DOCKER_HUB && before.is_empty() && url.scheme() == "https" {
            default_endpoint(&registry)
        } else {
            format!("{}://{name}{before}", url.scheme())
        };
    Ok(Reached { location: Location { registry, prefix }, endpoint })
}

/// What stands before the API's root, and what after it.
fn around_root(path: &str, is_path_the_root: bool) -> Result<(String, Option<String>), String> {
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let joined = |segments: &[&str]| segments.iter().map(|segment| format!("/{segment}")).collect::<String>();
    if !is_path_the_root {
        let before = segments.strip_suffix(&["v2"]).unwrap_or(&segments);
        return Ok((joined(before), None));
    }
    let Some(root) = segments.iter().position(|segment| *segment == "v2") else {
        return Err("has override_path and no /v2 in its path; here, the API's root is always at /v2".into());
    };
    let after = segments[root + 1..].join("/");
    Ok((joined(&segments[..root]), (!after.is_empty()).then_some(after)))
}

/// Where a registry is if nobody says otherwise.
pub(super) fn default_endpoint(registry: &Registry) -> String {
    match registry.as_str() {
        Registry::DOCKER_HUB => "https://registry-1.docker.io".to_owned(),
        other => format!("https://{other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_taken_apart() {
        let table = [
            ("https://m.test", false, Ok(("m.test", "https://m.test"))),
            ("m.test:5000", false, Ok(("m.test:5000", "https://m.test:5000"))),
            ("http://m.test:5000/", false, Ok(("m.test:5000", "http://m.test:5000"))),
            ("https://m.test:443/v2", false, Ok(("m.test", "https://m.test"))),
            ("https://m.test/v2/", false, Ok(("m.test", "https://m.test"))),
            ("https://m.test/cache//x", false, Ok(("m.test", "https://m.test/cache/x"))),
            ("https://m.test/cache/v2", false, Ok(("m.test", "https://m.test/cache"))),
            ("https://m.test/v2/hub-proxy", true, Ok(("m.test/hub-proxy", "https://m.test"))),
            ("https://m.test/api/v2/a/b/", true, Ok(("m.test/a/b", "https://m.test/api"))),
            ("https://m.test/v2", true, Ok(("m.test", "https://m.test"))),
            ("https://docker.io", false, Ok(("docker.io", "https://registry-1.docker.io"))),
            ("https://registry-1.docker.io", false, Ok(("docker.io", "https://registry-1.docker.io"))),
            ("https://m.test/artifactory/hub", true, Err("no /v2")),
            ("https://m.test", true, Err("no /v2")),
            ("https://u:hunter2@m.test", false, Err("credentials")),
            ("https://m.test/?x=1", false, Err("no http or https")),
            ("https://m.test/v2/Hub", true, Err("not a repository name")),
            ("http://", false, Err("no URL")),
        ];
        for (host, is_path_the_root, expected) in table {
            let found = take_apart(host, is_path_the_root);
            match (found, expected) {
                (Ok(reached), Ok((location, endpoint))) => {
                    assert_eq!(
                        (reached.location.to_string().as_str(), reached.endpoint.as_str()),
                        (location, endpoint),
                        "{host}"
                    );
                }
                (Err(error), Err(said)) => {
                    assert!(error.contains(said) && !error.contains("hunter2"), "{host}: {error}");
                }
                (found, expected) => panic!("{host}: {found:?}, not {expected:?}"),
            }
        }
    }
}
