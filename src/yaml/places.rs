//! Where everything in YAML documents stands: a second walk over the same events, for those who tell people about mistakes.

use std::collections::BTreeMap;

use granit_parser::{Event, ScalarStyle, Span};

use super::indent::Indented;
use super::{DEPTH_MAX, NODES_MAX};
use crate::marks::{Mark, Spot, Step, Style};

/// Why a text is no YAML, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Misplaced {
    /// The byte at which it was noticed.
    pub at: usize,
    /// The parser's words, or the bound that was passed.
    pub why: String,
}

/// A collection that is still open: where it begins, what is in it, a key that waits for its value, its anchor.
struct Open {
    start: usize,
    is_mapping: bool,
    below: Vec<(Step, Spot, Mark)>,
    key: Option<(String, Spot)>,
    anchor: usize,
}

#[derive(Default)]
struct Builder {
    documents: Vec<Mark>,
    open: Vec<Open>,
    /// By anchor: the tree, and how many nodes it has.
    anchors: BTreeMap<usize, (Mark, usize)>,
    nodes: usize,
}

/// The trees of a text's documents, empty ones left out, as [`super::documents`] gives their values.
///
/// # Errors
/// What [`super::documents`] refuses, and where.
pub fn places(text: &str) -> Result<Vec<Mark>, Misplaced> {
    let (builder, indented) =
        super::read(text, Builder::take).map_err(|stop| Misplaced { at: stop.at, why: stop.why })?;
    let mut documents = builder.documents;
    documents.iter_mut().for_each(|mark| moved(mark, &indented));
    Ok(documents)
}

/// Back to where everything stands in the text as it was.
fn moved(mark: &mut Mark, indented: &Indented) {
    let of = |spot: Spot| Spot { start: indented.original(spot.start), end: indented.original(spot.end), ..spot };
    mark.spot = of(mark.spot);
    for (_, key, below) in &mut mark.below {
        *key = of(*key);
        moved(below, indented);
    }
}

impl Builder {
    fn take(&mut self, event: Event, span: Span) -> Result<(), String> {
        let (start, end) = (span.start.byte_offset().unwrap_or_default(), span.end.byte_offset().unwrap_or_default());
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let is_null = style == ScalarStyle::Plain && tag.is_none() && super::scalar(&text).is_null();
                let style = match style {
                    ScalarStyle::Plain => Style::Plain,
                    ScalarStyle::SingleQuoted => Style::Single,
                    ScalarStyle::DoubleQuoted => Style::Double,
                    ScalarStyle::Literal | ScalarStyle::Folded => Style::Block,
                };
                let mark = Mark { spot: Spot { start, end, style }, below: Vec::new() };
                self.value(mark, Some(&text), anchor, is_null)
            }
            Event::SequenceStart(_, anchor, _) => self.opened(start, false, anchor),
            Event::MappingStart(_, anchor, _) => self.opened(start, true, anchor),
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(Open { start, below, anchor, .. }) = self.open.pop() else {
                    return Err("a collection ends that did not begin".to_owned());
                };
                self.value(Mark { spot: Spot { start, end, style: Style::Plain }, below }, None, anchor, false)
            }
            Event::Alias(anchor) => {
                let known = self.anchors.get(&anchor).cloned();
                let (mark, nodes) = known.ok_or("an alias to what is still being read")?;
                self.count(nodes)?;
                self.value(mark, None, 0, false)
            }
            Event::DocumentStart(..) | Event::DocumentEnd => {
                self.anchors.clear();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn count(&mut self, nodes: usize) -> Result<(), String> {
        self.nodes += nodes;
        if self.nodes > NODES_MAX { Err(format!("more than {NODES_MAX} values")) } else { Ok(()) }
    }

    fn opened(&mut self, start: usize, is_mapping: bool, anchor: usize) -> Result<(), String> {
        if self.open.len() >= DEPTH_MAX {
            return Err(format!("deeper than {DEPTH_MAX} levels"));
        }
        self.open.push(Open { start, is_mapping, below: Vec::new(), key: None, anchor });
        Ok(())
    }

    /// `text`: of a scalar, which may be a key. `is_null`: no document.
    fn value(&mut self, mark: Mark, text: Option<&str>, anchor: usize, is_null: bool) -> Result<(), String> {
        self.count(1)?;
        if anchor != 0 {
            let nodes = size(&mark);
            self.anchors.insert(anchor, (mark.clone(), nodes));
        }
        match self.open.last_mut() {
            None if is_null => {}
            None => self.documents.push(mark),
            Some(open) if !open.is_mapping => open.below.push((open.below.len().into(), mark.spot, mark)),
            Some(open) => match open.key.take() {
                Some((key, spot)) => open.below.push((Step::Key(key), spot, mark)),
                None => open.key = Some((text.unwrap_or_default().to_owned(), mark.spot)),
            },
        }
        Ok(())
    }
}

