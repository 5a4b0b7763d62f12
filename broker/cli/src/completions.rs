//! `plimsoll completions`: a script that teaches a shell the commands and options.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Output;

const AFTER_HELP: &str = "\
Examples:
  For this shell only:
    source <(plimsoll completions bash)

  For good, bash (with the package bash-completion):
    plimsoll completions bash > ~/.local/share/bash-completion/completions/plimsoll

  For good, zsh (the directory must be in $fpath):
    plimsoll completions zsh > ~/.zfunc/_plimsoll

  For good, fish:
    plimsoll completions fish > ~/.config/fish/completions/plimsoll.fish";

/// Print a script that completes commands and options in a shell
///
/// The script goes to standard output; the examples say where each shell looks for it.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

impl CompletionsArgs {
    pub(crate) fn run(self) -> Result<Exit, Failure> {
        let mut script = Vec::new();
        let mut command = crate::cli::Cli::command();
        clap_complete::generate(self.shell, &mut command, "plimsoll", &mut script);
        let mut output = Output::stdout();
        output.bytes(&script)?;
        output.flush()?;
        Ok(Exit::Done)
    }
}
