//! What an operator may write for a place where others are.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// Longest name that DNS has (RFC 1035, section 2.3.4).
const NAME_BYTES_MAX: usize = 253;

/// A place where others may be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// An address: `10.0.0.1`, `10.0.0.1:5001`, `fd00::1`, `[fd00::1]:5001`.
    Address(SocketAddr),
    /// A name with an address for each node, such as that of a headless Service: `shoal.example.org`,
    /// `shoal.example.org:5001`.
    Name {
        /// What is looked up.
        name: String,
        /// Where its nodes listen.
        port: u16,
    },
    /// A service that says host and port of each node (RFC 2782): `_shoal._tcp.example.org`.
    Service(String),
}

/// Why a text is no target. The operator's mistake.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Nothing.
    #[error("it is empty; an address, a name or a service (`_shoal._tcp.example.org`) was expected")]
    Empty,
    /// Not a port. What follows the scheme of a URL is none either.
    #[error("{}", no_port(.0))]
    Port(String),
    /// Not a name.
    #[error("{}", no_name(.0))]
    Name(String),
    /// A service has its ports from DNS.
    #[error("`{0}` is a service, which has its port from DNS; leave `:{1}` away")]
    ServicePort(String, u16),
}

impl Target {
    /// Reads a target. `default_port` is meant where none is written.
    pub fn parse(text: &str, default_port: u16) -> Result<Self, TargetError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(TargetError::Empty);
        }
        if let Ok(address) = SocketAddr::from_str(text) {
            return match address.port() {
                0 => Err(TargetError::Port("0".into())),
                _ => Ok(Self::Address(address)),
            };
        }
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        if let Some(ip) = bare.and_then(|text| Ipv6Addr::from_str(text).ok()) {
            return Ok(Self::Address(SocketAddr::new(ip.into(), default_port)));
        }
        if let Ok(ip) = IpAddr::from_str(text) {
            return Ok(Self::Address(SocketAddr::new(ip, default_port)));
        }
        let (name, port) = match text.rsplit_once(':') {
            None => (text, None),
            Some((name, port)) => {
                let number = port.parse().ok().filter(|number| *number != 0);
                (name, Some(number.ok_or_else(|| not_a_port(text, port))?))
            }
        };
        if !is_name(name) {
            return Err(TargetError::Name(text.into()));
        }
        match port {
            Some(port) if name.starts_with('_') => Err(TargetError::ServicePort(name.into(), port)),
            None if name.starts_with('_') => Ok(Self::Service(name.into())),
            port => Ok(Self::Name { name: name.into(), port: port.unwrap_or(default_port) }),
        }
    }
}

/// A network or a longer URL is wrong as a whole, and not in what follows its last colon.
fn not_a_port(text: &str, port: &str) -> TargetError {
    if text.contains('/') && !port.starts_with("//") {
        TargetError::Name(text.into())
    } else {
        TargetError::Port(port.into())
    }
}

/// What is wrong with something in the place of a port.
fn no_port(text: &str) -> String {
    match text.strip_prefix("//") {
        Some(rest) => without_scheme(rest),
        None => format!("`{text}` is not a port; 1 to 65535 are possible"),
    }
}

/// What is wrong with something in the place of a name.
fn no_name(text: &str) -> String {
    if let Some((_, rest)) = text.split_once("://") {
        return without_scheme(rest);
    }
    if text.split_once('/').is_some_and(|(address, _)| IpAddr::from_str(address).is_ok()) {
        return format!(
            "`{text}` is a network, which is not searched; write addresses of others, or a name that has them: one that \
             answers is enough"
        );
    }
    let hint =
        if text.contains(':') { "; write an IPv6 address with a port as `[fd00::1]:5001`" } else { "" };
    format!("`{text}` is neither an address nor a name{hint}")
}

fn without_scheme(rest: &str) -> String {
    let rest = rest.split('/').next().unwrap_or_default();
    format!("members are no web servers: leave the scheme away, and write `{rest}`")
}

fn is_name(text: &str) -> bool {
    let labels = text.strip_suffix('.').unwrap_or(text);
    !labels.is_empty()
        && labels.len() <= NAME_BYTES_MAX
        && labels.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        })
        // `10.0.0.300` is a mistake, not a name.
        && !labels.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()))
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name { name, port } => write!(f, "{name}:{port}"),
            Self::Service(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Target;

    #[test]
    fn a_mistake_is_told_with_what_would_be_right() {
        let table = [
            ("http://foo", "and write `foo`"),
            ("https://foo:5001/x", "and write `foo:5001`"),
            ("10.0.0.0/24", "is a network"),
            ("fd00::/64", "is a network"),
            ("fd00::1::5001", "`[fd00::1]:5001`"),
            ("foo:99999", "1 to 65535"),
        ];
        for (text, hint) in table {
            let error = Target::parse(text, 5001).unwrap_err().to_string();
            assert!(error.contains(hint), "{text}: {error}");
        }
        let error = Target::parse("10.0.0.300", 5001).unwrap_err().to_string();
        assert_eq!(error, "`10.0.0.300` is neither an address nor a name");
    }
}
