//! Whole shards with real sockets, turned by hand: what happens between which turns is up to the test.

use std::hash::RandomState;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use rustix::io::Errno;
use socket2::{Domain, Socket, Type};

use super::connection::{Input, Marks};
use super::keyed_counts::KeyedCounts;
use super::mailbox::{Mailbox, Stage};
use super::*;
use crate::api::Side;
use crate::api::question::Answer;
use crate::auth::key::KeySet;
use crate::callback::Callbacks;
use crate::close_reason::CloseReason;
use crate::config::{Namespace, SlowReader};
use crate::transport::Transport;

/// Patience with the kernel; whatever the tests wait for is a matter of microseconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// The shards of one process. Clients come to the first one only.
struct Process {
    shards: Vec<Shard>,
    address: SocketAddr,
}

impl Process {
    fn new(n_shards: usize, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        let echo = Namespace {
            client_publish: true,
            history_bytes: usize::MAX,
            ..Namespace::default()
        };
        config.namespaces.insert("echo".to_owned(), echo);
        change(&mut config);
        let shared = Arc::new(Shared {
            config: Arc::new(config.clone()),
            keys: KeySet::default(),
            api_keys: Arc::default(),
            keys_wanted: None,
            callbacks: Arc::new(Callbacks::new(&config.callback, Instant::now())),
            started: Instant::now(),
            history_origin_ms: 0,
            hasher: RandomState::new(),
            n_connections: AtomicUsize::new(0),
            connections_max: AtomicUsize::new(100),
            connections_per_shard_max: usize::MAX,
            address_counts: KeyedCounts::default(),
            user_counts: Arc::default(),
            n_occupied: AtomicUsize::new(n_shards),
        });
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        let mut entrances = vec![Entrance {
            socket: socket.into(),
            side: Side::Both,
            requires_preface: false,
            tls: None,
        }];
        let boxes: Arc<[Mailbox]> = (0..n_shards).map(|_| Mailbox::new().unwrap()).collect();
        let shard = |id| {
            let post = Post::new(boxes.clone());
            let entrances = std::mem::take(&mut entrances);
            Shard::new(ShardId(id as u16), shared.clone(), post, entrances).unwrap()
        };
        let shards = (0..n_shards).map(shard).collect();
        Self { shards, address }
    }

    /// Lets every shard turn that has not ended.
    fn turn(&mut self) {
        for shard in self
            .shards
            .iter_mut()
            .filter(|shard| shard.life != Life::Over)
        {
            shard.turn().unwrap();
        }
    }

    #[track_caller]
    fn turn_until(&mut self, what: &str, mut is_there: impl FnMut(&mut Self) -> bool) {
        let began = Instant::now();
        while !is_there(self) {
            assert!(began.elapsed() < PATIENCE, "{what}");
            self.turn();
        }
    }

    /// Until every shard has begun to drain.
    #[track_caller]
    fn drain(&mut self) {
        for shard in &self.shards {
            let mailbox = shard.post.mailbox(shard.id);
            mailbox.post(Mail::Stage(Stage::Drain));
        }
        self.turn_until("the drain", |process| {
            process.shards.iter().all(|shard| shard.life.is_draining())
        });
    }

    #[track_caller]
    fn connect(&mut self) -> TcpStream {
        let client = TcpStream::connect(self.address).unwrap();
        client.set_nonblocking(true).unwrap();
        let before = self.shards[0].connections.len();
        self.turn_until("accepted", |process| {
            process.shards[0].connections.len() > before
        });
        client
    }

    /// A client with an open event stream.
    #[track_caller]
    fn stream(&mut self) -> TcpStream {
        let mut client = self.connect();
        client
            .write_all(b"GET /sse/echo:1 HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        self.read_until(&client, |answer| {
            memchr::memmem::find(answer, b"retry: ").is_some()
        });
        client
    }

    /// The only connection.
    fn connection(&self) -> &Connection {
        &self.shards[0].connections[0]
    }

    /// A channel that has its home on `shard`.
    fn channel(&self, shard: u16) -> ChannelName {
        let names = (0..).map(|n| ChannelName::parse(&format!("echo:{n}")).unwrap());
        let is_home = |name: &ChannelName| self.shards[0].home(name) == ShardId(shard);
        names.into_iter().find(is_home).unwrap()
    }

    /// Turns until `client` has read as much as `is_enough` wants, or all there is.
    #[track_caller]
    fn read_until(&mut self, mut client: &TcpStream, is_enough: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let mut read = Vec::new();
        let mut buffer = vec![0; 64 * 1024];
        self.turn_until("the answer", |_| match client.read(&mut buffer) {
            Ok(0) => true,
            Ok(bytes) => {
                read.extend_from_slice(&buffer[..bytes]);
                is_enough(&read)
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                false
            }
        });
        read
    }
}

