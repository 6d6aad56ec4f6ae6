//! The broker goes away, comes back, or says nothing.

use super::link::CHANNELS_PER_INTERRUPTION;
use super::*;
use crate::hub::position::Epoch;

#[test]
fn a_connection_that_breaks_answers_what_is_under_way() {
    run_paused(async {
        let server = MemoryServer::new(URL, 1);
        let node = Node::start_hearing(1).await;
        server.set_answer_delay(Duration::from_millis(10));
        // Four calls are under way, the rest waits.
        for ticket in 1..=4 {
            node.publish("a", ticket);
            settle().await;
        }
        node.publish("a", 5);
        let order = Order::Delete {
            ticket: Ticket(6),
            channel: name("a"),
            keep: KEEP,
        };
        node.order("a", order);
        settle().await;
        server.disconnect(NodeId(1));
        settle().await;
        let told = node.told();
        let mut answers: Vec<_> = told.iter().filter(|text| text.contains("ed ")).collect();
        answers.sort();
        assert_eq!(
            answers,
            [
                "0 deleted 6 Err(Away)",
                "0 published 1 Away",
                "0 published 2 Away",
                "0 published 3 Away",
                "0 published 4 Away",
                "0 published 5 Away"
            ]
        );
        assert!(told.contains(&"1 Deaf".into()));
        sleep_ms(300).await;
        node.open("a", None);
        sleep_ms(100).await;
        let told = node.told();
        assert_eq!(told[..2], ["0 Hearing", "1 Hearing"]);
        assert_eq!(
            told[2..],
            ["0 a is at 4: 1 2 3 4"],
            "away is not unpublished"
        );
    });
}

#[test]
fn while_the_broker_is_away_opens_wait_and_publishes_do_not() {
    run_paused(async {
        let server = MemoryServer::new(URL, 1);
        let speaker = Node::start_hearing(1).await;
        for ticket in 1..=3 {
            speaker.publish("a", ticket);
        }
        speaker.open("a", None);
        settle().await;
        let first = Position {
            offset: 1,
            ..head(&speaker.take(), "a")
        };
        server.stop();
        settle().await;
        let node = Node::start(2);
        node.open("a", None);
        node.open("b", None);
        node.open("c", None);
        node.publish("a", 9);
        settle().await;
        assert_eq!(node.told(), ["0 published 9 Away"]);
        node.open("a", Some(first));
        node.close("b");
        sleep_ms(60_000).await;
        assert_eq!(node.told(), [""; 0]);
        assert_eq!(node.stats().channels_waiting, 2);
        server.start();
        sleep_ms(5_010).await;
        let mut told = node.told();
        told.sort();
        assert_eq!(
            told,
            [
                "0 Hearing",
                "0 a is at 3: 2 3",
                "0 c is at 0: ",
                "1 Hearing"
            ]
        );
        assert_eq!(server.listened(NodeId(2)), [name("a"), name("c")]);
    });
}

#[test]
fn the_loss_of_an_acknowledged_message_is_found_that_nobody_listened_to() {
    run_paused(async {
        let server = MemoryServer::new(URL, 1);
        let node = Node::start_hearing(1).await;
        for ticket in 1..=3 {
            node.publish("a", ticket);
        }
        settle().await;
        let News::Published { result, .. } = &node.take()[2].1 else {
            panic!("three answers")
        };
        let promised = result.unwrap().position;
        server.restart(Kept::AllBut(1));
        sleep_ms(300).await;
        // Whoever asks now knows of no position.
        node.open("a", None);
        sleep_ms(100).await;
        assert_ne!(head(&node.take(), "a").epoch, promised.epoch);
    });
}

