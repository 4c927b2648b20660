//! Placement rules as people write them: `zone==a`, `disk!=hdd|tape`, `app==~web`, `zone:app!=web`.
//!
//! The grammar is that of classic Docker Swarm: a key, `==` or `!=`, `~` if the rule should rather than must hold, and
//! values with `|` between them, in which `*` stands for any text. It writes back what it reads.

use std::collections::BTreeSet;
use std::fmt;

use crate::placement::{
    Affinity, Direction, HostAttribute, HostRule, Matching, Neighbour, Strength, Within,
};

/// A text that is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is no rule: {why}")]
pub struct InvalidRule {
    /// The text, shortened and escaped.
    pub text: String,
    /// What is wrong.
    pub why: &'static str,
}

/// A rule, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What is looked at.
    pub key: String,
    /// Whether it has to match.
    pub matching: Matching,
    /// Whether it can be given up.
    pub strength: Strength,
    /// With what it is compared.
    pub values: BTreeSet<String>,
}

/// Longest key or value, in bytes: labels are no longer.
const TEXT_MAX: usize = 256;

/// Values of one rule.
const VALUES_MAX: usize = 64;

impl Rule {
    /// Parses a rule.
    ///
    /// # Errors
    /// When the text is none: what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, InvalidRule> {
        let bad = |why| InvalidRule {
            text: text
                .chars()
                .take(80)
                .flat_map(char::escape_default)
                .collect(),
            why,
        };
        let (at, matching) = match (text.find("=="), text.find("!=")) {
            (Some(is), Some(not)) if not < is => (not, Matching::NotIn),
            (Some(is), _) => (is, Matching::In),
            (None, Some(not)) => (not, Matching::NotIn),
            (None, None) => return Err(bad("write KEY==VALUE or KEY!=VALUE")),
        };
        let (key, rest) = (text[..at].trim(), &text[at + 2..]);
        let (strength, rest) = match rest.strip_prefix('~') {
            Some(rest) => (Strength::Should, rest),
            None => (Strength::Must, rest),
        };
        let values: BTreeSet<String> = rest.split('|').map(|it| it.trim().to_owned()).collect();
        if key.is_empty() || values.iter().any(String::is_empty) {
            return Err(bad("key and value must not be empty"));
        }
        if values
            .iter()
            .any(|it| it.starts_with('/') && it.ends_with('/'))
        {
            return Err(bad(
                "regular expressions are not supported, use * for any text",
            ));
        }
        if key.len() > TEXT_MAX || values.iter().any(|it| it.len() > TEXT_MAX) {
            return Err(bad("keys and values have at most 256 bytes"));
        }
        if values.len() > VALUES_MAX {
            return Err(bad("a rule has at most 64 values"));
        }
        Ok(Self {
            key: key.to_owned(),
            matching,
            strength,
            values,
        })
    }

    /// As a rule about hosts: `node`, `zone`, `architecture`, `operatingsystem` and `kernelversion` are the host's own,
    /// anything else is a label (also as `node.labels.KEY`).
    #[must_use]
    pub fn about_hosts(self) -> HostRule {
        let attribute = match self.key.as_str() {
            "node" | "host" => HostAttribute::Host,
            "zone" => HostAttribute::Zone,
            "architecture" => HostAttribute::Architecture,
            "operatingsystem" => HostAttribute::Os,
            "kernelversion" => HostAttribute::Kernel,
            key => HostAttribute::Label(key.strip_prefix("node.labels.").unwrap_or(key).to_owned()),
        };
        HostRule {
            attribute,
            matching: self.matching,
            values: self.values,
            strength: self.strength,
        }
    }

    /// As a rule about neighbours; a key that begins with `zone:` is about the whole zone. `resolve` finds what a key
    /// and a value stand for.
    ///
    /// # Errors
    /// What `resolve` says, and when there is more than one value.
    pub fn about_neighbours<E: From<InvalidRule>>(
        &self,
        resolve: impl FnOnce(&str, &str) -> Result<Neighbour, E>,
    ) -> Result<Affinity, E> {
        let (within, key) = match self.key.strip_prefix("zone:") {
            Some(key) => (Within::Zone, key),
            None => (Within::Host, self.key.as_str()),
        };
        let mut values = self.values.iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(InvalidRule {
                text: self.to_string(),
                why: "an affinity has one value: write several affinities",
            }
            .into());
        };
        if value.contains('*') {
            return Err(InvalidRule {
                text: self.to_string(),
                why: "an affinity is to one exact value",
            }
            .into());
        }
        Ok(Affinity {
            to: resolve(key, value)?,
            direction: match self.matching {
                Matching::In => Direction::Near,
                Matching::NotIn => Direction::Away,
            },
            within,
            strength: self.strength,
        })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.matching {
            Matching::In => "==",
            Matching::NotIn => "!=",
        };
        let soft = match self.strength {
            Strength::Must => "",
            Strength::Should => "~",
        };
        let values: Vec<&str> = self.values.iter().map(String::as_str).collect();
        write!(f, "{}{sign}{soft}{}", self.key, values.join("|"))
    }
}

