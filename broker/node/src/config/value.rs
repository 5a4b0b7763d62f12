//! How one setting is written and read: the same text in a file, an environment variable, a flag.
//!
//! Promise: what [`ConfigValue::render`] prints, [`ConfigValue::parse`] accepts and gives back.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// Bytes in a kibibyte.
pub(crate) const KIB: u64 = 1024;
/// Bytes in a mebibyte.
pub(crate) const MIB: u64 = 1024 * KIB;
/// Bytes in a gibibyte.
pub(crate) const GIB: u64 = 1024 * MIB;
/// Milliseconds in a second.
pub(crate) const SECOND: u64 = 1000;
/// Milliseconds in a minute.
pub(crate) const MINUTE: u64 = 60 * SECOND;
/// Milliseconds in an hour.
pub(crate) const HOUR: u64 = 60 * MINUTE;
/// Milliseconds in a day.
pub(crate) const DAY: u64 = 24 * HOUR;

const BYTE_UNITS: [(&str, u64); 4] = [("GiB", GIB), ("MiB", MIB), ("KiB", KIB), ("B", 1)];
const TIME_UNITS: [(&str, u64); 5] =
    [("d", DAY), ("h", HOUR), ("m", MINUTE), ("s", SECOND), ("ms", 1)];

/// A size in bytes, written `64 KiB`, `256MiB`, `1 GiB` or as a plain number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// The bytes as a length in memory.
    ///
    /// # Panics
    /// Never where `usize` has 64 bits; the node supports no other.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).expect("usize has 64 bits")
    }

    /// The bytes as `u32`, at most its largest value (bounds keep settings that need it below).
    pub fn as_u32(self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }
}

/// A type that a setting can have.
pub trait ConfigValue: Sized {
    /// What is expected, for messages and the reference page: `a size in bytes`.
    const KIND: &'static str;
    /// An example of the notation.
    const EXAMPLE: &'static str;

    /// Reads the text of a setting.
    ///
    /// # Errors
    /// `None` where the text is not of this type.
    fn parse(text: &str) -> Option<Self>;

    /// Writes the setting as [`ConfigValue::parse`] reads it.
    fn render(&self) -> String;

    /// The number that bounds apply to, in the unit of [`ConfigValue::render_bound`].
    fn measure(&self) -> Option<u64> {
        None
    }

    /// Writes a bound in the notation of this type.
    fn render_bound(bound: u64) -> String {
        bound.to_string()
    }
}

/// Reads `text` as a `T` within `bounds`.
///
/// # Errors
/// A sentence part that names what was expected, with an example or the bounds.
pub(crate) fn parse_bounded<T: ConfigValue>(
    text: &str,
    bounds: Option<RangeInclusive<u64>>,
) -> Result<T, String> {
    let value = T::parse(text.trim())
        .ok_or_else(|| format!("expected {}, for example `{}`", T::KIND, T::EXAMPLE))?;
    if let (Some(bounds), Some(measure)) = (bounds, value.measure())
        && !bounds.contains(&measure)
    {
        return Err(format!(
            "must lie between {} and {}",
            T::render_bound(*bounds.start()),
            T::render_bound(*bounds.end())
        ));
    }
    Ok(value)
}

fn parse_with_units(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let number: u64 = text[..digits].parse().ok()?;
    let unit = text[digits..].trim();
    let factor = units.iter().find(|(name, _)| unit.eq_ignore_ascii_case(name))?.1;
    number.checked_mul(factor)
}

fn render_with_units(value: u64, units: &[(&str, u64)], space: &str) -> String {
    let (unit, factor) = units
        .iter()
        .find(|(_, factor)| value != 0 && value.is_multiple_of(*factor))
        .or(units.last())
        .copied()
        .unwrap_or(("", 1));
    format!("{}{space}{unit}", value / factor)
}

impl ConfigValue for ByteSize {
    const KIND: &'static str = "a size in bytes";
    const EXAMPLE: &'static str = "64 MiB";

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok().or_else(|| parse_with_units(text, &BYTE_UNITS)).map(ByteSize)
    }

    fn render(&self) -> String {
        Self::render_bound(self.0)
    }

    fn measure(&self) -> Option<u64> {
        Some(self.0)
    }

    fn render_bound(bound: u64) -> String {
        render_with_units(bound, &BYTE_UNITS, " ")
    }
}

impl ConfigValue for Duration {
    const KIND: &'static str = "a time with its unit (ms, s, m, h, d)";
    const EXAMPLE: &'static str = "30s";

    fn parse(text: &str) -> Option<Self> {
        parse_with_units(text, &TIME_UNITS).map(Duration::from_millis)
    }

    fn render(&self) -> String {
        Self::render_bound(self.measure().unwrap_or(u64::MAX))
    }

    fn measure(&self) -> Option<u64> {
        u64::try_from(self.as_millis()).ok()
    }

    fn render_bound(bound: u64) -> String {
        render_with_units(bound, &TIME_UNITS, "")
    }
}

