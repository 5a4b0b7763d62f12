//! Delivery tags of one channel, and the deliveries that wait for their settlement.
//!
//! Invariants: tags count up from 1 and are never used twice in a channel's life; memory is in
//! proportion to what is unsettled, however old the oldest is.
//!
//! Source: AMQP 0-9-1, 1.8.3.13 (basic.ack); RabbitMQ, "Consumer Acknowledgements": a tag that is not
//! unsettled is an error, with `multiple` too.

use std::collections::BTreeMap;

use super::request::{MessageRef, Settled};
use crate::error::{Fault, ReplyCode};
use crate::shortstr::ShortStr;

/// A consumer of a channel: its tag, and which of the consumers that had this tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConsumerRef {
    pub(crate) tag: ShortStr,
    pub(crate) serial: u32,
}

/// A delivery that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unsettled {
    pub(crate) tag: u64,
    pub(crate) message: MessageRef,
    /// None: of `basic.get`.
    pub(crate) consumer: Option<ConsumerRef>,
}

impl Unsettled {
    pub(crate) fn settled(&self) -> Settled {
        let consumer_tag = self.consumer.as_ref().map(|consumer| consumer.tag.clone());
        Settled { message: self.message, consumer_tag }
    }
}

/// The tags of a channel.
#[derive(Debug)]
pub(crate) struct Tags {
    next: u64,
    waiting: BTreeMap<u64, (MessageRef, Option<ConsumerRef>)>,
}

impl Tags {
    pub(crate) fn new() -> Self {
        Self { next: 1, waiting: BTreeMap::new() }
    }

    /// The tag of a delivery that is settled by being sent.
    pub(crate) fn next(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// The tag of a delivery that waits from now on.
    pub(crate) fn wait(&mut self, message: MessageRef, consumer: Option<ConsumerRef>) -> u64 {
        let tag = self.next();
        self.waiting.insert(tag, (message, consumer));
        tag
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Takes what a settlement names: one, or all up to one, or with `multiple` and 0 all.
    ///
    /// # Errors
    /// 406 when the tag does not wait.
    pub(crate) fn take(&mut self, tag: u64, multiple: bool) -> Result<Vec<Unsettled>, Fault> {
        if multiple && tag == 0 {
            return Ok(self.take_all());
        }
        let Some(one) = self.waiting.remove(&tag) else {
            let text = format!("unknown delivery tag {tag}");
            return Err(Fault::new(ReplyCode::PreconditionFailed, text));
        };
        let mut taken = Vec::new();
        if multiple {
            let later = self.waiting.split_off(&tag);
            taken =
                std::mem::replace(&mut self.waiting, later).into_iter().map(unsettled).collect();
        }
        taken.push(unsettled((tag, one)));
        Ok(taken)
    }

    /// Takes everything.
    pub(crate) fn take_all(&mut self) -> Vec<Unsettled> {
        std::mem::take(&mut self.waiting).into_iter().map(unsettled).collect()
    }

    /// Puts back what was taken, as a rollback does.
    pub(crate) fn put_back(&mut self, taken: Vec<Unsettled>) {
        for Unsettled { tag, message, consumer } in taken {
            self.waiting.insert(tag, (message, consumer));
        }
    }
}

fn unsettled((tag, (message, consumer)): (u64, (MessageRef, Option<ConsumerRef>))) -> Unsettled {
    Unsettled { tag, message, consumer }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a list that is searched from the front.
        #[test]
        fn settles_what_the_naive_list_settles(
            steps in prop::collection::vec((any::<bool>(), 0u64..30, any::<bool>()), 0..60),
        ) {
            let (mut tags, mut naive) = (Tags::new(), Vec::new());
            for (deliver, tag, multiple) in steps {
                if deliver {
                    let message = MessageRef { queue: 0, message: tag };
                    naive.push(tags.wait(message, None));
                    continue;
                }
                let known = naive.contains(&tag) || multiple && tag == 0;
                let expected: Vec<u64> = naive
                    .iter()
                    .copied()
                    .filter(|&other| other == tag || multiple && (tag == 0 || other < tag))
                    .collect();
                match tags.take(tag, multiple) {
                    Ok(taken) => {
                        prop_assert!(known);
                        naive.retain(|other| !expected.contains(other));
                        let taken: Vec<_> = taken.into_iter().map(|one| one.tag).collect();
                        prop_assert_eq!(taken, expected);
                    }
                    Err(fault) => {
                        prop_assert!(!known);
                        let text = format!("PRECONDITION_FAILED - unknown delivery tag {tag}");
                        prop_assert_eq!(&*fault.reply_text(), &text);
                    }
                }
                prop_assert_eq!(tags.len(), naive.len());
            }
        }
    }
}
