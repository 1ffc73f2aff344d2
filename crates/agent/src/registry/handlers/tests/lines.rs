//! The one log line of a request: where the bytes came from, and how it ended.

use super::*;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Runs one request and returns its log line and the metrics.
async fn logged(fake: &Fake, uri: &str, range: Option<&str>, until: Until) -> (serde_json::Value, String) {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
    let guard = tracing::subscriber::set_default(subscriber);
    let (app, metrics) = app(fake);
    let mut request = Request::builder().uri(uri.replace("{blob}", BLOB));
    if let Some(range) = range {
        request = request.header("range", range);
    }
    let mut asking = Box::pin(app.oneshot(request.body(Body::empty()).unwrap()));
    let body = if until == Until::Asked {
        let is_pending = std::future::poll_fn(|cx| Poll::Ready(asking.as_mut().poll(cx).is_pending())).await;
        assert!(is_pending);
        None
    } else {
        Some((&mut asking).await.unwrap().into_body())
    };
    assert!(lines.0.lock().unwrap().is_empty(), "the line is written when the body ends");
    if let Some(mut body) = body {
        if until == Until::End {
            while let Some(Ok(_)) = body.frame().await {}
        } else {
            body.frame().await.unwrap().unwrap();
        }
    }
    drop(asking);
    drop(guard);
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    (serde_json::from_str(&text).unwrap(), metrics.encode())
}

#[tokio::test]
async fn one_line_per_request_says_where_the_bytes_came_from() {
    let (line, metrics) =
        logged(&Fake::default(), "/v2/a/blobs/{blob}?ns=docker.io", Some("bytes=10-"), Until::End).await;
    let fields = &line["fields"];
    let want = [
        ("method", "GET"),
        ("kind", "blob"),
        ("registry", "docker.io"),
        ("repository", "library/a"),
        ("reference", "sha256:e3b0c44298fc"),
        ("range", "10-35/36"),
        ("source", "shared"),
        ("ended", "complete"),
    ];
    for (name, value) in want {
        assert_eq!(fields[name], value, "{line}");
    }
    assert_eq!((&fields["status"], &fields["bytes"]), (&206.into(), &26.into()));
    assert!(fields["seconds"].as_f64() >= fields["seconds_to_head"].as_f64());
    assert_eq!((&line["target"], &line["level"]), (&"shoal::request".into(), &"INFO".into()));
    assert!(metrics.contains(r#"shoal_served_bytes_total{source="shared"} 26"#), "{metrics}");
    assert!(metrics.contains(r#"shoal_requests_total{kind="blob",status="206"} 1"#), "{metrics}");
}

#[tokio::test]
async fn how_a_request_ended() {
    let (line, metrics) = logged(&Fake::default(), "/v2/a/blobs/{blob}", None, Until::FirstFrame).await;
    assert_eq!((&line["fields"]["ended"], &line["fields"]["bytes"]), (&"client-left".into(), &7.into()));
    assert_eq!(line["level"], "INFO", "its own doing");
    assert!(metrics.contains(r#"shoal_served_bytes_total{source="shared"} 7"#), "{metrics}");

    let broken = Fake::new(|inner| inner.break_after = Some(14));
    let (line, _) = logged(&broken, "/v2/a/blobs/{blob}", None, Until::End).await;
    assert_eq!((&line["fields"]["ended"], &line["fields"]["bytes"]), (&"cut".into(), &14.into()));
    assert_eq!((&line["fields"]["error"], &line["level"]), (&"the source is gone".into(), &"WARN".into()));

    let failing =
        Fake::failing(PullError::Exhausted(vec![Cause { source: "r.test".into(), reason: "down".into() }]));
    let (line, _) = logged(&failing, "/v2/a/manifests/v1", None, Until::End).await;
    assert_eq!((&line["fields"]["status"], &line["fields"]["ended"]), (&502.into(), &"complete".into()));
    assert_eq!(line["fields"]["error"], "every source failed: r.test: down");
    assert_eq!((&line["fields"]["source"], &line["level"]), (&serde_json::Value::Null, &"WARN".into()));

    let (line, metrics) =
        logged(&Fake::default(), "/v2/a/manifests/v1", Some("bytes=900-"), Until::End).await;
    assert_eq!(
        (&line["fields"]["status"], &line["fields"]["source"]),
        (&416.into(), &serde_json::Value::Null)
    );
    assert_eq!(line["level"], "INFO", "its own doing");
    assert!(!metrics.contains("shoal_served_bytes_total{"), "an error's text is not content: {metrics}");

    let hanging = Fake::new(|inner| inner.hangs = true);
    let (line, _) = logged(&hanging, "/v2/a/manifests/v1", None, Until::Asked).await;
    assert_eq!(
        (&line["fields"]["ended"], &line["fields"]["status"]),
        (&"client-left".into(), &serde_json::Value::Null)
    );
}

/// Times of hits are short, and nobody reads exponents.
#[tokio::test]
async fn times_have_no_exponent() {
    let (line, _) = logged(&Fake::default(), "/v2/a/blobs/{blob}", None, Until::End).await;
    for time in ["seconds", "seconds_to_head"] {
        let text = format!("{:?}", line["fields"][time].as_f64().unwrap());
        assert!(!text.contains('e'), "{time}={text}");
    }
}
