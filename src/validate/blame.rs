//! What in a document is to blame for a refusal: one thing after the other is left out, and the parser is asked again. So no rule
//! of any parser is written here a second time. It knows neither the document nor the parser.

use std::cell::Cell;

use serde_json::Value;

use crate::marks::{Path, Step};

/// Questions for one refusal.
const ASKS_MAX: usize = 400;
/// Mistakes of one document that are told at once.
const MISTAKES_MAX: usize = 16;
/// Bytes of all questions for one refusal: a large document gets fewer.
const BYTES_MAX: usize = 2 << 20;
/// Bytes of all questions for all documents; whoever comes after that is refused as a whole.
const ALL_BYTES_MAX: usize = 64 << 20;
/// What a question costs at least, in the same bytes.
const QUESTION_BYTES: usize = 1 << 10;
/// Without these a configuration is another one: they are to blame only where they are named, or nothing else is.
const FRAME: [&str; 3] = ["type", "name", "plugins"];

/// Says why a document is refused; none: it is not.
pub(super) type Ask<'a> = dyn Fn(&Value) -> Option<String> + 'a;

/// How much may still be asked, in bytes.
#[derive(Debug)]
pub(super) struct Budget(Cell<usize>);

impl Default for Budget {
    fn default() -> Budget {
        Budget(Cell::new(ALL_BYTES_MAX))
    }
}

impl Budget {
    /// How many questions about a document of so many bytes.
    fn asks(&self, bytes: usize) -> usize {
        let asks = ASKS_MAX.min(BYTES_MAX / bytes.max(1)).min(self.0.get() / bytes.max(QUESTION_BYTES));
        self.0.set(self.0.get() - asks * bytes.max(QUESTION_BYTES));
        asks
    }
}

/// One refusal, and what is to blame.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mistake {
    /// The parser's words.
    pub(super) why: String,
    /// In the document as it was.
    pub(super) path: Path,
}

/// All mistakes of a document that can be told apart: what is to blame is left out, and the rest is asked about again. And what
/// is left of it, where no list has lost elements.
pub(super) fn mistakes(document: &Value, ask: &Ask, budget: &Budget) -> (Vec<Mistake>, Option<Value>) {
    let (mut rest, mut removed, mut found) = (document.clone(), Vec::new(), Vec::new());
    let Some(mut why) = ask(document) else { return (found, Some(rest)) };
    let mut blamed = blame(&rest, &why, ask, budget);
    for _ in 0..MISTAKES_MAX {
        found.push(Mistake { why: why.clone(), path: original(&blamed.path, &removed) });
        let Some((path, next)) = without(&mut rest, &blamed.path, &why, ask, budget) else { return (found, None) };
        removed.push(path);
        let Some((next, another)) = next else { break };
        (why, blamed) = (next, another);
    }
    let is_whole = removed.iter().all(ends_with_key);
    (found, is_whole.then_some(rest))
}

/// What is still refused, and what is to blame for that.
type Next = Option<(String, Blame)>;

/// Leaves out what is to blame, or what it is in, so that another mistake is seen: one that is elsewhere; or so that none is left.
/// What comes of leaving something out (an empty list, a missing key) is none.
fn without(rest: &mut Value, path: &Path, why: &str, ask: &Ask, budget: &Budget) -> Option<(Path, Next)> {
    for length in (1..=path.0.len()).rev() {
        let path = Path(path.0.iter().take(length).cloned().collect());
        let mut less = rest.clone();
        remove(&mut less, &path)?;
        let Some(next) = ask(&less) else {
            *rest = less;
            return Some((path, None));
        };
        let another = blame(&less, &next, ask, budget);
        let is_elsewhere = !is_within(&another.path, &path) && !is_within(&path, &another.path);
        // A refusal that asks for the key which was left out comes of that; the same key elsewhere may be as wrong.
        let asks_for_it = is_named_by_key(&plain(&next), &path) && another.path.last_key() != path.last_key();
        if next != why && another.certain && is_elsewhere && !asks_for_it {
            *rest = less;
            return Some((path, Some((next, another))));
        }
    }
    None
}

fn is_within(a: &Path, b: &Path) -> bool {
    a.0.starts_with(&b.0)
}

/// A way in a document from which elements were removed, one after the other -> the way before.
pub(super) fn original(path: &Path, removed: &[Path]) -> Path {
    let mut path = path.clone();
    for gone in removed.iter().rev() {
        let Some((Step::Index(index), parent)) = gone.0.split_last() else { continue };
        let is_beside = path.0.starts_with(parent);
        if let Some(Step::Index(own)) = path.0.get_mut(parent.len())
            && is_beside
            && *own >= *index
        {
            *own += 1;
        }
    }
    path
}

/// What is to blame.
struct Blame {
    /// Where it is; nowhere in particular: the whole document.
    path: Path,
    /// Without it the document is taken, or the refusal names it.
    certain: bool,
}

