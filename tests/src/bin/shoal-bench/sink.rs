//! The receiving client: one socket, one buffer, bytes are counted and thrown away. As cheap as a client can be, so
//! that on a machine with few cores the figures are the server's and not the client's.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use shoal_agent::demo::image::MANIFEST;

/// One read takes at most this much.
const BUFFER_BYTES: usize = 1024 * 1024;
/// A server that sends nothing for so long has failed. Longer than any peer lets its waiters wait.
const SILENCE_MAX: Duration = Duration::from_secs(600);

/// What a client saw.
#[derive(Clone, Copy, Debug)]
pub struct Got {
    /// Body bytes.
    pub bytes: u64,
    /// From the request to the first body byte.
    pub first_byte: Duration,
    /// From the request to the last body byte.
    pub took: Duration,
}

/// A connection that is kept for several requests.
pub struct Sink {
    stream: BufReader<TcpStream>,
    address: SocketAddr,
    buffer: Vec<u8>,
}

impl Sink {
    /// Connects.
    pub fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        stream.set_nodelay(true)?;
        Ok(Sink { stream: BufReader::new(stream), address, buffer: vec![0; BUFFER_BYTES] })
    }

    /// A GET, read to its end. An error for any status but 200 and for a body that is cut short.
    pub fn get(&mut self, path: &str) -> Result<Got> {
        let start = Instant::now();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: shoal-bench\r\nAccept: {MANIFEST}, */*\r\n\r\n",
            self.address
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        let length = self.head(path)?;
        let mut left = length;
        let mut first_byte = None;
        while left > 0 {
            let want = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let read = self.stream.read(&mut self.buffer[..want])?;
            ensure!(read > 0, "{path} was cut short: {left} of {length} bytes are missing");
            first_byte.get_or_insert_with(|| start.elapsed());
            left -= read as u64;
        }
        let took = start.elapsed();
        Ok(Got { bytes: length, first_byte: first_byte.unwrap_or(took), took })
    }

    /// Reads an answer's head and returns its `Content-Length`.
    fn head(&mut self, path: &str) -> Result<u64> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        if line.split(' ').nth(1) != Some("200") {
            bail!("{path} was answered with {}", line.trim());
        }
        let mut length = None;
        loop {
            line.clear();
            ensure!(self.stream.read_line(&mut line)? > 0, "{path}: the answer's head was cut short");
            if line.trim().is_empty() {
                return length.with_context(|| format!("{path} was answered without a Content-Length"));
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = Some(value.trim().parse()?);
            }
        }
    }
}

/// Lets so many clients fetch a path at once, each on its own connection and thread. Returns what each saw, and the
/// time until the last was done.
pub async fn together(address: SocketAddr, path: &str, clients: usize) -> Result<(Vec<Got>, Duration)> {
    let start = Instant::now();
    let fetching: Vec<_> = (0..clients)
        .map(|_| {
            let path = path.to_owned();
            tokio::task::spawn_blocking(move || Sink::connect(address)?.get(&path))
        })
        .collect();
    let mut got = Vec::with_capacity(clients);
    for fetch in fetching {
        got.push(fetch.await??);
    }
    Ok((got, start.elapsed()))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::Sink;

    /// Serves one connection with the given bytes and closes it.
    fn serve(answer: &'static str) -> anyhow::Result<Sink> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut request = [0; 4096];
            let read = stream.read(&mut request).expect("a request");
            assert!(request[..read].ends_with(b"\r\n\r\n"));
            stream.write_all(answer.as_bytes()).expect("sent");
        });
        Sink::connect(address)
    }

    #[test]
    fn a_body_is_counted_and_a_short_one_is_an_error() -> anyhow::Result<()> {
        let got = serve("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")?.get("/")?;
        assert_eq!(got.bytes, 5);
        assert!(serve("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello")?.get("/").is_err());
        assert!(serve("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?.get("/").is_err());
        assert!(serve("HTTP/1.1 200 OK\r\n\r\nhello")?.get("/").is_err());
        Ok(())
    }
}
