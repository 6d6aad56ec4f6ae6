//! Which masters there are: the one server, the one that the sentinels name, or all of a cluster.

use std::ops::RangeInclusive;

use redis::{Cmd, Value, cmd};

use crate::backplane::broker::BrokerError;
use crate::backplane::redis::dialer::{Dialer, at};
use crate::backplane::redis::keys::SLOTS;
use crate::backplane::redis::url::{Address, Servers};

/// A server that takes writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Master {
    pub(super) address: Address,
    pub(super) db: i64,
    /// The slots that it serves.
    pub(super) slots: Vec<RangeInclusive<u16>>,
}

impl Master {
    fn of_everything(address: Address, db: i64) -> Vec<Self> {
        let slots = vec![0..=SLOTS - 1];
        vec![Self { address, db, slots }]
    }

    pub(super) fn serves(&self, slot: u16) -> bool {
        self.slots.iter().any(|slots| slots.contains(&slot))
    }
}

/// All masters, as they are now; every slot is served by one of them.
pub(super) async fn masters(
    dialer: &Dialer,
    servers: &Servers,
) -> Result<Vec<Master>, BrokerError> {
    match servers {
        Servers::Single { address, db } => Ok(Master::of_everything(address.clone(), *db)),
        Servers::Sentinel {
            sentinels,
            master,
            db,
        } => {
            let address = first_answer(sentinels, async |sentinel| {
                master_by(dialer, sentinel, master).await
            });
            let address = address.await?;
            // A sentinel names the old master until the new one is one.
            let role = dialer.ask(&address, &cmd("ROLE")).await?;
            match role {
                Value::Array(role) if role.first().and_then(text).as_deref() == Some("master") => {
                    Ok(Master::of_everything(address, *db))
                }
                _ => Err(at(
                    &address,
                    "the sentinels name it as the master, and it is none (yet)",
                )),
            }
        }
        Servers::Cluster(seeds) => {
            first_answer(seeds, async |seed| {
                let mut slots = cmd("CLUSTER");
                slots.arg("SLOTS");
                let answer = dialer.ask(seed, &slots).await?;
                parse_slots(&answer, &seed.host).map_err(|error| at(seed, error))
            })
            .await
        }
    }
}

/// What the first says that can say it; what the last said if none can.
async fn first_answer<T>(
    addresses: &[Address],
    ask: impl AsyncFn(&Address) -> Result<T, BrokerError>,
) -> Result<T, BrokerError> {
    let mut result = Err(BrokerError("backplane: names no server".into()));
    for address in addresses {
        result = ask(address).await;
        if result.is_ok() {
            break;
        }
    }
    result
}

async fn master_by(
    dialer: &Dialer,
    sentinel: &Address,
    name: &str,
) -> Result<Address, BrokerError> {
    let mut command = cmd("SENTINEL");
    command.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
    let answer = ask_sentinel(dialer, sentinel, &command).await?;
    let unknown = || at(sentinel, format!("this sentinel knows no master {name:?}"));
    let Value::Array(parts) = answer else {
        return Err(unknown());
    };
    let [host, port] = &parts[..] else {
        return Err(unknown());
    };
    let port = text(port).and_then(|port| port.parse().ok());
    let host = text(host);
    host.zip(port)
        .map(|(host, port)| Address { host, port })
        .ok_or_else(unknown)
}

/// Sentinels have a password of their own or, mostly, none: the servers' is told to one that wants one.
async fn ask_sentinel(
    dialer: &Dialer,
    sentinel: &Address,
    command: &Cmd,
) -> Result<Value, BrokerError> {
    let mut anonymous = dialer.clone();
    anonymous.credentials = None;
    let answer = anonymous.ask(sentinel, command).await;
    match answer {
        Err(error) if dialer.credentials.is_some() && error.0.contains("NOAUTH") => {
            dialer.ask(sentinel, command).await
        }
        answer => answer,
    }
}

/// The answer to `CLUSTER SLOTS` of the server that was asked at `own_host`.
fn parse_slots(answer: &Value, own_host: &str) -> Result<Vec<Master>, &'static str> {
    const UNREADABLE: &str = "its answer to CLUSTER SLOTS cannot be read";
    let mut masters: Vec<Master> = Vec::new();
    let mut slots_served = 0;
    for range in array(answer).ok_or(UNREADABLE)? {
        let [first, last, master, ..] = array(range).ok_or(UNREADABLE)? else {
            return Err(UNREADABLE);
        };
        let [host, port, ..] = array(master).ok_or(UNREADABLE)? else {
            return Err(UNREADABLE);
        };
        let number = |value: &Value| match value {
            Value::Int(number) => u16::try_from(*number).map_err(|_| UNREADABLE),
            _ => Err(UNREADABLE),
        };
        // A server that does not know its own name leaves it out.
        let host = text(host).filter(|host| !host.is_empty() && host != "?");
        let address = Address {
            host: host.unwrap_or_else(|| own_host.into()),
            port: number(port)?,
        };
        let slots = number(first)?..=number(last)?;
        slots_served += slots.len();
        match masters.iter_mut().find(|known| known.address == address) {
            Some(known) => known.slots.push(slots),
            None => masters.push(Master {
                address,
                db: 0,
                slots: vec![slots],
            }),
        }
    }
    if slots_served != usize::from(SLOTS) {
        return Err("some slots of the cluster have no master");
    }
    Ok(masters)
}

fn array(value: &Value) -> Option<&[Value]> {
    match value {
        Value::Array(values) => Some(values),
        _ => None,
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
        Value::SimpleString(text) => Some(text.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    fn range(first: i64, last: i64, host: Value, port: i64) -> Value {
        let server = |host, port| Value::Array(vec![host, Value::Int(port), bulk("id")]);
        let replica = server(bulk("10.0.0.9"), 1);
        Value::Array(vec![
            Value::Int(first),
            Value::Int(last),
            server(host, port),
            replica,
        ])
    }

    #[test]
    fn a_cluster_is_its_masters_with_all_their_slots() {
        let answer = Value::Array(vec![
            range(0, 5460, bulk("10.0.0.1"), 7000),
            range(5461, 10_000, bulk(""), 7001),
            range(10_001, 10_001, bulk("10.0.0.1"), 7000),
            range(10_002, 16_383, Value::Nil, 7002),
        ]);
        let masters = parse_slots(&answer, "seed").unwrap();
        let texts: Vec<_> = masters.iter().map(|m| m.address.to_string()).collect();
        assert_eq!(texts, ["10.0.0.1:7000", "seed:7001", "seed:7002"]);
        for (slot, wanted) in [(0, 0), (5460, 0), (5461, 1), (10_001, 0), (16_383, 2)] {
            let serving: Vec<_> = masters.iter().map(|m| m.serves(slot)).collect();
            assert_eq!(serving.iter().position(|is_it| *is_it), Some(wanted));
            assert_eq!(serving.iter().filter(|is_it| **is_it).count(), 1);
        }
    }

    #[test]
    fn a_cluster_with_a_hole_is_none() {
        for answer in [
            Value::Array(vec![]),
            Value::Array(vec![range(0, 16_382, bulk("h"), 1)]),
            Value::Array(vec![range(0, 16_383, bulk("h"), 65_536)]),
            Value::Array(vec![Value::Array(vec![Value::Int(0)])]),
            Value::Nil,
        ] {
            assert!(parse_slots(&answer, "seed").is_err(), "{answer:?}");
        }
    }
}
