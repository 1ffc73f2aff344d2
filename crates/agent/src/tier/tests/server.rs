//! Against a server on the loopback that answers like S3: what is sent, and what of its errors may be seen.

use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use parking_lot::Mutex;

use super::*;

type Seen = Arc<Mutex<Vec<http::request::Parts>>>;

async fn serve(
    answer: impl Fn(&http::request::Parts) -> Response + Clone + Send + Sync + 'static,
) -> (Url, Seen) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let seen = Seen::default();
    let kept = Arc::clone(&seen);
    let app = axum::Router::new().fallback(move |request: Request| {
        let (parts, _) = request.into_parts();
        let response = answer(&parts);
        kept.lock().push(parts);
        async move { response }
    });
    tokio::spawn(async move { axum::serve(listener, app).await });
    (url, seen)
}

fn s3(endpoint: Url, credentials: BucketCredentials) -> TierSettings {
    let bucket = Bucket::S3 {
        bucket: "images".into(),
        region: "eu-test-1".into(),
        endpoint: Some(endpoint),
        path_style: true,
    };
    TierSettings { credentials, ..settings(bucket) }
}

fn keys(folder: &tempfile::TempDir, id: &str) -> std::path::PathBuf {
    let path = folder.path().join("keys.toml");
    let fresh = folder.path().join("keys.toml.new");
    std::fs::write(&fresh, format!("access_key_id = '{id}'\nsecret_access_key = 'hunter2'\n")).unwrap();
    std::fs::rename(fresh, &path).unwrap();
    path
}

