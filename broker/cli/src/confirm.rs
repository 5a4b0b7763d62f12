//! A question before something is done that cannot be undone.

use std::io::{self, BufRead, IsTerminal, Write};

use crate::exit::Exit;
use crate::failure::Failure;

/// Whether the user says yes to `question`. Where there is no terminal to ask on, `doing` ("deleting
/// orders") is refused: `--yes` is needed there.
pub(crate) fn confirmed(question: &str, doing: &str) -> Result<bool, Failure> {
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
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
