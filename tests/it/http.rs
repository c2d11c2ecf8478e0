//! The HTTP API over real sockets: TCP, the control socket, and what happens when sockets run out.
//! What the API says is tested beside `src/admin`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use std::{env, fs, process, thread};

use crate::peer::{PROTOCOL_HEADER, now};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// guest:guest
const CREDENTIALS: &str = "authorization: Basic Z3Vlc3Q6Z3Vlc3Q=\r\n";

/// A broker of the test's own.
struct Server {
    child: Child,
    directory: PathBuf,
    amqp_port: u16,
    http_port: u16,
}

impl Server {
    /// Starts one that may open `descriptors` descriptors, with `settings` in its configuration.
    fn start(name: &str, descriptors: u32, settings: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = env::temp_dir().join(format!("leveret-{name}-{}-{number}", process::id()));
        fs::create_dir_all(&directory).expect("a directory can be made");
        let config = directory.join("rabbitmq.conf");
        fs::write(&config, settings).expect("a file can be written");
        let mut child = Command::new("sh")
            .arg("-c")
            .arg(format!("ulimit -n {descriptors} && exec \"$@\""))
            .arg("sh")
            .arg(env!("CARGO_BIN_EXE_leveret"))
            .args([
                "--listen",
                "127.0.0.1:0",
                "--http",
                "127.0.0.1:0",
                "--config",
            ])
            .arg(&config)
            .arg("--data-dir")
            .arg(directory.join("data"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let mut lines = BufReader::new(child.stdout.take().expect("is piped")).lines();
        let (mut amqp_port, mut http_port) = (0, 0);
        let port = |line: &str, mark| {
            line.rsplit_once(mark)
                .and_then(|(_, port)| port.parse().ok())
        };
        for line in lines.by_ref().map_while(Result::ok) {
            if line.contains("TCP listener") {
                amqp_port = port(&line, ':').expect("a port");
            } else if line.contains("HTTP (non-TLS) listener") {
                http_port = port(&line, ' ').expect("a port");
            } else if line.contains("Server startup complete") {
                break;
            }
        }
        // What it says later is read so that it never waits for a reader.
        thread::spawn(move || lines.for_each(drop));
        assert!(amqp_port != 0 && http_port != 0);
        Server {
            child,
            directory,
            amqp_port,
            http_port,
        }
    }

    fn control_socket(&self) -> PathBuf {
        self.directory.join("data/control.sock")
    }

    fn tcp(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.http_port)).expect("HTTP is there");
        stream.set_read_timeout(Some(PATIENCE)).expect("is set");
        stream
    }

    fn unix(&self) -> UnixStream {
        let stream = UnixStream::connect(self.control_socket()).expect("the socket is there");
        stream.set_read_timeout(Some(PATIENCE)).expect("is set");
        stream
    }

    /// Whether an AMQP client that comes now is answered.
    fn speaks_amqp(&self, patience: Duration) -> bool {
        let until = now() + patience;
        while now() < until {
            let mut stream =
                TcpStream::connect(("127.0.0.1", self.amqp_port)).expect("the backlog takes it");
            stream
                .set_read_timeout(Some(Duration::from_millis(300)))
                .expect("is set");
            let mut octet = [0];
            if stream.write_all(PROTOCOL_HEADER).is_ok() && stream.read_exact(&mut octet).is_ok() {
                return true;
            }
            thread::sleep(Duration::from_millis(20));
        }
        false
    }

