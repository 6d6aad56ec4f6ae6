//! Publishes that go together are numbered, kept and announced as if each went by itself.

use super::*;

const CHANNELS: [&str; 3] = ["a", "b", "c"];

/// Mostly like the one before, so that there are runs.
fn vary(publishing: &mut Publishing, random: &mut fastrand::Rng) {
    let publish = &mut publishing.publish;
    publish.idempotency_key = None;
    match random.u8(..24) {
        0 => {
            publish.kind = random
                .choice([PayloadKind::Text, PayloadKind::Binary])
                .unwrap()
        }
        1 => publish.event = random.choice([None, Some("created".into())]).unwrap(),
        2 => publish.ttl_ms = random.choice([None, Some(60_000), Some(0)]).unwrap(),
        3 => publish.store = random.bool(),
        4 => publish.idempotency_key = Some(random.u64(..).to_string().into()),
        5 => publishing.keep.history_messages = random.choice([200, 300]).unwrap(),
        _ => {}
    }
}

#[test]
fn publishes_of_one_call_are_as_good_as_single_ones() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let server = RedisServer::start(&["--save", "''"]);
    run(async || {
        let mut node = Node::connect(&server.url()).await;
        for name in CHANNELS {
            node.listen(name).await;
        }
        let mut one = text("a", "");
        let mut heads = [0; CHANNELS.len()];
        let mut kept: [Vec<Arrival>; CHANNELS.len()] = Default::default();
        for call in 0..60 {
            let mut publishes = Vec::new();
            for index in 0..random.usize(1..40) {
                vary(&mut one, &mut random);
                let publish = &mut one.publish;
                publish.channel = channel(random.choice(CHANNELS).unwrap());
                publish.payload = format!("{call}-{index}").into_bytes().into();
                one.receivers = random.u32(..5);
                publishes.push(Publishing {
                    publish: one.publish.clone(),
                    ..one
                });
            }
            let asked: Vec<_> = publishes
                .iter()
                .map(|it| (it.publish.clone(), it.receivers))
                .collect();
            let published = node.publish_all(publishes).await;
            let mut heard = Vec::new();
            for _ in &asked {
                heard.push(node.arrival().await);
            }
            for ((publish, receivers), published) in asked.into_iter().zip(published) {
                let place = CHANNELS
                    .iter()
                    .position(|name| channel(name) == publish.channel);
                let place = place.unwrap();
                assert_eq!(published.receivers, receivers);
                assert_eq!(published.position.offset, heads[place] + 1, "{publish:?}");
                // In the order of the channel.
                let next = heard
                    .iter()
                    .position(|it| it.message.channel == publish.channel);
                let arrival = heard.remove(next.unwrap());
                let message = &arrival.message;
                assert_eq!(message.position, published.position);
                assert_eq!(message.previous, heads[place]);
                assert_eq!(message.payload, publish.payload);
                assert_eq!(message.kind, publish.kind);
                assert_eq!(message.event, publish.event);
                let expires_ms = publish.ttl_ms.map(|ttl| message.published_ms + ttl);
                assert_eq!(message.expires_ms, expires_ms.unwrap_or(u64::MAX));
                assert_eq!(
                    arrival.is_stored,
                    publish.store && publish.ttl_ms != Some(0)
                );
                heads[place] += 1;
                if arrival.is_stored {
                    kept[place].push(arrival);
                }
            }
        }
        for (name, kept) in CHANNELS.into_iter().zip(kept) {
            let many = Keep {
                history_messages: 1000,
                ..KEEP
            };
            let standing = node.read_keeping(name, None, many).await;
            // Trimmed by count, in whole nodes of the stream.
            let n_kept = standing.messages.len();
            assert!(n_kept >= kept.len().min(200), "{n_kept} of {}", kept.len());
            assert_eq!(standing.messages, kept[kept.len() - n_kept..]);
        }
    });
}

#[test]
fn where_another_server_numbered_before_the_first_of_a_run_jumps() {
    let mut server = RedisServer::start(&["--save", "''"]);
    run(async || {
        let mut node = Node::connect(&server.url()).await;
        let first = node.publish("news", "1").await;
        server.cli(&["SAVE"]);
        server.restart();
        node.broken().await;
        let node = Node::connect(&server.url()).await;
        let run = ["2", "3", "4"].map(|payload| text("news", payload));
        let published = node.publish_all(run.into()).await;
        let offsets: Vec<_> = published.iter().map(|it| it.position.offset).collect();
        assert!(offsets[0] > JUMP, "{offsets:?}");
        assert_eq!(offsets, [offsets[0], offsets[0] + 1, offsets[0] + 2]);
        let standing = node.read("news", Some(first)).await;
        assert_eq!(payloads(&standing), ["2", "3", "4"]);
        let previous = standing.messages.iter().map(|it| it.message.previous);
        assert!(previous.eq([1, offsets[0], offsets[1]]));
        assert_eq!(standing.head, published[2].position);
    });
}

#[test]
fn a_run_over_a_16th_message_trims_the_log_by_age() {
    let server = RedisServer::start(&["--save", "''"]);
    run(async || {
        let node = Node::connect(&server.url()).await;
        node.publish("news", "1").await;
        // As old as can be.
        server.cli(&["DEL", "test:{news}:log"]);
        server.cli(&["XADD", "test:{news}:log", "1-1", "m", "old"]);
        for (messages, wanted) in [(14, "15"), (3, "17"), (13, "30")] {
            let publishes = (0..messages).map(|_| text("news", "x"));
            node.publish_all(publishes.collect()).await;
            assert_eq!(server.cli(&["XLEN", "test:{news}:log"]), wanted);
        }
    });
}
