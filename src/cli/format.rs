//! Numbers and tables for people.

use comfy_table::{CellAlignment, Table, presets};

/// A count with three digits of it, as `25.6 M`; small ones in full.
pub fn count(value: u64) -> String {
    scaled(value, 1000.0, &["", "k", "M", "G", "T", "P", "E"])
}

/// Bytes with three digits of them, as `97.8 MB`.
pub fn bytes(value: u64) -> String {
    scaled(value, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB", "EB"])
}

fn scaled(value: u64, step: f64, units: &[&str]) -> String {
    if value < 10_000 {
        return format!("{value} {}", units[0]).trim_end().to_owned();
    }
    let mut scaled = value as f64;
    let mut unit = 0;
    // 999.5 would be shown as 1000.
    while scaled >= step - 0.5 && unit + 1 < units.len() {
        scaled /= step;
        unit += 1;
    }
    let digits = if scaled < 10.0 { 2 } else { usize::from(scaled < 100.0) };
    format!("{scaled:.digits$} {}", units[unit])
}

/// A duration.
pub fn seconds(value: f64) -> String {
    match value {
        value if value < 0.0995 => format!("{:.1} ms", value * 1e3),
        value if value < 99.5 => format!("{value:.2} s"),
        value => format!("{value:.0} s"),
    }
}

/// A change in percent; empty without one.
pub fn percent(before: u64, after: u64) -> String {
    if before == after || before == 0 {
        return String::new();
    }
    let change = (after as f64 - before as f64) / before as f64 * 100.0;
    if change.abs() < 0.05 { format!("{change:+.2} %") } else { format!("{change:+.1} %") }
}

/// A table without lines: the first column to the left, the others to the right.
pub fn numbers(header: Option<&[&str]>, rows: Vec<Vec<String>>) -> String {
    let mut table = plain(header, rows);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    finish(&table)
}

/// A table without lines, all columns to the left.
pub fn words(rows: Vec<Vec<String>>) -> String {
    finish(&plain(None, rows))
}

fn plain(header: Option<&[&str]>, rows: Vec<Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).force_no_tty();
    if let Some(header) = header {
        table.set_header(header.to_vec());
    }
    table.add_rows(rows);
    table
}

fn finish(table: &Table) -> String {
    table.lines().map(|line| format!(" {}\n", line.trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_are_shown() {
        let shown = [0, 9_999, 10_000, 999_499, 999_500, 25_557_032].map(count);
        assert_eq!(shown, ["0", "9999", "10.0 k", "999 k", "1.00 M", "25.6 M"]);
        assert_eq!([1, 97_800_000, u64::MAX].map(bytes), ["1 B", "97.8 MB", "18.4 EB"]);
        assert_eq!([0.0012, 0.5, 100.0].map(seconds), ["1.2 ms", "0.50 s", "100 s"]);
        assert_eq!([percent(4, 3), percent(3, 3), percent(0, 2)], ["-25.0 %", "", ""]);
    }

    #[test]
    fn numbers_stand_to_the_right() {
        let row = |name: &str, value: &str| vec![name.to_owned(), value.to_owned()];
        let table = numbers(Some(&["", "n"]), vec![row("Add", "1"), row("Mul", "100")]);
        let ends: Vec<usize> = table.lines().map(str::len).collect();
        assert_eq!(ends, [ends[0]; 3], "{table}");
    }
}
