//! Addresses of clients, for those connections that have to remember one: because a proxy told it, or because it is
//! counted. Beside the connections, so that a connection that remembers nothing costs nothing.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::config::network::masked;

/// By the connection's index.
#[derive(Debug, Default)]
pub(super) struct Clients {
    slots: Vec<Slot>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    /// IPv4 as a mapped one.
    address: Ipv6Addr,
    port: u16,
    is_known: bool,
    /// Among the connections of its address.
    is_counted: bool,
}

const _: () = assert!(size_of::<Slot>() <= 20);

const UNKNOWN: Slot = Slot {
    address: Ipv6Addr::UNSPECIFIED,
    port: 0,
    is_known: false,
    is_counted: false,
};

impl Clients {
    pub(super) fn set(&mut self, index: u32, client: SocketAddr, is_counted: bool) {
        let index = index as usize;
        if self.slots.len() <= index {
            self.slots.resize(index + 1, UNKNOWN);
        }
        let address = match client.ip() {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        self.slots[index] = Slot {
            address,
            port: client.port(),
            is_known: true,
            is_counted,
        };
    }

    pub(super) fn get(&self, index: u32) -> Option<SocketAddr> {
        let slot = self.slots.get(index as usize)?;
        slot.is_known.then(|| slot.client())
    }

    /// Forgets the connection's client; gives its address if it was counted.
    pub(super) fn forget(&mut self, index: u32) -> Option<IpAddr> {
        let slot = self.slots.get_mut(index as usize)?;
        let slot = std::mem::replace(slot, UNKNOWN);
        slot.is_counted.then(|| slot.client().ip())
    }
}

impl Slot {
    fn client(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::V6(self.address).to_canonical(), self.port)
    }
}

/// Whom an address stands for: in IPv6 a customer has at least a /64, so it is that.
pub(super) fn counted_address(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => masked(address.into(), 64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_remembered_until_it_is_forgotten() {
        let mut clients = Clients::default();
        assert_eq!((clients.get(3), clients.forget(3)), (None, None));
        for (client, is_counted) in [("192.0.2.1:5", true), ("[2001:db8::1]:0", false)] {
            let client: SocketAddr = client.parse().unwrap();
            clients.set(3, client, is_counted);
            assert_eq!((clients.get(3), clients.get(2)), (Some(client), None));
            assert_eq!(clients.forget(3), is_counted.then(|| client.ip()));
            assert_eq!((clients.get(3), clients.forget(3)), (None, None));
        }
    }

    #[test]
    fn an_ipv6_address_stands_for_its_64() {
        for (address, want) in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("2001:db8:1:3::", "2001:db8:1:3::"),
        ] {
            assert_eq!(counted_address(address.parse().unwrap()).to_string(), want);
        }
    }
}
