//! Where a password comes from: standard input or a variable, never the command line, which every user of the
//! machine can see and shells keep.

use std::io::{self, BufRead, IsTerminal};

use clap::Args;
use plimsoll_client::AmqpPassword;

use crate::exit::Exit;
use crate::failure::Failure;

/// The variable that holds a password. It is of no option, so that nothing shows what it was set to.
const VARIABLE: &str = "PLIMSOLL_AMQP_PASSWORD";

/// Where the password comes from.
#[derive(Debug, Args)]
pub(super) struct PasswordArgs {
    /// Read the password from the first line of standard input; else it is taken from PLIMSOLL_AMQP_PASSWORD
    #[arg(long)]
    password_stdin: bool,
}

impl PasswordArgs {
    /// The password. Reads no more than one line.
    pub(super) fn read(&self) -> Result<AmqpPassword, Failure> {
        let found = match self.password_stdin {
            true => Some(first_line(&mut io::stdin().lock())?),
            false => std::env::var(VARIABLE).ok(),
        };
        let found = found.filter(|password| !password.is_empty());
        found.map(AmqpPassword::new).ok_or_else(|| self.missing())
    }

    fn missing(&self) -> Failure {
        if self.password_stdin {
            let what = match io::stdin().is_terminal() {
                true => "an empty password was typed",
                false => "the first line of standard input is empty: there is no password",
            };
            return Failure::new(Exit::Usage, what)
                .hint("write the password and a newline to standard input");
        }
        Failure::new(Exit::Usage, "there is no password: it is not taken from the command line")
            .hint("pipe it in: printf '%s\\n' \"$PASSWORD\" | plimsoll amqp user ... --password-stdin")
            .hint(format!("or set {VARIABLE} for this command"))
    }
}

/// The first line without its end; of what is not UTF-8 nothing is shown.
fn first_line(input: &mut impl BufRead) -> Result<String, Failure> {
    let mut line = Vec::new();
    input.read_until(b'\n', &mut line).map_err(|error| {
        Failure::new(Exit::Failed, format!("cannot read a password from standard input: {error}"))
    })?;
    if line.last() == Some(&b'\n') {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
    }
    String::from_utf8(line)
        .map_err(|_| Failure::new(Exit::Usage, "the password on standard input is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn password_is_the_first_line_as_it_is() {
        for (input, password) in [
            ("s3cret\nmore\n", "s3cret"),
            ("s3cret", "s3cret"),
            (" s3 cret \r\n", " s3 cret "),
            ("größe\n", "größe"),
            ("", ""),
            ("\nx\n", ""),
        ] {
            assert_eq!(first_line(&mut input.as_bytes()).unwrap(), password, "{input:?}");
        }
        let failure = first_line(&mut &b"s\xff3cret\n"[..]).unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage);
        assert!(!failure.to_string().contains("cret"), "{failure}");
    }
}
