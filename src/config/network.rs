//! A range of addresses: `10.0.0.0/8`, `2001:db8::/32`, `192.0.2.7`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// All addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Zero behind the prefix.
    address: IpAddr,
    prefix_bits: u8,
}

impl Network {
    /// Reads `ADDRESS/BITS`, or an address alone. Bits behind the prefix must be zero: whoever writes `10.1.0.0/8` may
    /// mean another range than the one that it would be.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix_bits) = match text.split_once('/') {
            Some((address, bits)) => {
                let is_plain = !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit());
                (address, Some(bits.parse().ok().filter(|_| is_plain)?))
            }
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let prefix_bits = prefix_bits.unwrap_or_else(|| bits(address));
        let is_network = prefix_bits <= bits(address) && masked(address, prefix_bits) == address;
        is_network.then_some(Self {
            address,
            prefix_bits,
        })
    }

    /// An IPv4 address that came in on an IPv6 socket is one.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4()
            && masked(address, self.prefix_bits) == self.address
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.prefix_bits == bits(self.address) {
            self.address.fmt(f)
        } else {
            write!(f, "{}/{}", self.address, self.prefix_bits)
        }
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// `address` with zeros behind the first `prefix_bits`.
pub fn masked(address: IpAddr, prefix_bits: u8) -> IpAddr {
    let prefix_bits = u32::from(prefix_bits);
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - prefix_bits).unwrap_or(0);
            Ipv4Addr::from_bits(address.to_bits() & mask).into()
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - prefix_bits).unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_contains_what_begins_like_it() {
        for (network, inside, outside) in [
            (
                "10.0.0.0/8",
                &["10.0.0.0", "10.255.1.2", "::ffff:10.1.2.3"][..],
                &["11.0.0.0", "9.255.255.255", "a00::"][..],
            ),
            (
                "192.0.2.7",
                &["192.0.2.7"],
                &["192.0.2.6", "192.0.2.8", "::192.0.2.7"],
            ),
            ("192.0.2.6/31", &["192.0.2.6", "192.0.2.7"], &["192.0.2.8"]),
            ("0.0.0.0/0", &["0.0.0.0", "255.255.255.255"], &["::", "::1"]),
            ("::/0", &["::", "ffff::"], &["0.0.0.0", "::ffff:1.2.3.4"]),
            ("2001:db8::/33", &["2001:db8:7fff::1"], &["2001:db8:8000::"]),
            ("::1", &["::1"], &["::", "::2"]),
        ] {
            let parsed = Network::parse(network).unwrap();
            assert_eq!(parsed.to_string(), network, "what is shown reads back");
            for address in inside {
                assert!(parsed.contains(address.parse().unwrap()), "{address}");
            }
            for address in outside {
                assert!(!parsed.contains(address.parse().unwrap()), "{address}");
            }
        }
        for bad in [
            "",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.0/-1",
            "10.0.0.0/999",
            "10.0.0.1/8",
            "::/129",
            "2001:db8::1/64",
            "10.0.0.0/8/8",
            "localhost",
            "10.0.0.0:80",
            "10.0.0",
        ] {
            assert_eq!(Network::parse(bad), None, "{bad}");
        }
    }
}
