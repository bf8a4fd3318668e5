//! The rules: each takes sources and returns what it finds wrong, one line each.

use crate::source::{Source, close_of, find_word, line_of, lines_with, name_at};

/// Each module may use those of its own rank and below (docs: "One way through the house").
pub const RANKS: &[(&str, u32)] = &[
    ("base", 0),
    ("io", 1),
    ("reactor", 2),
    ("block", 3),
    ("disk", 4),
    ("pool", 5),
    ("volume", 6),
    ("link", 6),
    ("nbd", 7),
    ("nvmf", 7),
    ("target", 8),
    ("control", 8),
    ("bench", 9),
    ("daemon", 9),
    ("cli", 9),
    // The simulator may use everything and is used by nothing.
    ("sim", 10),
];

/// Modules that requests pass through: the simulator runs them, so time reaches them only through the driver.
const DATA_PATH: &[&str] =
    &["base", "reactor", "block", "disk", "pool", "volume", "link", "nbd", "nvmf", "target"];

/// Modules whose runs must repeat exactly, so that nothing in them may be visited in an order that differs.
const ORDERED: &[&str] = &["pool", "volume", "sim"];

pub const FILE_LINES_AIM: usize = 600;
pub const FILE_LINES_MAX: usize = 1000;
pub const FUNCTION_LINES_MAX: usize = 70;

/// A function that is longer than allowed, with the reason; it may shrink but not grow.
pub struct Ratchet {
    pub path: &'static str,
    pub function: &'static str,
    pub lines: usize,
    pub reason: &'static str,
}

fn rank_of(module: &str) -> Option<u32> {
    RANKS.iter().find(|(name, _)| *name == module).map(|(_, rank)| *rank)
}

/// Modules that `lib.rs` declares and the list of ranks does not know, and the other way round.
pub fn modules_without_rank(lib: &Source) -> Vec<String> {
    let declared: Vec<&str> =
        lib.code.lines().filter_map(|l| l.strip_prefix("pub mod ")).map(name_at).collect();
    let unknown = declared.iter().filter(|name| rank_of(name).is_none());
    let unknown =
        unknown.map(|name| format!("module {name} has no rank: give it one in tests/tidy/rules.rs"));
    let gone = RANKS.iter().filter(|(name, _)| !declared.contains(name));
    unknown
        .chain(gone.map(|(name, _)| format!("module {name} has a rank but is not in src/lib.rs")))
        .collect()
}

pub fn imports_of_higher_rank(source: &Source) -> Vec<String> {
    let Some(own) = source.module() else { return Vec::new() };
    let Some(own_rank) = rank_of(own) else { return vec![format!("{}: {own} has no rank", source.path)] };
    let mut found = Vec::new();
    for (line, used) in used_modules(&source.code) {
        if rank_of(used).is_some_and(|rank| rank > own_rank) {
            found.push(format!(
                "{}:{line}: {own} (rank {own_rank}) uses {used}, which is above it",
                source.path
            ));
        }
    }
    found.extend(supers_that_leave(source));
    found
}

/// The top-level modules that code names through `crate::`, also in braces, with their lines.
fn used_modules(code: &str) -> Vec<(usize, &str)> {
    let mut used = Vec::new();
    for (at, root) in code.match_indices("crate::") {
        let start = at + root.len();
        let line = line_of(code, at);
        if code[start..].starts_with('{') {
            let end = close_of(code, start).unwrap_or(code.len());
            let inside = &code[start + 1..end - 1];
            used.extend(top_level_parts(inside).map(|part| (line, name_at(part.trim()))));
        } else {
            used.push((line, name_at(&code[start..])));
        }
    }
    used
}

/// Splits at the commas that are in no bracket.
fn top_level_parts(list: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_i32;
    list.split(move |c| {
        match c {
            '{' | '<' | '(' | '[' => depth += 1,
            '}' | '>' | ')' | ']' => depth -= 1,
            _other => {}
        }
        c == ',' && depth == 0
    })
}

/// Chains of `super::` that climb out of the file's top-level module, past the check above.
fn supers_that_leave(source: &Source) -> Vec<String> {
    let chain = "super::".repeat(source.depth());
    let lines = lines_with(source.product(), &chain);
    lines
        .iter()
        .map(|l| format!("{}:{l}: say crate:: instead of climbing out by super::", source.path))
        .collect()
}

pub fn long_files(source: &Source, limit: usize) -> Vec<String> {
    let lines = source.text.lines().count();
    if lines > limit { vec![format!("{}: {lines} lines", source.path)] } else { Vec::new() }
}

/// Functions with more lines than allowed, those of the ratchet with more than it says.
pub fn long_functions(source: &Source, ratchet: &[Ratchet]) -> Vec<String> {
    let allowed = |name: &str| {
        let known = ratchet.iter().find(|r| r.path == source.path && r.function == name);
        known.map_or(FUNCTION_LINES_MAX, |r| r.lines)
    };
    let long = functions(&source.code).into_iter().filter(|f| f.lines > allowed(f.name));
    long.map(|f| format!("{}:{}: fn {} has {} lines", source.path, f.line, f.name, f.lines)).collect()
}

