//! Reading sources as rules need them: without comments and strings, without tests, word by word.

use std::path::{Path, PathBuf};

/// One source file. `code` is `text` with comments and literals blanked out, of the same lines.
pub struct Source {
    /// From the root of the repository, with slashes.
    pub path: String,
    pub text: String,
    pub code: String,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned(), code: blank(text) }
    }

    /// The top-level module that the file belongs to; None for `lib.rs` and `main.rs`.
    pub fn module(&self) -> Option<&str> {
        let rest = self.path.strip_prefix("src/")?;
        rest.split_once('/').map(|(module, _)| module)
    }

    /// How many modules deep the file is: 1 for `src/x/mod.rs`, 2 for `src/x/y.rs` and `src/x/y/mod.rs`.
    pub fn depth(&self) -> usize {
        let rest = self.path.strip_prefix("src/").unwrap_or(&self.path);
        rest.trim_end_matches("/mod.rs").trim_end_matches(".rs").split('/').count()
    }

    /// The code without tests: empty for a file of tests, else up to the first inline module of tests.
    pub fn product(&self) -> &str {
        if self.path.ends_with("tests.rs") || self.path.contains("/tests/") {
            return "";
        }
        match self.code.find("#[cfg(test)]\nmod tests {") {
            Some(end) => &self.code[..end],
            None => &self.code,
        }
    }
}

/// All Rust files below these folders of the repository, and the files among them.
pub fn sources(below: &[&str]) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    below.iter().for_each(|folder| collect(&root.join(folder), &mut found));
    found.sort();
    assert!(!found.is_empty(), "there are sources below {below:?}");
    let read = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).unwrap();
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
        Source::new(&name, &text)
    };
    found.iter().map(read).collect()
}

fn collect(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
        entries.for_each(|entry| collect(&entry, found));
    } else if path.extension().is_some_and(|extension| extension == "rs") {
        found.push(path.to_owned());
    }
}

/// The lines of `text` that hold `word` on its own, from 1. A word that begins or ends with a sign may touch
/// anything there.
pub fn lines_with(text: &str, word: &str) -> Vec<usize> {
    let holds = |line: &str| find_word(line, word).is_some();
    (1..).zip(text.lines()).filter(|(_, line)| holds(line)).map(|(number, _)| number).collect()
}

pub fn find_word(text: &str, word: &str) -> Option<usize> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let (starts, ends) = (word.starts_with(is_name), word.ends_with(is_name));
    text.match_indices(word).map(|(at, _)| at).find(|at| {
        let before = text[..*at].chars().next_back().is_some_and(is_name);
        let after = text[at + word.len()..].chars().next().is_some_and(is_name);
        !(starts && before || ends && after)
    })
}

/// The name at the start of `text`; empty if there is none.
pub fn name_at(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

/// The number of the line that byte `at` is in, from 1.
pub fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// Replaces comments, strings and character literals by spaces, and keeps the lines.
fn blank(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let after_name = out.chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_');
        match literal_length(rest, after_name) {
            0 => {
                let c = rest.chars().next().expect("not empty");
                out.push(c);
                rest = &rest[c.len_utf8()..];
            }
            length => {
                out.extend(rest[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
                rest = &rest[length..];
            }
        }
    }
    out
}

/// The bytes of the comment or literal at the start of `text`; 0 if there is none.
fn literal_length(text: &str, after_name: bool) -> usize {
    let to_end = |found: Option<usize>| found.unwrap_or(text.len());
    if text.starts_with("//") {
        return to_end(text.find('\n'));
    }
    if text.starts_with("/*") {
        return block_comment_length(text);
    }
    if text.starts_with('"') {
        return quoted_length(text);
    }
    if text.starts_with('\'') {
        return character_length(text);
    }
    let raw = text.strip_prefix('b').unwrap_or(text).strip_prefix('r');
    let hashes = raw.map_or(0, |raw| raw.len() - raw.trim_start_matches('#').len());
    match raw.and_then(|raw| raw[hashes..].strip_prefix('"')) {
        Some(body) if !after_name => {
            let close = format!("\"{}", "#".repeat(hashes));
            to_end(body.find(&close).map(|at| text.len() - body.len() + at + close.len()))
        }
        Some(_) | None => 0,
    }
}

fn block_comment_length(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let step = match text.as_bytes().get(at..at + 2) {
            Some(b"/*") => {
                depth += 1;
                2
            }
            Some(b"*/") => {
                depth -= 1;
                2
            }
            Some(_) | None => 1,
        };
        at += step;
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

fn quoted_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _any if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _other => {}
        }
    }
    text.len()
}

/// A character literal, and not a lifetime.
fn character_length(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => {
            chars.next();
            chars.find(|(_, c)| *c == '\'').map_or(0, |(at, _)| at + 1)
        }
        Some(_) => chars.next().filter(|(_, c)| *c == '\'').map_or(0, |(at, _)| at + 1),
        None => 0,
    }
}

/// The byte after the bracket that closes the one at `open`; None if it never closes.
pub fn close_of(code: &str, open: usize) -> Option<usize> {
    let mut depth = 0;
    for (at, c) in code[open..].char_indices() {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => depth -= 1,
            _other => {}
        }
        if depth == 0 {
            return Some(open + at + c.len_utf8());
        }
    }
    None
}
