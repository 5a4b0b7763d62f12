//! `--from`: where reading begins.

use plimsoll_protocol::api::StartPosition;
use plimsoll_protocol::ids::Offset;

use crate::clock::{now_ms, parse_time};

/// Reads a start; times such as `-1h` are counted from now.
pub(super) fn parse_start(text: &str) -> Result<StartPosition, String> {
    parse_start_at(text, now_ms())
}

fn parse_start_at(text: &str, now_ms: i64) -> Result<StartPosition, String> {
    match text {
        "earliest" => return Ok(StartPosition::Earliest),
        "latest" => return Ok(StartPosition::Latest),
        _ => {}
    }
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let offset = text.parse().map_err(|_| format!("{text} is too large for an offset"))?;
        return Ok(StartPosition::Offset(Offset(offset)));
    }
    parse_time(text, now_ms).map(StartPosition::Time).map_err(|_| {
        format!(
            "{text:?} is not a place to begin; write earliest, latest, an offset such as 1500, or a \
             time: 2026-11-21T08:30:00Z, 2026-11-21, -1h30m, @1795250000000 (ms since 1970)"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_start_is_read() {
        for (text, start) in [
            ("earliest", StartPosition::Earliest),
            ("latest", StartPosition::Latest),
            ("0", StartPosition::Offset(Offset(0))),
            ("18446744073709551615", StartPosition::Offset(Offset(u64::MAX))),
            ("1795250000000", StartPosition::Offset(Offset(1_795_250_000_000))),
            ("@1795250000000", StartPosition::Time(1_795_250_000_000)),
            ("-1h", StartPosition::Time(1_000 - 3_600_000)),
            ("1h ago", StartPosition::Time(1_000 - 3_600_000)),
            ("1970-01-02", StartPosition::Time(86_400_000)),
            ("now", StartPosition::Time(1_000)),
        ] {
            assert_eq!(parse_start_at(text, 1_000), Ok(start), "{text}");
        }
    }

    #[test]
    fn other_words_are_refused_with_a_list() {
        for text in ["", "Earliest", "-5", "-1h ago", " ago", "18446744073709551616", "end", "1.5"]
        {
            assert!(parse_start_at(text, 0).is_err(), "{text}");
        }
        assert!(parse_start("end").unwrap_err().contains("-1h30m"));
    }
}
