//! The report: an aligned table for people, JSON for programs. Knows no goal and measures nothing.

use serde_json::{Map, Value, json};

use crate::figures::{Ratio, ratio, summary};
use crate::machine::Machine;
use crate::rows::{Measured, Metric, WARM_UP_ROUNDS};
use crate::side::{Programs, Side};

/// Everything a run gave.
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) rows: Vec<Measured>,
    pub(crate) sides: Programs,
}

impl Report {
    pub(crate) fn table(&self) -> String {
        let head = [
            "row",
            "call",
            "n",
            "plexus ms (p95)",
            "go ms (p95)",
            "floor ms (p95)",
            "go/plexus [90 %]",
            "plexus/floor",
        ];
        let mut lines = vec![head.map(str::to_owned).to_vec()];
        for measured in &self.rows {
            for metric in &measured.metrics {
                let times = Side::ALL.map(|side| self.time(measured, metric, side));
                let mut line = vec![measured.row.name.to_owned(), metric.name.to_owned(), measured.rounds.to_string()];
                line.extend(times);
                let compared = |over, under| ratio(metric.of(over), metric.of(under));
                line.push(compared(Side::Go, Side::Plexus).map_or_else(dash, with_interval));
                line.push(compared(Side::Plexus, Side::Floor).map_or_else(dash, |found| times_text(found.value)));
                lines.push(line);
            }
        }
        let mut text = self.machine.text() + "\n" + &aligned(&lines);
        text += "\nmedians; p95 in brackets; a ratio's brackets hold 90 % of 2000 resamples of the rounds;\n\
            \"all at rest\": until no process that the call left behind runs any more\n";
        for measured in &self.rows {
            if let Some(reason) = &measured.not_run {
                text += &format!("{}: not run: {reason}\n", measured.row.name);
            }
            for (side, error) in &measured.failures {
                text += &format!("{}: {} failed: {error}\n", measured.row.name, side.name());
            }
        }
        text
    }

    fn time(&self, measured: &Measured, metric: &Metric, side: Side) -> String {
        if !self.sides.has(side) {
            return "not built".to_owned();
        }
        if measured.failures.iter().any(|(failed, _)| *failed == side) {
            return "failed".to_owned();
        }
        summary(metric.of(side)).map_or_else(dash, |found| format!("{} ({})", ms(found.median), ms(found.p95)))
    }

    pub(crate) fn json(&self) -> Value {
        let mut report = self.machine.json();
        let built: Map<String, Value> =
            Side::ALL.into_iter().map(|side| (side.name().to_owned(), self.sides.has(side).into())).collect();
        if let Some(report) = report.as_object_mut() {
            report.insert("built".into(), built.into());
            report.insert("warm_up_rounds".into(), WARM_UP_ROUNDS.into());
            report.insert("rows".into(), self.rows.iter().map(row_json).collect());
        }
        report
    }
}

fn row_json(measured: &Measured) -> Value {
    let failures: Map<String, Value> =
        measured.failures.iter().map(|(side, error)| (side.name().to_owned(), error.as_str().into())).collect();
    let calls: Vec<Value> = measured.metrics.iter().map(metric_json).collect();
    json!({"row": measured.row.name, "what": measured.row.what, "rounds": measured.rounds, "failures": failures,
        "not_run": measured.not_run, "calls": calls})
}

fn metric_json(metric: &Metric) -> Value {
    let mut call = Map::new();
    call.insert("call".into(), metric.name.into());
    for side in Side::ALL {
        let samples = metric.of(side);
        if let Some(found) = summary(samples) {
            let value = json!({"median_ms": found.median, "p95_ms": found.p95, "samples_ms": samples});
            call.insert(side.name().into(), value);
        }
    }
    for (name, over, under) in
        [("go_per_plexus", Side::Go, Side::Plexus), ("plexus_per_floor", Side::Plexus, Side::Floor)]
    {
        if let Some(found) = ratio(metric.of(over), metric.of(under)) {
            call.insert(name.into(), json!({"ratio": found.value, "low": found.low, "high": found.high}));
        }
    }
    call.into()
}

fn dash() -> String {
    "-".to_owned()
}

/// Three digits that mean something, whatever the size.
fn ms(time: f64) -> String {
    if time < 10.0 { format!("{time:.2}") } else { format!("{time:.1}") }
}

pub(crate) fn times_text(ratio: f64) -> String {
    if ratio < 10.0 { format!("{ratio:.2}x") } else { format!("{ratio:.1}x") }
}

fn with_interval(found: Ratio) -> String {
    format!("{} [{}, {}]", times_text(found.value), times_text(found.low), times_text(found.high))
}

/// Columns as wide as their widest cell: the first two to the left, figures to the right.
pub(crate) fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            if column < 2 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let lines = [vec!["a".into(), "call".into(), "1.25".into()], vec!["longer".into(), "x".into(), "12.5".into()]];
        assert_eq!(aligned(&lines), "a       call  1.25\nlonger  x     12.5\n");
    }

    #[test]
    fn times_keep_three_digits() {
        assert_eq!((ms(0.444), ms(18.77), ms(891.26)), ("0.44".into(), "18.8".into(), "891.3".into()));
        assert_eq!(times_text(300.04), "300.0x");
    }

    #[test]
    fn a_call_in_json_has_medians_samples_and_ratios_of_the_sides_that_ran() {
        let metric = Metric { name: "ADD", samples: [vec![1.0, 1.0], vec![8.0, 8.0], Vec::new()] };
        let value = metric_json(&metric);
        assert_eq!(value["plexus"]["median_ms"], 1.0);
        assert_eq!(value["go_per_plexus"]["ratio"], 8.0);
        assert!(value.get("floor").is_none() && value.get("plexus_per_floor").is_none());
    }
}
