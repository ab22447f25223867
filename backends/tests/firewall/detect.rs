//! Whose the node's rules are: firewalld's, which a real bus is asked for, or those of legacy x_tables.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use backends::chained::firewall::{Conf, Question, Reason, detect};

use super::run;
use crate::Case;
use crate::world::{World, conf};

pub(crate) const CASES: &[Case] = &[
    ("firewall::legacy_tables_are_seen", legacy_tables_are_seen),
    ("firewall::firewalld_is_asked_for_on_the_bus", firewalld_is_asked_for_on_the_bus),
];

fn asked(keys: &str) -> Option<Reason> {
    detect(&conf::<Conf>(keys).validate().unwrap())
}

fn legacy_tables_are_seen(_: &mut World) {
    for (program, file) in [("iptables-legacy", "ip_tables_names"), ("ip6tables-legacy", "ip6_tables_names")] {
        let told = std::thread::spawn(move || {
            let _world = World::new();
            let (made, text) = run(program, "-w -t filter -A FORWARD -j ACCEPT");
            let told = asked(r#"{"backend":"iptables"}"#).map(|reason| reason.to_string());
            (made, text, told)
        });
        let (made, text, told) = told.join().unwrap();
        // A kernel without them has none to see.
        let expected = made.then(|| format!("legacy iptables has tables (/proc/net/{file})"));
        assert_eq!(told, expected, "{text}");
    }
}

/// Ends with the test.
struct Bus(Child);

impl Drop for Bus {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
        std::fs::remove_dir_all("/run/dbus").unwrap();
    }
}

impl Bus {
    /// A system bus that lets everybody in. It has said its address when this returns.
    fn start() -> Self {
        const POLICY: &str = r#"<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen>
            <auth>EXTERNAL</auth><policy context="default"><allow send_destination="*"/><allow own="*"/>
            <allow user="*"/><allow receive_sender="*"/><allow receive_requested_reply="true"/></policy></busconfig>"#;
        std::fs::create_dir_all("/run/dbus").unwrap();
        std::fs::write("/run/dbus/conf", POLICY).unwrap();
        let mut bus = Command::new("dbus-daemon")
            .args(["--config-file=/run/dbus/conf", "--print-address", "--nofork"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut first = [0];
        bus.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
        Self(bus)
    }
}

/// One call of the bus: fields of the specification, at multiples of eight.
fn call(serial: u8, member: &str, body: &[u8], signature: &str) -> Vec<u8> {
    let mut fields = Vec::new();
    let mut field = |code: u8, kind: u8, text: &str| {
        let length = fields_length(&fields);
        fields.resize(length, 0);
        fields.extend([code, 1, kind, 0]);
        let size = u8::try_from(text.len()).unwrap();
        if kind == b'g' {
            fields.push(size)
        } else {
            fields.extend([size, 0, 0, 0])
        }
        fields.extend(text.as_bytes());
        fields.push(0);
    };
    field(1, b'o', "/org/freedesktop/DBus");
    field(6, b's', "org.freedesktop.DBus");
    field(3, b's', member);
    if !signature.is_empty() {
        field(8, b'g', signature);
    }
    let [body_length, fields_size] = [body.len(), fields.len()].map(|length| u8::try_from(length).unwrap());
    let mut message = vec![b'l', 1, 0, 1, body_length, 0, 0, 0, serial, 0, 0, 0, fields_size, 0, 0, 0];
    message.extend(fields);
    message.resize(fields_length(&message), 0);
    message.extend(body);
    message
}

fn fields_length(bytes: &[u8]) -> usize {
    bytes.len().next_multiple_of(8)
}

/// Somebody who has firewalld's name, as long as it is open.
fn firewalld() -> UnixStream {
    let name = "org.fedoraproject.FirewallD1";
    let mut body = vec![u8::try_from(name.len()).unwrap(), 0, 0, 0];
    body.extend(name.as_bytes());
    body.resize((body.len() + 1).next_multiple_of(4) + 4, 0);
    let mut stream = UnixStream::connect("/run/dbus/system_bus_socket").unwrap();
    let uid: String = nix::unistd::getuid().to_string().bytes().map(|byte| format!("{byte:02x}")).collect();
    stream.write_all(format!("\0AUTH EXTERNAL {uid}\r\nBEGIN\r\n").as_bytes()).unwrap();
    stream.write_all(&call(1, "Hello", &[], "")).unwrap();
    stream.write_all(&call(2, "RequestName", &body, "su")).unwrap();
    stream
}

fn firewalld_is_asked_for_on_the_bus(_: &mut World) {
    run("iptables", "-P FORWARD DROP");
    assert_eq!((asked("{}"), asked(r#"{"backend":"iptables"}"#)), (None, None), "no bus");
    let bus = Bus::start();
    assert_eq!(asked("{}"), None, "nobody has the name");
    let mut named = firewalld();
    // It has the name once it hears so: the signal names it.
    let (mut heard, mut part) = (Vec::new(), [0; 512]);
    while !heard.windows(28).any(|text| text == b"org.fedoraproject.FirewallD1") {
        let length = named.read(&mut part).unwrap();
        assert!(length > 0, "the bus closed: {}", String::from_utf8_lossy(&heard));
        heard.extend(&part[..length]);
    }
    for keys in ["{}", r#"{"backend":"anything"}"#] {
        assert_eq!(asked(keys), Some(Reason::Firewalld));
    }
    assert_eq!(asked(r#"{"backend":"iptables"}"#), None, "asked for nothing");
    // A bus that has stopped answers nobody.
    let question = conf::<Conf>("{}").validate().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(bus.0.id()).unwrap()), nix::sys::signal::SIGSTOP)
        .unwrap();
    let silent = Question::ask(&question).answer();
    assert_eq!(silent.unwrap().to_string(), "whether firewalld is running is not known: D-Bus does not answer");
    drop(bus);
    assert_eq!(asked("{}"), None, "the bus has gone");
}
