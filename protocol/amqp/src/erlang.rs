//! Bytes as RabbitMQ's texts show them. Clients and their users compare texts, so the few that carry
//! bytes of a peer carry them in its notation.

use std::fmt::Write;

/// Bytes that are shown before a text is long enough to be cut anyway.
const SHOWN_BYTES_MAX: usize = 100;

/// `<<1,2,3>>`.
pub(crate) fn numbers(bytes: &[u8]) -> String {
    let mut text = String::from("<<");
    for (index, byte) in bytes.iter().take(SHOWN_BYTES_MAX).enumerate() {
        let comma = if index == 0 { "" } else { "," };
        write!(text, "{comma}{byte}").expect("writing to a string");
    }
    text.push_str(">>");
    text
}

/// `<<"abc">>` where all bytes can be printed, else as [`numbers`].
pub(crate) fn binary(bytes: &[u8]) -> String {
    let printable = |byte: &u8| matches!(byte, b' '..=b'~' | b'\t' | b'\n' | b'\r');
    if bytes.is_empty() || !bytes.iter().all(printable) {
        return numbers(bytes);
    }
    let text = String::from_utf8_lossy(bytes);
    format!("<<{text:?}>>")
}

/// `all octets = <<...>>` or the first 16.
pub(crate) fn snippet(payload: &[u8]) -> String {
    match payload.get(..16) {
        Some(first) if payload.len() > 16 => format!("first 16 octets = {}", binary(first)),
        _ => format!("all octets = {}", binary(payload)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_as_text_or_numbers() {
        assert_eq!(snippet(b"abc"), "all octets = <<\"abc\">>");
        assert_eq!(snippet(&[0; 17]), "first 16 octets = <<0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0>>");
        assert_eq!(snippet(b""), "all octets = <<>>");
    }
}
