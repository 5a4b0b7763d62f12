//! How the demo tells what it does.

use std::io::IsTerminal as _;

use crate::failure::Failure;
use crate::output::Output;

/// What is told of each step.
pub(super) struct Story {
    output: Output,
    bold: (&'static str, &'static str),
}

impl Story {
    /// On standard output.
    pub(super) fn new() -> Self {
        let coloured = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let bold = if coloured { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        Self { output: Output::stdout(), bold }
    }

    /// A line of its own.
    pub(super) fn line(&mut self, text: &str) -> Result<(), Failure> {
        self.output.line(text)?;
        self.output.flush()
    }

    /// What was done, and what came of it.
    pub(super) fn step(&mut self, name: &str, text: &str) -> Result<(), Failure> {
        let (on, off) = self.bold;
        self.line(&format!("  {on}{name:<9}{off} {text}"))
    }
}
