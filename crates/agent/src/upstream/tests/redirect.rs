//! C4 and `contract.md` 4.3: redirects are followed here, and what identifies us stays at home.

use super::*;

/// A storage server that hands out `content(1000)` in ranges, and a registry that sends everybody there.
async fn registry_and_storage(status: u16) -> (Server, Server) {
    let storage = serve(|seen| async move {
        let first: usize = seen.header("range").unwrap()[6..].trim_end_matches('-').parse().unwrap();
        let range = format!("bytes {first}-999/1000");
        // Its tag and its digest mean nothing.
        let headers =
            [("content-range", &*range), ("etag", "\"storage\""), ("docker-content-digest", "sha256:00")];
        respond(206, &headers, content(1000)[first..].to_vec())
    })
    .await;
    let location = storage.url("/signed?X-Signature=hunter2").to_string();
    let registry = serve(move |seen| {
        let location = location.clone();
        async move {
            match seen.header("authorization") {
                None => respond(401, &[("www-authenticate", "Basic realm=\"x\"")], ""),
                Some(_) => respond(status, &[("location", &location)], "moved"),
            }
        }
    })
    .await;
    (registry, storage)
}

#[tokio::test]
async fn nothing_that_identifies_us_leaves_home() {
    for status in [301, 302, 303, 307, 308] {
        let (registry, storage) = registry_and_storage(status).await;
        let mut settings = settings(&registry.url(""), with_password());
        settings.forward_client_address = true;
        let upstream = Upstream::new(settings, Metrics::new()).unwrap();
        let asked = Asked { client: Some("192.0.2.7".parse().unwrap()), ..asked() };
        let mut stream = upstream.open_blob(&asked, &sha256(&content(1000)), 17, None).await.unwrap();
        assert!(drain(&mut stream).await.0 == content(1000)[17..]);
        let seen = &storage.seen()[0];
        assert_eq!((seen.method.as_str(), seen.query.as_str()), ("GET", "X-Signature=hunter2"));
        for (name, value) in
            [("range", Some("bytes=17-")), ("accept", Some("*/*")), ("accept-encoding", Some("identity"))]
        {
            assert_eq!(seen.header(name), value, "{status}: {name} goes along");
        }
        for name in ["authorization", "x-forwarded-for", "referer", "cookie"] {
            assert_eq!(seen.header(name), None, "{status}: {name} stays");
        }
        assert!(registry.seen()[1].header("authorization").unwrap().starts_with("Basic "));
        assert_eq!(registry.seen()[1].header("x-forwarded-for"), Some("192.0.2.7"));
    }
}

#[tokio::test]
async fn a_relative_location_stays_at_home() {
    let server = serve(|seen| async move {
        match (seen.path.as_str(), seen.header("authorization")) {
            (_, None) => respond(401, &[("www-authenticate", "Basic realm=\"x\"")], ""),
            ("/downloads/a", _) => respond(200, &[], content(10)),
            _ => respond(302, &[("location", "/downloads/a?x=1")], ""),
        }
    })
    .await;
    let upstream = upstream_with(&server.url(""), with_password());
    let mut stream = upstream.open_blob(&asked(), &sha256(b""), 0, None).await.unwrap();
    assert_eq!(drain(&mut stream).await.0, content(10));
    let paths: Vec<_> = server
        .seen()
        .into_iter()
        .map(|seen| (seen.path, seen.headers.contains_key("authorization")))
        .collect();
    assert_eq!(paths.len(), 3);
    assert_eq!(paths[2], ("/downloads/a".into(), true));
}

