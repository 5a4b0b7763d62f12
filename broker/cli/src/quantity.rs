//! Durations, sizes and counts as people write them: `1h30m`, `10GiB`, `1,234,567`.

use std::time::Duration;

/// Parses a duration: numbers with units, largest first or in any order, added up: `500ms`, `90s`,
/// `1h30m`, `7d`, `2w`. A plain `0` needs no unit; every other number does.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let problem = || {
        format!(
            "{text:?} is not a duration; write numbers with units, such as 500ms, 90s, 1h30m, 7d"
        )
    };
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, after) = rest.split_at(digits);
        let unit_len =
            after.len() - after.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let (unit, next) = after.split_at(unit_len);
        let number: u64 = number.parse().map_err(|_| problem())?;
        let unit_ms: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 7 * 86_400_000,
            _ => return Err(problem()),
        };
        let ms = number.checked_mul(unit_ms).ok_or_else(problem)?;
        total = total.checked_add(Duration::from_millis(ms)).ok_or_else(problem)?;
        rest = next;
    }
    if text.is_empty() { Err(problem()) } else { Ok(total) }
}

/// Parses a number of bytes: `1048576`, `64KiB`, `10GiB` (powers of 1024), `10GB` (powers of 1000).
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let problem = || format!("{text:?} is not a size; write bytes, or a unit such as 64KiB, 10GB");
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| problem())?;
    let factor: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        _ => return Err(problem()),
    };
    number.checked_mul(factor).ok_or_else(problem)
}

/// A count with a comma before each three digits.
pub(crate) fn thousands(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A size with three digits and a unit of powers of 1000, as disks and throughputs are given.
pub(crate) fn bytes_text(bytes: u64) -> String {
    scaled(bytes, 1_000, &["B", "kB", "MB", "GB", "TB", "PB", "EB"])
}

fn scaled(value: u64, step: u64, units: &[&str]) -> String {
    if value < step {
        return format!("{value} {}", units[0]);
    }
    let mut scaled = value as f64 / step as f64;
    let mut unit = 1;
    while scaled >= 999.5 && unit + 1 < units.len() {
        scaled /= step as f64;
        unit += 1;
    }
    let decimals = if scaled < 9.995 {
        2
    } else if scaled < 99.95 {
        1
    } else {
        0
    };
    format!("{scaled:.decimals$} {}", units[unit])
}

/// A duration as it is configured: exact, in the units that [`parse_duration`] reads.
pub(crate) fn duration_text(duration: Duration) -> String {
    let mut ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if ms == 0 {
        return "0".to_owned();
    }
    let mut text = String::new();
    for (unit_ms, unit) in [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")] {
        if ms >= unit_ms {
            text.push_str(&format!("{}{unit}", ms / unit_ms));
            ms %= unit_ms;
        }
    }
    if ms > 0 {
        text.push_str(&format!("{ms}ms"));
    }
    text
}

/// How long something took.
pub(crate) fn elapsed_text(elapsed: Duration) -> String {
    if elapsed < Duration::from_secs(1) {
        format!("{:.0} ms", elapsed.as_secs_f64() * 1e3)
    } else if elapsed < Duration::from_secs(120) {
        format!("{:.2} s", elapsed.as_secs_f64())
    } else {
        duration_text(Duration::from_secs(elapsed.as_secs()))
    }
}

/// Something per second; nothing took no time at all, so the shortest time counts as a microsecond.
pub(crate) fn per_second(count: u64, elapsed: Duration) -> u64 {
    (count as f64 / elapsed.as_secs_f64().max(1e-6)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read() {
        for (text, ms) in [
            ("0", 0),
            ("500ms", 500),
            ("90s", 90_000),
            ("1h30m", 5_400_000),
            ("7d", 604_800_000),
            ("2w", 1_209_600_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "5", "h", "1h30", "-1h", "1 h", "1y", "99999999999999999999s", "1.5h"] {
            let problem = parse_duration(text).unwrap_err();
            assert!(problem.contains("1h30m"), "{problem}");
        }
        assert!(parse_duration(&format!("{}w", u64::MAX)).is_err());
    }

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in
            [("0", 0), ("17", 17), ("1KiB", 1024), ("2 GiB", 2 << 30), ("10GB", 10_000_000_000)]
        {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "KiB", "-1", "1.5GB", "1XB", "99999999999TiB"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn figures_are_readable() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(bytes_text(999), "999 B");
        assert_eq!(bytes_text(1_000), "1.00 kB");
        assert_eq!(bytes_text(999_949), "1.00 MB");
        assert_eq!(bytes_text(123_456_789), "123 MB");
        assert_eq!(elapsed_text(Duration::from_millis(41)), "41 ms");
        assert_eq!(elapsed_text(Duration::from_secs(3_605)), "1h5s");
        assert_eq!(per_second(10, Duration::from_millis(500)), 20);
        assert_eq!(per_second(0, Duration::ZERO), 0);
    }

    proptest! {
        #[test]
        fn written_durations_are_read_back(ms in 0_u64..u64::MAX / 2) {
            let duration = Duration::from_millis(ms);
            prop_assert_eq!(parse_duration(&duration_text(duration)), Ok(duration));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,40}") {
            let _ = parse_duration(&text);
            let _ = parse_bytes(&text);
        }
    }
}
