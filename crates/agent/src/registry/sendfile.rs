//! Sending file content to a client without reading it into this process.
//!
//! HTTP bodies are [`bytes::Bytes`]. A [`MappedFile`] makes `Bytes` whose memory is a mapping of the file; hyper queues
//! them and passes them on without looking inside, and [`FileStream`], the connection below hyper, recognises them by
//! address and has the kernel send that part of the file with `sendfile(2)`. Everything else (response heads, small
//! blobs, manifests) is written as usual.
//!
//! Invariant: nobody on this path reads the mapped memory, so no page of it is ever faulted in: a file that was cut
//! short behind our back is an error of `sendfile`, not a SIGBUS, and a served gigabyte adds nothing to the resident
//! memory. Reading it would still give the right bytes.

mod mapped;
mod read_ahead;
mod stream;
#[cfg(test)]
mod tests;

pub use mapped::MappedFile;
pub use stream::FileStream;
