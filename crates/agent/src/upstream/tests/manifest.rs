//! Manifests: what is asked, what is believed, what is bounded.

use shoal_store::Visibility;

use super::*;

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const MANIFEST: &[u8] = br#"{"schemaVersion":2,"config":{},"layers":[]}"#;

fn tag() -> Reference {
    "latest".parse().unwrap()
}

fn sha512(bytes: &[u8]) -> Digest {
    Digest::new(Algorithm::Sha512, ring::digest::digest(&ring::digest::SHA512, bytes).as_ref())
}

#[tokio::test]
async fn every_media_type_is_asked_for() {
    let server = serve(|_| async { respond(200, &[("content-type", OCI_MANIFEST)], MANIFEST) }).await;
    upstream(&server.url("")).get_manifest(&asked(), &tag(), None).await.unwrap();
    let seen = &server.seen()[0];
    assert_eq!(seen.path, "/v2/library/app/manifests/latest");
    let accept = seen.header("accept").unwrap();
    for media_type in [
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
    ] {
        assert!(accept.split(", ").any(|entry| entry == media_type), "{media_type} in {accept}");
    }
    assert_eq!(seen.header("if-none-match"), None);
}

#[tokio::test]
async fn bytes_are_believed_only_with_their_digest() {
    let server = serve(|seen| async move {
        let mut response = respond(
            200,
            &[("content-type", "application/vnd.oci.image.manifest.v1+json; charset=utf-8")],
            MANIFEST,
        );
        if let Some(claim) = seen.path.rsplit('/').next().and_then(|tag| tag.strip_prefix("claims-")) {
            let claim = claim.replacen('-', ":", 1);
            response.headers_mut().insert("docker-content-digest", claim.parse().unwrap());
        }
        response
    })
    .await;
    let upstream = upstream(&server.url(""));
    let get = async |reference: &str| {
        let reference: Reference = reference.parse().unwrap();
        match upstream.get_manifest(&asked(), &reference, None).await {
            Ok(ManifestGet::Found { bytes, media_type, digest, max_age: None, .. }) => {
                assert_eq!((&bytes[..], media_type.as_str()), (MANIFEST, OCI_MANIFEST));
                Ok(digest)
            }
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.fault()),
        }
    };
    let claim = |digest: Digest| format!("claims-{}-{}", digest.algorithm(), digest.hex());
    assert_eq!(get("latest").await, Ok(sha256(MANIFEST)));
    assert_eq!(get(&claim(sha256(MANIFEST))).await, Ok(sha256(MANIFEST)));
    assert_eq!(get(&claim(sha256(b"other"))).await, Err(SourceFault::WrongContent));
    assert_eq!(get("claims-nonsense").await, Ok(sha256(MANIFEST)));
    assert_eq!(get(&sha256(MANIFEST).to_string()).await, Ok(sha256(MANIFEST)));
    assert_eq!(get(&sha512(MANIFEST).to_string()).await, Ok(sha512(MANIFEST)));
    assert_eq!(get(&sha256(b"other").to_string()).await, Err(SourceFault::WrongContent));
    assert_eq!(get(&sha512(b"other").to_string()).await, Err(SourceFault::WrongContent));
}

/// What is stored is served for every registry, so one that sends the right bytes as something else must not be believed.
#[tokio::test]
async fn a_manifest_knows_its_type_better_than_its_server() {
    const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";
    const DOCKER_OLD: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    const INDEX: &[u8] = br#"{"schemaVersion":2,"manifests":[]}"#;
    const STATED: &[u8] = br#"{
        "schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","layers":[]
    }"#;
    const OLD: &[u8] = br#"{"schemaVersion":1,"fsLayers":[],"history":[]}"#;
    let table = [
        (MANIFEST, OCI_INDEX, OCI_MANIFEST),
        (MANIFEST, "text/html", OCI_MANIFEST),
        (INDEX, OCI_MANIFEST, OCI_INDEX),
        (STATED, OCI_MANIFEST, DOCKER),
        (STATED, DOCKER, DOCKER),
        // It does not say.
        (OLD, DOCKER_OLD, DOCKER_OLD),
    ];
    for (bytes, sent_as, expected) in table {
        let server = serve(move |_| async move { respond(200, &[("content-type", sent_as)], bytes) }).await;
        let got = upstream(&server.url("")).get_manifest(&asked(), &tag(), None).await.unwrap();
        let ManifestGet::Found { media_type, .. } = got else { panic!("{sent_as}") };
        assert_eq!(media_type, expected, "{sent_as}");
    }
}

