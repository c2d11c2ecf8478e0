//! What the simulation has found, each as the shortest script that shows it.

use std::rc::Rc;

use super::operation::{Bind, Consume, Criteria, Operation as O, Publication, QueueDeclare};
use super::world::{Plan, World};

fn declare(name: &str) -> O {
    O::QueueDeclare(QueueDeclare {
        name: name.to_owned(),
        passive: false,
        durable: true,
        exclusive: false,
        auto_delete: false,
        no_wait: false,
    })
}

fn bind(queue: &str, exchange: &str) -> O {
    O::QueueBind(Bind {
        destination: queue.to_owned(),
        source: exchange.to_owned(),
        key: String::new(),
        criteria: Criteria::default(),
        no_wait: false,
    })
}

fn consume(queue: &str, tag: &str) -> O {
    O::Consume(Consume {
        queue: queue.to_owned(),
        tag: tag.to_owned(),
        no_ack: false,
        exclusive: false,
        no_wait: false,
    })
}

fn publish(id: u64, exchange: &str, routing_key: &str) -> O {
    O::Publish(Rc::new(Publication {
        id,
        exchange: exchange.to_owned(),
        routing_key: routing_key.to_owned(),
        headers: Criteria::default(),
        persistent: true,
        mandatory: false,
        body_octets: 10,
    }))
}

fn world() -> World {
    World::new(Plan {
        seed: 1,
        operations: 0,
        restarts: 1,
        has_small_segments: true,
        is_traced: false,
    })
}

/// A message that goes to two queues came to two consumers of a channel that had room for one.
#[test]
fn a_fan_out_keeps_the_limit_that_consumers_of_a_channel_share() {
    let mut world = world();
    let client = world.client();
    let operations = [
        declare("a"),
        declare("b"),
        bind("a", "amq.fanout"),
        bind("b", "amq.fanout"),
        O::Qos {
            count: 1,
            global: true,
        },
        consume("a", "x"),
        consume("b", "y"),
        publish(1, "amq.fanout", ""),
    ];
    world.play(client, 1, &operations);
    world.play(
        client,
        1,
        &[O::Ack {
            tag: 1,
            multiple: false,
        }],
    );
    world.rest();
}
