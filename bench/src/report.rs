//! Figures with their units and promises, as a table and as JSON.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

/// The result of a benchmark.
#[derive(Debug, Default)]
pub(crate) struct Report {
    name: &'static str,
    figures: Vec<Figure>,
}

/// One measured figure.
#[derive(Debug)]
struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    /// What was promised.
    promise: Option<Promise>,
}

/// A bound.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Promise {
    /// Not more than this.
    AtMost(f64),
    /// Not less than this.
    AtLeast(f64),
}

impl Promise {
    fn kept(self, value: f64) -> bool {
        match self {
            Self::AtMost(bound) => value <= bound,
            Self::AtLeast(bound) => value >= bound,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtMost(bound) => format!("at most {bound}"),
            Self::AtLeast(bound) => format!("at least {bound}"),
        }
    }
}

impl Report {
    /// An empty report of the benchmark `name`.
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            figures: Vec::new(),
        }
    }

    /// Adds a figure.
    pub(crate) fn add(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.figures.push(Figure {
            name: name.into(),
            value,
            unit,
            promise: None,
        });
    }

    /// Adds a figure with a bound that was promised.
    pub(crate) fn promise(
        &mut self,
        name: impl Into<String>,
        value: f64,
        unit: &'static str,
        bound: Promise,
    ) {
        self.figures.push(Figure {
            name: name.into(),
            value,
            unit,
            promise: Some(bound),
        });
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let width = self
            .figures
            .iter()
            .map(|f| f.name.chars().count())
            .max()
            .unwrap_or(0);
        let mut text = format!("{}\n", self.name);
        for Figure {
            name,
            value,
            unit,
            promise,
        } in &self.figures
        {
            let bound = promise.map_or(String::new(), |promise| {
                let kept = if promise.kept(*value) {
                    "kept"
                } else {
                    "NOT KEPT"
                };
                format!("   promised {}: {kept}", promise.text())
            });
            let _ = writeln!(text, "  {name:width$}  {value:>10.3} {unit:4}{bound}");
        }
        text
    }

    /// For programs: the same figures by name.
    pub(crate) fn json(&self) -> Value {
        let mut figures = Map::new();
        for Figure {
            name,
            value,
            unit,
            promise,
        } in &self.figures
        {
            let mut entry = json!({ "value": value, "unit": unit });
            if let Some(promise) = promise {
                entry["promised"] = promise.text().into();
                entry["kept"] = promise.kept(*value).into();
            }
            figures.insert(name.clone(), entry);
        }
        json!({ "bench": self.name, "figures": figures })
    }
}

/// The middle value; 0 without values.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_and_json_carry_the_same_figures() {
        let mut report = Report::new("x");
        report.add("plain", 1.5, "ms");
        report.promise("bound", 0.5, "", Promise::AtMost(0.3));
        let table = report.table();
        assert!(
            table.contains("1.500 ms") && table.contains("at most 0.3: NOT KEPT"),
            "{table}"
        );
        let json = report.json();
        assert_eq!(json["figures"]["plain"]["value"], 1.5);
        assert_eq!(json["figures"]["bound"]["kept"], false);
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&mut []), 0.0);
    }
}
