//! A question before something is done that cannot be undone.

use std::io::{self, BufRead, IsTerminal, Write};

use crate::exit::Exit;
use crate::failure::Failure;

/// Goes on where `--yes` was given, or the user says yes to `question`; else nothing is `done` ("deleted").
/// Where there is no terminal to ask on, `doing` ("deleting orders") is refused: `--yes` is needed there.
pub(crate) fn confirm(yes: bool, question: &str, doing: &str, done: &str) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Failure::new(Exit::Usage, format!("not {doing} without --yes"))
            .hint("there is no terminal to ask on; add --yes if it is meant"));
    }
    let _ = write!(io::stderr(), "{question} [y/N] ");
    let mut answer = String::new();
    io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot read an answer: {error}")))?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::new(Exit::Failed, format!("nothing was {done}: not confirmed"))),
    }
}
