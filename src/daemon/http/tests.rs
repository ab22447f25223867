//! What is answered, to whom, and where.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Builder;

use super::*;
use crate::cni::request::Command;
use crate::daemon::metrics::{Metrics, Outcome};

/// A page of a daemon that is as it is said to be.
#[derive(Default)]
struct Said {
    metrics: Metrics,
    age: Duration,
    ended: Option<String>,
    unready: Vec<String>,
    doubts: Vec<String>,
}

impl Page for Said {
    fn metrics(&self) -> Option<String> {
        self.metrics.text().ok()
    }

    fn heartbeat_age(&self) -> Duration {
        self.age
    }

    fn ended(&self) -> Option<String> {
        self.ended.clone()
    }

    fn unready(&self) -> Vec<String> {
        self.unready.clone()
    }

    fn doubts(&self) -> Vec<String> {
        self.doubts.clone()
    }
}

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("plexus-http-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn socket(&self) -> Listen {
        Listen::Unix(self.0.join("run/metrics.sock"))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0); // left behind in the folder for temporary files
    }
}

fn run<T>(test: impl Future<Output = T>) -> T {
    Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

/// Sends bytes, and returns everything that comes back until the server closes.
async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, sent: &[u8]) -> String {
    stream.write_all(sent).await.unwrap();
    let mut received = Vec::new();
    match stream.read_to_end(&mut received).await {
        // What the server did not read when it closed.
        Err(error) if error.kind() != io::ErrorKind::ConnectionReset => panic!("{error}"),
        _ => String::from_utf8(received).unwrap(),
    }
}

/// While the page is served at the place, the answers to raw requests.
fn answers(place: &Listen, page: Said, requests: &[&str]) -> Vec<String> {
    run(async {
        let bound = place.bind().unwrap();
        let port = match &bound {
            Bound::Tcp(listener) => listener.local_addr().unwrap().port(),
            Bound::Unix(_) => 0,
        };
        let server = tokio::spawn(serve(bound, Arc::new(page)));
        let mut received = Vec::new();
        for request in requests {
            let answer = match place {
                Listen::Unix(path) => exchange(UnixStream::connect(path).await.unwrap(), request.as_bytes()).await,
                Listen::Tcp(address) => {
                    let stream = TcpStream::connect((address.ip(), port)).await.unwrap();
                    exchange(stream, request.as_bytes()).await
                }
            };
            received.push(answer);
        }
        server.abort();
        received
    })
}

#[test]
fn metrics_are_read_from_a_socket_that_only_root_may_open() {
    let folder = Folder::new("metrics");
    let place = folder.socket();
    let page = Said::default();
    page.metrics.request(Command::Add, Outcome::Done, Duration::from_millis(2));
    let received = answers(&place, page, &["GET /metrics HTTP/1.1\r\nHost: plexus\r\n\r\n"]).remove(0);
    let (head, body) = received.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains(&format!("content-type: {MEDIA_TYPE}")), "{head}");
    assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
    assert!(body.contains("plexus_request_seconds_count{verb=\"ADD\",outcome=\"done\"} 1\n"), "{body}");
    assert!(body.ends_with("# EOF\n"));
    let Listen::Unix(path) = place else { panic!() };
    let mode = |path: &std::path::Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
}

#[test]
fn each_route_and_method_has_its_answer() {
    let of = |method: Method, path: &str, page: &Said| answer(&method, path, page).status().as_u16();
    let well = Said::default();
    assert_eq!(of(Method::GET, "/metrics", &well), 200);
    assert_eq!(of(Method::HEAD, "/healthz", &well), 200);
    assert_eq!(of(Method::GET, "/readyz", &well), 200);
    assert_eq!(of(Method::POST, "/metrics", &well), 405);
    assert_eq!(answer(&Method::DELETE, "/readyz", &well).headers()[ALLOW], "GET, HEAD");
    for path in ["/", "/metrics/", "//metrics", "/Metrics", "/debug/pprof", "*"] {
        assert_eq!(of(Method::GET, path, &well), 404, "{path}");
    }
    assert_eq!(of(Method::GET, "/healthz", &Said { age: HEARTBEAT_AGE_MAX, ..Said::default() }), 200);
    let late = HEARTBEAT_AGE_MAX + Duration::from_millis(1);
    assert_eq!(of(Method::GET, "/healthz", &Said { age: late, ..Said::default() }), 503);
    assert_eq!(of(Method::GET, "/healthz", &Said { ended: Some("a thread".to_owned()), ..Said::default() }), 503);
}

#[test]
fn what_is_not_ready_is_named_in_a_line_each_and_head_has_no_body() {
    let page = Said { unready: vec!["API server: away\r\nX: y".to_owned(), "netlink".to_owned()], ..Said::default() };
    let loopback = Listen::Tcp("127.0.0.1:0".parse().unwrap());
    let requests = ["GET /readyz?x HTTP/1.1\r\nHost: a\r\n\r\n", "HEAD /readyz HTTP/1.1\r\nHost: a\r\n\r\n"];
    let received = answers(&loopback, page, &requests);
    assert!(received[0].starts_with("HTTP/1.1 503 "), "{}", received[0]);
    assert!(received[0].ends_with("\r\n\r\nAPI server: away  X: y\nnetlink\n"), "{}", received[0]);
    assert!(received[1].ends_with("\r\n\r\n") && received[1].contains("content-length: 31\r\n"), "{}", received[1]);
    let page = Said { doubts: vec!["API server: away\r\nX: y".to_owned()], ..Said::default() };
    let received = answers(&loopback, page, &requests);
    assert!(received[0].starts_with("HTTP/1.1 200 "), "{}", received[0]);
    assert!(received[0].ends_with("\r\n\r\nok, but\nAPI server: away  X: y\n"), "{}", received[0]);
}

