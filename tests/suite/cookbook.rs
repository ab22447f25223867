//! docs/cookbook.md: every recipe is a case. Its YAML is attached by `plexus-cni`, the commands below it are executed, and what they
//! print is compared with what the page says that they do. It knows the page's form, and no recipe.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::call::Side;
use crate::case::Case;
use crate::need::Need;
use crate::program::{plexus, text};
use crate::testbed::Testbed;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cookbook.md");
/// What stands on the page for any text.
const ANYTHING: &str = "...";
/// How long the kernel may take until it says that a link is up whose other end is.
const SETTLED_LIMIT: Duration = Duration::from_secs(10);
/// A recipe with this is planned and not attached: no machine of the suite has such a card.
const PLANNED: &str = "$ plexus explain";

/// What stands under one heading.
struct Recipe {
    title: String,
    manifests: String,
    commands: String,
}

/// The text between two fences, with the word behind the first one, in order.
fn blocks(page: &str) -> Vec<(&str, &str)> {
    let mut parts = page.split("```");
    parts.next();
    let mut found = Vec::new();
    while let (Some(inside), Some(_)) = (parts.next(), parts.next()) {
        found.push(inside.split_once('\n').expect("a word and lines"));
    }
    found
}

fn page() -> String {
    fs::read_to_string(PAGE).unwrap_or_else(|error| panic!("{PAGE}: {error}"))
}

fn recipes(page: &str) -> Vec<Recipe> {
    let recipe = |section: &str| {
        let all = blocks(section);
        let of = |word: &str| all.iter().filter(|(name, _)| *name == word).map(|(_, text)| *text).collect::<String>();
        let title = section.lines().next().unwrap_or_default().to_owned();
        Recipe { title, manifests: of("yaml"), commands: of("console") }
    };
    page.split("\n### ").skip(1).map(recipe).collect()
}

/// The words after each `"KEY": "`.
fn values<'text>(manifests: &'text str, key: &str) -> BTreeSet<&'text str> {
    let begin = format!("\"{key}\": \"");
    manifests.split(&begin).skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

impl Recipe {
    fn name(&self) -> String {
        let words = self.title.to_lowercase().replace(|letter: char| !letter.is_alphanumeric(), " ");
        format!("cookbook::{}", words.split_whitespace().collect::<Vec<_>>().join("_"))
    }

    fn needs(&self) -> Vec<Need> {
        let mut needs = Vec::new();
        for kind in values(&self.manifests, "type") {
            needs.extend(Need::of_kind(kind));
            match kind {
                "tap" => needs.push(Need::Tap),
                "portmap" => needs.push(Need::Nft),
                "firewall" => needs.extend([Need::Nft, Need::Iptables]),
                _ => {}
            }
        }
        if self.manifests.contains("\"vlan\":") && values(&self.manifests, "type").contains("bridge") {
            needs.push(Need::VlanFiltering);
        }
        needs
    }

    /// Names of its pods, in order.
    fn pods(&self) -> Vec<&str> {
        let documents = self.manifests.split("---\n").filter(|document| document.contains("kind: Pod\n"));
        documents.filter_map(|one| one.split_once("\n  name: ")?.1.lines().next()).collect()
    }
}

/// The cases: one for each recipe, and one for the page.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = recipes(&page())
        .into_iter()
        .map(|recipe| Case::new(recipe.name(), &recipe.needs(), move || run(&recipe)))
        .collect();
    cases.push(Case::new("cookbook::every_block_is_of_a_recipe", &[], whole));
    cases
}

/// The page's node, with the folders of a test bed.
fn node(bed: &Testbed) -> Value {
    let page = page();
    let (_, text) = blocks(&page).into_iter().find(|(word, _)| *word == "json").expect("the node's configuration");
    let mut conf: Value = serde_json::from_str(text).unwrap();
    conf["manifests"] = json!("/run/scratch/manifests");
    conf["binDir"] = json!(bed.bin(Side::Plexus));
    conf
}