#[tokio::test]
async fn an_error_tells_what_happened_and_nothing_secret() {
    let denied = "<Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>AKIATEST</AWSAccessKeyId>\
                  <SignatureProvided>0badc0de</SignatureProvided></Error>";
    let (url, _) = serve(move |_| (StatusCode::FORBIDDEN, denied).into_response()).await;
    let folder = tempfile::tempdir().unwrap();
    let settings = s3(url, BucketCredentials::File(keys(&folder, "AKIATEST")));
    let tier = Tier::new(&settings, Metrics::new()).unwrap();
    let digest = digest_of(b"x");
    let error = tier.open(&scope("r.test/a"), &digest, 0, None).await.unwrap_err();
    assert!(matches!(error.fault(), TierFault::Denied(_)), "{error}");
    let (text, cause) = (error.to_string(), error.cause().reason);
    for part in ["open", &digest.to_string(), "SignatureDoesNotMatch"] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    for text in [&text, &cause, &format!("{error:?}"), &format!("{settings:?}")] {
        for secret in ["AKIATEST", "0badc0de", "hunter2", "Signature="] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
}

#[tokio::test]
async fn statuses() {
    let table = [
        (StatusCode::NOT_FOUND, None),
        (StatusCode::UNAUTHORIZED, Some("access denied")),
        (StatusCode::MOVED_PERMANENTLY, Some("region")),
        (StatusCode::SERVICE_UNAVAILABLE, Some("503")),
    ];
    for (status, expected) in table {
        let (url, _) = serve(move |_| status.into_response()).await;
        let tier = Tier::new(&s3(url, BucketCredentials::Anonymous), Metrics::new()).unwrap();
        let answer = tier.stat(&scope("r.test/a"), &digest_of(b"x")).await;
        match expected {
            None => assert_eq!(answer.unwrap(), None),
            Some(text) => {
                let error = answer.unwrap_err().to_string();
                assert!(error.contains(text), "{status}: {error}");
            }
        }
    }
}

#[tokio::test]
async fn nobody_there() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url: Url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    drop(listener);
    let tier = Tier::new(&s3(url, BucketCredentials::Anonymous), Metrics::new()).unwrap();
    let error = tier.stat(&scope("r.test/a"), &digest_of(b"x")).await.unwrap_err();
    assert!(matches!(error.fault(), TierFault::Connect(_)), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn requests_are_signed_unless_anonymous() {
    let missing = |_: &http::request::Parts| StatusCode::NOT_FOUND.into_response();
    let folder = tempfile::tempdir().unwrap();
    let table = [
        (BucketCredentials::Anonymous, None),
        (BucketCredentials::File(keys(&folder, "AKIATEST")), Some("Credential=AKIATEST/")),
    ];
    for (credentials, expected) in table {
        let (url, seen) = serve(missing).await;
        let tier = Tier::new(&s3(url, credentials), Metrics::new()).unwrap();
        tier.stat(&scope("r.test/a"), &digest_of(b"x")).await.unwrap();
        let seen = seen.lock();
        assert_eq!(seen.len(), 3, "two markers and the blob");
        for request in seen.iter() {
            assert!(request.uri.path().starts_with("/images/cache/"), "{}", request.uri);
            assert_eq!(request.headers[http::header::USER_AGENT], "shoal/test");
            let shown = request.headers.get(http::header::AUTHORIZATION).map(|value| value.to_str().unwrap());
            match expected {
                None => assert_eq!(shown, None),
                Some(part) => assert!(shown.unwrap().contains(part) && shown.unwrap().contains("eu-test-1")),
            }
        }
    }
}

/// A rotated key is taken up without a restart; one that cannot be read does not take the old one away.
#[tokio::test]
async fn credentials_that_are_rotated() {
    let (url, seen) = serve(|_| StatusCode::NOT_FOUND.into_response()).await;
    let folder = tempfile::tempdir().unwrap();
    let settings = s3(url, BucketCredentials::File(keys(&folder, "AKIAONE")));
    let tier = Tier::new(&settings, Metrics::new()).unwrap();
    let ask = async || {
        tier.stat(&scope("r.test/a"), &digest_of(b"x")).await.unwrap();
        let request = seen.lock().pop().unwrap();
        request.headers[http::header::AUTHORIZATION].to_str().unwrap().to_owned()
    };
    // The file is looked at once in a while; time is moved by hand, for the network needs the real one.
    let later = async || {
        tokio::time::pause();
        tokio::time::advance(limits::CREDENTIALS_CHECK).await;
        tokio::time::resume();
    };
    assert!(ask().await.contains("AKIAONE"));
    keys(&folder, "AKIATWO");
    later().await;
    assert!(ask().await.contains("AKIATWO"));
    std::fs::write(folder.path().join("keys.toml"), "access_key_id = 'AKIA").unwrap();
    later().await;
    assert!(ask().await.contains("AKIATWO"));
}

#[tokio::test]
async fn a_credentials_file_that_holds_none() {
    let (url, _) = serve(|_| StatusCode::NOT_FOUND.into_response()).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.toml");
    let settings = s3(url, BucketCredentials::File(path.clone()));
    for text in [None, Some("hunter2"), Some("access_key_id = 'hunter2'"), Some("password = 'hunter2'")] {
        if let Some(text) = text {
            std::fs::write(&path, text).unwrap();
        }
        let tier = Tier::new(&settings, Metrics::new()).unwrap();
        let error = tier.stat(&scope("r.test/a"), &digest_of(b"x")).await.unwrap_err();
        assert!(matches!(error.fault(), TierFault::Credentials(_)), "{error}");
        assert!(error.to_string().contains("keys.toml") && !error.to_string().contains("hunter2"), "{error}");
    }
}

/// Every kind of bucket can be made without asking anybody.
#[tokio::test]
async fn all_kinds_of_buckets() {
    let folder = tempfile::tempdir().unwrap();
    let azure = Bucket::Azure { account: "account".into(), container: "images".into(), endpoint: None };
    let google = Bucket::Google { bucket: "images".into(), endpoint: None };
    let amazon =
        Bucket::S3 { bucket: "images".into(), region: "eu-test-1".into(), endpoint: None, path_style: false };
    for bucket in [azure.clone(), google, amazon] {
        Tier::new(&settings(bucket), Metrics::new()).unwrap();
    }
    let path = folder.path().join("keys.toml");
    std::fs::write(&path, "account_key = 'c2VjcmV0'\n").unwrap();
    let settings = TierSettings { credentials: BucketCredentials::File(path), ..settings(azure) };
    let backend = Backend::new(&settings).unwrap();
    assert!(backend.store().await.unwrap().to_string().contains("images"));
}