#[test]
fn a_connection_is_for_one_request_and_what_is_none_is_refused() {
    let folder = Folder::new("hostile");
    let get = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
    let pipelined = get.repeat(3);
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(2 * HEAD_BYTES_MAX));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(HEADERS_MAX + 1));
    let received = answers(&folder.socket(), Said::default(), &[&pipelined, "\u{0}\r\n\r\n", &long, &many, get]);
    assert_eq!(received[0].matches("HTTP/1.1 200").count(), 1, "{}", received[0]);
    for refused in &received[1..4] {
        assert!(refused.starts_with("HTTP/1.1 4") || refused.is_empty(), "{refused}");
    }
    assert!(received[4].starts_with("HTTP/1.1 200"), "{}", received[4]);
}

#[test]
fn silent_connections_are_bounded_and_do_not_keep_others_out_for_ever() {
    let folder = Folder::new("silent");
    let place = folder.socket();
    let Listen::Unix(path) = &place else { panic!() };
    let soon = Duration::from_millis(20);
    let late = Duration::from_secs(3600);
    // Either of the two times ends a connection that says nothing.
    for (headers_time, connection_time) in [(soon, late), (late, soon)] {
        let bounds = Bounds { connections: 2, headers_time, connection_time };
        run(async {
            let server = tokio::spawn(serve_within(bounds, place.bind().unwrap(), Arc::new(Said::default())));
            let silent = [UnixStream::connect(path).await.unwrap(), UnixStream::connect(path).await.unwrap()];
            let asked = UnixStream::connect(path).await.unwrap();
            let answer = exchange(asked, b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            drop(silent);
            server.abort();
        });
    }
}

#[test]
fn a_socket_of_the_dead_is_replaced_and_none_of_the_living() {
    let folder = Folder::new("stale");
    let place = folder.socket();
    let Listen::Unix(path) = &place else { panic!() };
    run(async {
        let living = place.bind().unwrap();
        assert_eq!(place.bind().unwrap_err().kind, BindErrorKind::Taken);
        drop(living);
        // The file is still there, and nobody listens.
        assert!(path.exists());
        let again = place.bind().unwrap();
        UnixStream::connect(path).await.unwrap();
        drop(again);
    });
    // A queue that is full is somebody's.
    fs::remove_file(path).unwrap();
    let full = UnixListener::bind(path).unwrap();
    nix::sys::socket::listen(&full, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
    let _waiting = std::os::unix::net::UnixStream::connect(path).unwrap();
    assert_eq!(run(async { place.bind().unwrap_err().kind }), BindErrorKind::Taken);
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let folder = Folder::new("file");
    let place = folder.socket();
    let Listen::Unix(path) = &place else { panic!() };
    fs::create_dir(path.parent().unwrap()).unwrap();
    fs::write(path, "kept").unwrap();
    assert_eq!(run(async { place.bind().unwrap_err().kind }), BindErrorKind::NoSocket);
    assert_eq!(fs::read_to_string(path).unwrap(), "kept");
    fs::remove_file(path).unwrap();
    symlink("elsewhere", path).unwrap();
    let error = run(async { place.bind().unwrap_err() });
    assert_eq!(error.to_string(), format!("listen at unix:{}: there is a file that is no socket", path.display()));
}

#[test]
fn places_are_read_strictly() {
    let unix = |path: &str| Listen::Unix(PathBuf::from(path));
    let parse = |text: &str| Listen::parse(text, Exposure::Loopback);
    assert_eq!(parse("unix:/run/plexus/metrics.sock"), Ok(Listen::default()));
    assert_eq!(parse("unix:/a"), Ok(unix("/a")));
    for address in ["127.0.0.1:9090", "127.8.8.8:1", "[::1]:65535"] {
        assert_eq!(parse(address).unwrap().to_string(), address);
    }
    let any = |text: &str| Listen::parse(text, Exposure::Any);
    assert_eq!(any("fd00::1:9090"), any("[fd00::1]:9090"));
    assert_eq!(parse("::1:9090"), parse("[::1]:9090"));
    assert_eq!(any("fd00:0:0:0:0:0:0:1:9090"), any("[fd00::1]:9090"));
    for text in [
        "",
        "fd00::1:",
        "fd00::1:65536",
        "[fd00::1:9090",
        "fd00::1]:9090",
        ":9090",
        "9090",
        "localhost:9090",
        "127.0.0.1",
        "127.0.0.1:",
        " 127.0.0.1:1",
        "127.0.0.1:65536",
        "127.1:80",
    ] {
        assert_eq!(parse(text), Err(ListenError::Form(text.to_owned())), "{text}");
    }
    for path in ["", "/", "run/a", "@a", "//a/b", "/a/", "/a/../b", "/a/./b", "/a//b", "/a\0b"] {
        assert_eq!(parse(&format!("unix:{path}")), Err(ListenError::Path(path.to_owned())), "{path}");
    }
    let path_of = |bytes: usize| format!("unix:/{}", "a".repeat(bytes - 1));
    assert!(parse(&path_of(107)).is_ok());
    assert_eq!(parse(&path_of(108)), Err(ListenError::PathLength(108)));
    assert_eq!(parse("127.0.0.1:0"), Err(ListenError::Port("127.0.0.1:0".parse().unwrap())));
    for address in ["0.0.0.0:9090", "[::]:9090", "192.0.2.1:9090", "[::ffff:127.0.0.1]:9090"] {
        assert_eq!(parse(address), Err(ListenError::Exposed(address.parse().unwrap())));
        assert_eq!(Listen::parse(address, Exposure::Any), Ok(Listen::Tcp(address.parse().unwrap())));
    }
}
