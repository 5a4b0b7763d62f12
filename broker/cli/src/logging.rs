//! What the libraries underneath have to say, on standard error: warnings, or what `PLIMSOLL_LOG`
//! asks for (`debug`, `plimsoll_client=trace,quinn=debug`).

use std::io;

use tracing_subscriber::EnvFilter;

use crate::failure::error_colour;

/// The variable with the filter.
pub(crate) const LOG_VARIABLE: &str = "PLIMSOLL_LOG";

/// Begins to log, with `default` where the variable says nothing. Does nothing when a command
/// already logs in its own way.
pub(crate) fn start(default: &str) {
    let asked = std::env::var(LOG_VARIABLE).unwrap_or_default();
    let directives = if asked.is_empty() { default } else { &asked };
    let filter = EnvFilter::builder().parse_lossy(directives);
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(error_colour())
        .try_init();
}
