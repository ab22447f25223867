//! Columns for a person, the way kubectl writes them: no borders, two or more spaces between, headers in capitals.
//! It does not know what is in the cells.

/// Spaces between two columns.
const GAP: usize = 3;

/// A table under construction. A row may have fewer cells than there are headers; more are not shown.
pub(super) struct Table {
    headers: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    pub(super) fn new<H: Into<String>>(headers: impl IntoIterator<Item = H>) -> Table {
        Table { headers: headers.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    /// Adds a row at the bottom.
    pub(super) fn row<C: Into<String>>(&mut self, cells: impl IntoIterator<Item = C>) {
        self.rows.push(cells.into_iter().map(|cell| printable(&cell.into())).collect());
    }

    /// The lines, each with its newline and without trailing blanks.
    pub(super) fn render(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column)).chain(self.headers.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.headers.len()).map(width).collect();
        let mut text = String::new();
        for row in std::iter::once(&self.headers).chain(&self.rows) {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                // Not by a width in a format: that is 16 bits, and a value in a manifest may be longer.
                let blanks = (width + GAP).saturating_sub(cell.chars().count());
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', blanks));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Names in a journal or a manifest were chosen by others: a control character must not reach the terminal.
pub(super) fn printable(cell: &str) -> String {
    cell.chars().map(|c| if c.is_control() || is_turning(c) { '?' } else { c }).collect()
}

/// Unicode's marks that turn the direction of the text after them (UAX 9, 2).
fn is_turning(c: char) -> bool {
    matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A cell for a value that may be absent, as kubectl writes it.
pub(super) fn or_none(text: &str) -> &str {
    if text.is_empty() { "<none>" } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_lines_end_without_blanks() {
        let mut table = Table::new(["POD", "MAC", "IPS"]);
        table.row(["web", "02:00:00:00:00:01", "10.0.0.2"]);
        table.row(["database", "", ""]);
        let expected = "\
POD        MAC                 IPS
web        02:00:00:00:00:01   10.0.0.2
database
";
        assert_eq!(table.render(), expected);
    }

    #[test]
    fn a_table_without_rows_shows_its_headers() {
        assert_eq!(Table::new(["POD", "IPS"]).render(), "POD   IPS\n");
    }

    #[test]
    fn rows_of_another_length_do_not_disturb_the_others() {
        let mut table = Table::new(["A", "B"]);
        table.row(["1"]);
        table.row(["1", "2", "3"]);
        assert_eq!(table.render(), "A   B\n1\n1   2\n");
    }

    #[test]
    fn a_cell_may_be_as_long_as_a_manifest() {
        let long = "x".repeat(1 << 17);
        let mut table = Table::new(["A", "B"]);
        table.row([long.as_str(), "2"]);
        table.row(["1", "2"]);
        let shown: Vec<usize> = table.render().lines().map(str::len).collect();
        assert_eq!(shown, [long.len() + GAP + 1; 3]);
    }

    #[test]
    fn what_would_steer_the_terminal_is_replaced() {
        let mut table = Table::new(["NAME"]);
        table.row(["a\u{1b}[2Jb\nc\u{202e}"]);
        assert_eq!(table.render(), "NAME\na?[2Jb?c?\n");
    }
}
