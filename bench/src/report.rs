//! What a run found: figures and checks, as a table for people and as JSON for machines.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

#[derive(Debug, Default)]
pub(crate) struct Report {
    scenario: &'static str,
    figures: Vec<Figure>,
    tables: Vec<Table>,
    checks: Vec<Check>,
    warnings: Vec<String>,
}

#[derive(Debug)]
struct Figure {
    /// Words in lower case; with the unit they are the name in JSON.
    name: String,
    value: f64,
    unit: &'static str,
}

#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    /// The last word of a column is its unit where it has one.
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Vec<f64>>,
}

#[derive(Debug)]
struct Check {
    name: String,
    want: String,
    got: u64,
    agrees: bool,
}

impl Report {
    pub(crate) fn new(scenario: &'static str) -> Self {
        Self {
            scenario,
            ..Self::default()
        }
    }

    pub(crate) fn figure(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.figures.push(Figure {
            name: name.into(),
            value,
            unit,
        });
    }

    pub(crate) fn latency(&mut self, name: &str, latency_us: &Histogram<u64>) {
        if latency_us.is_empty() {
            return;
        }
        for (label, quantile) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)] {
            self.figure(
                format!("{name} {label}"),
                latency_us.value_at_quantile(quantile) as f64,
                "us",
            );
        }
        self.figure(format!("{name} max"), latency_us.max() as f64, "us");
    }

    pub(crate) fn table(&mut self, table: Table) {
        self.tables.push(table);
    }

    /// Two counts that must be the same.
    pub(crate) fn check(&mut self, name: impl Into<String>, want: u64, got: u64) {
        self.checks.push(Check {
            name: name.into(),
            want: want.to_string(),
            got,
            agrees: want == got,
        });
    }

    /// A count that must not be above a limit.
    pub(crate) fn check_at_most(&mut self, name: impl Into<String>, limit: u64, got: u64) {
        self.checks.push(Check {
            name: name.into(),
            want: format!("at most {limit}"),
            got,
            agrees: got <= limit,
        });
    }

    /// A count that must not be below a limit.
    pub(crate) fn check_at_least(&mut self, name: impl Into<String>, limit: u64, got: u64) {
        self.checks.push(Check {
            name: name.into(),
            want: format!("at least {limit}"),
            got,
            agrees: got >= limit,
        });
    }

    /// Counts that say why something failed; shown only if there are any.
    pub(crate) fn reasons<K: std::fmt::Display>(&mut self, what: &str, counts: &BTreeMap<K, u64>) {
        for (reason, count) in counts {
            self.warn(format!("{what}: {count} × {reason}"));
        }
    }

    pub(crate) fn warn(&mut self, text: impl Into<String>) {
        self.warnings.push(text.into());
    }

    pub(crate) fn agrees(&self) -> bool {
        self.checks.iter().all(|check| check.agrees)
    }

    pub(crate) fn to_text(&self) -> String {
        let mut text = format!("{}\n", self.scenario);
        let width = self
            .figures
            .iter()
            .map(|figure| figure.name.len())
            .max()
            .unwrap_or(0);
        for Figure { name, value, unit } in &self.figures {
            let _ = writeln!(
                text,
                "  {name:width$}  {:>14} {unit}",
                format_number(*value)
            );
        }
        for table in &self.tables {
            let _ = writeln!(text, "\n{}", table.name);
            text.push_str(&table.to_text());
        }
        if !self.checks.is_empty() {
            text.push_str("\nchecks\n");
        }
        for Check {
            name,
            want,
            got,
            agrees,
        } in &self.checks
        {
            let verdict = if *agrees { "ok " } else { "BAD" };
            let _ = writeln!(text, "  {verdict} {name}: {got} (want {want})");
        }
        for warning in &self.warnings {
            let _ = writeln!(text, "warning: {warning}");
        }
        text
    }

    /// `command` is the line that can be repeated.
    pub(crate) fn to_json(&self, command: &str) -> Value {
        let figures: Map<_, _> = self
            .figures
            .iter()
            .map(|figure| (figure.key(), rounded(figure.value)))
            .collect();
        let tables: Map<_, _> = self
            .tables
            .iter()
            .map(|table| (table.name.replace(' ', "_"), table.to_json()))
            .collect();
        let checks = self.checks.iter().map(
            |Check {
                 name,
                 want,
                 got,
                 agrees,
             }| json!({"name": name, "want": want, "got": got, "agrees": agrees}),
        );
        json!({
            "scenario": self.scenario,
            "command": command,
            "figures": figures,
            "tables": tables,
            "checks": checks.collect::<Vec<_>>(),
            "agrees": self.agrees(),
            "warnings": self.warnings,
        })
    }
}

impl Figure {
    fn key(&self) -> String {
        let unit = match self.unit {
            "1/s" => "per_s",
            "B" => "bytes",
            "%" => "percent",
            unit => unit,
        };
        let name = format!("{} {unit}", self.name);
        name.trim().replace([' ', '-'], "_").replace('.', "_")
    }
}

impl Table {
    fn to_text(&self) -> String {
        let cells: Vec<Vec<String>> = self
            .rows
            .iter()
            .map(|row| row.iter().map(|value| format_number(*value)).collect())
            .collect();
        let mut text = String::new();
        for row in std::iter::once(&self.columns).chain(&cells) {
            for (column, cell) in row.iter().enumerate() {
                let longest = cells.iter().map(|row| row[column].len()).max().unwrap_or(0);
                let width = longest.max(self.columns[column].len());
                let _ = write!(text, "  {cell:>width$}");
            }
            text.push('\n');
        }
        text
    }

    fn to_json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            let cells = self.columns.iter().zip(row);
            Value::Object(
                cells
                    .map(|(column, value)| (column.replace(' ', "_"), rounded(*value)))
                    .collect(),
            )
        });
        Value::Array(rows.collect())
    }
}

fn rounded(value: f64) -> Value {
    if value.fract() == 0.0 {
        json!(value as i64)
    } else {
        json!((value * 1000.0).round() / 1000.0)
    }
}

/// Whole numbers in groups of three; small ones with as many decimals as they need to be read.
fn format_number(value: f64) -> String {
    if value.fract() != 0.0 && value.abs() < 100.0 {
        return format!("{value:.2}");
    }
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0.0 {
        format!("-{text}")
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (value, want) in [
            (0.0, "0"),
            (7.25, "7.25"),
            (999.0, "999"),
            (1234567.8, "1,234,568"),
            (-1000.0, "-1,000"),
        ] {
            assert_eq!(format_number(value), want);
        }
    }

    #[test]
    fn a_bad_check_shows_in_every_form() {
        let mut report = Report::new("idle");
        report.figure("delivery p99.9", 12.5, "us");
        report.check("deliveries", 10, 10);
        assert!(report.agrees());
        report.check("admitted", 10, 9);
        assert!(!report.agrees() && report.to_text().contains("BAD admitted: 9 (want 10)"));
        let json = report.to_json("pushring-bench idle");
        assert_eq!(json["figures"]["delivery_p99_9_us"], 12.5);
        assert_eq!(json["agrees"], false);
    }
}
