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
        let mut tables: Vec<(&[Side], Vec<Vec<String>>)> = Vec::new();
        for measured in &self.rows {
            let sides = measured.row.sides();
            let known = tables.iter().position(|(of, _)| *of == sides);
            let index = known.unwrap_or_else(|| {
                tables.push((sides, vec![head(sides)]));
                tables.len() - 1
            });
            if let Some((_, lines)) = tables.get_mut(index) {
                lines.extend(measured.metrics.iter().map(|metric| self.line(measured, metric)));
            }
        }
        let tables: Vec<String> =
            tables.iter().filter(|(_, lines)| lines.len() > 1).map(|(_, lines)| aligned(lines)).collect();
        let mut text = self.machine.text() + "\n" + &tables.join("\n");
        text += "\nmilliseconds where the call names nothing else; medians; p95 in brackets; a ratio's brackets hold 90 % of 2000 resamples of the rounds;\n\
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

    fn line(&self, measured: &Measured, metric: &Metric) -> Vec<String> {
        let sides = measured.row.sides();
        let mut line = vec![measured.row.name.to_owned(), metric.name.to_owned(), measured.rounds.to_string()];
        line.extend(sides.iter().map(|side| self.time(measured, metric, *side)));
        let compared = |(over, under)| ratio(metric.of(over), metric.of(under));
        let [peer, floor] = pairs(sides);
        line.push(compared(peer).map_or_else(dash, with_interval));
        line.push(compared(floor).map_or_else(dash, |found| times_text(found.value)));
        line
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

/// What is compared: the peer with the side that is measured, and that with the floor.
fn pairs(sides: &[Side]) -> [(Side, Side); 2] {
    let own = sides.first().copied().unwrap_or(Side::Plexus);
    [(sides.get(1).copied().unwrap_or(Side::Go), own), (own, Side::Floor)]
}

fn head(sides: &[Side]) -> Vec<String> {
    let mut head = ["row", "call", "n"].map(str::to_owned).to_vec();
    head.extend(sides.iter().map(|side| format!("{} (p95)", side.name())));
    let [peer, floor] = pairs(sides).map(|(over, under)| format!("{}/{}", over.name(), under.name()));
    head.extend([format!("{peer} [90 %]"), floor]);
    head
}

fn row_json(measured: &Measured) -> Value {
    let failures: Map<String, Value> =
        measured.failures.iter().map(|(side, error)| (side.name().to_owned(), error.as_str().into())).collect();
    let sides = measured.row.sides();
    let calls: Vec<Value> = measured.metrics.iter().map(|metric| metric_json(metric, sides)).collect();
    json!({"row": measured.row.name, "what": measured.row.what, "rounds": measured.rounds, "failures": failures,
        "not_run": measured.not_run, "calls": calls})
}

fn metric_json(metric: &Metric, sides: &[Side]) -> Value {
    let mut call = Map::new();
    call.insert("call".into(), metric.name.into());
    call.insert("unit".into(), unit(metric.name).into());
    for side in sides {
        let samples = metric.of(*side);
        if let Some(found) = summary(samples) {
            let value = json!({"median": found.median, "p95": found.p95, "samples": samples});
            call.insert(side.name().into(), value);
        }
    }
    for (over, under) in pairs(sides) {
        if let Some(found) = ratio(metric.of(over), metric.of(under)) {
            let value = json!({"ratio": found.value, "low": found.low, "high": found.high});
            call.insert(format!("{}_per_{}", over.name(), under.name()), value);
        }
    }
    call.into()
}

/// What a call's figures count.
fn unit(call: &str) -> &'static str {
    let units = [("MB", "MB"), ("pods/s", "1/s"), ("requests", "1"), ("requests/pod", "1"), ("started/pod", "1")];
    units.iter().find(|(end, _)| call.ends_with(end)).map_or("ms", |(_, unit)| unit)
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
    use crate::rows::ROWS;

    #[test]
    fn columns_line_up() {
        let lines = [vec!["a".into(), "call".into(), "1.25".into()], vec!["longer".into(), "x".into(), "12.5".into()]];
        assert_eq!(aligned(&lines), "a       call  1.25\nlonger  x     12.5\n");
    }

    #[test]
    fn units() {
        let of =
            ["ADD", "DEL, all at rest", "ADD, CPU ms/pod", "idle, MB", "ADD, pods/s", "DEL, API requests"].map(unit);
        assert_eq!(of, ["ms", "ms", "ms", "MB", "1/s", "1"]);
    }

    #[test]
    fn times_keep_three_digits() {
        assert_eq!((ms(0.444), ms(18.77), ms(891.26)), ("0.44".into(), "18.8".into(), "891.3".into()));
        assert_eq!(times_text(300.04), "300.0x");
    }

    #[test]
    fn a_call_in_json_has_medians_samples_and_ratios_of_the_sides_that_ran() {
        let metric = Metric::from_samples("ADD", [(Side::Plexus, vec![1.0, 1.0]), (Side::Go, vec![8.0, 8.0])]);
        let value = metric_json(&metric, ROWS[0].sides());
        assert_eq!((&value["plexus"]["median"], &value["unit"]), (&json!(1.0), &json!("ms")));
        assert_eq!(value["go_per_plexus"]["ratio"], 8.0);
        assert!(value.get("floor").is_none() && value.get("plexus_per_floor").is_none());
    }
}
