//! What is wrong with a scenario file, where, and which word may have been meant.

use miette::{Diagnostic, NamedSource, SourceSpan};
use std::ops::Range;
use std::sync::Arc;

/// A scenario file that cannot be used.
#[derive(Debug, Diagnostic, thiserror::Error)]
#[error("{message}")]
#[diagnostic()]
pub struct ScenarioError {
    pub(super) message: String,
    #[source_code]
    pub(super) source_code: Arc<NamedSource<String>>,
    #[label("{label}")]
    pub(super) span: Option<SourceSpan>,
    pub(super) label: String,
    #[help]
    pub(super) help: Option<String>,
}

pub(super) fn unknown<'a>(what: &str, word: &str, valid: impl Iterator<Item = &'a str>) -> String {
    let valid: Vec<&str> = valid.collect();
    match nearest(word, &valid) {
        Some(near) => format!("unknown {what} `{word}`: did you mean `{near}`?"),
        None => format!("unknown {what} `{word}`: expected one of {}", valid.join(", ")),
    }
}

/// The valid word that is nearest to another, if any is near.
#[must_use]
pub fn nearest<'a>(word: &str, valid: &[&'a str]) -> Option<&'a str> {
    let distance = |v: &&str| strsim::damerau_levenshtein(word, v);
    let best = valid.iter().min_by_key(|v| distance(v))?;
    (distance(best) <= word.len().max(3) / 2).then_some(*best)
}

/// Where the value of a key stands that is written below the table's header, one key to a line.
pub(super) fn place_of(text: &str, table: &str, key: &str) -> Option<Range<usize>> {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        at += line.len();
        let header = line.trim().strip_prefix('[').and_then(|rest| rest.split_once(']'));
        if header.is_some_and(|(name, _)| name.trim() == table) {
            return value_below(text, at, key);
        }
    }
    None
}

/// The same from an offset on.
pub(super) fn value_below(text: &str, from: usize, key: &str) -> Option<Range<usize>> {
    let mut at = from;
    for line in text.get(from..)?.split_inclusive('\n') {
        if line.starts_with('[') {
            return None;
        }
        if let Some((name, value)) = line.split_once('=')
            && name.trim() == key
        {
            let end = at + line.trim_end().len();
            return Some(end - value.trim().len()..end);
        }
        at += line.len();
    }
    None
}

/// A message without what a terminal would take for a command.
pub(super) fn printable(message: &str) -> String {
    let mut printed = String::with_capacity(message.len());
    for c in message.chars() {
        if c.is_control() && c != '\n' {
            printed.extend(c.escape_debug());
        } else {
            printed.push(c);
        }
    }
    printed
}

/// The text as it is shown around a place: the same, byte for byte, but for control characters.
pub(super) fn shown(text: &str) -> String {
    let stands = |c: char| match c {
        '\n' | '\r' | '\t' => c,
        c if c.is_control() && c.len_utf8() == 1 => '?',
        // The others of them have two bytes each.
        c if c.is_control() => '\u{bf}',
        c => c,
    };
    text.chars().map(stands).collect()
}

/// What a type of this program's is called in an error, for people who do not write programs.
pub(super) fn in_words(message: &str) -> String {
    let words = [
        ("expected u64", "expected a whole number, not below 0"),
        ("expected u32", "expected a whole number from 0 to 4294967295"),
        ("expected a string", "expected a text in quotes"),
        ("expected a boolean", "expected true or false"),
        ("expected an array of length 2", "expected two groups such as [\"n0\", \"rest\"]"),
    ];
    match words.iter().find_map(|(name, words)| Some((message.strip_suffix(name)?, words))) {
        Some((before, words)) => format!("{before}{words}"),
        None => message.to_owned(),
    }
}

/// The nearest word to one that serde does not know.
pub(super) fn suggestion(message: &str) -> Option<String> {
    let mut words = message.split('`').skip(1).step_by(2);
    let own = message.contains("did you mean");
    let unknown = words.next().filter(|_| message.starts_with("unknown") && !own)?;
    let valid: Vec<&str> = words.collect();
    nearest(unknown, &valid).map(|near| format!("did you mean `{near}`?"))
}