#[test]
fn a_broker_that_is_back_is_asked_for_what_was_heard_last() {
    run_paused(async {
        let server = MemoryServer::new(URL, 1);
        let node = Node::start_hearing(1).await;
        assert!(server.looked_for().is_empty());
        server.stop();
        sleep_ms(1_000).await;
        server.start();
        sleep_ms(5_010).await;
        assert_eq!(node.told(), ["0 Deaf", "1 Deaf", "0 Hearing", "1 Hearing"]);
        let failures = node.stats().connect_failures_total;
        server.disconnect(NodeId(1));
        sleep_ms(5_010).await;
        assert_eq!(server.looked_for(), [1, 2]);
        server.lose_traces();
        server.disconnect(NodeId(1));
        sleep_ms(5_010).await;
        assert_eq!(node.stats().connect_failures_total, failures);
        server.disconnect(NodeId(1));
        sleep_ms(5_010).await;
        // The fourth connection was of no use.
        assert_eq!(server.looked_for(), [1, 2, 3, 5]);
    });
}

#[test]
fn a_broker_is_reminded_of_much_in_few_rounds_at_a_time() {
    run_paused(async {
        let server = MemoryServer::new(URL, 1);
        server.set_answer_delay(Duration::from_millis(10));
        let (orders, from_shards) = mpsc::unbounded_channel();
        let settings = DriverSettings::new(settings(1), N_SHARDS, clock());
        let mailboxes = Rc::new(Mailboxes::default());
        let mut driver = Driver::<Memory, _>::new(settings, from_shards, mailboxes);
        let promised = Position {
            epoch: Epoch::from_random(1),
            offset: 1,
        };
        for n in 0..5_000 {
            let channel = name(&format!("a{n}"));
            driver.acknowledged.note(&channel, promised, KEEP, 0);
        }
        let mut under_way = Vec::new();
        while driver.stats.connects_total == 0 || under_way.last() != Some(&0) {
            driver.round().await;
            if let Link::Up(up) = &driver.link {
                let is_reminder = |kind: &CallKind| matches!(kind, CallKind::Remind);
                under_way.push(up.calls.count(is_reminder));
            }
        }
        assert_eq!(under_way.iter().max(), Some(&4), "{under_way:?}");
        assert_eq!(server.channels(), 5_000);
        drop(orders);
    });
}

#[test]
fn attempts_to_connect_grow_rare_up_to_the_cap() {
    run_paused(async {
        let server = MemoryServer::new(URL, 1);
        server.stop();
        let node = Node::start(1);
        sleep_ms(61_000).await;
        // After 0.1, 0.2, … 3.2 s, then 5 s, or down to half of each.
        let failures = node.stats().connect_failures_total;
        assert!((16..=31).contains(&failures), "{failures}");
        server.start();
        sleep_ms(5_010).await;
        assert_eq!(node.told(), ["0 Hearing", "1 Hearing"]);
        server.disconnect(NodeId(1));
        sleep_ms(110).await;
        assert_eq!(
            node.told(),
            ["0 Deaf", "1 Deaf", "0 Hearing", "1 Hearing"],
            "what was heard is tried again soon"
        );
    });
}

#[test]
fn a_broker_that_breaks_off_whenever_it_is_heard_is_tried_rarely() {
    run_paused(async {
        let server = MemoryServer::new(URL, 1);
        let node = Node::start(1);
        for _ in 0..6_100 {
            sleep_ms(10).await;
            if node.told().iter().any(|told| told == "0 Hearing") {
                server.disconnect(NodeId(1));
            }
        }
        let connects = node.stats().connects_total;
        assert!((16..=31).contains(&connects), "{connects}");
    });
}

#[test]
fn a_lost_broker_interrupts_every_channel_once() {
    run_paused(async {
        let server = MemoryServer::new(URL, 1);
        let (node, speaker) = (Node::start_hearing(1).await, Node::start_hearing(2).await);
        let channels: BTreeSet<_> = (0..3_000)
            .flat_map(|n| [format!("a{n}"), format!("b{n}")])
            .collect();
        for channel in &channels {
            node.open(channel, None);
        }
        settle().await;
        node.take();
        server.disconnect(NodeId(1));
        settle().await;
        let news = node.take();
        assert!(matches!(news[0].1, News::Health(Health::Deaf)));
        let mut lost = Vec::new();
        for (shard, news) in news {
            let News::Interrupted(channels) = news else {
                continue;
            };
            assert!(channels.len() <= CHANNELS_PER_INTERRUPTION);
            for channel in channels {
                assert_eq!(shard.0, u16::from(channel.as_str().starts_with('b')));
                lost.push(channel.to_string());
            }
        }
        lost.sort();
        assert!(lost.into_iter().eq(channels));
        sleep_ms(200).await;
        speaker.publish("a1", 1);
        settle().await;
        assert_eq!(
            node.told(),
            ["0 Hearing", "1 Hearing"],
            "nothing is open any more"
        );
        node.open("a1", None);
        settle().await;
        assert_eq!(node.told(), ["0 a1 is at 1: 1"]);
    });
}

