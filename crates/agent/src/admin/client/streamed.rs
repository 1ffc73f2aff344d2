//! An answer that goes on: pieces of text, each with an end, as they come.

use bytes::{Bytes, BytesMut};
use http::Method;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio_util::task::AbortOnDropHandle;

use super::{ANSWER_BYTES_MAX, AdminClient, ClientError};

/// See the module's head.
pub(in crate::admin) struct Streamed {
    pub client: AdminClient,
    body: Incoming,
    waiting: BytesMut,
    _connection: AbortOnDropHandle<()>,
}

impl Streamed {
    /// Asks for it.
    pub async fn open(client: &AdminClient, target: &str) -> Result<Self, ClientError> {
        let opened = client.soon(client.open(Method::GET, target, Bytes::new())).await?;
        let (response, connection) = opened;
        let (client, body) = (client.clone(), response.into_body());
        Ok(Streamed { client, body, waiting: BytesMut::new(), _connection: connection })
    }

    /// The next piece, with its end. `None` when there are no more. May be dropped while it waits, and called again.
    ///
    /// # Errors
    /// The agent is gone or hangs, for one that has nothing to tell says so from time to time; or a piece, a `what`, does
    /// not end.
    pub async fn next(&mut self, end: &[u8], what: &str) -> Result<Option<BytesMut>, ClientError> {
        loop {
            if let Some(at) = self.waiting.windows(end.len()).position(|window| window == end) {
                return Ok(Some(self.waiting.split_to(at + end.len())));
            }
            let frame = self.client.in_time(async { Ok(self.body.frame().await) }).await?;
            let Some(frame) = frame else { return Ok(None) };
            if let Ok(bytes) = frame.map_err(|error| self.client.broken(error))?.into_data() {
                self.waiting.extend_from_slice(&bytes);
            }
            if self.waiting.len() > ANSWER_BYTES_MAX {
                return Err(self.client.broken(format!("its {what} does not end")));
            }
        }
    }
}
