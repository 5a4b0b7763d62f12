//! What an exchange was declared as.

use super::equivalence::{check_argument, check_field};
use crate::error::{Fault, ReplyCode, Resource};
use crate::methods::ExchangeDeclare;
use crate::shortstr::ShortStr;
use crate::table::{FieldTable, FieldValue};

/// How an exchange chooses among its bindings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// Those whose key is the message's.
    Direct,
    /// All.
    Fanout,
    /// Those whose pattern matches the message's key.
    Topic,
    /// Those whose arguments match the message's headers.
    Headers,
}

impl Rule {
    /// The name of its type.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Fanout => "fanout",
            Self::Topic => "topic",
            Self::Headers => "headers",
        }
    }

    /// The rule of this type.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Direct, Self::Fanout, Self::Topic, Self::Headers]
            .into_iter()
            .find(|rule| rule.name() == name)
    }
}

/// A type's name: that of its rule, or `x-delayed-message`.
pub type ExchangeType = &'static str;

/// The type whose messages wait before they are routed. Source: the plugin
/// rabbitmq-delayed-message-exchange, README.
const DELAYED: ExchangeType = "x-delayed-message";

/// What an exchange was declared as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExchangeShape {
    /// How it routes.
    pub rule: Rule,
    /// Whether messages wait first.
    pub delayed: bool,
    /// Whether it survives a restart.
    pub durable: bool,
    /// Whether it goes with its last binding.
    pub auto_delete: bool,
    /// Whether only exchanges publish to it.
    pub internal: bool,
    /// Its arguments.
    pub arguments: FieldTable,
}

impl ExchangeShape {
    /// A durable exchange without arguments.
    #[must_use]
    pub fn durable(rule: Rule) -> Self {
        Self {
            rule,
            delayed: false,
            durable: true,
            auto_delete: false,
            internal: false,
            arguments: FieldTable::default(),
        }
    }

    /// What a client declares.
    ///
    /// # Errors
    /// 406 where the type is unknown.
    pub fn of(declare: &ExchangeDeclare) -> Result<Self, Fault> {
        let delayed = &*declare.kind == DELAYED;
        let rule = match declare.arguments.find("x-delayed-type") {
            Some(inner) if delayed => inner.as_text().and_then(Rule::from_name),
            _ => Rule::from_name(&declare.kind),
        };
        let rule = rule.ok_or_else(|| {
            let text = if delayed {
                "Invalid argument, 'x-delayed-type' must be an existing exchange type".to_owned()
            } else {
                format!("unknown exchange type '{}'", declare.kind)
            };
            Fault::new(ReplyCode::PreconditionFailed, text)
        })?;
        Ok(Self {
            rule,
            delayed,
            durable: declare.durable,
            auto_delete: declare.auto_delete,
            internal: declare.internal,
            arguments: declare.arguments.clone(),
        })
    }

    /// The name of its type.
    #[must_use]
    pub fn type_name(&self) -> ExchangeType {
        if self.delayed { DELAYED } else { self.rule.name() }
    }

    /// Checks that `declared` is what this one, which exists, was declared as. Of the arguments only
    /// the alternate exchange, and the rule of a delayed one, are compared.
    ///
    /// # Errors
    /// 406, for the first difference.
    pub fn check(&self, declared: &Self, name: Resource<'_>) -> Result<(), Fault> {
        check_field("type", self.type_name(), declared.type_name(), name)?;
        check_field("durable", self.durable, declared.durable, name)?;
        check_field("auto_delete", self.auto_delete, declared.auto_delete, name)?;
        check_field("internal", self.internal, declared.internal, name)?;
        check_argument("alternate-exchange", &self.arguments, &declared.arguments, name)?;
        if self.delayed {
            check_argument("x-delayed-type", &self.arguments, &declared.arguments, name)?;
        }
        Ok(())
    }

    /// The exchange for messages that this one has no way for.
    pub(super) fn alternate(&self, name: Resource<'_>) -> Result<Option<ShortStr>, Fault> {
        const ARGUMENT: &str = "alternate-exchange";
        match self.arguments.find(ARGUMENT) {
            None => Ok(None),
            Some(FieldValue::LongStr(alternate)) => {
                Ok(Some(ShortStr::cut(&String::from_utf8_lossy(alternate))))
            }
            Some(other) => {
                let kind = other.type_name();
                let text = format!("invalid type '{kind}' for arg '{ARGUMENT}' in {name}");
                Err(Fault::new(ReplyCode::PreconditionFailed, text))
            }
        }
    }
}
