//! Nodes count their listeners together.

use super::*;

fn ask(node: &Node, ticket: u64) {
    let channel = name("a");
    let ticket = Ticket(ticket);
    node.order("a", Order::Count { ticket, channel });
}

/// Answers the question that the home of `a` was asked.
fn answer(node: &Node, listeners: u32) -> CountQuestion {
    let news = node.take();
    let questions = news.iter().filter_map(|(_, news)| match news {
        News::CountWanted { question, .. } => Some(*question),
        _ => None,
    });
    let questions: Vec<_> = questions.collect();
    let [question] = questions[..] else {
        panic!("{news:?}");
    };
    let order = Order::CountAnswer {
        question,
        listeners,
    };
    node.order("a", order);
    question
}

/// Three nodes that know each other; the first two have opened `a`.
async fn nodes() -> (MemoryServer, [Node; 3]) {
    let server = MemoryServer::new(URL, 1);
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(Node::start_hearing(id).await);
    }
    nodes[0].open("a", None);
    nodes[1].open("a", None);
    sleep_ms(6_000).await;
    for node in &nodes {
        node.take();
        assert_eq!(node.stats().nodes, 3);
    }
    (server, nodes.try_into().ok().unwrap())
}

#[test]
fn all_nodes_together_count_all_listeners() {
    run_paused(async {
        let (_server, [first, second, third]) = nodes().await;
        ask(&first, 7);
        settle().await;
        answer(&first, 10);
        settle().await;
        assert_eq!(first.told(), [""; 0], "the second has not answered");
        let question = answer(&second, 200);
        settle().await;
        assert_eq!(
            third.told(),
            [""; 0],
            "it has nothing open, and nobody to ask"
        );
        assert_eq!(first.told(), ["0 counted 7 210 by 3 true"]);
        let order = Order::CountAnswer {
            question,
            listeners: 5,
        };
        second.order("a", order);
        settle().await;
        assert_eq!(first.told(), [""; 0], "a second answer is none");
    });
}

#[test]
fn a_node_that_cannot_hear_is_waited_for_and_then_forgotten() {
    run_paused(async {
        let (server, [first, _second, third]) = nodes().await;
        server.silence(NodeId(2));
        ask(&first, 7);
        settle().await;
        answer(&first, 10);
        sleep_ms(490).await;
        assert_eq!(first.told(), [""; 0]);
        sleep_ms(10).await;
        assert_eq!(first.told(), ["0 counted 7 10 by 2 false"]);
        server.set_cut_off(NodeId(2), true);
        sleep_ms(7_000).await;
        assert_eq!((first.stats().nodes, third.stats().nodes), (2, 2));
        ask(&first, 8);
        settle().await;
        answer(&first, 11);
        settle().await;
        assert_eq!(first.told(), ["0 counted 8 11 by 2 true"]);
        assert_eq!(first.stats().counts_incomplete_total, 1);
    });
}

#[test]
fn a_node_that_ends_says_so() {
    run_paused(async {
        let (server, [first, second, third]) = nodes().await;
        drop(third);
        settle().await;
        assert_eq!(server.nodes(), [NodeId(1), NodeId(2)]);
        ask(&first, 7);
        settle().await;
        answer(&first, 1);
        answer(&second, 1);
        settle().await;
        assert_eq!(first.told(), ["0 counted 7 2 by 2 true"]);
    });
}

#[test]
fn whoever_is_cut_off_does_not_wait_for_others() {
    run_paused(async {
        let (server, [first, _second, _third]) = nodes().await;
        ask(&first, 7);
        settle().await;
        answer(&first, 10);
        server.set_cut_off(NodeId(1), true);
        settle().await;
        let told = first.told();
        // The third has answered before.
        assert!(
            told.contains(&"0 counted 7 10 by 2 false".into()),
            "{told:?}"
        );
        sleep_ms(20_000).await;
        ask(&first, 8);
        settle().await;
        answer(&first, 11);
        settle().await;
        assert_eq!(first.told(), ["0 counted 8 11 by 1 false"]);
    });
}
