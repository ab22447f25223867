//! A server that speaks HTTP without TLS: what it is sent. It is a pod's and nothing else's, and answers every request with it.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;

use nix::mount::{MsFlags, mount};

use super::*;

pub(super) fn cases() -> Vec<Case> {
    let needs = &[Need::Macvlan, Need::ApiServer];
    vec![
        Case::new("api::plain::a_token_goes_to_nobody_in_the_clear", needs, token),
        Case::new("api::plain::it_needs_no_authorities_of_this_machine", needs, authorities),
    ]
}

/// An address of this node that others can reach.
const NEIGHBOUR: &str = "10.77.0.1";

/// What requests said, one text each.
pub(super) type Heard = Arc<Mutex<Vec<String>>>;

pub(super) fn serve(ip: &str, code: u16, pod: &Value) -> (SocketAddr, Heard) {
    let listener = TcpListener::bind((ip.parse::<IpAddr>().unwrap(), 0)).unwrap();
    let (address, heard) = (listener.local_addr().unwrap(), Heard::default());
    let (log, body) = (Arc::clone(&heard), pod.to_string());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            answer(stream.unwrap(), code, &body, &log);
        }
    });
    (address, heard)
}

fn answer(mut stream: TcpStream, code: u16, body: &str, heard: &Heard) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|length| length == 1) {
        head.push(byte[0]);
    }
    heard.lock().unwrap().push(String::from_utf8(head).unwrap().to_lowercase());
    let length = body.len();
    let text = format!(
        "HTTP/1.1 {code} -\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    // The client may have gone.
    drop(stream.write_all(text.as_bytes()));
}

fn kubeconfig(address: SocketAddr, user: &Value) -> String {
    json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": format!("http://{address}")}}],
        "users": [{"name": "u", "user": user}]})
    .to_string()
}

fn token() {
    let mut member = Member::new();
    member.node.bed.ip(&format!("addr add {NEIGHBOUR}/24 dev up0"));
    let file = member.node.bed.file("token", TOKEN);
    let secret = format!("bearer {TOKEN}");
    for (number, (ip, user, code, is_sent)) in [
        (NEIGHBOUR, json!({}), 200, false),
        (NEIGHBOUR, json!({"token": TOKEN}), 401, false),
        (NEIGHBOUR, json!({"tokenFile": file}), 401, false),
        (NEIGHBOUR, json!({"username": "somebody", "password": "secret"}), 401, false),
        (NEIGHBOUR, json!({"token": TOKEN}), 200, false),
        ("127.0.0.1", json!({}), 200, false),
        ("127.0.0.1", json!({"token": TOKEN}), 200, true),
    ]
    .into_iter()
    .enumerate()
    {
        let pod = format!("p{number}");
        let uid = member.pod(&pod, &[]);
        let (address, heard) = serve(ip, code, &member.cluster.get_pod(&pod));
        let path = member.node.bed.file("plain.kubeconfig", &kubeconfig(address, &user));
        member.node.conf["kubeconfig"] = json!(path);
        let answer = member.call("ADD", &pod, &uid).run();
        let all = heard.lock().unwrap().clone();
        assert!(!all.is_empty() && answer.succeeded() == (code == 200), "{number}: {}", answer.stdout);
        assert_eq!(all.iter().all(|head| head.contains(&secret)), is_sent, "{number}: {all:?}");
        assert!(is_sent || !all.iter().any(|head| head.contains("authorization")), "{number}: {all:?}");
        let is_told = format!("{}{}", answer.stdout, answer.stderr).contains("is not sent to http://");
        assert_eq!(is_told, ip == NEIGHBOUR && user != json!({}), "{number}: {} {}", answer.stdout, answer.stderr);
        member.del(&pod, &uid);
    }
    member.assert_clean();
}

/// As in an image that has nothing but the programs.
fn authorities() {
    let mut member = Member::new();
    mount(Some("tmpfs"), "/etc/ssl", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    let uid = member.pod("a", &[]);
    let (address, heard) = serve("127.0.0.1", 200, &member.cluster.get_pod("a"));
    let path = member.node.bed.file("plain.kubeconfig", &kubeconfig(address, &json!({})));
    member.node.conf["kubeconfig"] = json!(path);
    member.call("ADD", "a", &uid).run().ok();
    assert!(!heard.lock().unwrap().is_empty());
    member.del("a", &uid);
    member.assert_clean();
}
