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
    /// One side's figure divided by another's is within these.
    Ratio { row: &'static str, call: &'static str, sides: [Side; 2], wanted: Wanted },
    /// A side's figure is below this, in the call's unit.
    Below { row: &'static str, call: &'static str, side: Side, limit: f64 },
    /// plexus takes at most so many milliseconds longer than for the other call.
    Beside { row: &'static str, call: &'static str, than: &'static str, at_most_more: f64 },
}

#[derive(Clone, Copy)]
enum Wanted {
    AtLeast(f64),
    AtMost(f64),
}

use Wanted::{AtLeast, AtMost};

const THICK: [Side; 2] = [Side::Thick, Side::Daemon];
const FLOOR: [Side; 2] = [Side::Daemon, Side::Floor];
const GO: [Side; 2] = [Side::Go, Side::Daemon];

const fn ratio_of(row: &'static str, call: &'static str, sides: [Side; 2], wanted: Wanted) -> Goal {
    Goal::Ratio { row, call, sides, wanted }
}

const GOALS: &[Goal] = &[
    Goal::Faster { row: "bridge", call: "ADD", at_least: 5.0 },
    Goal::Faster { row: "macvlan", call: "ADD", at_least: 4.0 },
    Goal::Faster { row: "macvlan-dual", call: "ADD", at_least: 300.0 },
    Goal::Faster { row: "host-local-60k", call: "ADD", at_least: 500.0 },
    Goal::Flat { row: "host-local-60k", than: "host-local-0", call: "ADD", at_most: 1.2 },
    Goal::Faster { row: "bridge", call: "DEL", at_least: 10.0 },
    Goal::Faster { row: "pod-4", call: "DEL", at_least: 20.0 },
    Goal::Faster { row: "bridge-masq-dual", call: "ADD", at_least: 20.0 },
    Goal::Faster { row: "bridge-masq-dual", call: "DEL", at_least: 15.0 },
    Goal::Faster { row: "chain-node", call: "ADD", at_least: 30.0 },
    Goal::Faster { row: "chain-node", call: "DEL", at_least: 30.0 },
    Goal::Faster { row: "member-1", call: "ADD", at_least: 4.0 },
    Goal::Faster { row: "member-1", call: "DEL", at_least: 15.0 },
    Goal::Beside { row: "member-1", call: "DEL, server hangs", than: "DEL", at_most_more: 20.0 },
    Goal::Flat { row: "chain-ports-1k", than: "chain-ports", call: "ADD", at_most: 1.2 },
    Goal::Flat { row: "chain-ports-1k", than: "chain-ports", call: "connecting", at_most: 1.1 },
    Goal::Flat { row: "chain-idle", than: "chain-bridge", call: "ADD", at_most: 1.03 },
    ratio_of("masquerade-daemon", "ADD", GO, AtLeast(20.0)),
    ratio_of("chain-node-daemon", "ADD", GO, AtLeast(30.0)),
    ratio_of("node-macvlan", "ADD", FLOOR, AtMost(2.0)),
    ratio_of("node-3", "ADD", THICK, AtLeast(20.0)),
    ratio_of("node-3", "ADD", FLOOR, AtMost(1.6)),
    ratio_of("node-3", "DEL", THICK, AtLeast(40.0)),
    ratio_of("node-3-status", "ADD", THICK, AtLeast(6.0)),
    ratio_of("crowd-100", "ADD, pods/s", [Side::Daemon, Side::Thick], AtLeast(15.0)),
    ratio_of("crowd-100", "ADD, pods/s", FLOOR, AtLeast(0.8)),
    Goal::Below { row: "crowd-100", call: "daemon's peak MB", side: Side::Daemon, limit: 25.0 },
    Goal::Below { row: "idle", call: "idle, MB", side: Side::Daemon, limit: 12.0 },
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
            Self::Faster { row, call, at_least } => (format!("{row}: go/plexus"), call, AtLeast(*at_least).text()),
            Self::Flat { row, than, call, at_most } => (format!("{row}: plexus/{than}"), call, AtMost(*at_most).text()),
            Self::Ratio { row, call, sides: [over, under], wanted } => {
                (format!("{row}: {}/{}", over.name(), under.name()), call, wanted.text())
            }
            Self::Below { row, call, side, limit } => (format!("{row}: {}", side.name()), call, format!("< {limit}")),
            Self::Beside { row, call, than, at_most_more } => {
                (format!("{row}: plexus, beyond {than}"), call, format!("<= {at_most_more} ms"))
            }
        };
        let (measured, reached) = match self.figure(rows) {
            None => ("not measured".to_owned(), ""),
            Some(figure) => (self.figure_text(figure), if self.reached(figure) { "yes" } else { "no" }),
        };
        vec![what, (*call).to_owned(), wanted, measured, reached.to_owned()]
    }

    fn figure_text(&self, figure: f64) -> String {
        match self {
            Self::Below { .. } => format!("{figure:.1}"),
            Self::Beside { .. } => format!("{figure:.1} ms"),
            _ => times_text(figure),
        }
    }

    fn figure(&self, rows: &[Measured]) -> Option<f64> {
        let of_two = |row, call, sides: [Side; 2]| {
            let [over, under] = sides.map(|side| samples(rows, row, call, side));
            ratio(over?, under?).map(|found| found.value)
        };
        match self {
            Self::Faster { row, call, .. } => of_two(row, call, [Side::Go, Side::Plexus]),
            Self::Ratio { row, call, sides, .. } => of_two(row, call, *sides),
            Self::Flat { row, than, call, .. } => {
                let [of, base] = [row, than].map(|name| samples(rows, name, call, Side::Plexus));
                Some(median(of?)? / median(base?)?)
            }
            Self::Below { row, call, side, .. } => median(samples(rows, row, call, *side)?),
            Self::Beside { row, call, than, .. } => {
                let [of, base] = [call, than].map(|name| samples(rows, row, name, Side::Plexus));
                Some(median(of?)? - median(base?)?)
            }
        }
    }

    fn reached(&self, figure: f64) -> bool {
        match self {
            Self::Faster { at_least, .. } => figure >= *at_least,
            Self::Flat { at_most, .. } => figure <= *at_most,
            Self::Ratio { wanted, .. } => wanted.holds(figure),
            Self::Below { limit, .. } => figure < *limit,
            Self::Beside { at_most_more, .. } => figure <= *at_most_more,
        }
    }
}

