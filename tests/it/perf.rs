//! `leveret perf` against the broker: what it counts, and that it sees what goes wrong.

use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use crate::broker::Broker;
use crate::login::{Login, PATIENCE, ask};
use crate::peer::{Method, now};
use crate::value::Value;

/// `leveret perf` with these words for the broker.
fn command(broker: &Broker, words: &str) -> Command {
    let mut words = words.split_ascii_whitespace();
    let mut command = Command::new(env!("CARGO_BIN_EXE_leveret"));
    command.arg("perf").args(words.next());
    if command.get_args().all(|word| word != "limit") {
        let uri = format!("amqp://{}", broker.address());
        command.args(["--uri", &uri]);
    }
    command.args(["--json", "--live", "off"]).args(words);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn perf(broker: &Broker, words: &str) -> Output {
    command(broker, words).output().expect("leveret runs")
}

/// The number after `"key": ` in a result, the first of that name.
fn number(output: &Output, key: &str) -> f64 {
    let text = String::from_utf8_lossy(&output.stdout);
    let (_, rest) = text
        .split_once(&format!("\"{key}\": "))
        .unwrap_or_else(|| panic!("{key} is not in {text}"));
    let end = rest.find([',', '\n', '}']).unwrap_or(rest.len());
    rest[..end]
        .parse()
        .unwrap_or_else(|_| panic!("{key} in {text}"))
}

/// As [`number`], for whole ones.
fn count(output: &Output, key: &str) -> u64 {
    let number = number(output, key);
    format!("{number:.0}").parse().expect("counts are whole")
}

fn check(broker: &Broker, words: &str) -> Output {
    let output = perf(broker, words);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{words}: {}: {said}",
        output.status
    );
    output
}

/// The answer to `queue.purge`, or why there is none.
fn ask_for_queue(broker: &Broker, queue: &str) -> Result<Method, String> {
    let mut peer = broker.peer()?;
    Login::default().log_in(&mut peer)?;
    ask(&mut peer, 1, &Method::new("channel.open", &[]))?;
    let queue = Value::Text(queue.as_bytes().to_vec());
    ask(
        &mut peer,
        1,
        &Method::new("queue.purge", &[("queue", queue)]),
    )
}

/// Another client empties a queue as soon as something lies there; returns how many messages.
fn purge(broker: &Broker, queue: &str) -> Result<u64, String> {
    let deadline = now() + PATIENCE;
    while now() < deadline {
        // While the queue is not there yet, the answer is an error and the channel is closed.
        let purged = ask_for_queue(broker, queue);
        if let Ok(Value::Number(count @ 1..)) = purged.map(|ok| ok.get("message_count").clone()) {
            return Ok(count);
        }
        thread::sleep(Duration::from_millis(20));
    }
    Err("there was never a message".to_owned())
}

#[test]
fn every_message_arrives_whatever_the_way() {
    let broker = Broker::start(&[]).expect("a broker");
    for words in [
        "",
        "--size 3 --consumers 2",
        "--size 300k --ack 1 --prefetch 3 --confirm 5 --persistent on --messages 40",
        "--exchange fanout --queues 3 --consumers 3 --ack 10",
        "--exchange direct --bindings 7 --keys cycle",
        "--exchange topic --bindings 40 --keys random --confirm 100",
        "--exchange headers --bindings 4 --keys cycle --queues 2 --consumers 2",
        "--queues 50 --consumers 3 --producers 4 --keys cycle --threads 2 --ack 7",
        "--rate 5000 --warmup 0 --in-flight 50",
        "--rate 5000 --warmup 0 --beside tx,queue,tx",
        "--rate 5000 --warmup 0 --beside queue --beside-rate 100",
    ] {
        let line = format!("throughput --messages 2000 --warmup 0 {words}");
        let output = check(&broker, &line);
        let copies = if words.contains("fanout") { 3 } else { 1 };
        let messages = if words.contains("300k") { 40 } else { 2_000 };
        let found = [count(&output, "published"), count(&output, "delivered")];
        assert_eq!(found, [messages, messages * copies], "{line}");
        if words.contains("--beside ") {
            let text = String::from_utf8_lossy(&output.stdout);
            let (_, rounds) = text
                .split_once("\"beside_us\": {")
                .expect("its rounds are told");
            let (_, count) = rounds.split_once("\"count\": ").expect("a count");
            assert!(!count.starts_with("0,"), "{line}: {text}");
        }
    }
    let mut peer = broker.peer().expect("a peer");
    Login::default().log_in(&mut peer).expect("logged in");
    ask(&mut peer, 1, &Method::new("channel.open", &[])).expect("a channel");
    let name = ("queue", Value::Text(b"leveret-perf-beside-0".to_vec()));
    let found = ask(&mut peer, 1, &Method::new("queue.purge", &[name]));
    assert!(found.is_err(), "left over: {found:?}");
}

