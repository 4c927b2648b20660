//! A light reader of Rust text: enough to tell code from comments and strings, and tests from the rest.

/// The code of a file, with comments and the contents of string literals blanked out; line breaks are kept.
pub(super) fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let length = if rest.starts_with(b"//") {
            rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            find(rest, b"*/", 2).map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = raw_string(rest, at.checked_sub(1).map(|i| bytes[i])) {
            length
        } else if rest[0] == b'"' {
            string(rest)
        } else if rest.starts_with(b"'\"'") || rest.starts_with(b"'\\\"'") {
            if rest[1] == b'\\' { 4 } else { 3 }
        } else {
            out.push(char::from(rest[0]));
            at += 1;
            continue;
        };
        out.extend(rest[..length].iter().filter(|b| **b == b'\n').map(|_| '\n'));
        out.push(' ');
        at += length;
    }
    out
}

/// The length of an ordinary string literal that starts at `rest`.
fn string(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// The length of a raw string literal that starts at `rest`, if one does.
fn raw_string(rest: &[u8], before: Option<u8>) -> Option<usize> {
    let inside_word = before.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    if rest[0] != b'r' || (inside_word && before != Some(b'b')) {
        return None;
    }
    let hashes = rest[1..].iter().take_while(|b| **b == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return None;
    }
    let mut close = vec![b'"'];
    close.extend(std::iter::repeat_n(b'#', hashes));
    Some(find(rest, &close, 2 + hashes).map_or(rest.len(), |end| end + close.len()))
}

fn find(haystack: &[u8], needle: &[u8], from: usize) -> Option<usize> {
    let tail = haystack.get(from..)?;
    tail.windows(needle.len())
        .position(|window| window == needle)
        .map(|at| at + from)
}

/// The number of the first line that belongs to tests, if any: the whole file below `tests/`, else from the
/// `#[cfg(test)]` that opens a module to the end.
pub(super) fn first_test_line(path: &str, code: &str) -> Option<usize> {
    if path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("/tests.rs") {
        return Some(1);
    }
    let lines: Vec<&str> = code.lines().collect();
    (0..lines.len())
        .find(|at| {
            lines[*at].trim() == "#[cfg(test)]"
                && lines[*at + 1..].iter().take(3).any(|line| {
                    let line = line.trim_start();
                    line.contains("mod ") && line.ends_with('{')
                })
        })
        .map(|at| at + 1)
}

/// The words of every identifier in one line of code, in lower case: `ContainerId` and `container_id` give both
/// `container` and `id`.
pub(super) fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for identifier in line.split(|c: char| !(c.is_alphanumeric() || c == '_')) {
        for part in identifier.split('_') {
            split_camel(part, &mut words);
        }
    }
    words
}

fn split_camel(part: &str, words: &mut Vec<String>) {
    let mut word = String::new();
    let mut last_lower = false;
    for c in part.chars() {
        if c.is_uppercase() && last_lower {
            words.push(std::mem::take(&mut word));
        }
        last_lower = c.is_lowercase() || c.is_ascii_digit();
        word.extend(c.to_lowercase());
    }
    if !word.is_empty() {
        words.push(word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_strings_are_no_code() {
        let code = code_only("let a = \"pod \\\" x\"; // pod\n/* pod\n */ r#\"pod\"# 'x' '\"' b\n");
        assert!(!code.contains("pod"), "{code}");
        assert_eq!(code.lines().count(), 3, "{code}");
        assert!(
            code.contains("let a") && code.trim_end().ends_with('b'),
            "{code}"
        );
    }

    #[test]
    fn identifiers_fall_into_words() {
        assert_eq!(
            words("fn container_of(ContainerId)"),
            ["fn", "container", "of", "container", "id"]
        );
        assert_eq!(words("libcontainer::spec"), ["libcontainer", "spec"]);
    }

    #[test]
    fn tests_begin_at_their_module() {
        assert_eq!(
            first_test_line("a/src/b.rs", "fn a() {}\n#[cfg(test)]\nmod tests {\n}"),
            Some(2)
        );
        assert_eq!(
            first_test_line("a/src/b.rs", "#[cfg(test)]\nmod tests;\nfn a() {}"),
            None
        );
        assert_eq!(first_test_line("tests/src/lib.rs", ""), Some(1));
    }
}