#[tokio::test]
async fn size_is_bounded() {
    let limit = MANIFEST_BYTES_MAX as usize;
    let server = serve(move |seen| async move {
        let length: usize = seen.path.rsplit('-').next().unwrap().parse().unwrap();
        let chunks =
            std::iter::repeat_n(Ok::<_, std::convert::Infallible>(vec![b' '; 1 << 20]), length >> 20);
        let rest = std::iter::once(Ok(vec![b' '; length % (1 << 20)]));
        let body = Body::from_stream(futures_util::stream::iter(chunks.chain(rest)));
        match seen.path.contains("told") {
            true => respond(200, &[("content-length", &length.to_string())], body),
            false => respond(200, &[], body),
        }
    })
    .await;
    let upstream = upstream(&server.url(""));
    for name in ["told", "chunked"] {
        let fits = format!("{name}-{limit}").parse().unwrap();
        let ManifestGet::Found { bytes, digest, .. } =
            upstream.get_manifest(&asked(), &fits, None).await.unwrap()
        else {
            panic!("{name}")
        };
        assert_eq!((bytes.len(), digest), (limit, sha256(&bytes)));
        let too_long = format!("{name}-{}", limit + 1).parse().unwrap();
        let error = upstream.get_manifest(&asked(), &too_long, None).await.unwrap_err();
        assert!(
            matches!(error.reason(), error::Reason::TooLarge { limit: MANIFEST_BYTES_MAX }),
            "{name}: {error}"
        );
        assert_eq!(error.fault(), SourceFault::Protocol);
    }
}

#[tokio::test]
async fn a_manifest_cut_short_is_interrupted() {
    let text = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_vec();
    let server = serve_raw(text, Then::Close).await;
    let error = upstream(&server.url("")).get_manifest(&asked(), &tag(), None).await.unwrap_err();
    assert_eq!(error.fault(), SourceFault::Interrupted);
}

/// C11: a known digest makes the question conditional, and 304 renews it without a body.
#[tokio::test]
async fn revalidation() {
    let known = sha256(MANIFEST);
    let server = serve(move |seen| async move {
        let headers = [("cache-control", "public, max-age=120")];
        match seen.header("if-none-match") == Some(&format!("\"{known}\"")) {
            true => respond(304, &headers, ""),
            false => respond(200, &headers, MANIFEST),
        }
    })
    .await;
    let upstream = upstream(&server.url(""));
    let max_age = Some(Duration::from_secs(120));
    let head = upstream.head_manifest(&asked(), &tag(), Some(&known)).await.unwrap();
    assert_eq!(head, ManifestHead::NotModified { max_age, visibility: Visibility::Public });
    let get = upstream.get_manifest(&asked(), &tag(), Some(&known)).await.unwrap();
    assert_eq!(get, ManifestGet::NotModified { max_age, visibility: Visibility::Public });
    let get = upstream.get_manifest(&asked(), &tag(), Some(&sha256(b"old"))).await.unwrap();
    let media_type = OCI_MANIFEST.to_owned();
    let bytes = Bytes::from_static(MANIFEST);
    assert_eq!(
        get,
        ManifestGet::Found { bytes, media_type, digest: known, max_age, visibility: Visibility::Public }
    );
}

#[tokio::test]
async fn what_a_head_does_not_tell_is_not_guessed() {
    let digest = sha256(MANIFEST).to_string();
    let server = serve(move |seen| {
        let digest = digest.clone();
        async move {
            let length = ("content-length", "43");
            match seen.path.rsplit('/').next().unwrap() {
                "full" => {
                    let headers =
                        [("docker-content-digest", &*digest), ("content-type", OCI_MANIFEST), length];
                    respond(200, &headers, "")
                }
                "bare" => respond(
                    200,
                    &[("content-type", "text/plain; charset=utf-8")],
                    Body::new(axum::body::Body::empty()),
                ),
                "refused" => respond(405, &[], ""),
                "missing" => respond(404, &[], ""),
                _ => respond(200, &[("docker-content-digest", &*digest), length], ""),
            }
        }
    })
    .await;
    let upstream = upstream(&server.url(""));
    let head = async |reference: &str| {
        let reference = reference.parse().unwrap();
        upstream.head_manifest(&asked(), &reference, None).await.map_err(|error| error.fault())
    };
    let found = |digest, media_type: Option<&str>, size| {
        Ok(ManifestHead::Found {
            digest,
            media_type: media_type.map(str::to_owned),
            size,
            max_age: None,
            visibility: Visibility::Public,
        })
    };
    let digest = sha256(MANIFEST);
    assert_eq!(head("full").await, found(Some(digest), Some(OCI_MANIFEST), Some(43)));
    // Nothing was told, so nobody knows whether it is public.
    let untold = ManifestHead::Found {
        digest: None,
        media_type: None,
        size: None,
        max_age: None,
        visibility: Visibility::Private,
    };
    assert_eq!(head("refused").await, Ok(untold));
    assert_eq!(head("missing").await, Err(SourceFault::Missing));
    assert!(matches!(head("bare").await, Ok(ManifestHead::Found { digest: None, media_type: None, .. })));
    assert_eq!(head(&digest.to_string()).await, found(Some(digest), None, Some(43)));
    assert_eq!(head(&sha256(b"other").to_string()).await, Err(SourceFault::WrongContent));
    // Another algorithm says nothing about the one asked by.
    assert_eq!(head(&sha512(b"other").to_string()).await, found(Some(digest), None, Some(43)));
}