/// Entries of the ratchet whose function is gone or short enough.
pub fn stale_ratchet(sources: &[Source], ratchet: &[Ratchet]) -> Vec<String> {
    let needed = |r: &Ratchet| {
        let files = sources.iter().filter(|s| s.path == r.path);
        let mut found = files.flat_map(|s| functions(&s.code));
        found.any(|f| f.name == r.function && f.lines > FUNCTION_LINES_MAX && f.lines == r.lines)
    };
    let stale = ratchet.iter().filter(|r| !needed(r));
    stale.map(|r| format!("{}: fn {} ({}) is not {} lines", r.path, r.function, r.reason, r.lines)).collect()
}

struct Function<'a> {
    name: &'a str,
    line: usize,
    lines: usize,
}

/// The functions of a file, from the line of `fn` to the closing brace.
fn functions(code: &str) -> Vec<Function<'_>> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let name = name_at(&code[at + 3..]);
        let alone = !code[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_');
        let end = if alone && !name.is_empty() { body_end(code, at) } else { None };
        if let Some(end) = end {
            let lines = code[at..end].matches('\n').count() + 1;
            found.push(Function { name, line: line_of(code, at), lines });
        }
    }
    found
}

/// Where the body of the function at `at` ends; None for a declaration without one.
fn body_end(code: &str, at: usize) -> Option<usize> {
    let mut depth = 0;
    for (offset, c) in code[at..].char_indices() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            ';' if depth == 0 => return None,
            '{' if depth == 0 => return close_of(code, at + offset),
            _other => {}
        }
    }
    None
}

/// A word that must not stand in some files.
struct Ban {
    word: &'static str,
    place: Place,
    why: &'static str,
}

#[derive(Clone, Copy)]
enum Place {
    /// Anywhere, comments too.
    Text,
    /// Code of any file, tests too.
    Code,
    /// Code that is not a test.
    Product,
    /// Code outside the places that may use `unsafe`.
    SafeCode,
    /// Code of the data path that is not a test.
    DataPath,
    /// Code of modules whose runs repeat exactly, and that is not a test.
    Ordered,
}

const BANS: &[Ban] = &[
    Ban {
        word: "unsafe",
        place: Place::SafeCode,
        why: "unsafe lives in src/io and src/disk/identify.rs only",
    },
    Ban { word: "todo!", place: Place::Code, why: "nothing unfinished" },
    Ban { word: "unimplemented!", place: Place::Code, why: "nothing unfinished" },
    Ban { word: "dbg!", place: Place::Code, why: "no debugging left behind" },
    Ban { word: "#[ignore", place: Place::Code, why: "a test runs or is deleted" },
    Ban { word: "FIXME", place: Place::Text, why: "fix it" },
    Ban { word: "XXX", place: Place::Text, why: "say it in a sentence" },
    Ban { word: "TODO", place: Place::Text, why: "open an issue" },
    Ban { word: "static mut", place: Place::Code, why: "no statics with state" },
    Ban {
        word: "thread_local!",
        place: Place::Code,
        why: "several cores live on one thread in the simulator",
    },
    Ban { word: ".unwrap()", place: Place::Product, why: "unwrap is for tests; expect names the invariant" },
    Ban { word: "std::time::Instant", place: Place::DataPath, why: "time comes from the driver" },
    Ban { word: "SystemTime", place: Place::DataPath, why: "time comes from the driver" },
    Ban { word: "thread::sleep", place: Place::DataPath, why: "wait on the core's timers" },
    Ban { word: "RandomState", place: Place::Ordered, why: "the same seed gives the same run: ordered maps" },
    Ban {
        word: "HashMap::new",
        place: Place::Ordered,
        why: "the same seed gives the same run: ordered maps",
    },
    Ban {
        word: "HashSet::new",
        place: Place::Ordered,
        why: "the same seed gives the same run: ordered maps",
    },
    Ban { word: "HashMap::with_capacity", place: Place::Ordered, why: "the same seed gives the same run" },
    Ban { word: "HashSet::with_capacity", place: Place::Ordered, why: "the same seed gives the same run" },
];

pub fn banned(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    for ban in BANS {
        for line in lines_with(text_in(source, ban.place), ban.word) {
            found.push(format!("{}:{line}: `{}`: {}", source.path, ban.word, ban.why));
        }
    }
    found.extend(system_clock_in_braces(source));
    found.extend(default_hashers(source));
    found
}

/// The part of a source that a ban looks at.
fn text_in(source: &Source, place: Place) -> &str {
    let in_one_of = |modules: &[&str]| source.module().is_some_and(|module| modules.contains(&module));
    let may_be_unsafe = source.path.starts_with("src/io/") || source.path == "src/disk/identify.rs";
    let looked_at = match place {
        Place::Text | Place::Code | Place::Product => true,
        Place::SafeCode => !may_be_unsafe,
        Place::DataPath => in_one_of(DATA_PATH),
        Place::Ordered => in_one_of(ORDERED),
    };
    match place {
        _ if !looked_at => "",
        Place::Text => &source.text,
        Place::Code | Place::SafeCode => &source.code,
        Place::Product | Place::DataPath | Place::Ordered => source.product(),
    }
}

