//! Responses of the two mechanisms that carry a name and a password.
//!
//! Invariant: a password is never in a text or in `Debug`. Knows nothing of who may log in.

use std::fmt;

use bytes::Bytes;

use crate::error::{Fault, ReplyCode};
use crate::table::{FieldTable, FieldValue};

/// How a client logs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// SASL PLAIN. Source: RFC 4616, without an authorization identity, as RabbitMQ reads it.
    Plain,
    /// A field table with `LOGIN` and `PASSWORD`. Source: AMQP 0-8, RabbitMQ "Access Control".
    AmqPlain,
}

impl Mechanism {
    /// Its name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::AmqPlain => "AMQPLAIN",
        }
    }

    /// The mechanism of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Plain, Self::AmqPlain].into_iter().find(|mechanism| mechanism.name() == name)
    }

    /// What both ends offer, for `connection.start`.
    pub const OFFERED: &'static str = "PLAIN AMQPLAIN";

    /// Reads a response.
    ///
    /// # Errors
    /// 502 when it is not one.
    pub fn credentials(self, response: &Bytes) -> Result<Credentials, Fault> {
        let credentials = match self {
            Self::Plain => plain(response),
            Self::AmqPlain => amqplain(response),
        };
        credentials.map_err(|text| Fault::new(ReplyCode::SyntaxError, text))
    }
}

/// Who wants to log in.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The name.
    pub user: String,
    /// The password: any bytes.
    pub password: Bytes,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

fn credentials(user: &[u8], password: Bytes) -> Result<Credentials, String> {
    let user = std::str::from_utf8(user).map_err(|_| "the user's name is not UTF-8")?;
    Ok(Credentials { user: user.to_owned(), password })
}

/// `NUL user NUL password`, and nothing before.
fn plain(response: &Bytes) -> Result<Credentials, String> {
    let mut parts = response.splitn(3, |byte| *byte == 0);
    match (parts.next(), parts.next(), parts.next()) {
        (Some([]), Some(user), Some(password)) if !password.contains(&0) => {
            credentials(user, response.slice_ref(password))
        }
        _ => Err("PLAIN response invalid".into()),
    }
}

fn amqplain(response: &Bytes) -> Result<Credentials, String> {
    let table = FieldTable::parse(response.clone()).map_err(|error| error.to_string())?;
    match (table.find("LOGIN"), table.find("PASSWORD")) {
        (Some(FieldValue::LongStr(user)), Some(FieldValue::LongStr(password))) => {
            credentials(user, response.slice_ref(password))
        }
        (Some(_), Some(_)) => {
            Err("AMQPLAIN auth info uses unsupported type for LOGIN or PASSWORD field".into())
        }
        _ => Err("AMQPLAIN auth info is missing LOGIN or PASSWORD field".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::TableBuilder;

    fn read(mechanism: Mechanism, response: &[u8]) -> Option<(String, Vec<u8>)> {
        let read = mechanism.credentials(&Bytes::copy_from_slice(response)).ok()?;
        Some((read.user, read.password.to_vec()))
    }

    #[test]
    fn plain_has_two_parts_behind_nul() {
        let plain = |response| read(Mechanism::Plain, response);
        assert_eq!(plain(b"\0guest\0secret"), Some(("guest".into(), b"secret".to_vec())));
        assert_eq!(plain(b"\0guest\0"), Some(("guest".into(), Vec::new())));
        for wrong in [&b""[..], b"\0", b"\0guest", b"id\0guest\0secret", b"\0a\0b\0c", b"\0\xff\0b"]
        {
            assert_eq!(plain(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn amqplain_is_a_table_without_a_length() {
        let amqplain =
            |table: TableBuilder| read(Mechanism::AmqPlain, table.build().unwrap().as_bytes());
        let login = || TableBuilder::new().text("LOGIN", "guest");
        let expected = Some(("guest".into(), b"secret".to_vec()));
        assert_eq!(amqplain(login().text("PASSWORD", "secret")), expected);
        assert_eq!(amqplain(login()), None);
        assert_eq!(amqplain(login().field("PASSWORD", FieldValue::U8(1))), None);
        assert_eq!(read(Mechanism::AmqPlain, b"\x05LOGI"), None);
    }

    #[test]
    fn password_is_not_shown() {
        let response = Bytes::from_static(b"\0guest\0hunter2");
        let shown = format!("{:?}", Mechanism::Plain.credentials(&response));
        assert!(shown.contains("guest") && !shown.contains("hunter2"), "{shown}");
    }
}
