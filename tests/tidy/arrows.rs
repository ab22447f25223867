//! What may use what: between the crates, between the modules of the root crate, and where a foreign crate may be named.
//! `src/README.md` draws the same arrows for people.

use std::collections::BTreeSet;

use crate::documents::PLANNED;
use crate::repository::{Entry, Repository};
use crate::rust::{children, references, tokens};

/// Each module of the root crate and the modules it may use. A row names only rows above it: there is no circle.
const ARROWS: &[(&str, &[&str])] = &[
    ("cni", &[]),
    ("config", &["cni"]),
    ("select", &["cni"]),
    ("marks", &["cni"]),
    ("yaml", &["marks"]),
    ("sources", &["cni", "yaml"]),
    ("confdir", &["cni", "sources"]),
    ("journal", &[]),
    ("durable", &[]),
    ("trace", &[]),
    ("heartbeat", &[]),
    ("log", &["config", "trace"]),
    ("sight", &[]),
    ("phase", &[]),
    ("asked", &["cni"]),
    ("native", &["asked", "cni"]),
    ("devices", &["cni", "sources", "journal", "native"]),
    ("plan", &["cni", "config", "select", "journal", "phase", "native", "devices"]),
    ("cluster", &["cni", "config", "sources", "journal", "native", "devices"]),
    ("handed", &["cni", "sources", "journal", "devices", "cluster"]),
    ("unwritten", &["sources", "journal"]),
    ("supply", &["config", "journal", "durable", "log", "native", "devices"]),
    ("gather", &["cni", "config", "select", "sources", "journal", "native", "devices", "plan", "cluster"]),
    (
        "validate",
        &[
            "cni", "config", "select", "marks", "yaml", "sources", "journal", "native", "devices", "plan", "cluster",
            "gather",
        ],
    ),
    ("deleter", &[]),
    ("place", &["cni", "config", "log", "sight", "phase", "trace", "cluster", "handed", "deleter"]),
    (
        "kube",
        &[
            "cni",
            "config",
            "sources",
            "journal",
            "durable",
            "trace",
            "heartbeat",
            "log",
            "native",
            "devices",
            "cluster",
            "supply",
            "unwritten",
            "yaml",
        ],
    ),
    ("chain", &["cni"]),
    ("convert", &["cni"]),
    ("chained", &["cni", "journal", "log", "native", "convert", "deleter"]),
    ("status", &["cni"]),
    ("rules", &["cni", "native"]),
    ("homecoming", &["cni", "journal", "durable", "log", "native", "devices"]),
    ("detach", &["cni", "journal", "log", "native", "devices", "chain", "chained", "deleter", "rules", "homecoming"]),
    ("claims", &["cni", "journal", "log", "native", "devices", "plan", "homecoming", "detach"]),
    ("ahead", &["cni", "native", "plan", "convert"]),
    ("account", &["cni", "config", "journal", "log", "plan", "cluster"]),
    ("default_route", &["cni", "native", "plan"]),
    (
        "attach",
        &[
            "cni",
            "asked",
            "ahead",
            "journal",
            "log",
            "native",
            "plan",
            "chain",
            "chained",
            "convert",
            "status",
            "homecoming",
            "detach",
            "claims",
            "default_route",
            "rules",
            "phase",
            "place",
        ],
    ),
    ("job", &["cni", "config", "journal", "log", "native", "plan", "cluster", "gather", "chain", "place"]),
    (
        "check",
        &[
            "cni",
            "config",
            "journal",
            "native",
            "plan",
            "gather",
            "chain",
            "chained",
            "convert",
            "rules",
            "detach",
            "attach",
            "default_route",
            "job",
        ],
    ),
    ("readiness", &["cni", "config", "log", "native", "gather", "chain", "job"]),
    (
        "takeover",
        &[
            "cni",
            "confdir",
            "config",
            "journal",
            "log",
            "native",
            "devices",
            "plan",
            "chain",
            "convert",
            "rules",
            "homecoming",
            "detach",
            "job",
            "durable",
            "unwritten",
            "sight",
        ],
    ),
    (
        "collect",
        &["cni", "config", "journal", "native", "gather", "chain", "detach", "attach", "job", "takeover", "unwritten"],
    ),
    ("alive", &["cni", "sources", "journal", "sight", "native", "detach", "takeover"]),
    ("cards", &["journal", "native", "devices", "homecoming", "alive"]),
    ("install", &["cni", "config", "sources", "cluster", "confdir", "journal", "gather", "durable", "takeover"]),
    ("keep", &["cni", "config", "sources", "confdir", "durable", "takeover", "install"]),
    ("survey", &["cni", "journal", "native", "detach", "attach", "collect", "alive"]),
    (
        "reconcile",
        &[
            "cni", "config", "sources", "journal", "log", "native", "place", "chain", "chained", "convert", "rules",
            "detach", "attach", "job", "check", "collect", "alive", "survey",
        ],
    ),
    ("wire", &["cni"]),
    ("refer", &["cni", "config", "journal", "trace", "log", "sight", "phase", "handed", "unwritten", "place", "wire"]),
    ("handover", &["cni", "config", "phase", "cluster", "handed", "place", "refer"]),
    (
        "engine",
        &[
            "cni",
            "config",
            "select",
            "sources",
            "journal",
            "unwritten",
            "log",
            "native",
            "devices",
            "plan",
            "cluster",
            "gather",
            "chain",
            "convert",
            "deleter",
            "homecoming",
            "claims",
            "attach",
            "detach",
            "job",
            "check",
            "readiness",
            "takeover",
            "collect",
            "account",
            "phase",
            "place",
            "refer",
        ],
    ),
    (
        "daemon",
        &[
            "cni",
            "config",
            "select",
            "sources",
            "journal",
            "heartbeat",
            "log",
            "sight",
            "native",
            "handed",
            "phase",
            "trace",
            "cluster",
            "deleter",
            "keep",
            "kube",
            "supply",
            "place",
            "readiness",
            "confdir",
            "detach",
            "takeover",
            "alive",
            "survey",
            "reconcile",
            "wire",
            "engine",
        ],
    ),
];