/// Higher is more to blame: named or no part of the frame, named, enough, deep, late.
type Rank = (bool, bool, bool, usize, usize);

/// Finds what to blame for the refusal `why` of `document`. What changes nothing by its absence has nothing in it that does.
fn blame(document: &Value, why: &str, ask: &Ask, budget: &Budget) -> Blame {
    let mut asks = budget.asks(document.to_string().len());
    let plain = plain(why);
    let mut best: Option<(Rank, Path)> = None;
    let mut waiting = below(document, &Path::default());
    let mut order = 0;
    while let Some(path) = waiting.pop().filter(|_| asks > 0) {
        let mut without = document.clone();
        let Some(taken) = remove(&mut without, &path) else { continue };
        asks -= 1;
        order += 1;
        let answer = ask(&without);
        if answer.as_deref() == Some(why) {
            continue;
        }
        waiting.extend(below(&taken, &path));
        let named = is_named_by_value(&plain, &taken) || is_named_by_key(&plain, &path);
        let rank = (named || !is_frame(&path), named, answer.is_none(), path.0.len(), order);
        if best.as_ref().is_none_or(|(known, _)| rank > *known) {
            best = Some((rank, path));
        }
    }
    let Some(((_, named, enough, ..), path)) = best else { return Blame { path: Path::default(), certain: false } };
    let path = named_below(document, &plain, path, !named);
    Blame { path, certain: named || enough }
}

/// The ways to what is in a value at the end of a way, the first one last.
fn below(value: &Value, path: &Path) -> Vec<Path> {
    match value {
        Value::Object(map) => map.keys().rev().map(|key| path.join(key.as_str())).collect(),
        Value::Array(items) => (0..items.len()).rev().map(|index| path.join(index)).collect(),
        _ => Vec::new(),
    }
}

/// In something that must not be as it is: what the refusal names, by its key before by its value. Its absence would be refused in
/// the same words.
fn named_below(document: &Value, plain: &str, path: Path, also_by_value: bool) -> Path {
    let by_key = |path: &Path, _: &Value| is_named_by_key(plain, path);
    let by_value = |_: &Path, value: &Value| also_by_value && is_named_by_value(plain, value);
    let found = find_below(document, &path, &by_key).or_else(|| find_below(document, &path, &by_value));
    found.unwrap_or(path)
}

/// The first of what is in a value.
fn find_below(document: &Value, path: &Path, is_it: &dyn Fn(&Path, &Value) -> bool) -> Option<Path> {
    let mut waiting = below(at(document, path)?, path);
    while let Some(path) = waiting.pop() {
        let Some(value) = at(document, &path) else { continue };
        if is_it(&path, value) {
            return Some(path);
        }
        waiting.extend(below(value, &path));
    }
    None
}

/// What is at the end of a way.
pub(super) fn at<'a>(document: &'a Value, path: &Path) -> Option<&'a Value> {
    path.0.iter().try_fold(document, |value, step| match step {
        Step::Key(key) => value.get(key),
        Step::Index(index) => value.get(index),
    })
}

/// The same, to be changed.
pub(super) fn at_mut<'a>(document: &'a mut Value, path: &Path) -> Option<&'a mut Value> {
    path.0.iter().try_fold(document, |value, step| match step {
        Step::Key(key) => value.get_mut(key),
        Step::Index(index) => value.get_mut(index),
    })
}

/// A refusal without the names of networks that it is about.
fn plain(why: &str) -> String {
    let mut parts = why.split("network \"");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once('"').map_or(part, |(_, rest)| rest))
}

fn ends_with_key(path: &Path) -> bool {
    matches!(path.0.last(), Some(Step::Key(_)))
}

/// Takes what is at the end of a way out of a document.
pub(super) fn remove(document: &mut Value, path: &Path) -> Option<Value> {
    let (last, before) = path.0.split_last()?;
    let parent = at_mut(document, &Path(before.to_vec()))?;
    match (last, parent) {
        (Step::Key(key), Value::Object(map)) => map.remove(key),
        (Step::Index(index), Value::Array(items)) if *index < items.len() => Some(items.remove(*index)),
        _ => None,
    }
}

/// Whether a refusal has the value's text in it.
fn is_named_by_value(why: &str, value: &Value) -> bool {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => String::new(),
    };
    text.len() > 1 && has_word(why, &text)
}

/// Whether a refusal has the key in it, as Go and as plexus name fields.
fn is_named_by_key(why: &str, path: &Path) -> bool {
    let key = path.last_key().filter(|_| !is_frame(path) && ends_with_key(path));
    // One letter is a word of any sentence.
    key.is_some_and(|key| key.len() > 1 && has_word(why, key))
}

