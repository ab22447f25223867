//! What a record survives: torn lines, repeated ADDs, links and directories in its place, other commands.

use super::*;

fn intent(sandbox: &str) -> Intent {
    Intent {
        key: Key { network: "net".into(), sandbox: sandbox.into(), ifname: "eth0".into(), plugin: String::new() },
        boot_id: "boot".into(),
        trace: None,
        netns: "/run/netns/a".into(),
        netns_id: (4, 4026531840),
        netns_cookie: 4100,
        pid_ns: 4_026_531_836,
        host_id: (4, 1),
        path: vec!["/opt/cni/bin".into()],
        pod: None,
        group: None,
        attachments: vec![Attachment {
            network: "net".into(),
            cni_name: "net".into(),
            cni_version: "1.0.0".into(),
            ifname: "eth0".into(),
            args: String::new(),
            default: true,
            disable_check: false,
            default_route: Vec::new(),
            device: None,
            steps: Vec::new(),
        }],
    }
}

fn journal(name: &str) -> Journal {
    let dir = std::env::temp_dir().join(format!("plexus-journal-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    Journal::new(&dir)
}

fn held(journal: &Journal, key: &Key) -> Held {
    journal.hold(key, true).unwrap().unwrap()
}

fn done(result: Value) -> Commitment {
    Commitment {
        outcomes: vec![Outcome {
            result,
            made: Some(Made { ifindex: 7, parent: Some(3), mtu: 1500, up: true }),
            micros: 900,
        }],
        status: Some("[]".into()),
    }
}

#[test]
fn one_command_at_a_time_holds_a_record_until_it_is_forgotten() {
    let journal = journal("held");
    let intent = intent("a");
    assert!(journal.hold(&intent.key, false).unwrap().is_none());
    let mut first = held(&journal, &intent.key);
    assert!(journal.hold(&intent.key, false).unwrap_err().is_held());
    first.intend(&intent).unwrap();
    first.commit(&done(Value::Null)).unwrap();
    assert_eq!(
        first.records().unwrap(),
        [Record { intent: intent.clone(), progress: Vec::new(), commitment: Some(done(Value::Null)) }]
    );
    first.forget().unwrap();
    first.forget().unwrap();
    drop(first);
    assert!(journal.hold(&intent.key, false).unwrap().is_none());
    assert_eq!(journal.all().unwrap().records.len(), 0);
}

#[test]
fn a_repeated_add_that_fails_or_dies_loses_nothing() {
    let journal = journal("again");
    let intent = intent("a");
    let mut file = held(&journal, &intent.key);
    file.intend(&intent).unwrap();
    file.commit(&done(Value::Null)).unwrap();
    let begin = file.intend(&Intent { netns: "/other".into(), ..intent.clone() }).unwrap();
    assert_eq!(file.records().unwrap().len(), 2, "DEL removes what either did");
    file.roll_back(begin).unwrap();
    assert_eq!(file.records().unwrap().len(), 1);
    assert!(file.records().unwrap()[0].commitment.is_some());
}

#[test]
fn a_line_cut_short_anywhere_counts_as_not_written() {
    let journal = journal("torn");
    let intent = intent("a");
    let mut file = held(&journal, &intent.key);
    file.intend(&intent).unwrap();
    let intended = fs::read(&file.path).unwrap();
    file.commit(&done(Value::Bool(true))).unwrap();
    let whole = fs::read(&file.path).unwrap();
    for length in 0..whole.len() {
        let records = parse(&whole[..length]);
        assert_eq!(records.len(), usize::from(length >= intended.len()), "{length} bytes");
        assert!(records.iter().all(|record| record.commitment.is_none()), "{length} bytes");
    }
}

#[test]
fn what_is_no_file_is_neither_followed_nor_waited_for() {
    let journal = journal("odd");
    let key = intent("a").key;
    held(&journal, &intent("b").key).intend(&intent("b")).unwrap();
    let victim = journal.dir.join("victim");
    fs::write(&victim, "precious").unwrap();
    std::os::unix::fs::symlink(&victim, journal.path(&key)).unwrap();
    assert!(journal.hold(&key, true).is_err());
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    fs::create_dir(journal.dir.join("x.jsonl")).unwrap();
    let listing = journal.all().unwrap();
    assert_eq!((listing.records.len(), listing.unreadable.len()), (1, 2));
    let told = listing.failure().unwrap();
    assert!(told.contains("x.jsonl") && told.contains("net:a:eth0.jsonl"), "{told}");
}

#[test]
fn more_than_is_read_back_is_not_written() {
    let journal = journal("large");
    let mut large = intent("a");
    large.netns = "x".repeat(usize::try_from(RECORD_BYTES_MAX).unwrap());
    let mut file = held(&journal, &large.key);
    let refusal = file.intend(&large).unwrap_err();
    assert!(refusal.is_too_large() && !file.path.exists(), "{refusal}");
    drop(file);
    let mut file = held(&journal, &large.key);
    file.intend(&intent("a")).unwrap();
    assert!(file.commit(&done(Value::String(large.netns))).unwrap_err().is_too_large());
    // What another wrote is not taken for a record that says nothing.
    OpenOptions::new().write(true).open(&file.path).unwrap().set_len(RECORD_BYTES_MAX + 1).unwrap();
    assert!(file.records().unwrap_err().is_too_large());
    let listing = journal.all().unwrap();
    assert_eq!((listing.records.len(), listing.torn.len(), listing.unreadable.len()), (0, 0, 1));
}

#[test]
fn a_file_that_says_nothing_is_swept_unless_somebody_is_at_work_on_it() {
    let journal = journal("swept");
    let path = |sandbox: &str| journal.path(&intent(sandbox).key);
    drop(held(&journal, &intent("empty").key));
    drop(held(&journal, &intent("cut").key));
    fs::write(path("cut"), "\n{\"key\":").unwrap();
    let busy = held(&journal, &intent("busy").key);
    held(&journal, &intent("whole").key).intend(&intent("whole")).unwrap();
    let listing = journal.all().unwrap();
    assert_eq!((listing.records.len(), listing.torn.len(), listing.unreadable.len()), (1, 3, 0));
    assert_eq!(listing.torn.iter().filter(|torn| journal.sweep(torn).unwrap()).count(), 2);
    assert!(path("busy").exists() && !path("empty").exists() && !path("cut").exists());
    assert!(!journal.sweep(&path("whole")).unwrap() && path("whole").exists());
    drop(busy);
    assert!(journal.sweep(&path("busy")).unwrap());
}

#[test]
fn long_names_stay_apart_and_fit_a_file_name() {
    let journal = journal("long");
    let (a, b) = (intent(&"x".repeat(300)), intent(&("x".repeat(299) + "y")));
    held(&journal, &a.key).intend(&a).unwrap();
    held(&journal, &b.key).intend(&b).unwrap();
    assert_eq!(journal.all().unwrap().records.len(), 2);
    assert_eq!(held(&journal, &b.key).records().unwrap()[0].intent, b);
}

#[test]
fn the_first_call_of_a_boot_is_told_apart() {
    let journal = journal("boot");
    assert!(!journal.is_of_older_boot("b1"), "no journal, nothing to collect");
    held(&journal, &intent("a").key).intend(&intent("a")).unwrap();
    assert!(journal.is_of_older_boot("b1"));
    journal.settle("b1");
    assert!(!journal.is_of_older_boot("b1"));
    assert!(journal.is_of_older_boot("b2"));
}

#[test]
fn an_interface_that_was_removed_is_no_longer_in_its_record() {
    let journal = journal("unplugged");
    let mut intent = intent("a");
    intent.group = Some(7);
    for name in ["net1", "net2"] {
        let more = Attachment { ifname: name.into(), default: false, ..intent.attachments[0].clone() };
        intent.attachments.push(more);
    }
    let outcomes = ["eth0", "net1", "net2"].map(|name| Outcome { result: name.into(), made: None, micros: 1 });
    let mut held = held(&journal, &intent.key);
    held.intend(&intent).unwrap();
    for attachment in 0..3 {
        let original = Original::Tuning(backends::chained::tuning::Original::default());
        held.note(&Progress { attachment, step: attachment, original }).unwrap();
    }
    held.commit(&Commitment { outcomes: outcomes.into(), status: None }).unwrap();
    let whole = held.records().unwrap().remove(0);
    let one = whole.only("net1").unwrap();
    assert_eq!((one.intent.attachments.len(), one.intent.group), (1, None));
    assert_eq!((one.progress.len(), one.progress[0].attachment, one.progress[0].step), (1, 0, 1));
    assert_eq!(one.commitment.unwrap().outcomes[0].result, "net1");
    assert!(whole.only("net9").is_none());
    held.unplugged("net1").unwrap();
    held.unplugged("net9").unwrap();
    let left = held.records().unwrap().remove(0);
    let names: Vec<_> = left.intent.attachments.iter().map(|attachment| attachment.ifname.as_str()).collect();
    let places: Vec<_> = left.progress.iter().map(|progress| (progress.attachment, progress.step)).collect();
    assert_eq!((names, places), (vec!["eth0", "net2"], vec![(0, 0), (1, 2)]));
    assert_eq!(left.commitment.unwrap().outcomes[1].result, "net2");
}

#[test]
fn what_was_plugged_is_found_by_its_sandbox() {
    let journal = journal("plugged");
    let key =
        |network: &str| Key { network: network.into(), sandbox: "a".into(), ifname: "hot0".into(), plugin: HOT.into() };
    assert_eq!(journal.plugged("a").unwrap(), Vec::<String>::new());
    assert_eq!(journal.plugged(&"a".repeat(300)).unwrap(), Vec::<String>::new());
    journal.plug(&key("net")).unwrap();
    journal.plug(&key("net")).unwrap();
    assert!(journal.hold_plugged("a", "hot0").unwrap().is_none(), "nothing was begun");
    // What leads nowhere is nobody's.
    journal.plug(&key("other")).unwrap();
    held(&journal, &key("other")).intend(&Intent { key: key("other"), ..intent("a") }).unwrap();
    assert!(journal.hold_plugged("a", "hot0").unwrap().is_some());
    assert!(journal.plug(&key("net")).is_err(), "it has a record");
    assert_eq!(journal.plugged("a").unwrap(), ["hot0"]);
    assert!(journal.own_record("a").unwrap().is_none());
    // A link to somewhere else is no record, and is not followed.
    let place = journal.dir.with_file_name(PLUGGED).join("a");
    std::os::unix::fs::symlink("/etc/passwd", place.join("hot1")).unwrap();
    fs::write(place.join("hot2"), "x").unwrap();
    for ifname in ["hot1", "hot2", "hot9"] {
        assert!(journal.hold_plugged("a", ifname).unwrap().is_none(), "{ifname}");
        journal.unplug("a", ifname).unwrap();
    }
    journal.unplug("a", "hot0").unwrap();
    assert!(!place.exists());
    journal.unplug("a", "hot0").unwrap();
}
