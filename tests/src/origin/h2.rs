//! The same answers over HTTP/2. A plan's reset is a RST_STREAM with INTERNAL_ERROR, its close a GOAWAY.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use hyper::{Request, Response};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::script::{End, Plan};
use super::serve::{self, Outgoing};
use super::{Seen, Shared, answer};

/// Most of what waits in this process for one stream: keeps faults at an offset close to that offset.
const SEND_BUFFER_BYTES: usize = 256 << 10;

/// Serves a connection until it ends.
pub(super) async fn connection(stream: tokio_rustls::server::TlsStream<TcpStream>, shared: Arc<Shared>) {
    let mut builder = h2::server::Builder::new();
    builder.max_send_buffer_size(SEND_BUFFER_BYTES);
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
    let (goodbye, mut goodbyes) = mpsc::unbounded_channel();
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    streams.spawn(stream_task(request, respond, Arc::clone(&shared), goodbye.clone()));
                }
                Some(Err(_)) | None => return,
            },
            Some(()) = goodbyes.recv() => {
                connection.abrupt_shutdown(Reason::INTERNAL_ERROR);
                let _ = poll_fn(|cx| connection.poll_closed(cx)).await;
                return;
            }
        }
    }
}

async fn stream_task(
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    shared: Arc<Shared>,
    goodbye: mpsc::UnboundedSender<()>,
) {
    let seen = seen(&request);
    let (answer, plan) = serve::decide(&seen, &[], &shared).await;
    let Outgoing { status, headers, body } = serve::outgoing(answer, &seen, &plan);
    let mut response = Response::builder().status(status);
    for (name, value) in &headers {
        response = response.header(name, value);
    }
    let response =
        response.header("content-length", body.len()).body(()).expect("scripted headers are valid");
    let bodiless = seen.method == "HEAD" || status == 304;
    let Ok(mut send) = respond.send_response(response, bodiless) else { return };
    if bodiless {
        return;
    }
    if write_body(&mut send, body, &seen, &plan).await == Some(End::Close) {
        let _ = goodbye.send(());
    }
}

fn seen(request: &Request<h2::RecvStream>) -> Seen {
    let path = request.uri().path_and_query().map_or_else(String::new, ToString::to_string);
    let (kind, repository, reference) = answer::classify(&path);
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    Seen {
        kind,
        method: request.method().to_string(),
        path,
        repository,
        reference,
        headers: request.headers().iter().map(|(n, v)| (n.to_string(), text(v.as_bytes()))).collect(),
        at: Instant::now(),
        sent: Arc::new(AtomicU64::new(0)),
    }
}

/// Sends the body, or as much as the plan allows, and says how it was broken off.
async fn write_body(send: &mut SendStream<Bytes>, mut body: Bytes, seen: &Seen, plan: &Plan) -> Option<End> {
    let mut left = plan.end.map_or(usize::MAX, |(bytes, _)| usize::try_from(bytes).expect("fits"));
    while !body.is_empty() && left > 0 {
        send.reserve_capacity(body.len().min(left).min(SEND_BUFFER_BYTES));
        let Some(Ok(room)) = poll_fn(|cx| send.poll_capacity(cx)).await else { return None };
        let piece = body.split_to(room.min(body.len()).min(left));
        left -= piece.len();
        seen.sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
        send.send_data(piece, body.is_empty()).ok()?;
    }
    if body.is_empty() {
        return None;
    }
    let (_, end) = plan.end?;
    if end == End::Reset {
        send.send_reset(Reason::INTERNAL_ERROR);
    }
    Some(end)
}
