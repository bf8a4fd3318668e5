//! The terminal while the live view has it: taken, drawn on, asked for keys, and given back as it was.

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use std::time::Duration;

/// A terminal that is taken; it is given back when this is dropped, and by a panic.
pub struct Taken {
    pub terminal: DefaultTerminal,
    _back: GiveBack,
}

struct GiveBack;

impl Drop for GiveBack {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing back.
        let _ = ratatui::try_restore();
    }
}

impl Taken {
    /// Takes the terminal of stdout; what was half done is undone if that fails.
    pub fn take() -> std::io::Result<Taken> {
        let back = GiveBack;
        let terminal = ratatui::try_init()?;
        Ok(Taken { terminal, _back: back })
    }
}

/// What somebody did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Did {
    Nothing,
    /// The picture is to be drawn anew.
    Resized,
    Ended,
}

/// Waits for a key or another size, `limit` at the most.
pub fn wait(limit: Duration) -> std::io::Result<Did> {
    if event::poll(limit)? { Ok(meaning(&event::read()?)) } else { Ok(Did::Nothing) }
}

/// q, Esc and Ctrl-C end it. The terminal gives Ctrl-C as a key.
fn meaning(event: &Event) -> Did {
    match event {
        Event::Resize(_, _) => Did::Resized,
        Event::Key(KeyEvent { kind: KeyEventKind::Release, .. }) => Did::Nothing,
        Event::Key(KeyEvent { code, modifiers, .. }) => match code {
            KeyCode::Char('q') | KeyCode::Esc => Did::Ended,
            KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => Did::Ended,
            _ => Did::Nothing,
        },
        Event::FocusGained | Event::FocusLost | Event::Mouse(_) | Event::Paste(_) => Did::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_keys_end_it() {
        let key = |code, modifiers| meaning(&Event::Key(KeyEvent::new(code, modifiers)));
        assert_eq!(key(KeyCode::Char('q'), KeyModifiers::NONE), Did::Ended);
        assert_eq!(key(KeyCode::Esc, KeyModifiers::NONE), Did::Ended);
        assert_eq!(key(KeyCode::Char('c'), KeyModifiers::CONTROL), Did::Ended);
        assert_eq!(key(KeyCode::Char('c'), KeyModifiers::NONE), Did::Nothing);
        assert_eq!(meaning(&Event::Resize(1, 1)), Did::Resized);
    }
}
