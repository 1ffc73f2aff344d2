//! Bytes of a file for whoever touches them, as TLS does.
//!
//! Question: how do they come into memory? Answer: by `pread(2)`, on a thread of the disk. Prevents: a mapping whose pages are not there,
//! so that all that an async thread has to do waits for the disk; and one whose file has been shortened, which ends the process.

use std::fs::File;
use std::io;
use std::ops::Range;

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::io::{Errno, pread};

/// The bytes of a file at `range`. Blocks on the disk.
///
/// # Errors
/// Of `pread(2)`; `UnexpectedEof` if the file ends before.
pub(crate) fn read_at(file: &File, range: Range<u64>) -> io::Result<Bytes> {
    let len = usize::try_from(range.end - range.start).map_err(|_| io::ErrorKind::FileTooLarge)?;
    // Not filled before it is read into: that would cost as much as the reading.
    let mut bytes = Vec::<u8>::with_capacity(len);
    while bytes.len() < len {
        let at = range.start + bytes.len() as u64;
        match pread(file, spare_capacity(&mut bytes), at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bytes.truncate(len);
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn what_is_there_and_nothing_else() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"0123456789", 0).unwrap();
        for (range, expected) in [(0..10, "0123456789"), (3..7, "3456"), (9..10, "9"), (5..5, "")] {
            assert_eq!(read_at(&file, range).unwrap(), expected);
        }
        for range in [0..11, 10..11, 20..30] {
            assert_eq!(read_at(&file, range).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