/// How many nodes a tree has; its depth is bounded.
fn size(mark: &Mark) -> usize {
    1 + mark.below.iter().map(|(_, _, mark)| size(mark)).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::marks::{Inner, Lines, Path};
    use crate::yaml;

    /// Where `{"k"` of the text below `c` begins, and its `9`, as line and column.
    fn found(text: &str) -> Vec<(usize, usize)> {
        let (value, mark) = (&yaml::documents(text).unwrap()[0], &places(text).unwrap()[0]);
        let inner = value["c"].as_str().unwrap();
        let map = Inner::of(text, mark.at(&Path::of("c")).unwrap().spot, inner);
        let lines = Lines::of(text);
        ["{", "\"k\"", "9", "}"].map(|part| lines.place(map.outer(inner.find(part).unwrap()))).to_vec()
    }

    #[test]
    fn text_inside_is_found_however_it_is_written() {
        for (text, expected) in [
            ("a: 1\nc: |\n  {\n    \"k\": 9\n  }\n", [(3, 3), (4, 5), (4, 10), (5, 3)]),
            ("c: |2- # why\n\n  {\n    \"k\": 9\n  }\n", [(3, 3), (4, 5), (4, 10), (5, 3)]),
            ("c: >-\n    { \"k\":\n    9\n\n    }\n", [(2, 5), (2, 7), (3, 5), (5, 5)]),
            ("c: '{ \"k\": \"it''s\", \"l\": 9}'\n", [(1, 5), (1, 7), (1, 26), (1, 27)]),
            ("c: '{\n  \"k\":\n\n  9}'\n", [(1, 5), (2, 3), (4, 3), (4, 4)]),
            (r#"c: "{ \"k\": \"\u00e4\/\x41\", \n \"l\": 9}""#, [(1, 5), (1, 7), (1, 42), (1, 43)]),
            ("c: \"{ \\\n   \\\"k\\\": \\\n   9 }\"", [(1, 5), (2, 4), (3, 4), (3, 6)]),
            ("c: '{ \"k\": 9}' # c", [(1, 5), (1, 7), (1, 12), (1, 13)]),
            ("c: &x !!str |\r\n  {\r\n    \"k\": 9\r\n  }\r\n", [(2, 3), (3, 5), (3, 10), (4, 3)]),
            (r#"{"c": "{\"k\":\n9}"}"#, [(1, 8), (1, 9), (1, 17), (1, 18)]),
        ] {
            assert_eq!(found(text), expected, "{text}");
        }
    }

    #[test]
    fn keys_documents_and_copies_are_found() {
        let text = "# note\n---\n---\na: &x {b: [1, 2]}\nc: *x\n---\n- k\n";
        let marks = places(text).unwrap();
        let lines = Lines::of(text);
        let at = |document: usize, path: &str| lines.place(marks[document].nearest(&Path::of(path)).0.start);
        assert_eq!((at(0, "a.b"), at(0, "a.b[1]"), at(0, "c"), at(0, "c.b")), ((4, 8), (4, 15), (5, 1), (4, 8)));
        assert_eq!((at(1, "[0]"), marks.len()), ((7, 3), 2));
        assert_eq!(marks.len(), yaml::documents(text).unwrap().len());
    }

    #[test]
    fn a_mistake_has_its_place() {
        let text = "a: 1\nb: [x\nc: 2\n";
        let wrong = places(text).unwrap_err();
        assert!(Lines::of(text).place(wrong.at).0 >= 2, "{wrong:?}");
        assert!(!wrong.why.is_empty());
        assert!(places(&"[".repeat(DEPTH_MAX + 1)).is_err());
    }
}