impl From<&HostRule> for Rule {
    fn from(rule: &HostRule) -> Self {
        let key = match &rule.attribute {
            HostAttribute::Host => "node".to_owned(),
            HostAttribute::Zone => "zone".to_owned(),
            HostAttribute::Architecture => "architecture".to_owned(),
            HostAttribute::Os => "operatingsystem".to_owned(),
            HostAttribute::Kernel => "kernelversion".to_owned(),
            HostAttribute::Label(key) => format!("node.labels.{key}"),
        };
        Self {
            key,
            matching: rule.matching,
            strength: rule.strength,
            values: rule.values.clone(),
        }
    }
}

impl From<&Affinity> for Rule {
    fn from(rule: &Affinity) -> Self {
        let (key, value) = match &rule.to {
            Neighbour::Label { key, value } => (key.clone(), value.clone()),
            Neighbour::Workload { id } => ("workload".to_owned(), id.to_string()),
            Neighbour::Image { id } => ("image".to_owned(), id.to_string()),
        };
        Self {
            key: match rule.within {
                Within::Host => key,
                Within::Zone => format!("zone:{key}"),
            },
            matching: match rule.direction {
                Direction::Near => Matching::In,
                Direction::Away => Matching::NotIn,
            },
            strength: rule.strength,
            values: BTreeSet::from([value]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_about_hosts_read_back() {
        for (text, back) in [
            ("node==h1", "node==h1"),
            ("zone!=a|b", "zone!=a|b"),
            ("disk==~ssd*", "node.labels.disk==~ssd*"),
            ("node.labels.disk!=~hdd", "node.labels.disk!=~hdd"),
            ("architecture==arm64", "architecture==arm64"),
        ] {
            let rule = Rule::parse(text).unwrap().about_hosts();
            assert_eq!(Rule::from(&rule).to_string(), back);
            assert_eq!(Rule::parse(back).unwrap().about_hosts(), rule);
        }
    }

    #[test]
    fn rules_about_neighbours_read_back() {
        let label = |key: &str, value: &str| -> Result<Neighbour, InvalidRule> {
            Ok(Neighbour::Label {
                key: key.into(),
                value: value.into(),
            })
        };
        for text in ["app==web", "app!=~web", "zone:app!=web"] {
            let rule = Rule::parse(text).unwrap().about_neighbours(label).unwrap();
            assert_eq!(Rule::from(&rule).to_string(), text);
        }
        for text in ["app==web|db", "app==w*"] {
            assert!(Rule::parse(text).unwrap().about_neighbours(label).is_err());
        }
    }

    #[test]
    fn what_is_no_rule_says_why() {
        for text in ["", "a", "a=b", "==b", "a==", "a==b|", "a==/x/"] {
            assert!(Rule::parse(text).is_err(), "{text}");
        }
        let why = Rule::parse("disk==/ssd.*/").unwrap_err().to_string();
        assert_eq!(
            why,
            "\"disk==/ssd.*/\" is no rule: regular expressions are not supported, use * for any text"
        );
    }
}
