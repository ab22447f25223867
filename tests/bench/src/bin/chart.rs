//! Draws a report of `bench --json`: a bar for each side of each call, and how many times longer it takes than the side that is
//! measured. One SVG on standard output, readable on light and dark ground. It measures nothing.
//!
//! ```text
//! chart REPORT.json
//! ```

use std::error::Error;
use std::fmt::Write;
use std::process::ExitCode;

use serde_json::Value;

/// Calls that have bars; the others of a row are in its table.
const CALLS: [&str; 4] = ["ADD", "DEL", "ADD, pods/s", "idle, MB"];
/// Names of the sides in a report, the measured ones first, with their colours: of the same brightness on light and dark.
const SIDES: [(&str, &str); 7] = [
    ("plexus", "#2f7ed8"),
    ("daemon", "#2f7ed8"),
    ("oneshot", "#7fb0e6"),
    ("floor", "#8a8f98"),
    ("go", "#d9822b"),
    ("thick", "#d9822b"),
    ("thin", "#b5651d"),
];

/// Sizes in the SVG's own unit.
const WIDTH: f64 = 900.0;
const LABELS: f64 = 230.0;
const FIGURES: f64 = 150.0;
const BAR: f64 = 14.0;
const GAP: f64 = 10.0;
const HEAD: f64 = 76.0;
const FOOT: f64 = 30.0;
/// A bar that is as short as can be is still seen.
const BAR_MIN: f64 = 2.0;

