//! Which masters there are: the one server, the one that the sentinels name, or all of a cluster.

use std::ops::RangeInclusive;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::{Cmd, Value, cmd};
use tokio::time::timeout;

use crate::backplane::broker::BrokerError;
use crate::backplane::redis::dialer::{Dialer, at, failed, silent};
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

/// All masters, as they are now; every slot is served by one of them. `key` is one that this user may read.
pub(super) async fn masters(
    dialer: &Dialer,
    servers: &Servers,
    key: &str,
) -> Result<Vec<Master>, BrokerError> {
    match servers {
        Servers::Single { address, db } => Ok(Master::of_everything(address.clone(), *db)),
        Servers::Sentinel {
            sentinels,
            master,
            db,
        } => {
            let address = first_answer(sentinels, async |sentinel| {
                let named = named_by(dialer, sentinel, master);
                let address = in_time(dialer, sentinel, named).await?;
                in_time(dialer, &address, check_master(dialer, &address)).await?;
                Ok(address)
            });
            Ok(Master::of_everything(address.await?, *db))
        }
        Servers::Cluster(seeds) => {
            first_answer(seeds, async |seed| {
                in_time(dialer, seed, masters_of_cluster(dialer, seed, key)).await
            })
            .await
        }
    }
}

/// The first answer that is of use, of all that are asked at once: some may have gone for good, and others, cut off,
/// may say what is no longer so. What each of them said, if none is.
async fn first_answer<T>(
    addresses: &[Address],
    ask: impl AsyncFn(&Address) -> Result<T, BrokerError>,
) -> Result<T, BrokerError> {
    let ask = &ask;
    let asked = |(index, address)| async move { (index, ask(address).await) };
    let mut asked: FuturesUnordered<_> = addresses.iter().enumerate().map(asked).collect();
    let mut errors = vec![String::new(); addresses.len()];
    while let Some((index, answer)) = asked.next().await {
        match answer {
            Ok(answer) => return Ok(answer),
            Err(BrokerError(error)) => errors[index] = error,
        }
    }
    Err(BrokerError(errors.join("; ")))
}

/// What `answer` gives, or that the server at `address` is silent.
async fn in_time<T>(
    dialer: &Dialer,
    address: &Address,
    answer: impl Future<Output = Result<T, BrokerError>>,
) -> Result<T, BrokerError> {
    let answer = timeout(dialer.timeout, answer).await;
    answer.unwrap_or_else(|_| Err(silent(address)))
}

async fn masters_of_cluster(
    dialer: &Dialer,
    seed: &Address,
    key: &str,
) -> Result<Vec<Master>, BrokerError> {
    let mut slots = cmd("CLUSTER");
    slots.arg("SLOTS");
    let answer = dialer.ask(seed, &slots).await?;
    let masters = parse_slots(&answer, &seed.host).map_err(|error| at(seed, error))?;
    check_cluster(dialer, seed, key).await?;
    Ok(masters)
}

/// A sentinel names the old master until the new one is one, and longer if it is cut off.
async fn check_master(dialer: &Dialer, address: &Address) -> Result<(), BrokerError> {
    let role = dialer.ask(address, &cmd("ROLE")).await?;
    match role {
        Value::Array(role) if role.first().and_then(text).as_deref() == Some("master") => Ok(()),
        _ => Err(at(
            address,
            "a sentinel names it as the master, and it is none (yet)",
        )),
    }
}

/// A server that is cut off from the others names the masters that there were. It knows that, and says so to whoever
/// wants a key of it; the others answer, or name the server that does.
async fn check_cluster(dialer: &Dialer, seed: &Address, key: &str) -> Result<(), BrokerError> {
    let answer = dialer.try_ask(seed, cmd("GET").arg(key)).await;
    match answer {
        Err(error) if error.code() == Some("CLUSTERDOWN") => Err(failed(seed, &error)),
        _ => Ok(()),
    }
}

