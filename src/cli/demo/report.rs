//! What the demo saw, for a person and for a program, and whether it is what it should be.

use std::net::IpAddr;
use std::time::Duration;

use ipnetwork::IpNetwork;
use serde::{Serialize, Serializer};

use super::Present;
use super::world::{self, Family};
use crate::cli::failure::Failure;
use crate::cli::table::{Table, or_none};

/// Everything that is shown.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    /// In the order of attachment, pod by pod.
    pub(super) attachments: Vec<Attachment>,
    /// In the order of sending.
    pub(super) pings: Vec<Ping>,
    /// Of one pod.
    pub(super) network_status: Status,
    /// One for each pod.
    pub(super) requests: Vec<Request>,
    /// One for each thing that an attachment makes.
    pub(super) left: Vec<Count>,
}

/// One interface in a pod, as the kernel shows it.
#[derive(Debug, Serialize)]
pub(super) struct Attachment {
    pub(super) pod: String,
    pub(super) interface: &'static str,
    pub(super) network: &'static str,
    pub(super) kind: &'static str,
    /// What it should have addresses of.
    #[serde(skip)]
    pub(super) families: &'static [Family],
    pub(super) mac: String,
    pub(super) addresses: Vec<IpNetwork>,
    /// From the lease to the last route.
    #[serde(rename = "tookMs", serialize_with = "milliseconds")]
    pub(super) took: Duration,
}

/// One ping from pod to pod.
#[derive(Debug, Serialize)]
pub(super) struct Ping {
    pub(super) network: &'static str,
    pub(super) family: Family,
    pub(super) from: String,
    pub(super) to: String,
    /// None where the interface lacks one of this family.
    pub(super) address: Option<IpAddr>,
    /// The round-trip time, or why there is none.
    #[serde(flatten, serialize_with = "answer")]
    pub(super) answer: Result<Duration, String>,
}

/// The annotation of one pod.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    /// As `namespace/name`.
    pub(super) pod: String,
    /// The value of `k8s.v1.cni.cncf.io/network-status`.
    pub(super) annotation: Option<String>,
}

/// What the requests of one pod took, from the start of the process to its exit.
#[derive(Debug, Serialize)]
pub(super) struct Request {
    pub(super) pod: String,
    #[serde(rename = "addMs", serialize_with = "milliseconds")]
    pub(super) add: Duration,
    #[serde(rename = "delMs", serialize_with = "optional_milliseconds")]
    pub(super) del: Option<Duration>,
}

/// How many there were while the pods were attached, and how many after the last DEL.
#[derive(Debug, Serialize)]
pub(super) struct Count {
    pub(super) what: &'static str,
    pub(super) attached: usize,
    pub(super) left: usize,
}

impl Count {
    /// One row for each thing.
    pub(super) fn compare(attached: &Present, left: &Present) -> Vec<Count> {
        let row = |what, of: fn(&Present) -> usize| Count { what, attached: of(attached), left: of(left) };
        vec![
            row("links on the host", |p| p.host_links),
            row("links in the pods", |p| p.pod_links),
            row("leases", |p| p.leases),
            row("recorded attachments", |p| p.records),
            row("network namespaces", |p| p.namespaces),
        ]
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    rtt_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'a str>,
}

fn answer<S: Serializer>(answer: &Result<Duration, String>, to: S) -> Result<S::Ok, S::Error> {
    let rtt_ms = answer.as_ref().ok().map(in_ms);
    Answer { rtt_ms, why: answer.as_ref().err().map(String::as_str) }.serialize(to)
}

fn milliseconds<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(in_ms(time))
}

#[expect(clippy::ref_option, reason = "serde gives a reference")]
fn optional_milliseconds<S: Serializer>(time: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    time.as_ref().map(in_ms).serialize(to)
}

