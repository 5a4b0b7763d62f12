//! Publishes and transactions: the checks that need no queue, numbers for confirms, what waits for a
//! commit.
//!
//! Source: RabbitMQ, "Publishers", "Validated User-ID", "Time-To-Live", "Direct Reply-to".

use super::channel::{Channel, Host, Mode, Transaction, Wait};
use super::commands::REPLY_TO;
use super::request::{Ask, Publish, Settlement};
use crate::content::Content;
use crate::error::{Fault, ReplyCode};
use crate::methods::BasicPublish;
use crate::properties::Properties;

/// The longest time to live, in milliseconds.
const EXPIRATION_MAX: i128 = u32::MAX as i128;

fn refused<T>(text: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::new(ReplyCode::PreconditionFailed, text))
}

/// The time to live of a message, in milliseconds.
///
/// # Errors
/// 406 when the property is not such a number.
pub fn expiration_ms(properties: &Properties) -> Result<Option<u32>, Fault> {
    let Some(text) = &properties.expiration else { return Ok(None) };
    let sign = usize::from(text.starts_with(['+', '-']));
    let digits = text[sign..].bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at(sign + digits);
    let wrong = match number.parse::<i128>() {
        _ if digits == 0 => "no_integer".to_owned(),
        _ if !rest.is_empty() => format!("{{leftover_string,{rest:?}}}"),
        Ok(number) if number < 0 => format!("{{value_negative,{number}}}"),
        Ok(number @ 0..=EXPIRATION_MAX) => {
            return Ok(Some(u32::try_from(number).expect("it is in range")));
        }
        _ => format!("{{value_too_big,{number}}}"),
    };
    refused(format!("invalid expiration '{text}': {wrong}"))
}

impl Channel {
    pub(super) fn publish(
        &mut self,
        publish: BasicPublish,
        content: Box<Content>,
        host: &mut Host<'_>,
    ) -> Result<(), Fault> {
        let BasicPublish { exchange, routing_key, mandatory, immediate, .. } = publish;
        if immediate {
            return Err(Fault::new(ReplyCode::NotImplemented, "immediate=true"));
        }
        let properties = &content.properties;
        if properties.reply_to.as_deref() == Some(REPLY_TO) && !self.takes_replies() {
            return refused("fast reply consumer does not exist");
        }
        expiration_ms(properties)?;
        if let Some(user) = &properties.user_id
            && **user != *host.user
            && !host.may_impersonate
        {
            return refused(format!(
                "user_id property set to '{user}' but authenticated user was '{}'",
                host.user
            ));
        }
        let mut publish = Publish { exchange, routing_key, mandatory, number: None, content };
        match &mut self.mode {
            Mode::Plain => {}
            Mode::Confirm(confirms) => publish.number = Some(confirms.next()),
            Mode::Transaction(transaction) => {
                transaction.grow(publish.bytes(), host.config)?;
                let (exchange, routing_key) =
                    (publish.exchange.clone(), publish.routing_key.clone());
                transaction.publishes.push(publish);
                self.ask(host, Ask::CheckPublish { exchange, routing_key });
                return Ok(());
            }
        }
        self.ask(host, Ask::Publish(publish));
        Ok(())
    }

    /// The open transaction.
    ///
    /// # Errors
    /// 406 when there is none.
    pub(super) fn transaction(&mut self) -> Result<&mut Transaction, Fault> {
        match &mut self.mode {
            Mode::Transaction(transaction) => Ok(transaction),
            _ => refused("channel is not transactional"),
        }
    }

    pub(super) fn commit(&mut self) -> Result<(Ask, Wait), Fault> {
        let Transaction { publishes, settlements, .. } = std::mem::take(self.transaction()?);
        let settlements = settlements
            .into_iter()
            .map(|(outcome, taken)| Settlement { outcome, deliveries: self.leave_windows(&taken) })
            .collect();
        Ok((Ask::Commit { publishes, settlements }, Wait::Commit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shortstr::ShortStr;

    #[test]
    fn expiration_is_a_number_of_milliseconds() {
        let parse = |text: &str| {
            let expiration = Some(ShortStr::cut(text));
            expiration_ms(&Properties { expiration, ..Properties::default() })
                .map_err(|fault| fault.text)
        };
        assert_eq!(parse("0"), Ok(Some(0)));
        assert_eq!(parse("4294967295"), Ok(Some(u32::MAX)));
        let text = |wrong: &str| Err(wrong.to_owned());
        assert_eq!(parse("x1"), text("invalid expiration 'x1': no_integer"));
        assert_eq!(parse(""), text("invalid expiration '': no_integer"));
        assert_eq!(parse("1s"), text("invalid expiration '1s': {leftover_string,\"s\"}"));
        assert_eq!(parse("-1"), text("invalid expiration '-1': {value_negative,-1}"));
        let big = "4294967296";
        assert_eq!(parse(big), text("invalid expiration '4294967296': {value_too_big,4294967296}"));
        assert!(parse(&"9".repeat(200)).is_err());
    }
}