#[test]
fn a_shard_without_connections_answers_the_others_while_they_drain() {
    let mut process = Process::new(2, |_| {});
    let mut client = process.connect();
    let channel = process.channel(1);
    let head = format!("POST /pub/{channel} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n");
    client.write_all(head.as_bytes()).unwrap();
    process.turn_until("the head", |process| {
        process.shards[0].metrics.requests_total == 1
    });
    process.drain();
    process.turn();
    client.write_all(b"hi").unwrap();
    let answer = process.read_until(&client, |_| false);
    assert!(answer.starts_with(b"HTTP/1.1 202 "));
    drop(client);
    process.turn_until("the end", |process| {
        process.shards.iter().all(|shard| shard.life == Life::Over)
    });
}

#[test]
fn who_half_closes_behind_pipelined_requests_gets_every_answer() {
    const PAYLOAD_BYTES: usize = 16 * 1024 * 1024;
    let mut process = Process::new(1, |config| {
        config.limits.message_bytes_max = PAYLOAD_BYTES;
        config.limits.outbox_bytes_max = PAYLOAD_BYTES;
    });
    let mut publisher = process.connect();
    let mut publish = |process: &mut Process| {
        let length = PAYLOAD_BYTES;
        let head =
            format!("POST /pub/echo:1 HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
        let request = [head.as_bytes(), &vec![b'x'; PAYLOAD_BYTES]].concat();
        let mut rest = &request[..];
        process.turn_until("sent", |_| {
            let sent = publisher.write(rest).unwrap_or(0);
            rest = &rest[sent..];
            rest.is_empty()
        });
        process.read_until(&publisher, |answer| answer.ends_with(b"}"));
    };
    let mut client = process.connect();
    let requests = "GET /poll/echo:1?wait=60 HTTP/1.1\r\nHost: a\r\n\r\n\
                    GET /poll/echo:1?since=earliest HTTP/1.1\r\nHost: a\r\n\r\n";
    client.write_all(requests.as_bytes()).unwrap();
    process.turn_until("the long poll", |process| {
        process.shards[0].fanout.channels() == 1
    });
    publish(&mut process);
    process.turn_until("a backlog", |process| {
        process.shards[0].connections[1].outbox.is_some()
    });
    client.shutdown(Shutdown::Write).unwrap();
    process.turn_until("the end of the input", |process| {
        process.shards[0].connections[1].has(Marks::END_OF_INPUT)
    });
    let answers = process.read_until(&client, |_| false);
    let payload_bytes = answers.iter().filter(|&&byte| byte == b'x').count();
    assert!(payload_bytes >= 2 * PAYLOAD_BYTES, "{payload_bytes} bytes");
}

#[test]
fn a_websocket_that_publishes_and_does_not_read_is_held_back() {
    let mut process = Process::new(2, |config| {
        config.limits.publishes_in_flight_max = 1;
        config.limits.outbox_bytes_max = 1 << 30;
    });
    let mut client = process.connect();
    let channel = process.channel(1);
    let handshake = format!(
        "GET /ws/{channel} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    client.write_all(handshake.as_bytes()).unwrap();
    process.read_until(&client, |answer| answer.ends_with(b"\r\n\r\n"));
    // Frames of a client with the mask 0: long ones until the echoes fill the socket, then short ones.
    let long = [&[0x82, 0xFE, 0xFF, 0xFF, 0, 0, 0, 0][..], &[0; 0xFFFF]].concat();
    let short = [0x82, 0x81, 0, 0, 0, 0, 0].repeat(10_000);
    let mut rest = &long[..];
    let mut turns_left = 1000;
    process.turn_until("held back", |process| {
        let has_backlog = process.connection().outbox.is_some();
        if rest.is_empty() {
            rest = if has_backlog { &short } else { &long };
        }
        let sent = client.write(rest).unwrap_or(0);
        rest = &rest[sent..];
        let input = process.connection().input.as_ref();
        let kept_bytes = input.map_or(0, |input| input.len());
        assert!(kept_bytes <= 2 * READ_BYTES, "{kept_bytes} bytes");
        assert!(process.connection().is_open());
        turns_left -= usize::from(has_backlog);
        turns_left == 0
    });
}

#[test]
fn a_goodbye_comes_behind_the_echo_that_it_waits_for() {
    let mut process = Process::new(2, |config| {
        config.limits.outbox_bytes_max = 1 << 30;
        let echo = config.namespaces.get_mut("echo").unwrap();
        echo.slow_reader = SlowReader::DropOldest;
    });
    let mut client = process.connect();
    let channel = process.channel(1);
    let handshake = format!(
        "GET /ws/{channel}?format=json HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    client.write_all(handshake.as_bytes()).unwrap();
    process.read_until(&client, |answer| answer.ends_with(b"\r\n\r\n"));
    // Frames of a client with the mask 0 and a length of two bytes.
    let publish = |text: &str| {
        let object = format!(r#"{{"channel":"{channel}","data":"{text}"}}"#);
        let length = (object.len() as u16).to_be_bytes();
        [&[0x81, 0xFE][..], &length, &[0; 4], object.as_bytes()].concat()
    };
    let long = publish(&"x".repeat(60_000));
    let mut rest = &long[..];
    process.turn_until("a backlog", |process| {
        if rest.is_empty() {
            if process.connection().outbox.is_some() {
                return true;
            }
            rest = &long;
        }
        let sent = client.write(rest).unwrap_or(0);
        rest = &rest[sent..];
        false
    });
    let last = publish(&format!("{}last", "x".repeat(200)));
    let goodbye = [&last[..], &[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xE8]].concat();
    let mut rest = &goodbye[..];
    process.turn_until("the goodbye", |process| {
        let sent = client.write(rest).unwrap_or(0);
        rest = &rest[sent..];
        !process.connection().is_open()
    });
    let said = process.read_until(&client, |_| false);
    assert!(said.ends_with(b"last\"}\x88\x02\x03\xE8"));
}

#[test]
fn a_slot_is_freed_when_its_polls_are_home_and_a_stale_key_finds_nothing() {
    let mut process = Process::new(1, |_| {});
    let first = process.connect();
    let key = process.shards[0].connection_key(0);
    let shard = &mut process.shards[0];
    assert!(shard.is_current(key) && process.connection().read_armed);
    let shard = &mut process.shards[0];
    shard.end_now(key.index, CloseReason::Shutdown);
    shard.free_if_joined(key.index);
    assert!(shard.is_current(key), "its poll is with the kernel");
    process.turn_until("the poll's way home", |process| {
        process.shards[0].connections.is_empty()
    });
    drop(first);
    let _second = process.connect();
    let shard = &mut process.shards[0];
    assert_eq!(
        shard.connection_key(0).index,
        key.index,
        "the slot is used again"
    );
    assert!(!shard.is_current(key));
    let answer = Answer::Info(None);
    assert!(
        !shard.take_answer(key, 0, answer),
        "nobody is there to answer"
    );
}

#[test]
fn a_panic_in_a_step_leaves_no_subscription_behind() {
    let mut process = Process::new(1, |_| {});
    let _client = process.connect();
    let channel = process.channel(0);
    let shard = &mut process.shards[0];
    // As in the midst of a step that has moved it: the transport no longer knows of it.
    shard.fanout.listen(&channel, 0);
    shard.step(0, |_, _| panic!("planted"));
    assert_eq!(shard.fanout.channels(), 0);
    process.turn_until("the end", |process| {
        process.shards[0].connections.is_empty()
    });
    let metrics = process.shards[0].measure();
    assert_eq!(metrics.panics_total, 1);
    assert_eq!(metrics.closed_total[CloseReason::Panicked as usize], 1);
}

#[test]
fn who_was_let_in_before_the_door_closes_is_answered() {
    let mut process = Process::new(1, |config| config.timing.drain_period_ms = 0);
    // In the kernel's queue; the shard has not seen it.
    let mut client = TcpStream::connect(process.address).unwrap();
    client.set_nonblocking(true).unwrap();
    process.drain();
    let began_ms = process.shards[0].clock.now_ms;
    process.turn_until("a moment in which everybody else was told", |process| {
        process.shards[0].clock.now_ms > began_ms + 100
    });
    client
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let answer = process.read_until(&client, |_| false);
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{answer:?}");
    drop(client);
    process.turn_until("the end", |process| process.shards[0].life == Life::Over);
}

#[test]
fn a_drain_is_spread_over_its_period_whatever_else_is_due() {
    const STREAMS: usize = 60;
    const PERIOD_MS: u64 = 100_000;
    let mut process = Process::new(1, |config| {
        config.timing.heartbeat_ms = PERIOD_MS / 100;
        config.timing.drain_period_ms = PERIOD_MS;
    });
    let _clients: Vec<_> = (0..STREAMS).map(|_| process.stream()).collect();
    process.drain();
    let shard = &mut process.shards[0];
    let began_ms = shard.clock.now_ms;
    let told = |shard: &Shard| {
        let connections = shard.connections.iter();
        let told = connections.filter(|(_, connection)| connection.has(Marks::DRAINED));
        told.count()
    };
    let mut told_by_quarter = Vec::new();
    for quarter in 1..=4 {
        while shard.clock.now_ms <= began_ms + PERIOD_MS * quarter / 4 {
            shard.clock.now_ms += 100;
            shard.expire_timers();
        }
        told_by_quarter.push(told(shard));
    }
    assert!(told_by_quarter[0] > 0, "{told_by_quarter:?}");
    assert!(
        told_by_quarter.is_sorted_by(|before, after| before < after),
        "{told_by_quarter:?}"
    );
    assert_eq!(told_by_quarter[3], STREAMS);
}

#[test]
fn a_turn_has_no_more_heartbeats_than_deliveries() {
    const STREAMS: usize = 7;
    let mut process = Process::new(1, |config| config.limits.fanout_sends_per_turn = 3);
    let _clients: Vec<_> = (0..STREAMS).map(|_| process.stream()).collect();
    let shard = &mut process.shards[0];
    shard.clock.now_ms += 2 * shard.config.timing.heartbeat_ms;
    let sent = [3, 6, 7].map(|_| {
        assert!(shard.has_backlog());
        shard.expire_timers();
        shard.metrics.heartbeats_sent_total
    });
    assert_eq!(sent, [3, 6, 7]);
    assert!(!shard.has_backlog());
}

#[test]
fn who_leaves_while_its_long_poll_is_asked_is_not_waited_for() {
    let mut process = Process::new(2, |_| {});
    let mut client = process.connect();
    let (here, there) = (process.channel(0), process.channel(1));
    let poll = |channel| format!("GET /poll/{channel}?wait=60 HTTP/1.1\r\nHost: a\r\n\r\n");
    client.write_all(poll(&here).as_bytes()).unwrap();
    process.turn_until("the first", |process| {
        process.shards[0].fanout.channels() == 1
    });
    let others = poll(&there) + &poll(&here);
    client.write_all(others.as_bytes()).unwrap();
    process.turn_until("the others, behind it", |process| {
        process.connection().input.is_some()
    });
    let mut publisher = process.connect();
    let publish = format!("POST /pub/{here} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
    publisher.write_all(publish.as_bytes()).unwrap();
    // The home of the second does not turn meanwhile; the third has its answer on the spot.
    let turn_here = |process: &mut Process, is_there: fn(&Connection) -> bool| {
        let began = Instant::now();
        while !is_there(process.connection()) {
            assert!(began.elapsed() < PATIENCE);
            process.shards[0].turn().unwrap();
        }
    };
    turn_here(&mut process, |connection| {
        matches!(connection.transport, Transport::Http(_))
    });
    client.shutdown(Shutdown::Write).unwrap();
    turn_here(&mut process, |connection| {
        connection.has(Marks::END_OF_INPUT)
    });
    let answers = process.read_until(&client, |_| false);
    let count = |head: &[u8]| memchr::memmem::find_iter(&answers, head).count();
    assert_eq!((count(b"HTTP/1.1 200 "), count(b"HTTP/1.1 204 ")), (1, 2));
    assert_eq!(process.shards[0].fanout.channels(), 0);
}

#[test]
fn what_comes_with_a_proxy_header_is_heard() {
    for (input, is_heard) in [(&b"GET /healthz"[..], true), (b"", false)] {
        let mut process = Process::new(1, |_| {});
        let _client = process.connect();
        process.shards[0].begin_input(0, Input::new(input));
        assert_eq!(process.connection().has(Marks::HEARD), is_heard);
    }
}

#[test]
fn who_knocks_while_the_door_closes_is_let_in_by_the_next_server() {
    let mut process = Process::new(1, |_| {});
    process.drain();
    assert!(
        !process.shards[0].door.is_closed,
        "handshakes may be under way"
    );
    let address = process.address;
    let client = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).unwrap();
    let knocked = client.connect(&address.into()).unwrap_err();
    assert_eq!(
        knocked.raw_os_error(),
        Some(Errno::INPROGRESS.raw_os_error())
    );
    process.turn_until("the end", |process| process.shards[0].life == Life::Over);
    assert_eq!(process.shards[0].metrics.accepted_total, 0);
    drop(process);
    let next = TcpListener::bind(address).unwrap();
    let (_let_in, peer) = next.accept().unwrap();
    assert_eq!(client.local_addr().unwrap().as_socket(), Some(peer));
}
