//! What the shards are told of the broker's clock.

use super::*;

/// What each shard was told since the last time, which is the same.
fn told(node: &Node) -> Vec<i64> {
    let [told, same] = node.mailboxes.ahead_ms.take();
    assert_eq!(told, same);
    told
}

#[test]
fn the_brokers_time_is_known_before_anything_is_read_and_kept() {
    run_paused(async {
        let server = MemoryServer::new(URL, 1);
        sleep_ms(1_000).await;
        let node = Node::start_hearing(1).await;
        let [first_ms] = told(&node)[..] else {
            panic!("once")
        };
        sleep_ms(60_000).await;
        assert!(told(&node).is_empty(), "it is known already");

        server.set_clock_ahead(900_000);
        sleep_ms(11_000).await;
        assert_eq!(told(&node), [first_ms + 900_000], "it was set");

        server.stop();
        server.set_clock_ahead(0);
        sleep_ms(60_000).await;
        assert!(told(&node).is_empty(), "nobody can know");
        server.start();
        sleep_ms(5_010).await;
        assert_eq!(told(&node), [first_ms], "whoever connects looks at once");
    });
}

#[test]
fn an_answer_that_takes_long_changes_nothing() {
    run_paused(async {
        let server = MemoryServer::new(URL, 1);
        let node = Node::start_hearing(1).await;
        let first_ms = told(&node);
        server.set_answer_delay(Duration::from_secs(2));
        sleep_ms(60_000).await;
        assert!(told(&node).is_empty());
        server.disconnect(NodeId(1));
        sleep_ms(60_000).await;
        assert!(told(&node).is_empty());
        assert_eq!(first_ms.len(), 1);
    });
}
