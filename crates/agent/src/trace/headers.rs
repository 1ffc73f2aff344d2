//! The headers that a collector wants to see, from a file: they are secrets, and those may change.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use http::{HeaderMap, HeaderName, HeaderValue};

/// Most bytes of the file.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Why the headers are of no use. The operator has to act. Nothing that the file holds is repeated.
#[derive(Debug, thiserror::Error)]
pub enum HeadersError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Read(#[from] std::io::Error),
    /// A line is none.
    #[error("line {0} must be a header, such as \"Authorization: Bearer ...\"")]
    Line(usize),
}

/// Reads a file with one `Name: value` a line. Empty lines and those that begin with `#` do not count.
///
/// # Errors
/// The file, or its first line that is no header.
pub fn read(path: &Path) -> Result<HeaderMap, HeadersError> {
    let mut text = String::new();
    File::open(path)?.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    parse(&text)
}

fn parse(text: &str) -> Result<HeaderMap, HeadersError> {
    let mut headers = HeaderMap::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let header = line.split_once(':').and_then(|(name, value)| {
            let name: HeaderName = name.trim().parse().ok()?;
            let mut value: HeaderValue = value.trim().parse().ok()?;
            value.set_sensitive(true);
            Some((name, value))
        });
        let (name, value) = header.ok_or(HeadersError::Line(index + 1))?;
        headers.append(name, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_lines() {
        let headers =
            parse("# of the collector\n\nAuthorization: Bearer a:b\r\nx-scope-orgid: nodes\n").unwrap();
        assert_eq!(headers["authorization"], "Bearer a:b");
        assert_eq!(headers["x-scope-orgid"], "nodes");
        assert!(!format!("{headers:?}").contains("Bearer"), "a secret was shown");
        for (wrong, line) in [("Bearer abc", 1), ("a: b\nno header: x", 2), (": x", 1)] {
            let error = parse(wrong).unwrap_err().to_string();
            assert!(error.contains(&format!("line {line} ")) && !error.contains("abc"), "{error}");
        }
    }
}