macro_rules! counts {
    ($($type:ty),*) => {$(
        impl ConfigValue for $type {
            const KIND: &'static str = "a whole number";
            const EXAMPLE: &'static str = "1000";

            fn parse(text: &str) -> Option<Self> {
                text.replace('_', "").parse().ok()
            }

            fn render(&self) -> String {
                self.to_string()
            }

            fn measure(&self) -> Option<u64> {
                u64::try_from(*self).ok()
            }
        }
    )*};
}
counts!(u32, u64, usize);

impl ConfigValue for SocketAddr {
    const KIND: &'static str = "an address with a port";
    const EXAMPLE: &'static str = "127.0.0.1:7420";

    fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix("localhost:") {
            Some(port) => Some(Self::from(([127, 0, 0, 1], port.parse().ok()?))),
            None => text.parse().ok(),
        }
    }

    fn render(&self) -> String {
        self.to_string()
    }
}

impl ConfigValue for PathBuf {
    const KIND: &'static str = "a path";
    const EXAMPLE: &'static str = "/var/lib/plimsoll";

    fn parse(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| PathBuf::from(text))
    }

    fn render(&self) -> String {
        self.display().to_string()
    }
}

impl<T: ConfigValue> ConfigValue for Option<T> {
    const KIND: &'static str = T::KIND;
    const EXAMPLE: &'static str = T::EXAMPLE;

    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() || text == "none" { Some(None) } else { T::parse(text).map(Some) }
    }

    fn render(&self) -> String {
        self.as_ref().map_or_else(|| "none".to_owned(), T::render)
    }

    fn measure(&self) -> Option<u64> {
        self.as_ref().and_then(T::measure)
    }

    fn render_bound(bound: u64) -> String {
        T::render_bound(bound)
    }
}

impl ConfigValue for String {
    const KIND: &'static str = "a text";
    const EXAMPLE: &'static str = "rack-1";

    fn parse(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| text.to_owned())
    }

    fn render(&self) -> String {
        self.clone()
    }
}

/// How nodes speak with each other: always encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PeerTransport {
    /// Many streams over UDP.
    #[default]
    Quic,
    /// TLS over TCP.
    Tls,
}

impl ConfigValue for PeerTransport {
    const KIND: &'static str = "`quic` or `tls`";
    const EXAMPLE: &'static str = "quic";

    fn parse(text: &str) -> Option<Self> {
        match text {
            "quic" => Some(Self::Quic),
            "tls" => Some(Self::Tls),
            _ => None,
        }
    }

    fn render(&self) -> String {
        match self {
            Self::Quic => "quic".to_owned(),
            Self::Tls => "tls".to_owned(),
        }
    }
}

/// Names separated by commas.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NameList(pub Vec<String>);

impl ConfigValue for NameList {
    const KIND: &'static str = "names separated by commas";
    const EXAMPLE: &'static str = "broker.example.org,10.0.0.5";

    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() || text == "none" {
            return Some(Self::default());
        }
        let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
        names.iter().all(|name| !name.is_empty() && name.is_ascii()).then_some(Self(names))
    }

    fn render(&self) -> String {
        if self.0.is_empty() { "none".to_owned() } else { self.0.join(",") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_read_with_their_units() {
        assert_eq!(ByteSize::parse("64 KiB"), Some(ByteSize(65_536)));
        assert_eq!(ByteSize::parse("1gib"), Some(ByteSize(GIB)));
        assert_eq!(ByteSize::parse("12"), Some(ByteSize(12)));
        assert_eq!(ByteSize::parse("12 parsecs"), None);
        assert_eq!(ByteSize::parse("99999999999999 GiB"), None);
        assert_eq!(Duration::parse("1500ms"), Some(Duration::from_millis(1500)));
        assert_eq!(Duration::parse("2d"), Some(Duration::from_secs(172_800)));
        assert_eq!(Duration::parse("30"), None, "a time without a unit could mean anything");
    }

    #[test]
    fn values_survive_being_printed() {
        for size in [0, 1, 1000, KIB, 3 * MIB, 7 * GIB + 1] {
            assert_eq!(ByteSize::parse(&ByteSize(size).render()), Some(ByteSize(size)));
        }
        for ms in [0, 1, 999, SECOND, 90 * SECOND, DAY, 36 * HOUR] {
            let time = Duration::from_millis(ms);
            assert_eq!(Duration::parse(&time.render()), Some(time));
        }
        let names = NameList(vec!["a.example".into(), "10.0.0.1".into()]);
        assert_eq!(NameList::parse(&names.render()), Some(names));
        assert_eq!(SocketAddr::parse("localhost:7"), "127.0.0.1:7".parse().ok());
        assert_eq!(Option::<SocketAddr>::parse("none"), Some(None));
    }

    #[test]
    fn bounds_are_told_in_the_notation_of_the_setting() {
        let problem = parse_bounded::<ByteSize>("1", Some(KIB..=MIB)).unwrap_err();
        assert_eq!(problem, "must lie between 1 KiB and 1 MiB");
        let problem = parse_bounded::<Duration>("soon", None).unwrap_err();
        assert!(problem.contains("for example `30s`"), "{problem}");
    }
}