impl Wanted {
    fn text(self) -> String {
        match self {
            AtLeast(times) => format!(">= {times}x"),
            AtMost(times) => format!("<= {times}x"),
        }
    }

    fn holds(self, times: f64) -> bool {
        match self {
            AtLeast(least) => times >= least,
            AtMost(most) => times <= most,
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
                Goal::Faster { row, .. } | Goal::Below { row, .. } | Goal::Beside { row, .. } => {
                    assert!(known(row), "{row}")
                }
                Goal::Ratio { row, sides, .. } => {
                    let own = ROWS.iter().find(|known| known.name == *row).unwrap().sides();
                    assert!(sides.iter().all(|side| own.contains(side)), "{row}");
                }
                Goal::Flat { row, than, .. } => assert!(known(row) && known(than), "{row}, {than}"),
            }
        }
    }

    #[test]
    fn a_goal_says_yes_no_or_not_measured() {
        let row = ROWS[0];
        let add = |plexus: f64| Metric::from_samples("ADD", [(Side::Plexus, vec![plexus]), (Side::Go, vec![8.0])]);
        let measured = |plexus| Measured { metrics: vec![add(plexus)], ..Measured::new(row) };
        assert_eq!(GOALS[0].line(&[measured(1.0)])[3..], ["8.00x".to_owned(), "yes".to_owned()]);
        assert_eq!(GOALS[0].line(&[measured(2.0)])[3..], ["4.00x".to_owned(), "no".to_owned()]);
        assert_eq!(GOALS[0].line(&[])[3..], ["not measured".to_owned(), String::new()]);
    }

    #[test]
    fn a_ratio_of_rates_and_a_limit() {
        let row = |name: &str| *ROWS.iter().find(|row| row.name == name).unwrap();
        let goal = |wanted: &str, call: &str| {
            let matches = |line: &Vec<String>| line[0] == wanted && line[1] == call;
            let rate = [(Side::Daemon, vec![160.0]), (Side::Thick, vec![10.0]), (Side::Floor, vec![320.0])];
            let peak = [(Side::Daemon, vec![24.0]), (Side::Thick, vec![60.0])];
            let metrics =
                vec![Metric::from_samples("ADD, pods/s", rate), Metric::from_samples("daemon's peak MB", peak)];
            let measured = [Measured { metrics, ..Measured::new(row("crowd-100")) }];
            GOALS.iter().map(|goal| goal.line(&measured)).find(matches).unwrap()[2..].join(" ")
        };
        assert_eq!(goal("crowd-100: daemon/thick", "ADD, pods/s"), ">= 15x 16.0x yes");
        assert_eq!(goal("crowd-100: daemon/floor", "ADD, pods/s"), ">= 0.8x 0.50x no");
        assert_eq!(goal("crowd-100: daemon", "daemon's peak MB"), "< 25 24.0 yes");
    }
}
