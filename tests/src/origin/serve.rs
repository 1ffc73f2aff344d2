//! One HTTP/1.1 connection to the origin: reads requests, applies the plan, and writes (or breaks) the answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::answer::{self, Answer};
use super::script::{self, End, Plan};
use super::{Seen, Shared, lock};

/// Bytes written at a time: faults at an offset are exact, and a rate is smooth.
const WRITE_BYTES: usize = 64 << 10;
/// How much of a delay a rate makes up for: a timer's own, but not that of a machine that stands still, after which everything
/// would come at once.
const CATCH_UP_MAX: Duration = Duration::from_millis(100);
/// Longest request head; more is a test's mistake.
const HEAD_BYTES_MAX: usize = 256 << 10;

/// A TCP connection, with or without TLS, that can be reset.
trait Line: AsyncRead + AsyncWrite + Unpin + Send {
    /// The socket beneath.
    fn socket(&self) -> &TcpStream;
}

impl Line for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Line for tokio_rustls::server::TlsStream<TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// How an answer has left its connection.
enum After {
    KeepAlive,
    Close,
}

/// Serves a connection until it ends.
pub(super) async fn connection(
    stream: TcpStream,
    tls: Option<tokio_rustls::TlsAcceptor>,
    shared: Arc<Shared>,
) {
    let _ = stream.set_nodelay(true);
    match tls {
        None => requests(stream, &shared).await,
        // A client that does not trust us ends the handshake; that is its answer.
        Some(tls) => {
            let Ok(stream) = tls.accept(stream).await else { return };
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                super::h2::connection(stream, shared).await;
            } else {
                requests(stream, &shared).await;
            }
        }
    }
}

async fn requests(mut line: impl Line, shared: &Shared) {
    let mut buffer = BytesMut::new();
    while let Some((seen, body)) = read_request(&mut line, &mut buffer).await {
        let (answer, plan) = decide(&seen, &body, shared).await;
        match write_answer(&mut line, answer, &seen, &plan).await {
            Ok(After::KeepAlive) => {}
            // The client has gone, or the plan ends the connection here.
            Ok(After::Close) | Err(_) => return,
        }
    }
}

async fn read_request(line: &mut impl Line, buffer: &mut BytesMut) -> Option<(Seen, Vec<u8>)> {
    let (seen, head_len) = loop {
        if let Some(parsed) = parse(buffer) {
            break parsed;
        }
        if buffer.len() > HEAD_BYTES_MAX || line.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let _ = buffer.split_to(head_len);
    let body_len: usize = seen.header("content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
    while buffer.len() < body_len {
        if line.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    Some((seen, buffer.split_to(body_len).to_vec()))
}

fn parse(buffer: &[u8]) -> Option<(Seen, usize)> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(len) = request.parse(buffer).expect("the agent speaks HTTP/1.1") else {
        return None;
    };
    let path = request.path.expect("complete").to_owned();
    let (kind, repository, reference) = answer::classify(&path);
    let headers = request
        .headers
        .iter()
        .map(|header| (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).into_owned()));
    let seen = Seen {
        kind,
        method: request.method.expect("complete").to_owned(),
        path,
        repository,
        reference,
        headers: headers.collect(),
        at: Instant::now(),
        sent: Arc::new(AtomicU64::new(0)),
    };
    Some((seen, len))
}

/// Notes the request, and says how it is answered; waits where the plan wants no header yet.
pub(super) async fn decide(seen: &Seen, body: &[u8], shared: &Shared) -> (Answer, Plan) {
    lock(&shared.seen).push(seen.clone());
    let plan = script::plan(&mut lock(&shared.script), seen);
    if let Some(gate) = &plan.before_head {
        gate.pass().await;
    }
    (planned(answer::to(seen, body, shared), &plan), plan)
}

fn planned(mut answer: Answer, plan: &Plan) -> Answer {
    if let Some((status, body)) = &plan.status {
        let headers = vec![("Content-Type".into(), "text/html".into())];
        answer = Answer { status: *status, headers, content: body.clone(), ranges: false };
    }
    if let Some(location) = &plan.redirect {
        let headers = vec![("Location".into(), location.clone())];
        answer = Answer { status: 307, headers, content: Bytes::new(), ranges: false };
    }
    if let Some(offset) = plan.flip.filter(|offset| *offset < answer.content.len() as u64) {
        let mut wrong = answer.content.to_vec();
        wrong[usize::try_from(offset).expect("within the content")] ^= 1;
        answer.content = wrong.into();
    }
    if plan.gzip {
        answer.content = gzip(&answer.content);
        answer.headers.push(("Content-Encoding".into(), "gzip".into()));
    }
    answer.headers.extend(plan.headers.iter().cloned());
    answer.headers.retain(|(name, _)| !plan.without.iter().any(|left| left.eq_ignore_ascii_case(name)));
    answer
}

fn gzip(bytes: &[u8]) -> Bytes {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("writing to memory cannot fail");
    encoder.finish().expect("writing to memory cannot fail").into()
}

/// The one range of a `Range` header, cut to `len`; `Err` when it lies outside.
fn cut(range: &str, len: u64) -> Result<std::ops::Range<u64>, ()> {
    let (first, last) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')).ok_or(())?;
    let range = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) => first..(last + 1).min(len),
        (Ok(first), Err(_)) => first..len,
        (Err(_), Ok(suffix)) => len.saturating_sub(suffix)..len,
        (Err(_), Err(_)) => return Err(()),
    };
    if range.start < range.end { Ok(range) } else { Err(()) }
}

