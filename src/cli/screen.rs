//! Where output goes: data on stdout, talk on stderr, colour only on a terminal that wants it.

use crate::control::api::Failure;
use serde::Serialize;
use std::io::{IsTerminal, Write};

/// The colour of a word that matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tone {
    Good,
    Warning,
    Bad,
}

/// Whether and how words are coloured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Paint {
    pub on: bool,
}

impl Paint {
    pub fn word(self, tone: Tone, text: &str) -> String {
        let number = match tone {
            Tone::Good => 32,
            Tone::Warning => 33,
            Tone::Bad => 31,
        };
        if self.on { format!("\x1b[1;{number}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// What a command prints on.
pub struct Screen {
    pub json: bool,
    /// For stdout.
    pub paint: Paint,
    talk: Paint,
}

#[derive(Serialize)]
struct Document<'a, T> {
    schema: &'a str,
    #[serde(flatten)]
    body: &'a T,
}

impl Screen {
    pub fn new(json: bool) -> Screen {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let paint = Paint { on: wanted && std::io::stdout().is_terminal() };
        Screen { json, paint, talk: Paint { on: wanted && std::io::stderr().is_terminal() } }
    }

    /// Data.
    pub fn print(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        // A reader that has seen enough (`| head`) is no error.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }

    /// Data; whether somebody takes it.
    pub fn try_print(&self, text: &str) -> bool {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
    }

    /// One JSON object as one line, its schema first.
    pub fn line<T: Serialize>(&self, schema: &str, body: &T) -> String {
        let text = serde_json::to_string(&Document { schema, body });
        format!("{}\n", text.expect("reports are maps with text keys"))
    }

    /// Talk.
    pub fn say(&self, text: &str) {
        // Without anybody to talk to, the exit code tells.
        let _ = writeln!(std::io::stderr().lock(), "{text}");
    }

    /// Data as one JSON object, its schema first.
    pub fn document<T: Serialize>(&self, schema: &str, body: &T) {
        self.print(&document(schema, body));
    }

    /// A refusal or an error: for people on stderr, with `--json` also as an object on stdout.
    pub fn failure(&self, failure: &Failure) {
        self.say(describe(failure, self.talk).trim_end());
        if self.json {
            self.document("drystone.failure/1", failure);
        }
    }
}

fn document<T: Serialize>(schema: &str, body: &T) -> String {
    let text = serde_json::to_string_pretty(&Document { schema, body });
    format!("{}\n", text.expect("reports are maps with text keys"))
}

/// `refused [CODE]: sentence`, then facts and the next command.
fn describe(failure: &Failure, paint: Paint) -> String {
    let kind = if failure.refused { "refused" } else { "error" };
    let head = paint.word(Tone::Bad, &format!("{kind} [{}]", failure.code));
    let details = failure.details.iter().map(|line| format!("  {line}\n"));
    std::iter::once(format!("{head}: {}\n", failure.message)).chain(details).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_has_its_code_its_facts_and_the_next_command() {
        let failure = Failure::refused("DISK_HAS_DATA", "sda (80.0 GB) holds an ext4 file system")
            .with("to erase it: drystone pool create tank sda --erase sda");
        let text = "refused [DISK_HAS_DATA]: sda (80.0 GB) holds an ext4 file system\n  Nothing was written.\n  \
                    to erase it: drystone pool create tank sda --erase sda\n";
        assert_eq!(describe(&failure, Paint { on: false }), text);
        let failure = Failure::failed("NO_POOL", "there is none");
        assert_eq!(describe(&failure, Paint { on: false }), "error [NO_POOL]: there is none\n");
    }

    #[test]
    fn the_schema_comes_first() {
        #[derive(Serialize)]
        struct Body {
            bytes: u64,
        }
        assert!(
            document("drystone.x/1", &Body { bytes: 7 })
                .starts_with("{\n  \"schema\": \"drystone.x/1\",\n  \"bytes\": 7")
        );
    }

    #[test]
    fn colour_only_where_it_is_wanted() {
        assert_eq!(Paint { on: false }.word(Tone::Bad, "AT RISK"), "AT RISK");
        assert_eq!(Paint { on: true }.word(Tone::Good, "SAFE"), "\x1b[1;32mSAFE\x1b[0m");
    }
}
