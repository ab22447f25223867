//! The goals, beside what was measured. Nothing fails here: a goal is a promise to look at, on a machine that is named.

use crate::figures::{median, ratio};
use crate::report::{aligned, times_text};
use crate::rows::Measured;
use crate::side::Side;

enum Goal {
    /// Go takes at least this many times longer than plexus.
    Faster { row: &'static str, call: &'static str, at_least: f64 },
    /// plexus takes at most this many times longer than in the other row.
    Flat { row: &'static str, than: &'static str, call: &'static str, at_most: f64 },
}

const GOALS: &[Goal] = &[
    Goal::Faster { row: "bridge", call: "ADD", at_least: 5.0 },
    Goal::Faster { row: "macvlan", call: "ADD", at_least: 4.0 },
    Goal::Faster { row: "macvlan-dual", call: "ADD", at_least: 300.0 },
    Goal::Faster { row: "host-local-60k", call: "ADD", at_least: 300.0 },
    Goal::Flat { row: "host-local-60k", than: "host-local-0", call: "ADD", at_most: 1.3 },
    Goal::Faster { row: "bridge", call: "DEL", at_least: 10.0 },
    Goal::Faster { row: "pod-4", call: "DEL", at_least: 20.0 },
    Goal::Faster { row: "bridge-masq-dual", call: "ADD", at_least: 20.0 },
    Goal::Faster { row: "bridge-masq-dual", call: "DEL", at_least: 15.0 },
    Goal::Faster { row: "chain-node", call: "ADD", at_least: 30.0 },
    Goal::Faster { row: "chain-node", call: "DEL", at_least: 30.0 },
    Goal::Faster { row: "member-1", call: "ADD", at_least: 4.0 },
    Goal::Faster { row: "member-1", call: "DEL", at_least: 15.0 },
    Goal::Flat { row: "chain-ports-1k", than: "chain-ports", call: "ADD", at_most: 1.2 },
    Goal::Flat { row: "chain-idle", than: "chain-bridge", call: "ADD", at_most: 1.03 },
];

/// Each goal with the figure and yes or no; "not measured" where a side or row is missing.
pub(crate) fn table(rows: &[Measured]) -> String {
    let mut lines = vec![["goal", "call", "wanted", "measured", ""].map(str::to_owned).to_vec()];
    lines.extend(GOALS.iter().map(|goal| goal.line(rows)));
    format!("\n{}", aligned(&lines))
}

impl Goal {
    fn line(&self, rows: &[Measured]) -> Vec<String> {
        let (what, call, wanted) = match self {
            Self::Faster { row, call, at_least } => (format!("{row}: go/plexus"), call, format!(">= {at_least}x")),
            Self::Flat { row, than, call, at_most } => {
                (format!("{row}: plexus/{than}"), call, format!("<= {at_most}x"))
            }
        };
        let (measured, reached) = match self.figure(rows) {
            None => ("not measured".to_owned(), ""),
            Some(figure) => (times_text(figure), if self.reached(figure) { "yes" } else { "no" }),
        };
        vec![what, (*call).to_owned(), wanted, measured, reached.to_owned()]
    }

    fn figure(&self, rows: &[Measured]) -> Option<f64> {
        match self {
            Self::Faster { row, call, .. } => {
                let [plexus, go] = [Side::Plexus, Side::Go].map(|side| samples(rows, row, call, side));
                ratio(go?, plexus?).map(|found| found.value)
            }
            Self::Flat { row, than, call, .. } => {
                let [of, base] = [row, than].map(|name| samples(rows, name, call, Side::Plexus));
                Some(median(of?)? / median(base?)?)
            }
        }
    }

    fn reached(&self, figure: f64) -> bool {
        match self {
            Self::Faster { at_least, .. } => figure >= *at_least,
            Self::Flat { at_most, .. } => figure <= *at_most,
        }
    }
}

fn samples<'a>(rows: &'a [Measured], row: &str, call: &str, side: Side) -> Option<&'a [f64]> {
    let measured = rows.iter().find(|measured| measured.row.name == row)?;
    Some(measured.metrics.iter().find(|metric| metric.name == call)?.of(side))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::{Metric, ROWS};

    #[test]
    fn every_goal_names_a_row() {
        let known = |name: &str| ROWS.iter().any(|row| row.name == name);
        for goal in GOALS {
            match goal {
                Goal::Faster { row, .. } => assert!(known(row), "{row}"),
                Goal::Flat { row, than, .. } => assert!(known(row) && known(than), "{row}, {than}"),
            }
        }
    }

    #[test]
    fn a_goal_says_yes_no_or_not_measured() {
        let row = ROWS[0];
        let add = |plexus: f64| Metric { name: "ADD", samples: [vec![plexus], vec![8.0], Vec::new()] };
        let measured = |plexus| Measured { metrics: vec![add(plexus)], ..Measured::new(row) };
        assert_eq!(GOALS[0].line(&[measured(1.0)])[3..], ["8.00x".to_owned(), "yes".to_owned()]);
        assert_eq!(GOALS[0].line(&[measured(2.0)])[3..], ["4.00x".to_owned(), "no".to_owned()]);
        assert_eq!(GOALS[0].line(&[])[3..], ["not measured".to_owned(), String::new()]);
    }
}
