//! Where an entrance is: an address with a port, or the path of a unix socket.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use super::value::ValueError;

const UNIX_PREFIX: &str = "unix:";
/// Longest path that the kernel takes: `sun_path` has 108 bytes and ends with a zero (unix(7)).
const UNIX_PATH_BYTES_MAX: usize = 107;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    Tcp(SocketAddr),
    /// Reached from this host only, by whom the file's mode lets in.
    Unix(PathBuf),
}

impl ListenAddress {
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl FromStr for ListenAddress {
    type Err = ValueError;

    /// Reads `127.0.0.1:8081` or `unix:/run/pushring.sock`. A path is absolute, so that it means the same file
    /// wherever the server is started.
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let Some(path) = text.strip_prefix(UNIX_PREFIX) else {
            return super::value::parse_address(text).map(Self::Tcp);
        };
        let is_file = path.starts_with('/') && !path.ends_with('/') && !path.contains('\0');
        match path.len() {
            _ if !is_file => Err(ValueError::Malformed),
            0..=UNIX_PATH_BYTES_MAX => Ok(Self::Unix(path.into())),
            _ => Err(ValueError::TooBig),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX_PREFIX}{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_and_shown() {
        let longest = format!("unix:/{}", "a".repeat(UNIX_PATH_BYTES_MAX - 1));
        for good in ["127.0.0.1:0", "[::1]:8081", "unix:/run/a b.sock", &longest] {
            let address: ListenAddress = good.parse().unwrap();
            assert_eq!(address.to_string(), good);
        }
        for (bad, error) in [
            ("", ValueError::Malformed),
            ("unix:", ValueError::Malformed),
            ("unix:pushring.sock", ValueError::Malformed),
            ("unix:/run/", ValueError::Malformed),
            ("unix:/a\0b", ValueError::Malformed),
            ("/run/pushring.sock", ValueError::Malformed),
            (&format!("{longest}a"), ValueError::TooBig),
        ] {
            assert_eq!(bad.parse::<ListenAddress>(), Err(error), "{bad:?}");
        }
    }
}
