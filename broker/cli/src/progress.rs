//! How far a command is, on standard error, while a person looks at it: nothing is drawn when
//! standard error is not a terminal, or when the records themselves go to the same terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::failure::note;
use crate::quantity::{bytes_text, per_second, thousands};

/// A bar, or a line of figures where the end is not known.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
}

/// What a bar's length counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Measure {
    /// Bytes of the input; `None` where it does not say how long it is.
    Bytes(Option<u64>),
    /// Records; `None` where there is no end.
    Records(Option<u64>),
}

impl Progress {
    /// A bar that is drawn when `visible` and standard error is a terminal.
    pub(crate) fn start(measure: Measure, visible: bool) -> Self {
        if !visible {
            return Self { bar: ProgressBar::hidden() };
        }
        let (len, template) = match measure {
            Measure::Bytes(Some(len)) => (Some(len), "{bar:18} {percent:>3}% {msg}, {eta} left"),
            Measure::Records(Some(len)) => (Some(len), "{bar:18} {percent:>3}% {msg}, {eta} left"),
            Measure::Bytes(None) | Measure::Records(None) => (None, "{spinner} {msg}"),
        };
        let bar = ProgressBar::with_draw_target(len, ProgressDrawTarget::stderr_with_hz(10));
        let style = ProgressStyle::with_template(template).expect("the template is a constant");
        bar.set_style(style.progress_chars("=> "));
        Self { bar }
    }

    /// Shows `position` (bytes or records, as the bar counts) and the figures so far.
    pub(crate) fn show(&self, position: u64, records: u64, bytes: u64) {
        if !self.bar.is_hidden() {
            self.say(position, &short_figures(records, bytes, self.bar.elapsed()));
        }
    }

    /// Shows `position` and a text of the command's own.
    pub(crate) fn say(&self, position: u64, text: &str) {
        self.bar.set_position(position);
        self.bar.set_message(text.to_owned());
    }

    /// The end is now known to be at `len`.
    pub(crate) fn expect(&self, len: u64) {
        self.bar.set_length(len);
    }

    /// Tells something above the bar.
    pub(crate) fn tell(&self, text: &str) {
        self.bar.suspend(|| note(text));
    }

    /// Takes the bar away.
    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

/// `100,000 records, 243,902/s, 16.8 MB/s`: fits beside a bar into 80 columns.
fn short_figures(records: u64, bytes: u64, elapsed: Duration) -> String {
    format!(
        "{} records, {}/s, {}/s",
        thousands(records),
        thousands(per_second(records, elapsed)),
        bytes_text(per_second(bytes, elapsed)),
    )
}

/// `100,000 records, 6.89 MB, 243,902 records/s, 16.8 MB/s`.
pub(crate) fn figures(records: u64, bytes: u64, elapsed: Duration) -> String {
    format!(
        "{} record{}, {}, {} records/s, {}/s",
        thousands(records),
        if records == 1 { "" } else { "s" },
        bytes_text(bytes),
        thousands(per_second(records, elapsed)),
        bytes_text(per_second(bytes, elapsed)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_counts_and_rates() {
        assert_eq!(
            figures(100_000, 6_890_000, Duration::from_millis(500)),
            "100,000 records, 6.89 MB, 200,000 records/s, 13.8 MB/s"
        );
        assert!(figures(1, 5, Duration::from_secs(1)).starts_with("1 record, 5 B, "));
    }

    #[test]
    fn bar_fits_into_80_columns() {
        let figures = short_figures(1_234_567_890, 999_000_000_000, Duration::from_secs(1_000));
        assert_eq!(figures, "1,234,567,890 records, 1,234,567/s, 999 MB/s");
        assert!("                   100% , 59m left".len() + figures.len() < 80);
    }

    #[test]
    fn templates_are_valid() {
        for measure in [Measure::Bytes(None), Measure::Bytes(Some(5)), Measure::Records(Some(5))] {
            let progress = Progress::start(measure, true);
            progress.show(1, 1, 1);
            progress.end();
        }
    }
}