    /// CPU time it has used, in clock ticks.
    fn ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("runs");
        let after_name = stat.rsplit_once(") ").expect("a name").1;
        let fields: Vec<&str> = after_name.split(' ').collect();
        fields[11].parse::<u64>().expect("a number") + fields[12].parse::<u64>().expect("a number")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only when there is nothing left to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Sends a request and reads the response: status and body.
fn ask(stream: &mut (impl Read + Write), request: &str) -> (u16, String) {
    stream.write_all(request.as_bytes()).expect("is sent");
    response(stream)
}

fn response(stream: &mut impl Read) -> (u16, String) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut octet = [0];
        stream.read_exact(&mut octet).expect("a whole head");
        head.push(octet[0]);
    }
    let head = String::from_utf8(head).expect("is text").to_lowercase();
    let status = head.split(' ').nth(1).expect("a status");
    let status = status.parse().expect("a number");
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = Vec::new();
    if let Some(length) = length {
        body.resize(length.parse().expect("a number"), 0);
        stream.read_exact(&mut body).expect("a whole body");
    } else if head.contains("transfer-encoding: chunked") {
        loop {
            let mut line = Vec::new();
            while !line.ends_with(b"\r\n") {
                let mut octet = [0];
                stream.read_exact(&mut octet).expect("a whole line");
                line.push(octet[0]);
            }
            let size = String::from_utf8_lossy(&line);
            let size = usize::from_str_radix(size.trim(), 16).expect("a size");
            let mut chunk = vec![0; size + 2];
            stream.read_exact(&mut chunk).expect("a whole chunk");
            if size == 0 {
                break;
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }
    (status, String::from_utf8(body).expect("is text"))
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\n{CREDENTIALS}\r\n")
}

fn put_queue(name: &str, durable: bool) -> String {
    let body = format!("{{\"durable\":{durable}}}");
    let length = body.len();
    format!(
        "PUT /api/queues/%2F/{name} HTTP/1.1\r\nhost: x\r\n{CREDENTIALS}content-length: {length}\r\n\r\n{body}"
    )
}

#[test]
fn whoever_may_open_the_control_socket_is_an_administrator() {
    let server = Server::start("http", 1024, "");
    let mode = |path: &Path| fs::metadata(path).expect("is there").permissions().mode() & 0o777;
    assert_eq!(mode(&server.control_socket()), 0o600);
    assert_eq!(mode(&server.directory.join("data")), 0o700);
    let whoami = "GET /api/whoami HTTP/1.1\r\nhost: x\r\n\r\n";
    let (status, body) = ask(&mut server.unix(), whoami);
    assert!(status == 200 && body.contains("administrator"), "{body}");
    assert_eq!(ask(&mut server.tcp(), whoami), (401, String::new()));
    let (status, body) = ask(&mut server.tcp(), &get("/api/whoami"));
    assert!(status == 200 && body.contains("guest"), "{body}");
}

#[test]
fn a_change_is_answered_when_it_is_on_the_disk_and_requests_may_be_piled_up() {
    let server = Server::start("http", 1024, "");
    let mut stream = server.tcp();
    let mut requests = String::new();
    for number in 0..300 {
        requests.push_str(&put_queue(&format!("q{number:03}"), number % 2 == 0));
    }
    requests.push_str(&put_queue("q000", true));
    requests.push_str(&get("/api/queues"));
    let mut writer = stream.try_clone().expect("is cloned");
    let writer = thread::spawn(move || writer.write_all(requests.as_bytes()));
    for _ in 0..300 {
        assert_eq!(response(&mut stream).0, 201);
    }
    assert_eq!(response(&mut stream).0, 204);
    let (status, body) = response(&mut stream);
    writer.join().expect("no panic").expect("is sent");
    assert_eq!(status, 200);
    assert_eq!(
        body.matches("\"name\":\"q").count(),
        300,
        "in chunks, each once"
    );
}

#[test]
fn a_request_in_pieces_is_answered_and_a_half_closed_peer_too() {
    let server = Server::start("http", 1024, "");
    let mut stream = server.tcp();
    for octet in get("/api/overview").into_bytes() {
        stream.write_all(&[octet]).expect("is sent");
    }
    let (status, body) = response(&mut stream);
    assert!(status == 200 && body.contains("object_totals"));
    stream
        .write_all(get("/api/queues").as_bytes())
        .expect("is sent");
    stream.shutdown(Shutdown::Write).expect("is shut");
    assert_eq!(response(&mut stream), (200, "[]".to_owned()));
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("an orderly end");
    assert_eq!(rest, b"");
}

#[test]
fn what_is_refused_in_the_middle_is_not_cut_off_by_a_reset() {
    let server = Server::start("http", 1024, "leveret.http_body_octets_max = 1024\n");
    let mut stream = server.tcp();
    let head = format!(
        "PUT /api/queues/%2F/q HTTP/1.1\r\nhost: x\r\n{CREDENTIALS}content-length: 200000\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("is sent");
    // The refusal is on its way already; what is sent into it must not take it away.
    let _ = stream.write_all(&vec![b' '; 200_000]);
    assert_eq!(response(&mut stream).0, 413);
}

#[test]
fn the_last_places_are_kept_for_the_control_socket() {
    let server = Server::start("http", 1024, "leveret.http_connections_max = 8\n");
    let mut open = Vec::new();
    for _ in 0..7 {
        let mut stream = server.tcp();
        assert_eq!(ask(&mut stream, &get("/api/queues")).0, 200);
        open.push(stream);
    }
    let mut one_more = server.tcp();
    let _ = one_more.write_all(get("/api/queues").as_bytes());
    let mut octet = [0];
    assert!(
        !matches!(one_more.read(&mut octet), Ok(1)),
        "there is no place"
    );
    assert_eq!(ask(&mut server.unix(), &get("/api/queues")).0, 200);
    drop(open);
    let until = now() + PATIENCE;
    while now() < until {
        let mut stream = server.tcp();
        let _ = stream.write_all(get("/api/queues").as_bytes());
        if matches!(stream.read(&mut octet), Ok(1)) {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("places are free again and nobody gets one");
}

#[test]
fn files_find_descriptors_however_many_clients_come() {
    let server = Server::start("descriptors", 160, "");
    let mut clients = Vec::new();
    for _ in 0..300 {
        let stream = TcpStream::connect(("127.0.0.1", server.amqp_port)).expect("the backlog");
        clients.push(stream);
    }
    thread::sleep(Duration::from_millis(300));
    let before = server.ticks();
    // Durable things need the definitions' file, and the control socket is still served.
    let mut control = server.unix();
    for number in 0..10 {
        let (status, body) = ask(&mut control, &put_queue(&format!("q{number}"), true));
        assert_eq!(status, 201, "{body}");
    }
    let (_, nodes) = ask(&mut control, &get("/api/nodes"));
    assert!(nodes.contains("\"fd_total\":160"), "{nodes}");
    thread::sleep(Duration::from_secs(1));
    let used = server.ticks() - before;
    assert!(
        used < 30,
        "{used} ticks in a second in which nothing happened"
    );
    drop(clients);
    assert!(server.speaks_amqp(PATIENCE), "there is room again");
}
