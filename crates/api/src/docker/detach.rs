//! The keys that detach a client from a terminal.

use super::failure::{Failure, Result};
use super::value::shown;

/// Longest accepted sequence: a client's typo must not hold back typed text for long.
const KEYS_MAX: usize = 16;

/// Looks for a sequence of keys in what a client types; a beginning of it is held back until it is certain.
#[derive(Debug, Clone)]
pub(super) struct DetachKeys {
    keys: Vec<u8>,
    matched: usize,
}

impl DetachKeys {
    /// Reads `ctrl-p,ctrl-q`; empty: these two.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let text = if text.is_empty() {
            "ctrl-p,ctrl-q"
        } else {
            text
        };
        let bad = || Failure::invalid(format!("Invalid detach keys ({}) provided", shown(text)));
        let keys = text
            .split(',')
            .map(|key| match (key.strip_prefix("ctrl-"), key.as_bytes()) {
                (Some(control), _) => match control.as_bytes() {
                    [letter @ b'a'..=b'z'] => Ok(letter - b'a' + 1),
                    [b'@'] => Ok(0),
                    [mark @ (b'[' | b'\\' | b']' | b'^' | b'_')] => Ok(mark - b'[' + 27),
                    _ => Err(bad()),
                },
                (None, [one]) => Ok(*one),
                (None, _) => Err(bad()),
            })
            .collect::<Result<Vec<u8>>>()?;
        if keys.len() > KEYS_MAX {
            return Err(bad());
        }
        Ok(Self { keys, matched: 0 })
    }

    /// Takes typed bytes; gives what goes on to the task and whether the sequence was completed.
    pub(super) fn feed(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(typed.len());
        for &byte in typed {
            if byte != self.keys[self.matched] && self.matched > 0 {
                out.extend_from_slice(&self.keys[..self.matched]);
                self.matched = 0;
            }
            if byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return (out, true);
                }
            } else {
                out.push(byte);
            }
        }
        (out, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_found_across_reads() {
        let mut keys = DetachKeys::parse("").unwrap();
        assert_eq!(keys.feed(b"ls\x10"), (b"ls".to_vec(), false));
        assert_eq!(keys.feed(b"x"), (b"\x10x".to_vec(), false));
        assert_eq!(keys.feed(b"a\x10\x11b"), (b"a".to_vec(), true));
        let mut keys = DetachKeys::parse("a,b").unwrap();
        assert_eq!(keys.feed(b"aab"), (b"a".to_vec(), true));
    }

    #[test]
    fn keys_by_name() {
        assert_eq!(
            DetachKeys::parse("ctrl-@,ctrl-[,ctrl-_,x").unwrap().keys,
            [0, 27, 31, b'x']
        );
        for bad in ["ctrl-", "ctrl-A1", "xy", ","] {
            assert!(DetachKeys::parse(bad).is_err(), "{bad}");
        }
    }
}