fn run(recipe: &Recipe) {
    let bed = Testbed::new();
    bed.parent("eth1");
    bed.parent("eth2");
    let conf = node(&bed);
    let manifest = bed.file("manifests/pod.yaml", &recipe.manifests);
    bed.file("node.json", &conf.to_string());
    let checked = plexus(&["validate", manifest.to_str().unwrap()]);
    assert!(checked.status.success(), "{}{}", text(&checked.stdout), text(&checked.stderr));
    let attached = if recipe.commands.contains(PLANNED) { Vec::new() } else { recipe.pods() };
    let call = |command: &str, pod: &str| {
        let call = bed.call(Side::Plexus, "plexus-cni").command(command).container(&format!("id-{pod}")).pod(pod);
        call.kubernetes("default", pod, &format!("uid-{pod}")).conf(&conf).run()
    };
    for pod in &attached {
        bed.pod(pod);
        call("ADD", pod).ok();
    }
    for command in recipe.commands.split("$ ").skip(1) {
        let (command, expected) = command.split_once('\n').expect("a command and what it prints");
        compare(&bed, command, expected);
    }
    for pod in &attached {
        call("DEL", pod).ok();
    }
    // Bridges stay, as the reference plugin leaves them.
    let mut stays: Vec<String> =
        values(&recipe.manifests, "bridge").iter().map(|name| format!("link {name}")).collect();
    stays.push("link cni0".to_owned());
    let left: Vec<String> = bed.leftovers().into_iter().filter(|left| !stays.contains(left)).collect();
    assert_eq!(left, Vec::<String>::new());
    assert!(["eth1", "eth2"].iter().all(|name| bed.links("").iter().any(|link| link == name)), "the node's own cards");
}

/// What is printed must become what the page says: a link that has its carrier from the other end is told to be up a moment later.
fn compare(bed: &Testbed, command: &str, expected: &str) {
    let deadline = Instant::now() + SETTLED_LIMIT;
    loop {
        let printed = execute(bed, command);
        if is_like(&plain(expected), &plain(&printed)) {
            return;
        }
        assert!(Instant::now() < deadline, "{command}\nprints:\n{printed}\nand not:\n{expected}");
    }
}

/// A command of the page: in a pod (`kubectl exec`), plexus itself, or a program of the node.
fn execute(bed: &Testbed, command: &str) -> String {
    let words: Vec<&str> = command.split_whitespace().collect();
    let done = match words.as_slice() {
        ["kubectl", "exec", pod, "--", words @ ..] => {
            let namespace = format!("--net={}", bed.netns(pod).display());
            bed.tool("nsenter", &[&[namespace.as_str(), "--"], words].concat(), "")
        }
        ["plexus", words @ ..] => {
            let place = |word: &&str| match *word {
                "pod.yaml" => "/run/scratch/manifests/pod.yaml".to_owned(),
                "node.json" => "/run/scratch/node.json".to_owned(),
                word => word.to_owned(),
            };
            let words: Vec<String> = words.iter().map(place).collect();
            let output = plexus(&words.iter().map(String::as_str).collect::<Vec<_>>());
            if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
        }
        [program, words @ ..] => bed.tool(program, words, ""),
        [] => panic!("no command"),
    };
    done.unwrap_or_else(|error| panic!("{command}: {error}"))
}

/// Without empty lines, the width of columns, and what `ip` says behind `@` of a link's other end.
fn plain(printed: &str) -> String {
    let word = |word: &str| {
        let Some((before, after)) = word.split_once('@') else { return word.to_owned() };
        before.to_owned() + after.trim_start_matches(|letter: char| letter.is_alphanumeric())
    };
    let line = |line: &str| line.split_whitespace().map(word).collect::<Vec<_>>().join(" ");
    printed.lines().map(line).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
}

/// Whether `printed` is `expected`, where [`ANYTHING`] in that is any text.
fn is_like(expected: &str, printed: &str) -> bool {
    let Some((begin, rest)) = expected.split_once(ANYTHING) else { return expected == printed };
    let Some(mut left) = printed.strip_prefix(begin) else { return false };
    let pieces: Vec<&str> = rest.split(ANYTHING).collect();
    let (end, between) = pieces.split_last().expect("one at least");
    for piece in between {
        let Some(at) = left.find(piece) else { return false };
        left = &left[at + piece.len()..];
    }
    left.ends_with(end)
}

/// No block stands where nobody runs it, and the comparison itself can fail.
fn whole() {
    let page = page();
    let all = blocks(&page);
    let count = |word: &str| all.iter().filter(|(name, _)| *name == word).count();
    let recipes = recipes(&page);
    assert_eq!((count("json"), count("yaml"), count("console")), (1, recipes.len(), recipes.len()));
    assert_eq!(all.len(), 1 + 2 * recipes.len(), "a block of another language is run by nobody");
    for recipe in &recipes {
        assert!(!recipe.pods().is_empty() && recipe.commands.starts_with("$ "), "{}", recipe.title);
    }
    let names: BTreeSet<String> = recipes.iter().map(Recipe::name).collect();
    assert_eq!(names.len(), recipes.len(), "two recipes of one name");
    assert!(Path::new(PAGE).ends_with("docs/cookbook.md"));
    assert!(is_like("a ... c", "a b c") && is_like("...", "") && is_like("a", "a"));
    assert!(!is_like("a ... c", "a b d") && !is_like("a", "a b") && !is_like("... b ... b", "a b c"));
    assert_eq!(plain("3: net1@if2: <UP>\n\n  eth0@eth1   UP \n"), "3: net1: <UP>\neth0 UP");
}