async fn named_by(dialer: &Dialer, sentinel: &Address, name: &str) -> Result<Address, BrokerError> {
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
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// A server that answers what `script` says to commands that begin so, and `+OK` to all others; with an empty
    /// answer it is silent. It serves until the end of the process.
    fn server(script: impl Into<Vec<(&'static str, String)>>) -> Address {
        let script = script.into();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (script, stream) = (script.clone(), stream.unwrap());
                thread::spawn(move || serve(stream, &script));
            }
        });
        let host = "127.0.0.1".into();
        Address { host, port }
    }

    fn serve(mut stream: TcpStream, script: &[(&str, String)]) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        let line = |reader: &mut BufReader<TcpStream>| {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            line.trim_end().get(1..)?.parse::<usize>().ok()
        };
        loop {
            let mut words = Vec::new();
            for _ in 0..line(&mut reader)? {
                let mut word = vec![0; line(&mut reader)? + 2];
                reader.read_exact(&mut word).ok()?;
                words.push(String::from_utf8_lossy(&word).trim_end().to_owned());
            }
            let command = words.join(" ");
            let answer = script.iter().find(|(name, _)| command.starts_with(name));
            let answer = answer.map_or("+OK\r\n", |(_, answer)| answer);
            stream.write_all(answer.as_bytes()).ok()?;
        }
    }

    fn texts(texts: &[&str]) -> String {
        let bulk = |text: &&str| format!("${}\r\n{text}\r\n", text.len());
        let bulks: String = texts.iter().map(bulk).collect();
        format!("*{}\r\n{bulks}", texts.len())
    }

    fn sentinel_of(master: &Address) -> Address {
        let named = texts(&[&master.host, &master.port.to_string()]);
        server([("SENTINEL", named)])
    }

    fn of_role(role: &str) -> Address {
        server([("ROLE", texts(&[role]))])
    }

    fn silent_server() -> Address {
        server([("", String::new())])
    }

    /// One that says that the server at `port` has all slots; `answer` is to whoever wants a key.
    fn seed(port: u16, answer: &str) -> Address {
        let slots = format!("*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$1\r\nm\r\n:{port}\r\n");
        server([("CLUSTER", slots), ("GET", format!("{answer}\r\n"))])
    }

    /// The masters, or why there are none.
    fn find(servers: &Servers, timeout: Duration) -> Result<String, String> {
        let dialer = Dialer {
            tls: false,
            credentials: None,
            ca: None,
            timeout,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let masters = runtime.unwrap().block_on(masters(&dialer, servers, "key"));
        let masters = masters.map_err(|error| error.0)?;
        let addresses: Vec<_> = masters.iter().map(|it| it.address.to_string()).collect();
        Ok(addresses.join(" "))
    }

    fn sentinels(sentinels: Vec<Address>) -> Servers {
        let master = "mymaster".into();
        Servers::Sentinel {
            sentinels,
            master,
            db: 0,
        }
    }

    /// Far longer than the tests: whoever waited for one that is silent would not be done.
    const LONG: Duration = Duration::from_secs(3600);

    const SHORT: Duration = Duration::from_millis(200);

    #[test]
    fn a_sentinel_that_is_of_no_use_is_not_waited_for() {
        let master = of_role("master");
        let servers = sentinels(vec![
            silent_server(),
            silent_server(),
            // It still names a master that is gone, one that is none any more, or none at all.
            sentinel_of(&silent_server()),
            sentinel_of(&of_role("slave")),
            server([("SENTINEL", "*-1\r\n".into())]),
            sentinel_of(&master),
        ]);
        assert_eq!(find(&servers, LONG), Ok(master.to_string()));
    }

    #[test]
    fn a_seed_that_is_of_no_use_is_not_waited_for() {
        for answer in ["$-1", "-MOVED 1 m:2", "-NOPERM no rights"] {
            let servers = Servers::Cluster(vec![
                silent_server(),
                silent_server(),
                seed(1, "-CLUSTERDOWN The cluster is down"),
                server([("CLUSTER", "-ERR no cluster\r\n".into())]),
                seed(2, answer),
            ]);
            assert_eq!(find(&servers, LONG), Ok("m:2".into()), "{answer}");
        }
    }

    #[test]
    fn who_does_not_answer_is_named_with_the_setting() {
        let (silent, role) = (silent_server(), of_role("slave"));
        let servers = sentinels(vec![silent.clone(), sentinel_of(&role)]);
        let wanted = format!(
            "Redis at {silent}: does not answer within backplane_timeout; Redis at {role}: a sentinel names it as the \
             master, and it is none (yet)"
        );
        assert_eq!(find(&servers, SHORT), Err(wanted));
        let servers = sentinels(vec![sentinel_of(&silent)]);
        let wanted = format!("Redis at {silent}: does not answer within backplane_timeout");
        assert_eq!(
            find(&servers, SHORT),
            Err(wanted),
            "the master, not the sentinel"
        );
        let cut_off = seed(1, "-CLUSTERDOWN The cluster is down");
        let error = find(&Servers::Cluster(vec![silent, cut_off.clone()]), SHORT).unwrap_err();
        assert!(error.contains(&format!("Redis at {cut_off}: ")), "{error}");
        assert!(error.contains("backplane_timeout; "), "{error}");
    }

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
