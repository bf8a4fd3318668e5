//! The house rules that a program can check: ranks of modules, sizes, bans, names, words.
//!
//! Each rule has a test that runs it on the tree and one that plants a violation and sees it found.

#[path = "tidy/promises.rs"]
mod promises;
#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/source.rs"]
mod source;

use rules::Ratchet;
use source::{Source, sources};

/// Functions that may stay over the limit for now. Entries go, none come without a reason.
const LONG_FUNCTIONS: &[Ratchet] = &[];

/// Promises of docs/consistency.md that no test is named after yet. Entries go, none come.
const PROMISES_WITHOUT_TEST: &[u32] = &[];

/// The product, and everything that is checked like it.
const PRODUCT: &[&str] = &["src"];
const EVERYTHING: &[&str] = &["src", "tools", "tests", "benches"];

fn expect_none(rule: &str, found: &[String]) {
    assert!(found.is_empty(), "{rule}\n  {}\n", found.join("\n  "));
}

fn check(rule: &str, below: &[&str], find: impl Fn(&Source) -> Vec<String>) {
    let found: Vec<String> = sources(below).iter().flat_map(find).collect();
    expect_none(rule, &found);
}

/// Checks that a rule finds so many violations in a planted file.
fn finds(count: usize, path: &str, text: &str, find: impl Fn(&Source) -> Vec<String>) {
    let found = find(&Source::new(path, text));
    assert_eq!(found.len(), count, "in {text:?}: {found:?}");
}

#[test]
fn every_module_has_a_rank() {
    let lib = sources(&["src/lib.rs"]).remove(0);
    expect_none(
        "lib.rs and the list of ranks in tests/tidy/rules.rs differ:",
        &rules::modules_without_rank(&lib),
    );
}

#[test]
fn the_rank_rule_sees_new_and_vanished_modules() {
    let found = rules::modules_without_rank(&Source::new("src/lib.rs", "pub mod base;\npub mod extra;\n"));
    assert!(found.iter().any(|f| f.contains("extra has no rank")));
    assert!(found.iter().any(|f| f.contains("pool has a rank")));
}

#[test]
fn modules_use_only_their_own_rank_and_below() {
    let rule = "a module uses only modules of its own rank and below (docs: architecture):";
    check(rule, PRODUCT, rules::imports_of_higher_rank);
}

#[test]
fn the_import_rule_finds_every_form() {
    let find = rules::imports_of_higher_rank;
    finds(0, "src/pool/a.rs", "use crate::{base::units, disk};\nuse super::b;\n// crate::nbd\n", find);
    finds(0, "src/sim/a.rs", "use crate::cli::main;\nuse crate::pool;\n", find);
    finds(1, "src/pool/a.rs", "use crate::volume::Handle;\n", find);
    finds(1, "src/pool/a.rs", "use crate::{\n    base::units::{A, B},\n    nbd::{wire, conn},\n};\n", find);
    finds(1, "src/pool/a.rs", "fn f() { crate::sim::run() }\n", find);
    finds(1, "src/pool/a.rs", "use super::super::nbd;\n", find);
    finds(1, "src/pool/mod.rs", "use super::nbd;\n", find);
    finds(1, "src/cli/a.rs", "use crate::sim;\n", find);
}

#[test]
fn no_file_is_too_long() {
    for source in sources(EVERYTHING) {
        rules::long_files(&source, rules::FILE_LINES_AIM).iter().for_each(|f| eprintln!("split soon: {f}"));
    }
    let rule = "split these files (aim 200 lines, split at 600, never over 1000):";
    check(rule, EVERYTHING, |source| rules::long_files(source, rules::FILE_LINES_MAX));
}

#[test]
fn the_file_rule_counts_lines() {
    let find = |source: &Source| rules::long_files(source, rules::FILE_LINES_MAX);
    finds(0, "src/a.rs", &"//\n".repeat(rules::FILE_LINES_MAX), find);
    finds(1, "src/a.rs", &"//\n".repeat(rules::FILE_LINES_MAX + 1), find);
}