/// An answer as it goes out: what every protocol version has to put on its wire.
pub(super) struct Outgoing {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Bytes,
}

/// Applies `Range` to an answer, unless the plan says otherwise.
pub(super) fn outgoing(answer: Answer, seen: &Seen, plan: &Plan) -> Outgoing {
    let Answer { mut status, mut headers, content, ranges } = answer;
    let total = content.len() as u64;
    let mut body = content;
    let range = seen.header("range").filter(|_| ranges && status == 200 && !plan.ignore_range);
    match range.map(|range| cut(&range, total)) {
        Some(Ok(range)) => {
            status = 206;
            let honest = format!("bytes {}-{}/{total}", range.start, range.end - 1);
            headers.push(("Content-Range".into(), plan.content_range.clone().unwrap_or(honest)));
            let bounds =
                usize::try_from(range.start).expect("fits")..usize::try_from(range.end).expect("fits");
            body = body.slice(bounds);
        }
        Some(Err(())) => {
            status = 416;
            headers.push(("Content-Range".into(), format!("bytes */{total}")));
            body = Bytes::new();
        }
        None => {}
    }
    Outgoing { status, headers, body }
}

async fn write_answer(
    line: &mut impl Line,
    answer: Answer,
    seen: &Seen,
    plan: &Plan,
) -> std::io::Result<After> {
    let Outgoing { status, headers, body } = outgoing(answer, seen, plan);
    let mut head = format!("HTTP/1.1 {status} Scripted\r\n");
    for (name, value) in &headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if status != 304 && !plan.without.contains(&"Content-Length") {
        if plan.chunked {
            head.push_str("Transfer-Encoding: chunked\r\n");
        } else {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
    }
    head.push_str("\r\n");
    line.write_all(head.as_bytes()).await?;
    if seen.method == "HEAD" || status == 304 {
        line.flush().await?;
        return Ok(After::KeepAlive);
    }
    write_body(line, body, seen, plan).await
}

async fn write_body(line: &mut impl Line, body: Bytes, seen: &Seen, plan: &Plan) -> std::io::Result<After> {
    let mut due = Instant::now();
    let mut at = 0;
    let mut pause = plan.pause.clone();
    let stop = plan.end.map_or(usize::MAX, |(bytes, _)| usize::try_from(bytes).expect("fits"));
    while at < body.len() && at < stop {
        let mut next = body.len().min(stop).min(at + WRITE_BYTES);
        if let Some((bytes, gate)) = &pause {
            let bytes = usize::try_from(*bytes).expect("fits");
            if at >= bytes {
                line.flush().await?;
                gate.pass().await;
                pause = None;
            } else {
                next = next.min(bytes);
            }
        }
        // Before: whoever has read them must find them counted.
        seen.sent.fetch_add((next - at) as u64, Ordering::Relaxed);
        if let Err(error) = write_piece(line, &body[at..next], plan.chunked).await {
            seen.sent.fetch_sub((next - at) as u64, Ordering::Relaxed);
            return Err(error);
        }
        if let Some(rate) = plan.rate {
            line.flush().await?;
            let takes = Duration::from_secs_f64((next - at) as f64 / rate as f64);
            due = due.max(Instant::now() - CATCH_UP_MAX) + takes;
            tokio::time::sleep_until(due.into()).await;
        }
        at = next;
    }
    if at < body.len() {
        line.flush().await?;
        if plan.end.is_some_and(|(_, end)| end == End::Reset) {
            socket2::SockRef::from(line.socket()).set_linger(Some(Duration::ZERO))?;
        }
        return Ok(After::Close);
    }
    if plan.chunked {
        line.write_all(b"0\r\n\r\n").await?;
    }
    line.flush().await?;
    let unframed = !plan.chunked && plan.without.contains(&"Content-Length");
    Ok(if unframed { After::Close } else { After::KeepAlive })
}

async fn write_piece(line: &mut impl Line, piece: &[u8], chunked: bool) -> std::io::Result<()> {
    if !chunked {
        return line.write_all(piece).await;
    }
    line.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
    line.write_all(piece).await?;
    line.write_all(b"\r\n").await
}