/// `use std::time::{Duration, Instant}` in the data path.
fn system_clock_in_braces(source: &Source) -> Vec<String> {
    let code = text_in(source, Place::DataPath);
    let imports = code.match_indices("std::time::{").filter(|(at, found)| {
        let open = at + found.len() - 1;
        let end = close_of(code, open).unwrap_or(code.len());
        find_word(&code[open..end], "Instant").is_some()
    });
    let line = |at| line_of(code, at);
    imports
        .map(|(at, _)| format!("{}:{}: Instant: time comes from the driver", source.path, line(at)))
        .collect()
}

/// `HashMap<K, V>` and `HashSet<T>` without a hasher of their own.
fn default_hashers(source: &Source) -> Vec<String> {
    let code = text_in(source, Place::Ordered);
    let mut found = Vec::new();
    for (name, with_hasher) in [("HashMap<", 3), ("HashSet<", 2)] {
        for (at, _) in code.match_indices(name) {
            if generic_arguments(&code[at + name.len()..]) < with_hasher {
                let line = line_of(code, at);
                found.push(format!("{}:{line}: {name}…> in random order: use an ordered map", source.path));
            }
        }
    }
    found
}

/// How many arguments stand before the `>` that closes a list begun before `text`.
fn generic_arguments(text: &str) -> usize {
    let (mut depth, mut commas) = (0, 0);
    for c in text.chars() {
        match c {
            '<' | '(' | '[' => depth += 1,
            '>' if depth == 0 => break,
            '>' | ')' | ']' => depth -= 1,
            ',' if depth == 0 => commas += 1,
            _other => {}
        }
    }
    commas + 1
}

pub fn without_module_comment(source: &Source) -> Vec<String> {
    if source.text.starts_with("//!") {
        return Vec::new();
    }
    vec![format!("{}: begins without a //! comment that says what the file owns", source.path)]
}

/// Paths that only exist where something was built. In pieces, so that this file does not hold them.
const BUILD_PATHS: &[&str] =
    &[concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/tmp/", "ds"), concat!(".cargo/", "registry")];

pub fn build_machine_paths(source: &Source) -> Vec<String> {
    let lines = (1..).zip(source.text.lines());
    let found = lines.filter(|(_, line)| BUILD_PATHS.iter().any(|path| line.contains(path)));
    found.map(|(number, _)| format!("{}:{number}: a path of the build machine", source.path)).collect()
}

pub fn banned_names(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in (1..).zip(source.code.lines()) {
        let at = |what: &str| format!("{}:{number}: {what}", source.path);
        if declared(line, &["struct ", "enum ", "trait ", "type "]).is_some_and(|n| n.contains("Manager")) {
            found.push(at("Manager says nothing: name what it owns"));
        }
        if declared(line, &["fn "]).is_some_and(|name| name.starts_with("get_")) {
            found.push(at("no get_: name what it returns"));
        }
        if declared(line, &["mod "]).is_some_and(is_drawer) {
            found.push(at("a drawer for anything: name the one idea of the module"));
        }
    }
    let stem = source.path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
    if is_drawer(stem) {
        found.push(format!("{}: a drawer for anything: name the one idea of the file", source.path));
    }
    found
}

fn is_drawer(name: &str) -> bool {
    matches!(name, "util" | "utils" | "helper" | "helpers" | "misc" | "common")
}

/// The name that a line declares with one of these keywords.
fn declared<'a>(line: &'a str, keywords: &[&str]) -> Option<&'a str> {
    let find = |keyword: &&str| find_word(line, keyword).map(|at| name_at(&line[at + keyword.len()..]));
    keywords.iter().find_map(find).filter(|name| !name.is_empty())
}

/// One word per thing: words of other programs, and ours for the same.
const WORDS: &[(&str, &str)] = &[
    ("replica", "copy"),
    ("replicas", "copies"),
    ("resilver", "resync or rebuild"),
    ("resilvering", "resync or rebuild"),
    ("brick", "member"),
    ("bricks", "members"),
    ("vdev", "member"),
    ("mirror leg", "copy"),
    ("hot spare", "free space"),
    ("placement group", "stripe"),
    ("quorum disk", "witness"),
    ("blacklist", "say what is refused"),
    ("whitelist", "say what is allowed"),
    ("sanity check", "say what is checked"),
];

pub fn banned_words(source: &Source) -> Vec<String> {
    let text = source.text.to_lowercase();
    let mut found = Vec::new();
    for (word, ours) in WORDS {
        for line in lines_with(&text, word) {
            found.push(format!("{}:{line}: \"{word}\" is here called {ours}", source.path));
        }
    }
    found
}