/// In milliseconds, to the microsecond.
fn in_ms(time: &Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

impl Report {
    /// Everything as tables.
    pub(super) fn tables(&self) -> String {
        let sections = [self.attached(), self.pinged(), self.status(), self.requested(), self.leftovers()];
        format!("\n{}", sections.join("\n"))
    }

    /// # Errors
    /// A ping was not answered, or something is left.
    pub(super) fn verdict(&self) -> Result<(), Failure> {
        let unanswered = self.pings.iter().filter(|ping| ping.answer.is_err()).count();
        let left = self.left_in_all();
        if unanswered == 0 && left == 0 && !self.pings.is_empty() {
            return Ok(());
        }
        Err(Failure::Unproven { unanswered, pings: self.pings.len(), left })
    }

    fn left_in_all(&self) -> usize {
        self.left.iter().map(|count| count.left).sum()
    }

    fn attached(&self) -> String {
        let mut table = Table::new(["POD", "INTERFACE", "NETWORK", "KIND", "MAC", "ADDRESSES", "TOOK"]);
        for a in &self.attachments {
            let addresses = a.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            table.row([&a.pod, a.interface, a.network, a.kind, or_none(&a.mac), or_none(&addresses), &ms(a.took)]);
        }
        table.render()
    }

    /// A row for each network and family, a column for each direction.
    fn pinged(&self) -> String {
        let directions: Vec<(&str, &str)> = world::PODS
            .iter()
            .flat_map(|(from, _)| world::PODS.iter().map(move |(to, _)| (*from, *to)))
            .filter(|(from, to)| from != to)
            .collect();
        let headers = ["PING".to_owned(), String::new()].into_iter();
        let mut table = Table::new(headers.chain(directions.iter().map(|(from, to)| format!("{from} > {to}"))));
        for network in &world::NETWORKS {
            for family in network.families {
                let of = |ping: &&Ping| ping.network == network.name && ping.family == *family;
                let pings: Vec<&Ping> = self.pings.iter().filter(of).collect();
                let cell = |(from, to): &(&str, &str)| {
                    let sent = pings.iter().find(|ping| ping.from == *from && ping.to == *to);
                    sent.map_or("<none>".to_owned(), |ping| {
                        ping.answer.as_ref().map_or("no reply".to_owned(), |rtt| ms(*rtt))
                    })
                };
                let head = [network.name.to_owned(), family.name().to_owned()].into_iter();
                table.row(head.chain(directions.iter().map(cell)));
            }
        }
        table.render()
    }

    fn status(&self) -> String {
        let Status { pod, annotation } = &self.network_status;
        let value = annotation.as_deref().map_or("<none>".to_owned(), entries_on_lines);
        format!("k8s.v1.cni.cncf.io/network-status of {pod}\n{value}\n")
    }

    fn requested(&self) -> String {
        let mut table = Table::new(["POD", "ADD OF ALL", "DEL OF ALL"]);
        for request in &self.requests {
            table.row([request.pod.clone(), ms(request.add), request.del.map(ms).unwrap_or_default()]);
        }
        table.render()
    }

    fn leftovers(&self) -> String {
        let mut table = Table::new(["", "ATTACHED", "LEFT"]);
        for Count { what, attached, left } in &self.left {
            table.row([(*what).to_owned(), attached.to_string(), left.to_string()]);
        }
        format!("{}\nleft: {}\n", table.render(), self.left_in_all())
    }
}

/// The annotation with one entry a line: it is indented for no one, and would fill a screen.
fn entries_on_lines(annotation: &str) -> String {
    let mut text = String::with_capacity(annotation.len());
    let (mut depth, mut quoted, mut escaped) = (0u32, false, false);
    for c in annotation.chars() {
        if quoted {
            quoted = escaped || c != '"';
            escaped = c == '\\' && !escaped;
            text.push(if c.is_control() { '?' } else { c });
            continue;
        }
        match c {
            '"' => quoted = true,
            '[' | '{' => depth += 1,
            ']' | '}' => depth = depth.saturating_sub(1),
            c if c.is_whitespace() || c.is_control() => continue,
            _ => {}
        }
        text.push(c);
        match c {
            ',' if depth == 1 => text.push_str("\n "),
            ',' | ':' => text.push(' '),
            _ => {}
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let attachment = |pod: &str, address: &str| Attachment {
            pod: pod.to_owned(),
            interface: "eth0",
            network: "pods",
            kind: "bridge",
            families: &[Family::Four],
            mac: "02:00:00:00:00:01".to_owned(),
            addresses: vec![address.parse().unwrap()],
            took: Duration::from_micros(777),
        };
        let ping = |from: &str, to: &str, answer| Ping {
            network: "pods",
            family: Family::Four,
            from: from.to_owned(),
            to: to.to_owned(),
            address: "10.0.0.2".parse().ok(),
            answer,
        };
        let time = Duration::from_micros(1234);
        Report {
            attachments: vec![attachment("web", "10.0.0.2/24"), attachment("api", "10.0.0.3/24")],
            pings: vec![ping("web", "api", Ok(time)), ping("api", "web", Ok(time))],
            network_status: Status { pod: "demo/web".to_owned(), annotation: None },
            requests: vec![Request { pod: "web".to_owned(), add: time, del: Some(time) }],
            left: vec![Count { what: "leases", attached: 2, left: 0 }],
        }
    }

    #[test]
    fn the_verdict_is_good_only_where_all_was_answered_and_nothing_is_left() {
        assert!(report().verdict().is_ok());
        let mut silent = report();
        silent.pings[1].answer = Err("timed out".to_owned());
        assert_eq!(silent.verdict().unwrap_err().to_string(), "pings not answered: 1 of 2; things left: 0");
        let mut dirty = report();
        dirty.left[0].left = 3;
        assert_eq!(dirty.verdict().unwrap_err().to_string(), "pings not answered: 0 of 2; things left: 3");
        let mut mute = report();
        mute.pings.clear();
        assert!(mute.verdict().is_err(), "no ping proves nothing");
    }

    #[test]
    fn times_stand_where_they_belong_and_a_silence_is_seen() {
        let mut report = report();
        report.pings[1].answer = Err("timed out".to_owned());
        let text = report.tables();
        assert_eq!(report.attached().matches("0.78 ms").count(), 2, "{text}");
        assert_eq!(report.requested().matches("1.23 ms").count(), 2, "ADD and DEL of one pod: {text}");
        let row = text.lines().find(|line| line.starts_with("pods")).unwrap();
        assert_eq!(row.matches("no reply").count(), 1, "{row}");
        assert_eq!(row.matches("1.23 ms").count(), 1, "{row}");
        assert!(text.ends_with("left: 0\n"));
    }

    #[test]
    fn json_has_a_time_or_a_reason_for_every_ping() {
        let mut report = report();
        report.pings[1].answer = Err("timed out".to_owned());
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["pings"][0]["rttMs"], 1.234);
        assert_eq!(json["pings"][1]["rttMs"], serde_json::Value::Null);
        assert_eq!(json["pings"][1]["why"], "timed out");
        assert_eq!(json["requests"][0]["delMs"], 1.234);
        assert_eq!(json["attachments"][0]["addresses"][0], "10.0.0.2/24");
    }

    #[test]
    fn an_annotation_has_one_entry_a_line_and_strings_stay_as_they_are() {
        let annotation = "[{\n    \"name\": \"a, {b}\\\"\",\n    \"ips\": [\n        \"10.0.0.2\",\n        \"fd00::2\"\n    ]\n},{\n    \"dns\": {}\n}]";
        let expected = "[{\"name\": \"a, {b}\\\"\", \"ips\": [\"10.0.0.2\", \"fd00::2\"]},\n {\"dns\": {}}]";
        assert_eq!(entries_on_lines(annotation), expected);
        let values = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(values(&entries_on_lines(annotation)), values(annotation));
    }
}
