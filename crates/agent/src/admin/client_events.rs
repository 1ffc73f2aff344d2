//! The agent's events, as they come.

use bytes::{Bytes, BytesMut};
use http::Method;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio_util::task::AbortOnDropHandle;

use super::client::{ANSWER_BYTES_MAX, AdminClient, ClientError};
use crate::watch::Event;

/// What an agent and its cluster look like, as it happens.
pub struct Events {
    client: AdminClient,
    body: Incoming,
    waiting: BytesMut,
    _connection: AbortOnDropHandle<()>,
}

impl AdminClient {
    /// Everything, and then whatever changes.
    pub async fn events(&self) -> Result<Events, ClientError> {
        let opened = self.in_time(self.open(Method::GET, "/v1/events", Bytes::new())).await?;
        let (response, connection) = opened;
        let (client, body) = (self.clone(), response.into_body());
        Ok(Events { client, body, waiting: BytesMut::new(), _connection: connection })
    }
}

impl Events {
    /// The next one. `None` when the agent has ended, or has dropped a listener that was too slow. May be dropped while it
    /// waits, and called again.
    ///
    /// # Errors
    /// The agent is gone or hangs: one that has nothing to tell gives a sign of life.
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        const END: &[u8] = b"\n\n";
        loop {
            if let Some(end) = self.waiting.windows(END.len()).position(|window| window == END) {
                let text = self.waiting.split_to(end + END.len());
                match self.parsed_event(&text)? {
                    Some(event) => return Ok(Some(event)),
                    None => continue,
                }
            }
            let frame = self.client.in_time(async { Ok(self.body.frame().await) }).await?;
            let Some(frame) = frame else { return Ok(None) };
            if let Ok(bytes) = frame.map_err(|error| self.client.broken(error))?.into_data() {
                self.waiting.extend_from_slice(&bytes);
            }
            if self.waiting.len() > ANSWER_BYTES_MAX {
                return Err(self.client.broken("its event does not end"));
            }
        }
    }

    /// `None` for signs of life, and for events of a later version.
    fn parsed_event(&self, text: &[u8]) -> Result<Option<Event>, ClientError> {
        let field = |name: &[u8]| text.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(name));
        let data = field(b"data: ").unwrap_or_default();
        Ok(match field(b"event: ") {
            Some(b"snapshot") => Some(Event::Snapshot(Box::new(self.client.parsed(data)?))),
            Some(b"change") => Some(Event::Change(Box::new(self.client.parsed(data)?))),
            _ => None,
        })
    }
}
