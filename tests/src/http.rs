//! A client that shows what came over the wire: no redirects followed, nothing decoded, a body that was cut short kept
//! as far as it came.

use std::sync::Once;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Longest that any answer of a test may take.
pub const ANSWER_MAX: Duration = Duration::from_secs(60);

/// The same for a large body over a slow link.
const PATIENCE_MAX: Duration = Duration::from_secs(600);

/// One answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// The body as far as it came.
    pub body: Bytes,
    /// Why the body ended before its Content-Length, if it did.
    pub cut: Option<String>,
    /// Time from the request to the headers.
    pub to_headers: Duration,
    /// Time from the request to the first body byte.
    pub to_first_byte: Duration,
    /// Time from the request to the end.
    pub total: Duration,
}

impl Answer {
    /// A header's text, or an empty one.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// `code` of the first error of the registry's error JSON; panics when the body is none.
    #[track_caller]
    pub fn error_code(&self) -> String {
        let body = String::from_utf8_lossy(&self.body);
        let json: serde_json::Value = serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("not the registry's error JSON ({e}): {} {body:?}", self.status));
        let error = &json["errors"][0];
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "no message: {body}");
        error["code"].as_str().unwrap_or_else(|| panic!("no code: {body}")).to_owned()
    }

    /// Panics unless this is a whole body with this status and exactly these bytes.
    #[track_caller]
    pub fn expect(&self, status: u16, bytes: &[u8]) {
        assert_eq!(
            self.status,
            status,
            "{:?} {:?}",
            self.headers,
            String::from_utf8_lossy(&self.body[..self.body.len().min(500)])
        );
        assert_eq!(self.cut, None, "the body was cut after {} bytes", self.body.len());
        assert_eq!(self.body.len(), bytes.len(), "length of the body");
        let wrong = self.body.iter().zip(bytes).position(|(ours, theirs)| ours != theirs);
        assert_eq!(wrong, None, "first wrong byte");
    }
}

/// A client with its own connections.
#[derive(Clone)]
pub struct Client(reqwest::Client);

impl Client {
    /// A fresh client.
    pub fn new() -> Self {
        Client::with_deadline(ANSWER_MAX)
    }

    /// One for large bodies over slow links.
    pub fn patient() -> Self {
        Client::with_deadline(PATIENCE_MAX)
    }

    fn with_deadline(deadline: Duration) -> Self {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| {
            // Another test of this process may have been first.
            let _ = rustls::crypto::ring::default_provider().install_default();
        });
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            // Agents and registries of tests are asked without TLS; to read the machine's certificates takes as long as a small pull.
            .tls_certs_only([])
            .timeout(deadline)
            .build()
            .expect("the client's settings are valid");
        Client(client)
    }

    /// A request to be completed with headers.
    pub fn request(&self, method: &str, url: &str) -> RequestBuilder {
        self.0.request(Method::from_bytes(method.as_bytes()).expect("a method"), url)
    }

    /// GET, read to its end.
    pub async fn get(&self, url: &str) -> Answer {
        read(self.request("GET", url)).await
    }

    /// HEAD.
    pub async fn head(&self, url: &str) -> Answer {
        read(self.request("HEAD", url)).await
    }

    /// GET with a `Range`, read to its end.
    pub async fn range(&self, url: &str, range: &str) -> Answer {
        read(self.request("GET", url).header("Range", range)).await
    }

    /// GET of which the headers have come and the body is still to be read.
    pub async fn open(&self, url: &str) -> Response {
        self.request("GET", url).send().await.unwrap_or_else(|e| panic!("GET {url}: {e:?}"))
    }

    /// GET with a `Range`, of which the headers have come.
    pub async fn open_range(&self, url: &str, range: &str) -> Response {
        let request = self.request("GET", url).header("Range", range);
        request.send().await.unwrap_or_else(|e| panic!("GET {url} {range}: {e:?}"))
    }
}

impl Default for Client {
    fn default() -> Self {
        Client::new()
    }
}

/// Sends a request and reads the answer to its end.
pub async fn read(request: RequestBuilder) -> Answer {
    let start = Instant::now();
    let response = request.send().await.unwrap_or_else(|e| panic!("no answer: {e:?}"));
    let to_headers = start.elapsed();
    rest(response, start, to_headers).await
}

/// Reads an answer whose headers have come to its end.
pub async fn finish(response: Response) -> Answer {
    rest(response, Instant::now(), Duration::ZERO).await
}

async fn rest(mut response: Response, start: Instant, to_headers: Duration) -> Answer {
    let status = response.status().as_u16();
    let headers = response.headers().clone();
    let mut body = BytesMut::new();
    let mut to_first_byte = None;
    let cut = loop {
        match response.chunk().await {
            Ok(Some(chunk)) => {
                to_first_byte.get_or_insert_with(|| start.elapsed());
                body.extend_from_slice(&chunk);
            }
            Ok(None) => break None,
            Err(e) => break Some(format!("{e:?}")),
        }
    };
    let total = start.elapsed();
    let to_first_byte = to_first_byte.unwrap_or(total);
    Answer { status, headers, body: body.freeze(), cut, to_headers, to_first_byte, total }
}

/// Reads at least so many bytes of an open answer and leaves the rest unread.
pub async fn read_some(response: &mut Response, bytes: usize) -> Bytes {
    let mut body = BytesMut::new();
    while body.len() < bytes {
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => break,
            Err(e) => panic!("the body was cut after {} bytes: {e:?}", body.len()),
        }
    }
    body.freeze()
}

/// Sends bytes as they are, and returns all that comes back until the server closes or has nothing more to say.
pub async fn raw(address: std::net::SocketAddr, request: &[u8]) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("somebody listens");
    // A server that refuses early may close before it has read everything.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(Duration::from_secs(20), read).await;
    String::from_utf8_lossy(&answer).into_owned()
}
