//! What stands between a key and its value on a line: any bytes, with the usual escapes.

use std::str::FromStr;

/// A separator; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Separator(Vec<u8>);

impl Separator {
    /// Its bytes.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Where it first begins in a line.
    pub(crate) fn find(&self, line: &[u8]) -> Option<usize> {
        match &*self.0 {
            [only] => line.iter().position(|byte| byte == only),
            several => line.windows(several.len()).position(|window| window == several),
        }
    }
}

impl FromStr for Separator {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let problem = || {
            format!("{text:?} is not a separator; write its characters, or \\t, \\0, \\\\, \\xNN")
        };
        let mut bytes = Vec::new();
        let mut rest = text.chars();
        while let Some(character) = rest.next() {
            if character != '\\' {
                bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
            bytes.push(match rest.next() {
                Some('t') => b'\t',
                Some('0') => 0,
                Some('\\') => b'\\',
                Some('x') => {
                    let mut digit = || rest.next().and_then(|digit| digit.to_digit(16));
                    let (high, low) = digit().zip(digit()).ok_or_else(problem)?;
                    u8::try_from(high * 16 + low).expect("two hexadecimal digits are a byte")
                }
                _ => return Err(problem()),
            });
        }
        if bytes.is_empty() {
            return Err(
                "a separator cannot be empty; write its characters, such as : or \\t".into()
            );
        }
        if bytes.contains(&b'\n') {
            return Err("a line break ends the record and cannot separate its key".into());
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_read() {
        for (text, bytes) in [
            (":", &b":"[..]),
            ("\\t", b"\t"),
            ("\\0", b"\0"),
            ("\\\\", b"\\"),
            ("\\x1F", b"\x1f"),
            ("=>", b"=>"),
            ("é", "é".as_bytes()),
        ] {
            assert_eq!(text.parse::<Separator>().unwrap().as_bytes(), bytes, "{text}");
        }
        for text in ["", "\\", "\\q", "\\x1", "\\xzz", "\n", "a\\x0a"] {
            assert!(text.parse::<Separator>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn first_place_is_found() {
        let arrow: Separator = "=>".parse().unwrap();
        assert_eq!(arrow.find(b"a=b=>c=>d"), Some(3));
        assert_eq!(arrow.find(b"="), None);
        let colon: Separator = ":".parse().unwrap();
        assert_eq!(colon.find(b":"), Some(0));
        assert_eq!(colon.find(b""), None);
    }
}