#[test]
fn what_was_filled_is_drained_also_after_a_crash() {
    let broker = Broker::start(&[]).expect("a broker");
    for _ in 0..2 {
        check(
            &broker,
            "fill --messages 1500 --queues 2 --producers 2 --confirm 64",
        );
    }
    broker.crash().expect("it starts again");
    let output = check(&broker, "drain --queues 2 --consumers 2");
    assert_eq!(count(&output, "delivered"), 3_000);
    let output = check(&broker, "drain --queues 2 --keep off");
    assert_eq!(count(&output, "delivered"), 0);
}

#[test]
fn messages_that_vanish_are_reported_lost() {
    let broker = Broker::start(&[]).expect("a broker");
    // One delivery at a time, so that most of them are in the queue when it is purged.
    let line = "throughput --messages 200000 --warmup 0 --ack 1 --prefetch 1 --size 16 --drain 2";
    let run = command(&broker, line).spawn().expect("leveret runs");
    let purged = purge(&broker, "leveret-perf-0").expect("it is purged");
    let output = run.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let lost = count(&output, "lost");
    assert!(lost >= purged, "{lost} of {purged}: {output:?}");
    // What was to come and does not is no success either.
    check(&broker, "fill --messages 10 --name short");
    let output = perf(&broker, "drain --messages 11 --name short --time 1");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[test]
fn an_interrupted_run_tells_what_it_saw_and_leaves_nothing_behind() {
    let broker = Broker::start(&[]).expect("a broker");
    for words in [
        "throughput --time 100 --warmup 0 --persistent on --confirm 50 --ack 5",
        "throughput --time 100 --warmup 0 --rate 1000 --messages 1000000",
        "throughput --time 100 --warmup 0 --consumers 0",
        "latency --time 100 --warmup 0 --spin off",
        "churn --time 100",
        "connections --connections 5 --hold 100",
        "limit --time 100 --warmup 0",
    ] {
        let run = command(&broker, words).spawn().expect("leveret runs");
        thread::sleep(Duration::from_millis(700));
        let id = run.id().to_string();
        let killed = Command::new("kill").args(["-INT", &id]).status();
        assert!(killed.is_ok_and(|status| status.success()), "{words}");
        let output = run.wait_with_output().expect("it ends");
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{words}: {output:?}");
        assert!(text.contains("\"interrupted\": true"), "{words}: {text}");
        if words.starts_with("throughput") {
            assert!(count(&output, "published") > 0, "{words}: {text}");
            let purged = ask_for_queue(&broker, "leveret-perf-0");
            assert!(purged.is_err(), "{words} left its queue: {purged:?}");
        }
    }
}

#[test]
fn a_run_that_only_consumes_or_only_has_so_many_messages_measures_them() {
    let broker = Broker::start(&[]).expect("a broker");
    check(&broker, "throughput --producers 0 --time 0.2");
    let output = check(&broker, "throughput --messages 100");
    assert_eq!(count(&output, "delivered"), 100);
}

#[test]
fn the_other_commands_measure_something() {
    let broker = Broker::start(&[]).expect("a broker");
    let output = check(
        &broker,
        "latency --rate 2000 --time 1 --warmup 0.2 --spin off",
    );
    assert!(number(&output, "count") > 1_000.0);
    let output = check(&broker, "connections --connections 50 --hold 0.1");
    assert!(number(&output, "opened_per_s") > 0.0);
    for what in ["connection", "channel", "queue", "tx"] {
        let output = check(
            &broker,
            &format!("churn --what {what} --time 0.3 --parallel 2"),
        );
        assert!(number(&output, "rounds") > 1.0, "{what}");
    }
    let output = check(&broker, "declare --queues 300 --bindings 900 --delete");
    assert!(number(&output, "per_s") > 0.0);
    let output = check(&broker, "limit --time 0.3 --warmup 0.1");
    assert!(number(&output, "delivered_per_s") > 0.0);
}

#[test]
fn failures_have_their_exit_codes() {
    let broker = Broker::start(&[]).expect("a broker");
    for (words, code) in [
        ("throughput --unknown", 64),
        ("throughput --uri amqp://127.0.0.1:1", 69),
        ("throughput --queue-arg x-expires=never", 70),
        ("limit --help", 0),
    ] {
        let output = perf(&broker, words);
        assert_eq!(output.status.code(), Some(code), "{words}: {output:?}");
    }
}
