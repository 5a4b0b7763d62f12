//! Times as people write them: RFC 3339, a date, unix milliseconds, or a while ago. All in UTC
//! unless the text names an offset.
//!
//! The calendar arithmetic is the proleptic Gregorian calendar counted in days since 1970-01-01.
//! Source: RFC 3339 section 5.6; Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".

use std::time::{SystemTime, UNIX_EPOCH};

use crate::quantity::parse_duration;

const DAY_MS: i64 = 86_400_000;

/// Milliseconds since 1970 (UTC), by this machine's clock.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Reads a time: `2026-11-21T08:30:00Z`, `2026-11-21T08:30:00.250+01:00`, `2026-11-21`,
/// `@1795250000000` (milliseconds since 1970), `-1h30m` or `1h30m ago` (before `now_ms`), `now`.
pub(crate) fn parse_time(text: &str, now_ms: i64) -> Result<i64, String> {
    let problem = || {
        format!(
            "{text:?} is not a time; write 2026-11-21T08:30:00Z, 2026-11-21, -1h30m, now, \
             or @ and milliseconds since 1970"
        )
    };
    if text == "now" {
        return Ok(now_ms);
    }
    if let Some(ms) = text.strip_prefix('@') {
        return ms.parse().map_err(|_| problem());
    }
    if let Some(ago) = text.strip_prefix('-').or_else(|| text.strip_suffix(" ago")) {
        let ago = parse_duration(ago).map_err(|_| problem())?;
        let ago_ms = i64::try_from(ago.as_millis()).map_err(|_| problem())?;
        return now_ms.checked_sub(ago_ms).ok_or_else(problem);
    }
    parse_rfc3339(text).ok_or_else(problem)
}

/// Reads a date, or a date and time of RFC 3339. Fractions below a millisecond are dropped; a leap
/// second counts as the second after it.
fn parse_rfc3339(text: &str) -> Option<i64> {
    let mut rest = Rest(text.as_bytes());
    let year = rest.digits(4)?;
    rest.one_of(b"-")?;
    let month = rest.digits(2)?;
    rest.one_of(b"-")?;
    let day = rest.digits(2)?;
    let date_ms = days_from_civil(year, month, day)? * DAY_MS;
    if rest.0.is_empty() {
        return Some(date_ms);
    }
    rest.one_of(b"Tt ")?;
    let hour = rest.digits(2).filter(|&hour| hour < 24)?;
    rest.one_of(b":")?;
    let minute = rest.digits(2).filter(|&minute| minute < 60)?;
    rest.one_of(b":")?;
    let second = rest.digits(2).filter(|&second| second <= 60)?;
    let fraction_ms = if rest.one_of(b".").is_some() { rest.fraction_ms()? } else { 0 };
    let zone = rest.one_of(b"Zz+-")?;
    let offset_minutes = if matches!(zone, b'+' | b'-') {
        let hours = rest.digits(2).filter(|&hours| hours < 24)?;
        rest.one_of(b":")?;
        let minutes = rest.digits(2).filter(|&minutes| minutes < 60)?;
        (hours * 60 + minutes) * if zone == b'-' { -1 } else { 1 }
    } else {
        0
    };
    let time_ms = ((hour * 60 + minute - offset_minutes) * 60 + second) * 1_000 + fraction_ms;
    rest.0.is_empty().then_some(date_ms + time_ms)
}

/// What is left of a text that is being read.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn one_of(&mut self, allowed: &[u8]) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        allowed.contains(&first).then(|| {
            self.0 = rest;
            first
        })
    }

    fn digits(&mut self, count: usize) -> Option<i64> {
        let (digits, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        digits.iter().try_fold(0, |number, digit| {
            digit.is_ascii_digit().then(|| number * 10 + i64::from(digit - b'0'))
        })
    }

    fn fraction_ms(&mut self) -> Option<i64> {
        let count = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (digits, rest) = self.0.split_at(count);
        self.0 = rest;
        let padded = digits.iter().chain(b"000").take(3);
        (count > 0).then(|| padded.fold(0, |ms, digit| ms * 10 + i64::from(digit - b'0')))
    }
}

/// Days from 1970-01-01 to this day, where the calendar has it.
fn days_from_civil(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let month_days = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=month_days).contains(&day) {
        return None;
    }
    // Years begin in March here, so that the leap day is the last of its year.
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

/// A time as RFC 3339 in UTC with milliseconds: `2026-11-21T08:30:00.250Z`. Years outside 0 to
/// 9999, which RFC 3339 cannot write, are given as `@` and milliseconds.
pub(crate) fn time_text(ms: i64) -> String {
    let days = ms.div_euclid(DAY_MS) + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    if !(0..=9_999).contains(&year) {
        return format!("@{ms}");
    }
    let time = ms.rem_euclid(DAY_MS);
    let (hour, minute) = (time / 3_600_000, time / 60_000 % 60);
    let (second, fraction) = (time / 1_000 % 60, time % 1_000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_times_are_read() {
        let now = 1_795_250_000_000;
        for (text, ms) in [
            ("1970-01-01", 0),
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00Z", 951_825_600_000),
            ("2026-11-21T08:30:00.25+01:00", 1_795_246_200_250),
            ("2026-11-21t07:30:00.2509z", 1_795_246_200_250),
            ("2026-11-21 02:00:00-05:30", 1_795_246_200_000),
            ("1969-12-31T23:59:59.999Z", -1),
            ("@-5", -5),
            ("@1795250000000", now),
            ("-1h", now - 3_600_000),
            ("now", now),
        ] {
            assert_eq!(parse_time(text, now), Ok(ms), "{text}");
        }
    }

    #[test]
    fn texts_that_are_no_times_are_refused() {
        for text in [
            "",
            "tomorrow",
            "2026",
            "2026-13-01",
            "2026-02-29",
            "2026-11-21T",
            "2026-11-21T08:30:00",
            "2026-11-21T24:00:00Z",
            "2026-11-21T08:60:00Z",
            "2026-11-21T08:30:00.Z",
            "2026-11-21T08:30:00Zz",
            "2026-11-21T08:30:00+01",
            "@",
            "@1e9",
            "-",
            "-1",
            "--1h",
            "+2026-1-1",
        ] {
            assert!(parse_time(text, 0).is_err(), "{text}");
        }
    }

    #[test]
    fn years_out_of_range_are_written_as_milliseconds() {
        assert_eq!(time_text(i64::MIN), format!("@{}", i64::MIN));
        assert_eq!(time_text(i64::MAX), format!("@{}", i64::MAX));
        assert_eq!(time_text(253_402_300_799_999), "9999-12-31T23:59:59.999Z");
    }

    proptest! {
        #[test]
        fn written_times_are_read_back(ms in i64::MIN..=i64::MAX) {
            prop_assert_eq!(parse_time(&time_text(ms), 0), Ok(ms));
        }

        #[test]
        fn written_times_of_our_age_are_read_back(ms in -62_167_219_200_000_i64..253_402_300_800_000) {
            let text = time_text(ms);
            prop_assert!(text.ends_with('Z'));
            prop_assert_eq!(parse_time(&text, 0), Ok(ms));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,40}") {
            let _ = parse_time(&text, 0);
        }
    }
}