#[test]
fn no_function_is_too_long() {
    let rule = "split these functions (aim 30 lines, never over 70; ifs in the parent, work in the parts):";
    check(rule, EVERYTHING, |source| rules::long_functions(source, LONG_FUNCTIONS));
    let stale = rules::stale_ratchet(&sources(EVERYTHING), LONG_FUNCTIONS);
    expect_none("entries of LONG_FUNCTIONS that no longer hold: correct or delete them:", &stale);
}

fn function_of(lines: usize) -> String {
    format!(
        "trait T {{\n    fn short(&self) -> [u8; 4];\n}}\n\nfn long() {{\n{}}}\n",
        "    // {\n".repeat(lines - 2)
    )
}

#[test]
fn the_function_rule_counts_from_fn_to_brace() {
    let find = |source: &Source| rules::long_functions(source, &[]);
    finds(0, "src/a.rs", &function_of(rules::FUNCTION_LINES_MAX), find);
    finds(1, "src/a.rs", &function_of(rules::FUNCTION_LINES_MAX + 1), find);
}

#[test]
fn the_ratchet_allows_no_growth_and_no_stale_entry() {
    let ratchet = [Ratchet { path: "src/a.rs", function: "long", lines: 80, reason: "planted" }];
    let find = |source: &Source| rules::long_functions(source, &ratchet);
    finds(0, "src/a.rs", &function_of(80), find);
    finds(1, "src/a.rs", &function_of(81), find);
    finds(1, "src/b.rs", &function_of(80), find);
    let stale = |lines| rules::stale_ratchet(&[Source::new("src/a.rs", &function_of(lines))], &ratchet).len();
    assert_eq!((stale(80), stale(79), stale(20)), (0, 1, 1));
}

#[test]
fn nothing_banned() {
    check("not in this house:", PRODUCT, rules::banned);
}

#[test]
fn the_bans_find_each_word_where_it_counts() {
    let find = rules::banned;
    for planted in
        ["todo!()", "unimplemented!()", "dbg!(x)", "#[ignore]", "static mut X: u8", "thread_local! {}"]
    {
        finds(1, "src/cli/a.rs", planted, find);
        finds(
            0,
            "src/cli/a.rs",
            &format!("// {planted}\n\"{planted}\" r#\"{planted}\"# /* {planted} */"),
            find,
        );
    }
    for planted in ["FIXME", "XXX", "TODO"] {
        finds(1, "src/cli/a.rs", &format!("// {planted}: later"), find);
    }
    finds(1, "src/pool/a.rs", "unsafe { f() }", find);
    finds(0, "src/io/uring/a.rs", "unsafe { f() }", find);
    finds(0, "src/disk/identify.rs", "unsafe { f() }", find);
    finds(0, "src/pool/a.rs", "#![forbid(unsafe_code)]", find);
    finds(1, "src/cli/a.rs", "x.unwrap()", find);
    finds(0, "src/cli/a.rs", "fn f() {}\n#[cfg(test)]\nmod tests {\n    x.unwrap()\n}", find);
    finds(0, "src/cli/a/tests.rs", "x.unwrap()", find);
}

#[test]
fn the_clock_is_banned_on_the_data_path() {
    let find = rules::banned;
    for planted in ["std::time::Instant::now()", "use std::time::{Duration, Instant};", "SystemTime::now()"] {
        finds(1, "src/pool/a.rs", planted, find);
        finds(0, "src/cli/a.rs", planted, find);
    }
    finds(1, "src/nbd/a.rs", "std::thread::sleep(d)", find);
    finds(0, "src/pool/a.rs", "use crate::io::time::Instant;\nuse std::time::Duration;", find);
}

#[test]
fn maps_without_an_order_are_banned_where_runs_must_repeat() {
    let find = rules::banned;
    let planted = [
        "m: HashMap<u32, Vec<(u8, u8)>>",
        "HashMap::new()",
        "HashSet::with_capacity(1)",
        "collect::<HashSet<_>>()",
    ];
    for planted in planted {
        finds(1, "src/pool/a.rs", planted, find);
        finds(0, "src/cli/a.rs", planted, find);
    }
    finds(0, "src/pool/a.rs", "m: HashMap<u32, (u8, u8), BuildHasherDefault<Mine>>", find);
}

