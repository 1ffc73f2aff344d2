//! I8: passwords, tokens and signatures are in no error, no debug text and no log line.

use std::io;

use tracing_subscriber::fmt::MakeWriter;

use super::*;

const PASSWORD: &str = "hunter2";
const TOKEN: &str = "tok3n-hunter3";
const SIGNATURE: &str = "s1gnature-hunter4";
const SECRETS: [&str; 4] = [PASSWORD, TOKEN, SIGNATURE, "dXNlcjpodW50ZXIy"];

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Lines;

    fn make_writer(&'a self) -> Lines {
        self.clone()
    }
}

fn scan(what: &str, text: &str) {
    for secret in SECRETS {
        assert!(!text.contains(secret), "{what} shows {secret}: {text}");
    }
}

fn scan_error(what: &str, error: &UpstreamError) {
    let mut text = format!("{error} {error:?} {error:#?} {:?}", error.cause());
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text.push_str(&format!(" {cause} {cause:?}"));
        next = cause.source();
    }
    scan(what, &text);
}

/// One thread, so that the log lines of everything that runs here end up in the same place.
#[tokio::test(flavor = "current_thread")]
async fn secrets_are_shown_nowhere() {
    let lines = Lines::default();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(lines.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    tracing::info!("the log is being read");

    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody_there = nobody.local_addr().unwrap();
    drop(nobody);
    let short = serve_raw(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx".to_vec(), Then::Close).await;
    let stalled = serve_raw(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx".to_vec(), Then::Stall).await;
    let garbage = serve_raw(format!("{SIGNATURE} {TOKEN}\r\n\r\n").into_bytes(), Then::Close).await;
    let storage = serve(|seen| async move {
        match seen.path.as_str() {
            "/missing" => respond(404, &[], format!("<Error>{}</Error>", seen.query)),
            "/denied" => respond(403, &[], seen.query),
            "/range" => respond(206, &[("content-range", "bytes 1-2/3")], "ab"),
            "/coding" => respond(200, &[("content-encoding", "br")], "ab"),
            "/circle" => respond(302, &[("location", &format!("/circle?{}", seen.query))], ""),
            other => panic!("{other}"),
        }
    })
    .await;
    let signed = |address: SocketAddr, path: &str| {
        format!("http://user:{PASSWORD}@{address}{path}?X-Signature={SIGNATURE}")
    };
    let targets = [
        signed(storage.address, "/missing"),
        signed(storage.address, "/denied"),
        signed(storage.address, "/range"),
        signed(storage.address, "/coding"),
        signed(storage.address, "/circle"),
        signed(short.address, "/short"),
        signed(stalled.address, "/stalled"),
        signed(garbage.address, "/garbage"),
        signed(nobody_there, "/nobody"),
        format!("ftp://user:{PASSWORD}@registry.test/x?X-Signature={SIGNATURE}"),
    ];
    let count = targets.len();
    let server = serve(move |seen| {
        let targets = targets.clone();
        async move {
            if seen.path == "/token" {
                return match seen.query("scope")[0].contains("private") {
                    true => respond(403, &[], format!("{{\"token\":\"{TOKEN}\"}}")),
                    false => respond(200, &[], format!("{{\"token\":\"{TOKEN}\"}}")),
                };
            }
            let Some(authorization) = seen.header("authorization") else {
                let host = seen.header("host").unwrap();
                let repository = seen.path.strip_prefix("/v2/").unwrap().split("/blobs").next().unwrap();
                let challenge =
                    format!(r#"Bearer realm="http://{host}/token",scope="repository:{repository}:pull""#);
                return respond(401, &[("www-authenticate", &challenge)], "");
            };
            assert_eq!(authorization, format!("Bearer {TOKEN}"));
            let index = usize::from_str_radix(&seen.path[seen.path.len() - 2..], 16).unwrap();
            respond(307, &[("location", &targets[index])], "")
        }
    })
    .await;
    let mut settings = settings(&server.url(""), with_password());
    settings.idle_timeout = Duration::from_millis(200);
    scan("settings", &format!("{settings:?}"));
    let upstream = Upstream::new(settings, Metrics::new()).unwrap();

    for index in 0..count {
        let mut hash = [0; 32];
        hash[31] = u8::try_from(index).unwrap();
        let digest = Digest::new(Algorithm::Sha256, &hash);
        let error = match upstream.open_blob(&asked(), &digest, 0, None).await {
            Err(error) => error,
            Ok(mut stream) => {
                scan("stream", &format!("{stream:?}"));
                drain(&mut stream).await.1.unwrap_or_else(|| panic!("target {index} did not fail"))
            }
        };
        scan_error(&format!("target {index}"), &error);
    }
    let mut private = asked();
    private.scope.repository = "private/app".parse().unwrap();
    let error = upstream.open_blob(&private, &sha256(b""), 0, None).await.unwrap_err();
    assert_eq!(error.fault(), SourceFault::Denied { status: 403 });
    scan_error("token endpoint", &error);

    let text = String::from_utf8(lines.0.lock().clone()).unwrap();
    assert!(text.contains("the log is being read"));
    // What the HTTP stack itself traces counts as well.
    scan("log", &text);
}
