//! Who led which group when, counted in events: who was given a message by a consumer's session was given
//! it by somebody who led since that session began.

use std::collections::BTreeMap;

use plimsoll_protocol::ids::{GroupId, Term};

use super::{Event, Life};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Leaderships {
    events: u64,
    all: BTreeMap<GroupId, Vec<Leadership>>,
}

#[derive(Debug)]
struct Leadership {
    at: Life,
    term: Term,
    /// The event by which it ended.
    until: Option<u64>,
}

impl Leaderships {
    /// Notes an event, of whatever kind.
    pub(super) fn note(&mut self, event: &Event<'_>) {
        self.events += 1;
        match event {
            Event::Leads { at, group, term, .. } => {
                self.end(*at, *group);
                let led = self.all.entry(*group).or_default();
                led.push(Leadership { at: *at, term: *term, until: None });
            }
            Event::LeadsNoMore { at, group } => self.end(*at, *group),
            _ => {}
        }
    }

    fn end(&mut self, at: Life, group: GroupId) {
        let events = self.events;
        let led = self.all.entry(group).or_default().iter_mut();
        led.filter(|led| led.at == at && led.until.is_none())
            .for_each(|led| led.until = Some(events));
    }

    /// Events so far.
    pub(super) fn now(&self) -> u64 {
        self.events
    }

    /// The terms in which somebody led the group at some time since an event: also somebody who did not
    /// know yet that another one did.
    pub(super) fn terms_since(&self, group: GroupId, since: u64) -> impl Iterator<Item = Term> {
        let led = self.all.get(&group).map(Vec::as_slice).unwrap_or_default();
        led.iter()
            .filter(move |led| led.until.is_none_or(|until| until >= since))
            .map(|led| led.term)
    }
}