#[test]
fn every_file_says_what_it_owns() {
    check("begin with a //! comment:", EVERYTHING, rules::without_module_comment);
}

#[test]
fn the_comment_rule_wants_the_first_line() {
    finds(0, "src/a.rs", "//! What it owns.\n", rules::without_module_comment);
    finds(1, "src/a.rs", "use x;\n//! late\n", rules::without_module_comment);
}

#[test]
fn no_path_of_a_build_machine() {
    check("the repository is for any machine:", EVERYTHING, rules::build_machine_paths);
}

#[test]
fn the_path_rule_looks_into_strings_and_comments() {
    let planted = concat!("// see /wo", "rk/shared\nlet x = \"/ro", "ot/y\";\n// /network/ is fine\n");
    finds(2, "src/a.rs", planted, rules::build_machine_paths);
}

#[test]
fn names_say_something() {
    check("names that say nothing:", EVERYTHING, rules::banned_names);
}

#[test]
fn the_name_rule_finds_declarations_only() {
    let find = rules::banned_names;
    finds(1, "src/a.rs", "pub struct PoolManager {", find);
    finds(1, "src/a.rs", "    pub async fn get_size(&self) {", find);
    finds(1, "src/a.rs", "mod helpers;", find);
    finds(1, "src/pool/util.rs", "", find);
    finds(0, "src/a.rs", "fn forget_it() { x.get_ref(); }\nfn get() {}\n// struct Manager\n", find);
}

#[test]
fn one_word_per_thing() {
    check("say it in the words of this program (docs: words):", PRODUCT, rules::banned_words);
}

#[test]
fn the_word_rule_looks_into_comments_and_at_whole_words() {
    finds(1, "src/a.rs", "// Each Replica of a block", rules::banned_words);
    finds(0, "src/a.rs", "// replicated", rules::banned_words);
}

#[test]
fn literals_and_comments_are_not_code() {
    let text = "let a = '\"'; // unsafe\nlet b: &'a str = \"unsafe \\\" unsafe\"; /* a /* b */ unsafe */ br#\"unsafe\"#;";
    let source = Source::new("src/pool/a.rs", text);
    assert!(!source.code.contains("unsafe"), "{}", source.code);
    assert!(source.code.contains("let b: &'a str") && source.code.matches('\n').count() == 1);
}

#[test]
fn every_promise_has_a_test_that_is_named_after_it() {
    let sources = sources(&["src", "tests"]);
    let names = sources.iter().flat_map(promises::names).collect();
    let missing = promises::without_test(&names, PROMISES_WITHOUT_TEST);
    expect_none("a test for each promise of docs/consistency.md, named r01_… to r50_…:", &missing);
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/consistency.md");
    let page = std::fs::read_to_string(page).unwrap();
    let untold = promises::rows_without_test(&page, &names, PROMISES_WITHOUT_TEST);
    expect_none("the table of invariants in docs/consistency.md:", &untold);
}

#[test]
fn the_promise_rule_sees_missing_tests_and_rows() {
    let code: String = (2..=50).map(|n| format!("fn a_r{n:02}_b() {{}}\n")).collect();
    let source = Source::new("tests/a.rs", &format!("// r01_only_said\n{code}fn r01() {{}}\n"));
    let names = promises::names(&source);
    assert_eq!(promises::without_test(&names, &[]), ["no test is named r01_…"]);
    assert!(promises::without_test(&names, &[1]).is_empty());
    assert_eq!(promises::without_test(&names, &[1, 2]).len(), 1);
    let rows: String = (1..50).map(|n| format!("| {n} | a_r{n:02}_b |\n")).collect();
    let page = format!("## Invariants and their tests\n{rows}");
    let found = promises::rows_without_test(&page, &names, &[]);
    assert!(found.iter().any(|f| f.contains("no row for R50")));
    assert!(found.iter().any(|f| f.contains("R1 names a_r01_b, which does not exist")), "{found:?}");
    assert_eq!(found.len(), 2);
}
