//! What a kubeconfig may say, and a client of Go's library reads: servers without a scheme, what is empty and what is
//! not used. Nothing secret of it is told.

use std::path::PathBuf;

use super::*;

pub(super) fn cases() -> Vec<Case> {
    let needs = &[Need::Macvlan, Need::ApiServer];
    vec![
        Case::new("api::kubeconfigs::a_server_without_a_scheme", needs, schemeless),
        Case::new("api::kubeconfigs::a_server_that_is_none_is_refused", needs, no_server),
        Case::new("api::kubeconfigs::what_an_address_has_before_its_host_is_not_told", needs, userinfo),
        Case::new("api::kubeconfigs::only_the_current_context_is_judged", needs, unused),
        Case::new("api::kubeconfigs::what_is_empty_is_not_said", needs, empty),
    ]
}

/// Nobody may read it in an answer.
const SECRET: &str = "hush-hush-hush";

/// A member whose kubeconfig is changed.
struct Changed {
    member: Member,
    path: PathBuf,
    whole: Value,
    uid: String,
}

impl Changed {
    fn new() -> Self {
        let mut member = Member::new();
        member.node.conf["apiCallTimeoutMs"] = json!(1000);
        member.node.conf["apiDeadlineMs"] = json!(3000);
        let path = member.cluster.kubeconfig(&member.node.bed, &Login::usual());
        let whole = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let uid = member.pod("a", &[(NETWORKS, "blue")]);
        Self { member, path, whole, uid }
    }

    /// One ADD with the kubeconfig as it is after this; whatever came of it is undone.
    fn add(&self, change: impl FnOnce(&mut Value)) -> Answer {
        let mut text = self.whole.clone();
        change(&mut text);
        fs::write(&self.path, text.to_string()).unwrap();
        let answer = self.member.call("ADD", "a", &self.uid).run();
        assert!(!format!("{}{}", answer.stdout, answer.stderr).contains("panicked"), "{}", answer.stderr);
        fs::write(&self.path, self.whole.to_string()).unwrap();
        self.member.del("a", &self.uid);
        answer
    }

    /// One that is refused; nothing secret is in what it says.
    fn refused(&self, change: impl FnOnce(&mut Value)) -> String {
        let answer = self.add(change);
        let msg = refused(&answer, 11);
        for text in [&answer.stdout, &answer.stderr] {
            assert!(!text.contains(SECRET), "{text}");
        }
        assert!(!msg.contains('\n'), "{msg}");
        msg
    }

}

fn cluster_of(whole: &mut Value) -> &mut Value {
    &mut whole["clusters"][0]["cluster"]
}

fn schemeless() {
    let changed = Changed::new();
    // With who signed for it, TLS is meant; without, none is.
    let address = changed.member.cluster.address().replace("https://", "");
    assert!(changed.add(|whole| cluster_of(whole)["server"] = json!(address)).succeeded());
    // It has one object for every question.
    let mut pod = changed.member.cluster.get_pod("a");
    pod["metadata"]["annotations"] = json!({});
    let (plain, _) = plain::serve("127.0.0.1", 200, &pod);
    for server in [plain.to_string(), format!("localhost:{}", plain.port()), format!("http://{plain}/")] {
        changed
            .add(|whole| {
                *cluster_of(whole) = json!({"server": server});
                whole["users"][0]["user"] = json!({});
            })
            .ok();
    }
}

fn no_server() {
    let changed = Changed::new();
    for server in ["", "/x", "https:///x", "h:99999", "https://h:99999", "https://h:x", "ftp://h", "h:1/x", "http://"] {
        let msg = changed.refused(|whole| cluster_of(whole)["server"] = json!(server));
        assert!(msg.contains("kubeconfig") && msg.contains("server"), "{server}: {msg}");
    }
    assert_eq!(changed.member.cluster.seen(), []);
}

fn userinfo() {
    let changed = Changed::new();
    for server in [
        format!("https://a:{SECRET}@127.0.0.1:1"),
        format!("a:{SECRET}@127.0.0.1:1"),
        format!("https://a:{SECRET}@127.0.0.1:99999"),
        format!("https://a:{SECRET}/@127.0.0.1"),
        format!("https://{SECRET}@"),
    ] {
        changed.refused(|whole| cluster_of(whole)["server"] = json!(server));
    }
}

fn unused() {
    let changed = Changed::new();
    for user in [
        json!({"token": "\n"}),
        json!({"tokenFile": "/dev/zero"}),
        json!({"client-certificate": "/run/scratch", "client-key": "/run/scratch"}),
    ] {
        changed
            .add(|whole| {
                let users = whole["users"].as_array_mut().unwrap();
                users.insert(0, json!({"name": "other", "user": user}));
                let others = json!({"server": "/x", "certificate-authority": "/run", "proxy-url": "ftp://x"});
                let clusters = whole["clusters"].as_array_mut().unwrap();
                clusters.insert(0, json!({"name": "other", "cluster": others}));
            })
            .ok();
    }
}

fn empty() {
    let changed = Changed::new();
    let authority = changed.member.cluster.file("ca.crt");
    changed
        .add(|whole| {
            cluster_of(whole)["certificate-authority-data"] = json!("");
            cluster_of(whole)["certificate-authority"] = json!(authority);
            cluster_of(whole)["proxy-url"] = json!("");
        })
        .ok();
    let token = changed.member.node.bed.file("token", TOKEN);
    changed.add(|whole| whole["users"][0]["user"] = json!({"token": "", "tokenFile": token})).ok();
    let (certificate, key) = (changed.member.cluster.file("client.crt"), changed.member.cluster.file("client.key"));
    changed
        .add(|whole| {
            whole["users"][0]["user"] = json!({"token": "", "username": "", "password": "",
                "client-certificate-data": "", "client-key-data": "",
                "client-certificate": certificate, "client-key": key});
        })
        .ok();
}
