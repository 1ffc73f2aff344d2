//! The agent's events, as they come.

use super::client::{AdminClient, ClientError, Streamed};
use crate::watch::Event;

/// What an agent and its cluster look like, as it happens.
pub struct Events(Streamed);

impl AdminClient {
    /// Everything, and then whatever changes.
    pub async fn events(&self) -> Result<Events, ClientError> {
        Ok(Events(Streamed::open(self, "/v1/events").await?))
    }
}

impl Events {
    /// The next one. `None` when the agent has ended, or has dropped a listener that was too slow. May be dropped while it
    /// waits, and called again.
    ///
    /// # Errors
    /// The agent is gone or hangs.
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        while let Some(text) = self.0.next(b"\n\n", "event").await? {
            if let Some(event) = self.parsed(&text)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// `None` for signs of life, and for events of a later version.
    fn parsed(&self, text: &[u8]) -> Result<Option<Event>, ClientError> {
        let field = |name: &[u8]| text.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(name));
        let data = field(b"data: ").unwrap_or_default();
        let client = &self.0.client;
        Ok(match field(b"event: ") {
            Some(b"snapshot") => Some(Event::Snapshot(Box::new(client.parsed(data)?))),
            Some(b"change") => Some(Event::Change(Box::new(client.parsed(data)?))),
            _ => None,
        })
    }
}
