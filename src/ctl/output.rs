//! How results look: tables with tabs, boxes, JSON, CSV.

use super::Failure;
use super::args::Format;
use serde_json::Value;
use std::fmt::Write as _;
use std::io::Write;

/// A value as Erlang's tools print one in a cell.
pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => escaped(text),
        // Tags, which are no strings in Erlang.
        Value::Array(items) if items.iter().all(Value::is_string) => {
            let items: Vec<String> = items.iter().map(cell).collect();
            format!("[{}]", items.join(", "))
        }
        other => term(other),
    }
}

/// A value within another one.
fn term(value: &Value) -> String {
    match value {
        Value::Null => "undefined".to_owned(),
        Value::String(text) => format!("\"{}\"", escaped(text).replace('"', "\\\"")),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(term).collect();
            format!("[{}]", items.join(","))
        }
        Value::Object(fields) => {
            let fields: Vec<String> = fields
                .iter()
                .map(|(key, value)| format!("{{\"{}\",{}}}", escaped(key), term(value)))
                .collect();
            format!("[{}]", fields.join(","))
        }
    }
}

/// Control characters would break lines and terminals.
fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() {
            shown.extend(letter.escape_default());
        } else {
            shown.push(letter);
        }
    }
    shown
}

/// Rows of named columns.
pub(super) struct Table {
    pub(super) columns: Vec<&'static str>,
    pub(super) rows: Vec<Vec<Value>>,
}

impl Table {
    /// Prints the table.
    ///
    /// * `headers`: whether the names of the columns come first, where the format has them.
    pub(super) fn print(
        &self,
        out: &mut dyn Write,
        format: Format,
        headers: bool,
    ) -> Result<(), Failure> {
        match format {
            Format::Table => self.print_lines(out, headers, "\t", cell)?,
            Format::Csv => self.print_lines(out, headers, ",", |value| {
                format!("\"{}\"", cell(value).replace('"', "\"\""))
            })?,
            Format::Json => self.print_json(out)?,
            Format::PrettyTable => self.print_boxes(out, headers)?,
        }
        Ok(())
    }

    fn print_lines(
        &self,
        out: &mut dyn Write,
        headers: bool,
        separator: &str,
        show: impl Fn(&Value) -> String,
    ) -> std::io::Result<()> {
        if headers && !self.rows.is_empty() {
            let names: Vec<String> = self
                .columns
                .iter()
                .map(|name| show(&Value::from(*name)))
                .collect();
            writeln!(out, "{}", names.join(separator))?;
        }
        for row in &self.rows {
            let cells: Vec<String> = row.iter().map(&show).collect();
            writeln!(out, "{}", cells.join(separator))?;
        }
        Ok(())
    }

    fn print_json(&self, out: &mut dyn Write) -> std::io::Result<()> {
        out.write_all(b"[\n")?;
        for (place, row) in self.rows.iter().enumerate() {
            let mut line = String::from(if place == 0 { "{" } else { ",{" });
            for (place, (name, value)) in self.columns.iter().zip(row).enumerate() {
                let comma = if place == 0 { "" } else { "," };
                write!(line, "{comma}{}:{value}", Value::from(*name))
                    .expect("a string takes everything");
            }
            writeln!(out, "{line}}}")?;
        }
        out.write_all(b"]\n")
    }

    fn print_boxes(&self, out: &mut dyn Write, headers: bool) -> std::io::Result<()> {
        let mut lines: Vec<Vec<String>> = Vec::new();
        if headers {
            lines.push(self.columns.iter().map(|name| (*name).to_owned()).collect());
        }
        lines.extend(self.rows.iter().map(|row| row.iter().map(cell).collect()));
        let width = |column: usize| {
            let widths = lines.iter().filter_map(|line| line.get(column));
            widths.map(|text| text.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let rule = |left: &str, middle: &str, right: &str| {
            let bars: Vec<String> = widths.iter().map(|width| "─".repeat(width + 2)).collect();
            format!("{left}{}{right}", bars.join(middle))
        };
        if lines.is_empty() {
            return Ok(());
        }
        writeln!(out, "{}", rule("┌", "┬", "┐"))?;
        for (place, line) in lines.iter().enumerate() {
            if place > 0 {
                writeln!(out, "{}", rule("├", "┼", "┤"))?;
            }
            let cells: Vec<String> = line
                .iter()
                .zip(&widths)
                .map(|(text, &width)| format!(" {text:<width$} "))
                .collect();
            writeln!(out, "│{}│", cells.join("│"))?;
        }
        writeln!(out, "{}", rule("└", "┴", "┘"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cells_look_as_in_rabbitmq() {
        for (value, expected) in [
            (json!("orders"), "orders"),
            (json!(5), "5"),
            (json!(true), "true"),
            (json!(null), ""),
            (json!(["administrator", "x"]), "[administrator, x]"),
            (json!([]), "[]"),
            (json!({}), "[]"),
            (
                json!({ "x-priority": 3, "y": "" }),
                "[{\"x-priority\",3},{\"y\",\"\"}]",
            ),
            (json!([1, ["a", null]]), "[1,[\"a\",undefined]]"),
            (json!("a\tb\n\u{1b}[1m"), "a\\tb\\n\\u{1b}[1m"),
        ] {
            assert_eq!(cell(&value), expected);
        }
    }

    #[test]
    fn a_table_in_each_format() {
        let table = Table {
            columns: vec!["name", "messages"],
            rows: vec![vec![json!("a\"b"), json!(5)], vec![json!("c"), json!(10)]],
        };
        for (format, headers, expected) in [
            (Format::Table, true, "name\tmessages\na\"b\t5\nc\t10\n"),
            (Format::Table, false, "a\"b\t5\nc\t10\n"),
            (
                Format::Csv,
                true,
                "\"name\",\"messages\"\n\"a\"\"b\",\"5\"\n\"c\",\"10\"\n",
            ),
            (
                Format::Json,
                true,
                "[\n{\"name\":\"a\\\"b\",\"messages\":5}\n,{\"name\":\"c\",\"messages\":10}\n]\n",
            ),
            (
                Format::PrettyTable,
                true,
                "┌──────┬──────────┐\n│ name │ messages │\n├──────┼──────────┤\n│ a\"b  │ 5        │\n\
                 ├──────┼──────────┤\n│ c    │ 10       │\n└──────┴──────────┘\n",
            ),
        ] {
            let mut out = Vec::new();
            table
                .print(&mut out, format, headers)
                .expect("a vector takes everything");
            assert_eq!(String::from_utf8_lossy(&out), expected);
        }
        let empty = Table {
            columns: vec!["name"],
            rows: vec![],
        };
        let mut out = Vec::new();
        empty
            .print(&mut out, Format::Table, true)
            .expect("a vector takes everything");
        empty
            .print(&mut out, Format::Json, true)
            .expect("a vector takes everything");
        assert_eq!(String::from_utf8_lossy(&out), "[\n]\n");
    }
}