/// What the runtime executes sees only the boundary.
const PLUGIN: &str = "src/bin/plexus-cni.rs";
const PLUGIN_USES: &[&str] = &["engine", "handover", "cni"];

/// What a person runs: it and the modules that it declares may use every module, and no module may use them.
const PROGRAM: &str = "src/main.rs";

/// Crates that do not know each other, and the directories of their sources.
const STRANGERS: &[(&str, &str, &[&str])] =
    &[("ipam", "ipam/", &["backends", "plexus"]), ("backends", "backends/", &["ipam", "plexus"])];

/// Names that stay in a place or two of the product, and why.
const FOREIGN: &[(&str, &str, &str)] = &[
    ("netlink_packet_route", "backends/src/netlink/", "it breaks in nearly every version"),
    ("netlink_packet_core", "backends/src/netlink/", "only there is a message built"),
    ("netlink_sys", "backends/src/netlink/", "only there is a socket opened"),
    ("tokio", "src/kube/ src/daemon/", "everything else waits in plain threads"),
    ("k8s_openapi", "src/kube/", "only there the API is spoken"),
    ("hyper_util", "src/kube/ src/daemon/", "only there HTTP is spoken"),
    ("opentelemetry", "src/daemon/spans", "what others want of it, they give to that"),
    ("prometheus_client", "src/daemon/metrics", "only there is counted"),
    ("hyper_rustls", "src/kube/", "only there the API is spoken"),
    ("rcgen", "src/kube/enrolment/", "only there a key is made"),
    ("rustls", "src/kube/enrolment/", "only there a key is looked at"),
    ("tonic", "src/kube/", "only there the kubelet is spoken with"),
    ("setns", "backends/src/netns.rs", "a namespace is entered only by a thread that then ends"),
];

/// Crates of the person's program: plexus-cni must not link them.
const PROGRAM_ONLY: &[&str] = &["clap", "clap_complete"];

/// Modules whose functions only compute: what they must not name in `std`, and crates they must not name at all.
const PURE: &[&str] = &["select", "plan"];
const IMPURE_STD: &[&str] = &["fs", "process", "env", "os", "io"];
const IMPURE_CRATES: &[&str] = &["nix"];

pub(crate) fn inner(repository: &Repository) -> Vec<String> {
    let mut wrong = table_is_sound(repository);
    let program = program_files(repository);
    for entry in repository.rust().filter(|entry| entry.path.starts_with("src/")) {
        if entry.path == PLUGIN {
            let used = references(&entry.code, "plexus");
            wrong.extend(forbidden(entry, &used, PLUGIN_USES, "plexus-cni"));
        } else if entry.path != "src/lib.rs" && !program.contains(&entry.path) {
            let module = module_of(&entry.path);
            match ARROWS.iter().find(|(name, _)| *name == module) {
                None => wrong.push(format!("{}: module `{module}` has no row in ARROWS ({})", entry.path, file!())),
                Some((_, allowed)) => {
                    let mut used = references(&entry.code, "crate");
                    used.extend(through_super(entry));
                    used.retain(|(_, name)| *name != module);
                    wrong.extend(forbidden(entry, &used, allowed, module));
                }
            }
        }
    }
    wrong
}

fn forbidden(entry: &Entry, used: &[(usize, &str)], allowed: &[&str], who: &str) -> Vec<String> {
    let wrong = used.iter().filter(|(_, name)| !allowed.contains(name));
    wrong.map(|(line, name)| format!("{}:{line}: `{who}` may use {allowed:?}, not `{name}`", entry.path)).collect()
}

