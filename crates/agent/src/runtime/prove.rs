//! Asks a port whether the agent of an admin socket is behind it ([`crate::registry::proof`]). Nothing points a runtime at a
//! port that does not say so: a stranger there would get every pull.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;
use url::Url;

use crate::admin::client::{AdminClient, ClientError};
use crate::registry::proof::PROOF_PATH;

/// How long the port may take. The challenge is answered for a little longer.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Longest answer, bytes.
const ANSWER_BYTES_MAX: usize = 256;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a port is not known to be the agent's. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// The agent that could say does not.
    #[error(transparent)]
    Agent(#[from] ClientError),
    /// What is to be written is no address of an agent.
    #[error(
        "{0} is no http:// address of a host and a port; the agent's registry port has no TLS and no path"
    )]
    Url(String),
    /// Nobody answers, or nobody who speaks HTTP.
    #[error("nobody answers at {url} as the agent does")]
    NoAnswer {
        /// Where.
        url: String,
        /// What happened.
        source: BoxError,
    },
    /// Somebody answers who cannot be the agent.
    #[error("{url} is not this agent's: another process answers there, or the agent of another socket")]
    Stranger {
        /// Where.
        url: String,
    },
}

/// Asks the port at `url`, `http://host:port`.
///
/// # Errors
/// Why it is not known to be the agent's.
pub async fn prove(agent: &AdminClient, url: &str) -> Result<(), ProofError> {
    let authority = authority(url)?;
    let proof = agent.proof().await?;
    let asked = tokio::time::timeout(ANSWER_MAX, ask(&authority, &proof.challenge)).await;
    let no_answer = |source| ProofError::NoAnswer { url: url.to_owned(), source };
    let asked = asked.unwrap_or_else(|_| Err(format!("no answer within {ANSWER_MAX:?}").into()));
    let (status, said) = asked.map_err(no_answer)?;
    let is_agent = status == StatusCode::OK && said == proof.answer;
    if is_agent { Ok(()) } else { Err(ProofError::Stranger { url: url.to_owned() }) }
}

/// `host:port` of an address that an agent can have.
///
/// # Errors
/// It is none.
pub fn authority(url: &str) -> Result<String, ProofError> {
    let refused = || ProofError::Url(url.to_owned());
    let parsed = Url::parse(url).map_err(|_| refused())?;
    let is_bare = parsed.scheme() == "http"
        && matches!(parsed.path(), "" | "/")
        && parsed.query().is_none()
        && parsed.username().is_empty();
    let host = parsed.host_str().filter(|_| is_bare).ok_or_else(refused)?;
    let port = parsed.port_or_known_default().ok_or_else(refused)?;
    Ok(format!("{host}:{port}"))
}

async fn ask(authority: &str, challenge: &str) -> Result<(StatusCode, String), BoxError> {
    let stream = TcpStream::connect(authority).await?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    // How it ends is seen by whoever reads from it.
    let _connection = AbortOnDropHandle::new(tokio::spawn(async move { connection.await.unwrap_or(()) }));
    let request = Request::get(format!("{PROOF_PATH}{challenge}")).header("host", authority);
    let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::authority;

    #[test]
    fn addresses_of_agents() {
        for (url, expected) in [
            ("http://127.0.0.1:5000", Some("127.0.0.1:5000")),
            ("http://[::1]:5000/", Some("[::1]:5000")),
            ("http://node", Some("node:80")),
            ("https://127.0.0.1:5000", None),
            ("http://127.0.0.1:5000/x", None),
            ("http://u@127.0.0.1:5000", None),
            ("127.0.0.1:5000", None),
        ] {
            assert_eq!(authority(url).ok().as_deref(), expected, "{url}");
        }
    }
}
