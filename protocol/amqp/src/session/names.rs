//! Names that the server finds: consumer tags here, queue names for the broker.

use crate::shortstr::ShortStr;

/// The 64 characters of names, as in RabbitMQ's: base64 that is safe in URLs.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// `prefix-` and 22 characters of 128 bits, as `amq.gen-...` and `amq.ctag-...`. The bits are random,
/// and they are the caller's.
#[must_use]
pub fn server_named(prefix: &str, bits: u128) -> ShortStr {
    let mut name = format!("{prefix}-");
    for place in (0..22).rev() {
        name.push(char::from(ALPHABET[(bits >> (6 * place) & 63) as usize]));
    }
    ShortStr::cut(&name)
}

/// Consumer tags of one connection: each different, from random bits that the connection was given.
#[derive(Debug)]
pub(super) struct Names {
    next: u128,
}

impl Names {
    pub(super) fn new(random: u128) -> Self {
        Self { next: random }
    }

    pub(super) fn consumer_tag(&mut self) -> ShortStr {
        // An odd step visits each of the 2^128 numbers before it comes back.
        self.next = self.next.wrapping_add(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        server_named("amq.ctag", self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_prefix_and_22_characters() {
        assert_eq!(&*server_named("amq.gen", 0), "amq.gen-AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(&*server_named("amq.gen", u128::MAX), "amq.gen-D_____________________");
        let mut names = Names::new(7);
        assert_ne!(names.consumer_tag(), names.consumer_tag());
    }
}