fn table_is_sound(repository: &Repository) -> Vec<String> {
    let mut wrong = Vec::new();
    for (position, (module, allowed)) in ARROWS.iter().enumerate() {
        let above: Vec<&str> = ARROWS.iter().take(position).map(|(name, _)| *name).collect();
        let unknown = allowed.iter().filter(|name| !above.contains(name));
        wrong.extend(unknown.map(|name| format!("ARROWS: `{module}` names `{name}`, which has no row above it")));
        let files = [format!("src/{module}.rs"), format!("src/{module}/mod.rs")];
        let planned = |file: &String| PLANNED.iter().any(|path| file.starts_with(path));
        if !files.iter().any(|file| repository.entry(file).is_some() || planned(file)) {
            wrong.push(format!("ARROWS: there is no module `{module}`: remove its row"));
        }
    }
    wrong
}

/// `src/cni/conf.rs` and `src/cni.rs` are of module `cni`.
fn module_of(path: &str) -> &str {
    let inside = path.strip_prefix("src/").unwrap_or(path);
    inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs")
}

/// Modules that are reached by `super::` from the crate's root on: `super::plan::X` in `src/attach.rs`.
fn through_super(entry: &Entry) -> Vec<(usize, &str)> {
    let inside = entry.path.trim_start_matches("src/").trim_end_matches("/mod.rs").trim_end_matches(".rs");
    let depth = inside.split('/').count();
    let tokens = tokens(&entry.code);
    let token = |index: usize| tokens.get(index).map_or("", |(_, token)| *token);
    let mut found = Vec::new();
    let mut index = 0;
    while index < tokens.len() {
        let mut steps = 0;
        while token(index) == "super" && token(index + 1) == "::" {
            steps += 1;
            index += 2;
        }
        // A name that is no module of the root is one of an inner module: `super::tests`.
        if steps >= depth && token(index + 1) == "::" && ARROWS.iter().any(|(name, _)| *name == token(index)) {
            found.push((tokens[index].0, token(index)));
        }
        index += 1;
    }
    found
}

/// `src/main.rs` and the files of the modules that it declares.
fn program_files(repository: &Repository) -> BTreeSet<String> {
    let mut files = BTreeSet::new();
    let mut waiting = vec![(PROGRAM.to_owned(), true)];
    while let Some((path, is_root)) = waiting.pop() {
        if let Some(entry) = repository.entry(&path)
            && files.insert(path)
        {
            waiting.extend(children(entry, is_root).into_iter().map(|path| (path, false)));
        }
    }
    files
}

/// `ipam` and `backends` name neither each other nor the root, in their sources or manifests.
pub(crate) fn outer(repository: &Repository) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, directory, strangers) in STRANGERS {
        for entry in repository.entries.iter().filter(|entry| entry.path.starts_with(directory)) {
            for stranger in *strangers {
                let used = references(&entry.code, stranger);
                let lines = used.into_iter().map(|(line, _)| line);
                let depends = entry.text.lines().position(|line| {
                    entry.path.ends_with("Cargo.toml") && line.split(['.', ' ', '=']).next() == Some(stranger)
                });
                let lines = lines.chain(depends.map(|index| index + 1));
                wrong.extend(lines.map(|line| format!("{}:{line}: `{name}` must not know `{stranger}`", entry.path)));
            }
        }
    }
    wrong
}

/// Each of `FOREIGN` and `PROGRAM_ONLY` is named only in its place.
pub(crate) fn foreign(repository: &Repository) -> Vec<String> {
    let program = program_files(repository);
    let product = ["src/", "ipam/src/", "backends/src/"];
    let mut wrong = Vec::new();
    for entry in repository.rust().filter(|entry| product.iter().any(|root| entry.path.starts_with(root))) {
        for (line, token) in tokens(&entry.code) {
            if let Some((name, place, why)) = FOREIGN.iter().find(|(name, ..)| *name == token)
                && !place.split(' ').any(|place| entry.path.starts_with(place))
            {
                wrong.push(format!("{}:{line}: `{name}` belongs into {place}: {why}", entry.path));
            }
            if PROGRAM_ONLY.contains(&token) && !program.contains(&entry.path) {
                wrong.push(format!("{}:{line}: `{token}` belongs to `plexus` alone: see {PROGRAM}", entry.path));
            }
        }
    }
    wrong
}

/// `select` and `plan` compute.
pub(crate) fn pure(repository: &Repository) -> Vec<String> {
    let mut wrong = Vec::new();
    let is_pure = |entry: &&Entry| entry.path.starts_with("src/") && PURE.contains(&module_of(&entry.path));
    for entry in repository.rust().filter(is_pure) {
        let std = references(&entry.code, "std").into_iter().filter(|(_, name)| IMPURE_STD.contains(name));
        let crates = IMPURE_CRATES
            .iter()
            .flat_map(|name| references(&entry.code, name).into_iter().map(move |(line, _)| (line, *name)));
        let found = std.chain(crates);
        wrong.extend(found.map(|(line, name)| format!("{}:{line}: a pure module names `{name}`", entry.path)));
    }
    wrong
}
