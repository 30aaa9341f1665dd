//! Parses the address of a server.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// The port if an address has none.
const DEFAULT_PORT: u16 = 11300;

/// Where a server listens: `HOST`, `HOST:PORT` or `unix:PATH`.
///
/// A host is a name or an IP address; without a port it is 11300. An IPv6 address with a port is in brackets.
/// `tls://` is refused: TLS is not supported.
///
/// A connection over TCP breaks when the server's machine acknowledges nothing for 60 s, or for 30 s with a
/// [`Worker`](crate::Worker): the machine or the network has failed. A Unix socket has no such limit. The
/// kernel closes it when the server ends.
///
/// ```
/// use djqs::client::Address;
///
/// for text in ["127.0.0.1:11300", "queue.example", "[::1]:11300", "unix:/run/djqs.sock"] {
///     assert_eq!(text.parse::<Address>()?.as_str(), text);
/// }
/// assert!("queue.example:99999".parse::<Address>().is_err());
/// # Ok::<(), djqs::client::BadAddress>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    text: String,
    pub(super) endpoint: Endpoint,
}

/// What an address means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// A host, which may have to be resolved, and a TCP port.
    Tcp(String, u16),
    /// A Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// The address as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Address, BadAddress> {
        let endpoint = match text.strip_prefix("unix:") {
            Some("") => return Err(BadAddress::NoPath),
            Some(path) => Endpoint::Unix(path.into()),
            None if text.starts_with("tls://") => return Err(BadAddress::Tls),
            None => host_and_port(text).ok_or(BadAddress::Malformed)?,
        };
        Ok(Address { text: text.to_owned(), endpoint })
    }
}

fn host_and_port(text: &str) -> Option<Endpoint> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(Endpoint::Tcp(ip.to_string(), DEFAULT_PORT));
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(bracketed) => {
            let (host, port) = bracketed.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let is_in_names = |c: char| c.is_alphanumeric() || "-._".contains(c);
    let is_name = !host.is_empty() && (text.starts_with('[') || host.chars().all(is_in_names));
    let port = port.map_or(Some(DEFAULT_PORT), |port| port.parse().ok().filter(|port| *port > 0))?;
    is_name.then(|| Endpoint::Tcp(host.to_owned(), port))
}

/// Why a text is not an [`Address`]. Its message shows the forms of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BadAddress {
    /// It has none of the forms of an address.
    Malformed,
    /// It begins with `unix:`, and no path follows.
    NoPath,
    /// It asks for TLS.
    Tls,
}

impl fmt::Display for BadAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BadAddress::Malformed => {
                "an address is HOST, HOST:PORT or unix:PATH, such as 127.0.0.1:11300 or unix:/run/djqs.sock"
            }
            BadAddress::NoPath => "the path is missing, as in unix:/run/djqs.sock",
            BadAddress::Tls => "TLS is not supported: use a tunnel, and give the address of its near end",
        })
    }
}

impl std::error::Error for BadAddress {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_a_host_with_or_without_a_port_or_a_path() {
        let tcp = |host: &str, port| Ok(Endpoint::Tcp(host.to_owned(), port));
        let cases = [
            ("127.0.0.1:1", tcp("127.0.0.1", 1)),
            ("127.0.0.1", tcp("127.0.0.1", 11300)),
            ("::1", tcp("::1", 11300)),
            ("[::1]", tcp("::1", 11300)),
            ("[::1]:65535", tcp("::1", 65535)),
            ("queue", tcp("queue", 11300)),
            ("queue_1.example:7", tcp("queue_1.example", 7)),
            ("unix:/run/a b.sock", Ok(Endpoint::Unix("/run/a b.sock".into()))),
            ("unix:s", Ok(Endpoint::Unix("s".into()))),
            ("unix:", Err(BadAddress::NoPath)),
            ("tls://queue", Err(BadAddress::Tls)),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<Address>().map(|address| address.endpoint), expected, "{text}");
        }
        for bad in [
            "",
            ":1",
            "queue:",
            "queue:0",
            "queue:65536",
            "queue:x",
            "[::1",
            "[queue]",
            "[::1]1",
            "a:1:2",
            "http://queue",
            "/run/djqs.sock",
            "two words",
        ] {
            assert_eq!(bad.parse::<Address>(), Err(BadAddress::Malformed), "{bad}");
        }
    }
}
