//! `explain CODE`: the long text of a code.

use super::args::ExplainArgs;
use super::codes::{CODES, Code};
use super::exit::{Ended, Exit};
use super::session::Session;
use super::words::{Side, table};
use crate::control::api::Failure;

pub fn run(session: &Session, args: &ExplainArgs) -> Result<Exit, Ended> {
    let Some(asked) = &args.code else {
        list(session);
        return Ok(Exit::Done);
    };
    let code = find(asked).ok_or_else(|| unknown(asked))?;
    if session.screen.json {
        session.screen.document("drystone.explain/1", code);
    } else {
        session.screen.print(&format!("{}\n\n{}\n\nwhat to do: {}\n", code.name, code.meaning, code.remedy));
    }
    Ok(Exit::Done)
}

fn list(session: &Session) {
    if session.screen.json {
        session.screen.document("drystone.codes/1", &serde_json::json!({ "codes": CODES }));
        return;
    }
    let rows: Vec<_> = CODES.iter().map(|c| vec![c.name.to_owned(), c.meaning.to_owned()]).collect();
    session.screen.print(&table(&[("CODE", Side::Left), ("MEANING", Side::Left)], &rows));
}

/// The code, also as it is copied from a message: in brackets, in lower case.
fn find(asked: &str) -> Option<&'static Code> {
    let name = asked.trim_matches(['[', ']', ' ']).to_ascii_uppercase();
    CODES.iter().find(|code| code.name == name)
}

fn unknown(asked: &str) -> Failure {
    let failure = Failure::failed("NO_CODE", format!("`{asked}` is not a code of this program"));
    failure.with("`drystone explain` lists them all")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_found_as_it_was_copied() {
        for asked in ["DISK_HAS_DATA", "[DISK_HAS_DATA]", "disk_has_data"] {
            assert_eq!(find(asked).map(|c| c.name), Some("DISK_HAS_DATA"));
        }
        assert!(find("NONSENSE").is_none());
    }
}