#[tokio::test]
async fn what_has_left_home_does_not_come_back_with_credentials() {
    let home: Arc<Mutex<Option<Url>>> = Arc::default();
    let back = Arc::clone(&home);
    let elsewhere = serve(move |_| {
        let location = back.lock().clone().unwrap().join("/back").unwrap();
        async move { respond(302, &[("location", location.as_str())], "") }
    })
    .await;
    let away = elsewhere.url("/away").to_string();
    let server = serve(move |seen| {
        let away = away.clone();
        async move {
            match (seen.path.as_str(), seen.header("authorization")) {
                ("/back", _) => respond(200, &[], content(10)),
                (_, None) => respond(401, &[("www-authenticate", "Basic realm=\"x\"")], ""),
                _ => respond(302, &[("location", &away)], ""),
            }
        }
    })
    .await;
    *home.lock() = Some(server.url(""));
    let upstream = upstream_with(&server.url(""), with_password());
    upstream.open_blob(&asked(), &sha256(b""), 0, None).await.unwrap();
    let seen = server.seen();
    assert_eq!(seen.last().unwrap().path, "/back");
    assert_eq!(seen.last().unwrap().header("authorization"), None);
}

#[tokio::test]
async fn circles_end() {
    let server = serve(|seen| async move { respond(307, &[("location", &seen.path)], "") }).await;
    let error = upstream(&server.url("")).open_blob(&asked(), &sha256(b""), 0, None).await.unwrap_err();
    assert_eq!(error.fault(), SourceFault::Protocol);
    assert_eq!(server.seen().len(), limits::REDIRECTS_MAX + 1);
}

#[tokio::test]
async fn a_redirect_to_nowhere_is_a_fault() {
    let server = serve(|_| async { respond(307, &[], "") }).await;
    let error = upstream(&server.url("")).open_blob(&asked(), &sha256(b""), 0, None).await.unwrap_err();
    assert_eq!(error.fault(), SourceFault::Protocol);
}

#[tokio::test]
async fn a_redirect_to_ourselves_is_a_loop() {
    let ourselves = serve(|_| async { respond(200, &[], "") }).await;
    let location = ourselves.url("/v2/x").to_string();
    let server = serve(move |_| {
        let location = location.clone();
        async move { respond(307, &[("location", &location)], "") }
    })
    .await;
    let mut settings = settings(&server.url(""), RegistrySettings::default());
    settings.own_addresses = vec![SocketAddr::from(([0, 0, 0, 0], ourselves.address.port()))];
    let upstream = Upstream::new(settings, Metrics::new()).unwrap();
    let error = upstream.open_blob(&asked(), &sha256(b""), 0, None).await.unwrap_err();
    assert_eq!(error.fault(), SourceFault::Loop);
    assert_eq!(ourselves.seen().len(), 0);
}

/// The registry is asked once more for a Location whose signature has expired, and only once.
#[tokio::test]
async fn an_expired_signature_is_renewed_once() {
    let storage = serve(|seen| async move {
        match seen.query.as_str() {
            "sig=2" => respond(200, &[], content(10)),
            _ => respond(403, &[], "<Error><Code>AccessDenied</Code></Error>"),
        }
    })
    .await;
    let (to, count) = (storage.url("/x"), Arc::new(Mutex::new(0)));
    let server = serve(move |_| {
        let mut location = to.clone();
        let mut count = count.lock();
        *count += 1;
        location.set_query(Some(&format!("sig={count}")));
        drop(count);
        async move { respond(307, &[("location", location.as_str())], "") }
    })
    .await;
    let upstream = upstream(&server.url(""));
    let mut stream = upstream.open_blob(&asked(), &sha256(b""), 0, None).await.unwrap();
    assert_eq!(drain(&mut stream).await.0, content(10));
    assert_eq!((server.seen().len(), storage.seen().len()), (2, 2));
    // From now on every signature is refused.
    let error = upstream.open_blob(&asked(), &sha256(b""), 0, None).await.unwrap_err();
    assert_eq!(error.fault(), SourceFault::Denied { status: 403 });
    assert_eq!((server.seen().len(), storage.seen().len()), (4, 4));
    assert!(!error.cause().reason.contains("AccessDenied"), "{:?}", error.cause());
}
