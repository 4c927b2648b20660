//! The `filters` of lists and events.

use std::collections::BTreeMap;

use super::failure::{Failure, Result};
use super::from_docker::small::query_bool;
use super::request::Query;
use super::value::{Value, shown};

/// Most values over all filters: each is compared with every object.
const VALUES_MAX: usize = 1000;

/// Longest value of a filter in bytes.
const VALUE_MAX_BYTES: usize = 4096;

/// Filters by name; several values of one name mean any, several names mean all (labels: all).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Filters(BTreeMap<String, Vec<String>>);

impl Filters {
    /// Reads the query's `filters`, in the map form (`{"label":{"a=b":true}}`) or the older list form
    /// (`{"label":["a=b"]}`), and refuses names that are not known.
    pub(super) fn from_query(query: &Query, known: &[&str]) -> Result<Self> {
        match query.text("filters") {
            None => Ok(Self::default()),
            Some(text) => Self::parse(text.as_bytes(), known),
        }
    }

    /// Reads filters from JSON.
    pub(super) fn parse(bytes: &[u8], known: &[&str]) -> Result<Self> {
        let bad = || Failure::invalid("filters: must be a JSON object of lists");
        let value = Value::parse(bytes).map_err(|_| bad())?;
        let mut filters = BTreeMap::new();
        let mut count = 0;
        for (name, value) in value.into_map("filters").map_err(|_| bad())? {
            if !known.contains(&name.as_str()) {
                return Err(Failure::invalid(format!(
                    "invalid filter '{}'",
                    shown(&name)
                )));
            }
            let path = format!("filters.{name}");
            let values = match value {
                Value::Object(set) => set
                    .into_iter()
                    .filter(|(_, on)| *on != Value::Bool(false))
                    .map(|(key, _)| key)
                    .collect(),
                list @ (Value::List(_) | Value::Null) => list.into_texts(&path)?,
                Value::Bool(_) | Value::Integer(_) | Value::Float(_) | Value::Text(_) => {
                    return Err(bad());
                }
            };
            count += values.len();
            if count > VALUES_MAX || values.iter().any(|v: &String| v.len() > VALUE_MAX_BYTES) {
                return Err(Failure::invalid(format!(
                    "{path}: too many or too long values"
                )));
            }
            filters.insert(name, values);
        }
        Ok(Self(filters))
    }

    /// The values of a filter.
    pub(super) fn values(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether a filter is not set, or `test` holds for one of its values.
    pub(super) fn any(&self, name: &str, test: impl FnMut(&str) -> bool) -> bool {
        let values = self.values(name);
        values.is_empty() || values.iter().map(String::as_str).any(test)
    }

    /// Whether all `label` filters (`key` or `key=value`) hold.
    pub(super) fn labels(&self, labels: &BTreeMap<String, String>) -> bool {
        self.values("label")
            .iter()
            .all(|wanted| match wanted.split_once('=') {
                Some((key, value)) => labels.get(key).is_some_and(|v| v == value),
                None => labels.contains_key(wanted),
            })
    }

    /// A boolean filter; `None`: not set.
    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>> {
        match self.values(name) {
            [] => Ok(None),
            [one]
                if matches!(
                    one.as_str(),
                    "0" | "1" | "true" | "false" | "True" | "False"
                ) =>
            {
                Ok(Some(query_bool(one)))
            }
            other => Err(Failure::invalid(format!(
                "invalid filter '{name}={}'",
                shown(&other.join(","))
            ))),
        }
    }

    /// Patterns of a filter that Docker matches as regular expressions.
    pub(super) fn patterns(&self, name: &str) -> Result<Vec<regex_lite::Regex>> {
        self.values(name)
            .iter()
            .map(|text| {
                regex_lite::RegexBuilder::new(text)
                    // Bounds the memory a pattern such as `(a{1000}){1000}` can take.
                    .size_limit(1 << 20)
                    .build()
                    .map_err(|_| {
                        Failure::invalid(format!("invalid filter '{name}={}'", shown(text)))
                    })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 3] = ["label", "name", "dangling"];

    #[test]
    fn both_forms() {
        let map =
            Filters::parse(br#"{"label":{"a=b":true,"c":true,"off":false}}"#, &KNOWN).unwrap();
        let list = Filters::parse(br#"{"label":["a=b","c"]}"#, &KNOWN).unwrap();
        assert_eq!(map, list);
        let labels = BTreeMap::from([
            ("a".to_owned(), "b".to_owned()),
            ("c".to_owned(), String::new()),
        ]);
        assert!(map.labels(&labels));
        assert!(!map.labels(&BTreeMap::new()));
    }

    #[test]
    fn bad_filters_are_refused() {
        let many = format!(r#"{{"label":[{}"x"]}}"#, "\"x\",".repeat(2000));
        for bad in [
            "x",
            "[]",
            r#"{"zz":["a"]}"#,
            r#"{"label":"a"}"#,
            r#"{"label":[1]}"#,
            &many,
        ] {
            assert!(Filters::parse(bad.as_bytes(), &KNOWN).is_err(), "{bad}");
        }
        let filters = Filters::parse(br#"{"name":["("],"dangling":["maybe"]}"#, &KNOWN).unwrap();
        assert!(filters.patterns("name").is_err());
        assert!(filters.flag("dangling").is_err());
    }
}
