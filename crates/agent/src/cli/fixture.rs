//! An agent that says what a test wants it to say, on a socket of its own.

use std::io;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::task::AbortOnDropHandle;

use crate::admin::client::AdminClient;

/// Its socket's name in its folder.
const SOCKET: &str = "admin.sock";

/// What it answers to a request.
pub(super) struct Answer {
    pub status: u16,
    pub body: String,
    /// Whether the connection stays, as if there was more to come.
    pub is_open: bool,
}

impl Answer {
    pub fn new(status: u16, body: String) -> Self {
        Answer { status, body, is_open: false }
    }

    /// As the agent says no.
    pub fn refusal(status: u16, error: &str) -> Self {
        Answer::new(status, serde_json::json!({ "error": error }).to_string())
    }
}

/// The agent, until it is dropped.
pub(super) struct FakeAgent {
    folder: TempDir,
    _task: AbortOnDropHandle<()>,
}

impl FakeAgent {
    /// `answer` is told method and path, such as `GET /v1/status`. Requests with a body are none of its business.
    pub fn start(answer: impl FnMut(&str) -> Answer + Send + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join(SOCKET)).unwrap();
        FakeAgent { folder, _task: AbortOnDropHandle::new(tokio::spawn(serve(listener, answer))) }
    }

    pub fn client(&self) -> AdminClient {
        AdminClient::new(&self.folder.path().join(SOCKET))
    }
}

/// The client has one connection for each question, so they come one after the other.
async fn serve(listener: UnixListener, mut answer: impl FnMut(&str) -> Answer) {
    let mut open = Vec::new();
    while let Ok((mut stream, _)) = listener.accept().await {
        let Ok(asked) = asked(&mut stream).await else { continue };
        let Answer { status, body, is_open } = answer(&asked);
        // Without a length the body ends with the connection.
        let text = format!("HTTP/1.1 {status} -\r\nconnection: close\r\n\r\n{body}");
        if stream.write_all(text.as_bytes()).await.is_ok() && is_open {
            open.push(stream);
        }
    }
}

/// Method and path of a request whose head has come.
async fn asked(stream: &mut UnixStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head);
    Ok(head.split(" HTTP/").next().unwrap_or_default().to_owned())
}