/// One group of bars.
#[derive(Debug, PartialEq)]
struct Group {
    title: String,
    unit: String,
    /// Side and median, the measured side first.
    bars: Vec<(&'static str, f64)>,
}

fn main() -> ExitCode {
    match drawn() {
        Ok(svg) => {
            println!("{svg}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("chart: {error}");
            ExitCode::FAILURE
        }
    }
}

fn drawn() -> Result<String, Box<dyn Error>> {
    let file = std::env::args().nth(1).ok_or("chart REPORT.json")?;
    let report: Value = serde_json::from_str(&std::fs::read_to_string(&file).map_err(|e| format!("{file}: {e}"))?)?;
    let groups = groups(&report);
    if groups.is_empty() {
        return Err(format!("{file} has no call that is drawn").into());
    }
    Ok(svg(&groups, &under(&report))?)
}

fn groups(report: &Value) -> Vec<Group> {
    let mut groups = Vec::new();
    for row in list(&report["rows"]) {
        for call in list(&row["calls"]).iter().filter(|call| CALLS.iter().any(|name| call["call"] == *name)) {
            let bar = |(side, _): &(&'static str, &str)| Some((*side, call.get(side)?.get("median")?.as_f64()?));
            let bars: Vec<_> = SIDES.iter().filter_map(bar).filter(|(_, median)| *median > 0.0).collect();
            if bars.len() > 1 {
                let title = format!("{} {}", text(&row["row"]), text(&call["call"]));
                groups.push(Group { title, unit: text(&call["unit"]).to_owned(), bars });
            }
        }
    }
    groups
}

/// On what it was measured.
fn under(report: &Value) -> String {
    let (machine, versions) = (&report["machine"], &report["versions"]);
    format!(
        "{} x {}, Linux {}, load {}; plexus {}, Go plugins {}",
        machine["cores"],
        text(&machine["cpu"]),
        text(&machine["kernel"]),
        text(&machine["load_before"]),
        text(&versions["plexus"]),
        text(&versions["go_plugins"])
    )
}

fn svg(groups: &[Group], under: &str) -> Result<String, std::fmt::Error> {
    let bars: f64 = groups.iter().map(|group| BAR * count(group.bars.len()) + GAP).sum();
    let height = HEAD + bars + FOOT;
    let mut svg = String::new();
    writeln!(
        svg,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="system-ui, sans-serif" font-size="11">"#
    )?;
    // Without a ground of its own it has that of the page, whose reader has chosen light or dark.
    svg += "<style>text{fill:#1f2328}.soft{fill:#59636e}@media(prefers-color-scheme:dark){text{fill:#e6edf3}.soft{fill:#9198a1}}</style>\n";
    writeln!(
        svg,
        r#"<text x="0" y="16" font-size="15" font-weight="600">What a call takes: medians of one run</text>"#
    )?;
    writeln!(svg, r#"<text class="soft" x="0" y="34">{}</text>"#, escaped(under))?;
    writeln!(
        svg,
        r#"<text class="soft" x="0" y="50">Each group has a scale of its own, from nothing to its longest bar; x: times the first bar</text>"#
    )?;
    let mut y = HEAD;
    for group in groups {
        y = draw(&mut svg, group, y)?;
    }
    svg += "</svg>";
    Ok(svg)
}

/// One group from `y` on; where the next one begins.
fn draw(svg: &mut String, group: &Group, mut y: f64) -> Result<f64, std::fmt::Error> {
    let most = group.bars.iter().map(|(_, median)| *median).fold(0.0, f64::max);
    let own = group.bars.first().map_or(1.0, |(_, median)| *median);
    let room = WIDTH - LABELS - FIGURES;
    writeln!(svg, r#"<text x="0" y="{:.1}" font-weight="600">{}</text>"#, y + 11.0, escaped(&group.title))?;
    for (number, (side, median)) in group.bars.iter().enumerate() {
        let length = (median / most * room).max(BAR_MIN);
        let colour = SIDES.iter().find(|(name, _)| name == side).map_or("#888", |(_, colour)| colour);
        let times = if number == 0 { String::new() } else { format!("  {}x", short(median / own)) };
        writeln!(
            svg,
            r#"<text class="soft" x="{:.1}" y="{:.1}" text-anchor="end">{side}</text>"#,
            LABELS - 6.0,
            y + 11.0
        )?;
        writeln!(
            svg,
            r#"<rect x="{LABELS:.1}" y="{:.1}" width="{length:.1}" height="{:.1}" rx="2" fill="{colour}"/>"#,
            y + 1.0,
            BAR - 3.0
        )?;
        let unit = &group.unit;
        writeln!(
            svg,
            r#"<text x="{:.1}" y="{:.1}">{} {unit}{times}</text>"#,
            LABELS + length + 5.0,
            y + 11.0,
            short(*median)
        )?;
        y += BAR;
    }
    Ok(y + GAP)
}

/// Three digits that mean something.
fn short(figure: f64) -> String {
    match figure {
        small if small < 10.0 => format!("{small:.2}"),
        middle if middle < 100.0 => format!("{middle:.1}"),
        large => format!("{large:.0}"),
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("unknown")
}

fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn report() -> Value {
        json!({"machine": {"cpu": "a < b", "cores": 2, "kernel": "6.1", "load_before": "0 0 0"},
            "versions": {"plexus": "v1", "go_plugins": "v1.9.1"},
            "rows": [{"row": "node-3", "calls": [
                {"call": "ADD", "unit": "ms", "thick": {"median": 54.0}, "daemon": {"median": 2.0}, "floor": {"median": 1.0}},
                {"call": "ADD, peak MB", "unit": "MB", "thick": {"median": 60.0}, "daemon": {"median": 20.0}},
                {"call": "DEL", "unit": "ms", "daemon": {"median": 2.0}}]}]})
    }

    #[test]
    fn a_group_has_the_measured_side_first_and_no_group_is_of_one_side() {
        let bars = vec![("daemon", 2.0), ("floor", 1.0), ("thick", 54.0)];
        assert_eq!(groups(&report()), [Group { title: "node-3 ADD".into(), unit: "ms".into(), bars }]);
    }

    #[test]
    fn bars_are_labelled_and_as_long_as_they_are_slow() {
        let svg = svg(&groups(&report()), &under(&report())).unwrap();
        assert!(svg.contains("54.0 ms  27.0x") && svg.contains("1.00 ms  0.50x") && svg.contains("a &lt; b"), "{svg}");
        let width =
            |line: &str| line.split("width=\"").nth(1).unwrap().split('"').next().unwrap().parse::<f64>().unwrap();
        let widths: Vec<f64> = svg.lines().filter(|line| line.starts_with("<rect")).map(width).collect();
        assert!(widths[1] < widths[0] && widths[0] < widths[2] && widths[2] <= WIDTH - LABELS - FIGURES, "{widths:?}");
    }
}