/// Annotations, whose keys have a `/`, are a frame too.
fn is_frame(path: &Path) -> bool {
    ends_with_key(path) && path.last_key().is_some_and(|key| FRAME.contains(&key) || key.contains('/'))
}

/// Whether a text has a word, not as part of a longer one.
fn has_word(text: &str, word: &str) -> bool {
    let is_part = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    !word.is_empty()
        && text.match_indices(word).any(|(at, _)| {
            let (before, after) = text.split_at(at);
            !is_part(before.chars().next_back()) && !is_part(after.chars().nth(word.chars().count()))
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A parser with three rules, of which it tells the first that is broken.
    fn strict(value: &Value) -> Option<String> {
        let mtu = &value["plugins"][1]["mtu"];
        if mtu.as_i64().is_some_and(|mtu| mtu < 0) {
            return Some(format!("invalid number {mtu}"));
        }
        let range = &value["plugins"][0]["range"];
        if range["start"].as_i64() > range["end"].as_i64().or(Some(9)) {
            return Some("nothing is in between".to_owned());
        }
        value["name"].is_null().then(|| "no name".to_owned())
    }

    fn blamed(value: &Value) -> (String, bool) {
        let found = blame(value, &strict(value).unwrap(), &strict, &Budget::default());
        (found.path.to_string(), found.certain)
    }

    #[test]
    fn what_is_named_comes_first_then_what_is_enough() {
        let mut value =
            json!({"name": "n", "plugins": [{"range": {"start": 20, "end": 30}}, {"mtu": -5, "type": "x"}]});
        assert_eq!(blamed(&value), ("plugins[1].mtu".to_owned(), true));
        value["plugins"][0]["range"]["end"] = json!(3);
        assert_eq!(blamed(&value), ("plugins[1].mtu".to_owned(), true), "named, although another mistake is left");
        assert_eq!(remove(&mut value, &Path::of("plugins[1].mtu")), Some(json!(-5)));
        assert_eq!(blamed(&value), ("plugins[0].range.start".to_owned(), true));
    }

    #[test]
    fn what_is_not_there_is_nowhere() {
        assert_eq!(blamed(&json!({"plugins": [{"mtu": 1}]})), (String::new(), false));
    }

    #[test]
    fn large_documents_are_asked_about_less_often() {
        let count = Cell::new(0);
        let ask = |value: &Value| {
            count.set(count.get() + 1);
            value["bad"].is_boolean().then(|| "no".to_owned())
        };
        let value = json!({"bad": true, "list": vec!["x".repeat(100); 2000]});
        assert_eq!(blame(&value, "no", &ask, &Budget::default()).path.to_string(), "bad");
        assert!(count.get() <= ASKS_MAX, "{}", count.get());
    }

    #[test]
    fn all_mistakes_are_told_and_what_comes_of_leaving_out_is_none() {
        let value = json!({"name": "n", "plugins": [{"range": {"start": 20, "end": 3}}, {"mtu": -5}]});
        let (found, _) = mistakes(&value, &strict, &Budget::default());
        let paths: Vec<String> = found.iter().map(|mistake| mistake.path.to_string()).collect();
        assert_eq!(paths, ["plugins[1].mtu", "plugins[0].range.start"]);
        let needs_two = |value: &Value| {
            let list = value["list"].as_array()?;
            let odd = list.iter().find(|item| item.as_i64().is_some_and(|n| n % 2 == 1));
            odd.map(|odd| format!("odd {odd}")).or_else(|| (list.len() < 2).then(|| "too few".to_owned()))
        };
        let (found, _) = mistakes(&json!({"list": [2, 33], "other": 1}), &needs_two, &Budget::default());
        assert_eq!(found, [Mistake { why: "odd 33".to_owned(), path: Path::of("list[1]") }]);
        let (found, _) = mistakes(&json!({"list": [2, 33, 4, 55, 6]}), &needs_two, &Budget::default());
        let paths: Vec<String> = found.iter().map(|mistake| mistake.path.to_string()).collect();
        assert_eq!(paths, ["list[1]", "list[3]"], "as they were");
    }

    #[test]
    fn the_name_of_a_network_blames_nothing() {
        assert_eq!(plain("network \"a/b\": x; of network \"c\", y"), ": x; of , y");
        assert_eq!(plain("a network \"b"), "a b");
    }

    #[test]
    fn the_budget_ends() {
        let budget = Budget::default();
        let asks: usize = std::iter::repeat_with(|| budget.asks(1 << 20)).take(100).sum();
        assert_eq!(asks, ALL_BYTES_MAX >> 20);
        assert_eq!(budget.asks(10), 0);
    }

    #[test]
    fn a_word_is_a_whole_one() {
        assert!(has_word("field NetConf.mtu of", "mtu") && has_word("\"5000\"", "5000"));
        assert!(!has_word("mtux", "mtu") && !has_word("15000", "5000") && !has_word("x", ""));
    }
}