#[test]
fn a_connection_that_says_nothing_is_given_up() {
    run_paused(async {
        let server = MemoryServer::new(URL, 1);
        server.set_connections(2);
        let node = Node::start_hearing(1).await;
        node.open("a", None);
        sleep_ms(5_000).await;
        assert_eq!(node.told(), ["0 a is at 0: "], "canaries come back");
        assert!(node.stats().canary_age_ms <= 1_000);
        // One connection of the two is enough. Three canaries are to be lost, and the next one finds it out.
        server.set_fate(|_, event| match event {
            Event::Canary { connection: 1, .. } => Fate::IsLost,
            _ => Fate::Arrives,
        });
        sleep_ms(3_900).await;
        assert_eq!(node.told(), [""; 0]);
        sleep_ms(110).await;
        assert_eq!(node.told(), ["0 Deaf", "0 lost a", "1 Deaf"]);
        sleep_ms(1_200).await;
        let stats = node.stats();
        assert_eq!((stats.is_hearing, stats.deafnesses_total), (false, 1));
        assert!(stats.canary_age_ms > 3_000);
        assert_eq!(stats.connects_total, 2, "a connection is no proof");
        server.set_fate(|_, _| Fate::Arrives);
        sleep_ms(1_010).await;
        assert_eq!(node.told(), ["0 Hearing", "1 Hearing"]);
    });
}

#[test]
fn a_silent_server_is_noticed_and_a_paused_one_too() {
    run_paused(async {
        let server = MemoryServer::new(URL, 1);
        let node = Node::start_hearing(1).await;
        sleep_ms(5_000).await;
        server.silence(NodeId(1));
        sleep_ms(4_010).await;
        assert_eq!(node.told(), ["0 Deaf", "1 Deaf"]);
        sleep_ms(110).await;
        assert_eq!(node.told(), ["0 Hearing", "1 Hearing"]);
        sleep_ms(5_000).await;
        server.pause();
        sleep_ms(4_010).await;
        assert_eq!(node.told(), ["0 Deaf", "1 Deaf"]);
        server.resume();
        sleep_ms(110).await;
        assert_eq!(node.told(), ["0 Hearing", "1 Hearing"]);
    });
}

#[test]
fn whoever_has_opened_a_channel_that_moved_hears_of_it() {
    run_paused(async {
        let server = MemoryServer::new(URL, 1);
        let (first, second) = (Node::start_hearing(1).await, Node::start_hearing(2).await);
        for ticket in 1..=3 {
            first.publish("a", ticket);
        }
        first.open("a", None);
        settle().await;
        let three = head(&first.take(), "a");
        // So long ago that the first node asks for it only where it is told to.
        sleep_ms(61_000).await;
        server.restart(Kept::AllBut(1));
        sleep_ms(200).await;
        second.open("a", None);
        settle().await;
        assert_eq!(head(&second.take(), "a"), Position { offset: 2, ..three });
        first.open("a", Some(three));
        settle().await;
        assert_ne!(head(&first.take(), "a").epoch, three.epoch);
        assert_eq!(second.told(), ["0 a moved"]);
    });
}

#[test]
fn a_broker_that_refuses_is_not_away() {
    run_paused(async {
        let server = MemoryServer::new(URL, 1);
        let node = Node::start_hearing(1).await;
        server.set_refusing(true);
        node.publish("a", 1);
        sleep_ms(1_500).await;
        assert_eq!(node.told(), ["0 published 1 Refused"]);
        assert_eq!(node.stats().publishes_refused_total, 1);
    });
}
