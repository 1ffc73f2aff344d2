//! What kubelet says to a container runtime: the Container Runtime Interface, version 1, as far as a pod in the node's network
//! needs it.
//!
//! Eight calls with a handful of fields do not need a gRPC stack: a call is one HTTP/2 request on the runtime's socket, and
//! its messages are written and read by field number (`api.proto` of `k8s.io/cri-api`).

mod message;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{BufMut as _, Bytes, BytesMut};
use hyper::http::{HeaderMap, Request};
use tokio::net::UnixStream;

use message::Message;

/// Longest that one call may take: it may pull an image.
const CALL_MAX: Duration = Duration::from_secs(60);
/// Before each message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;
/// A pod's network is the node's.
const NODE_NETWORK: u64 = 2;
/// State of a container that has ended.
const EXITED: u64 = 2;

/// A client of one runtime.
#[derive(Clone, Debug)]
pub struct Cri {
    socket: PathBuf,
}

/// A running pod.
#[derive(Debug)]
pub struct Pod {
    id: String,
    config: Message,
}

impl Cri {
    /// The runtime that listens on this socket.
    pub fn new(socket: &Path) -> Self {
        Cri { socket: socket.to_owned() }
    }

    /// Whether the runtime answers.
    pub async fn answers(&self) -> bool {
        self.call("RuntimeService/Version", Message::default()).await.is_ok()
    }

    /// Pulls an image, as kubelet does before it starts a container.
    ///
    /// # Errors
    /// What the runtime says.
    pub async fn pull(&self, image: &str) -> Result<()> {
        self.call("ImageService/PullImage", Message::default().message(1, &spec(image))).await.map(drop)
    }

    /// Removes an image with all that belongs to no other one.
    ///
    /// # Errors
    /// What the runtime says.
    pub async fn remove(&self, image: &str) -> Result<()> {
        self.call("ImageService/RemoveImage", Message::default().message(1, &spec(image))).await.map(drop)
    }

    /// Starts a pod in the node's network.
    ///
    /// # Errors
    /// What the runtime says.
    pub async fn run_pod(&self, name: &str) -> Result<Pod> {
        // name, uid, namespace
        let metadata = Message::default().string(1, name).string(2, name).string(3, "default");
        // linux.security_context.namespace_options
        let security = Message::default().message(1, &node_network());
        let linux = Message::default().message(2, &security);
        let config = Message::default().message(1, &metadata).message(8, &linux);
        let answer =
            self.call("RuntimeService/RunPodSandbox", Message::default().message(1, &config)).await?;
        Ok(Pod { id: answer.text(1)?, config })
    }

    /// Runs a container of the pod from an image that has been pulled, to its end, and returns its exit code.
    ///
    /// # Errors
    /// What the runtime says, or that the container did not end in time.
    pub async fn run_container(&self, pod: &Pod, image: &str, command: &[&str]) -> Result<u64> {
        let metadata = Message::default().string(1, "main");
        // linux.security_context.namespace_options
        let security = Message::default().message(3, &node_network());
        let mut config = Message::default().message(1, &metadata).message(2, &spec(image));
        for word in command {
            config = config.string(3, word);
        }
        config = config.message(15, &Message::default().message(2, &security));
        let create = Message::default().string(1, &pod.id).message(2, &config).message(3, &pod.config);
        let id = self.call("RuntimeService/CreateContainer", create).await?.text(1)?;
        self.call("RuntimeService/StartContainer", Message::default().string(1, &id)).await?;
        let ended = async {
            loop {
                let asked = Message::default().string(1, &id);
                let answer = self.call("RuntimeService/ContainerStatus", asked).await?;
                // state, exit_code
                let status = answer.inner(1)?;
                if status.value(3)? == EXITED {
                    return status.value(7);
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(CALL_MAX, ended).await.context("the container does not end")?
    }

    /// Stops and removes a pod with its containers.
    ///
    /// # Errors
    /// What the runtime says.
    pub async fn remove_pod(&self, pod: Pod) -> Result<()> {
        self.call("RuntimeService/StopPodSandbox", Message::default().string(1, &pod.id)).await?;
        self.call("RuntimeService/RemovePodSandbox", Message::default().string(1, &pod.id)).await.map(drop)
    }

    /// One call, `<service>/<method>`.
    async fn call(&self, method: &str, message: Message) -> Result<Message> {
        let call = self.exchange(method, message);
        let answered = tokio::time::timeout(CALL_MAX, call).await;
        answered
            .with_context(|| format!("{method}: no answer within {CALL_MAX:?}"))?
            .context(method.to_owned())
    }

    async fn exchange(&self, method: &str, message: Message) -> Result<Message> {
        let stream = UnixStream::connect(&self.socket).await?;
        let (sender, connection) = h2::client::handshake(stream).await?;
        // Ends with the sender, which is the last that uses it.
        tokio::spawn(connection);
        let request = Request::post(format!("http://localhost/runtime.v1.{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let (answer, mut body) = sender.ready().await?.send_request(request, false)?;
        body.send_data(framed(message), true)?;
        let answer = answer.await?;
        ensure!(answer.status() == 200, "HTTP {}", answer.status());
        let headers = answer.headers().clone();
        let mut body = answer.into_body();
        let mut bytes = BytesMut::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            bytes.extend_from_slice(&chunk);
        }
        // A call that fails at once has its status among the headers.
        checked(body.trailers().await?.as_ref().unwrap_or(&headers))?;
        ensure!(bytes.len() >= PREFIX_BYTES, "the answer has no message");
        Ok(Message::from(bytes.split_off(PREFIX_BYTES).freeze()))
    }
}

fn spec(image: &str) -> Message {
    Message::default().string(1, image)
}

fn node_network() -> Message {
    Message::default().number(1, NODE_NETWORK)
}

fn framed(message: Message) -> Bytes {
    let message = message.into_bytes();
    let mut frame = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).expect("messages are short"));
    frame.extend_from_slice(&message);
    frame.freeze()
}

fn checked(trailers: &HeaderMap) -> Result<()> {
    let text = |name| trailers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match text("grpc-status") {
        "0" => Ok(()),
        status => bail!("gRPC status {status}: {}", text("grpc-message")),
    }
}
