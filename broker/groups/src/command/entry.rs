//! The body of a control entry of consumer groups: whose it is, its version, then sections to the end of
//! the body.
//!
//! ```text
//!  byte 0   domain, 2: consumer groups        byte 1   version, 1
//!  then     sections: the group's name, how many commands, the commands
//! ```
//! Nothing protects the bytes: the entry's checksum does.

use bytes::{BufMut, Bytes, BytesMut};
use plimsoll_protocol::wire::{Encode, Reader};

use super::GroupCommand;
use crate::codec::{DecodeGroupsError, count, invalid, text, version};
use crate::ids::{GROUP_NAME_BYTES_MAX, GroupName};

/// The first byte of a control entry of consumer groups; 1 is that of queues. None is used again.
pub const DOMAIN: u8 = 2;

const VERSION: u8 = 1;

/// Changes of groups that are committed together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GroupsEntry {
    /// Of each group its commands, in the order in which they are applied; a group may come again, and
    /// none is without. An entry without sections changes nothing: what lies before it is folded when it is.
    pub sections: Vec<(GroupName, Vec<GroupCommand>)>,
}

impl GroupsEntry {
    /// Adds a command behind the others.
    pub fn push(&mut self, group: &GroupName, command: GroupCommand) {
        match self.sections.last_mut() {
            Some((last, commands)) if last == group => commands.push(command),
            _ => self.sections.push((group.clone(), vec![command])),
        }
    }

    /// The commands with their groups, in the order in which they are applied.
    pub fn commands(&self) -> impl Iterator<Item = (&GroupName, &GroupCommand)> {
        self.sections
            .iter()
            .flat_map(|(group, commands)| commands.iter().map(move |command| (group, command)))
    }

    /// The body of the control entry.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(256);
        out.put_u8(DOMAIN);
        out.put_u8(VERSION);
        for (group, commands) in &self.sections {
            group.as_str().encode(&mut out);
            (commands.len() as u32).encode(&mut out);
            for command in commands {
                command.encode(&mut out);
            }
        }
        out.freeze()
    }

    /// Reads the body of a control entry. Allocates at most 64 times its bytes.
    ///
    /// # Errors
    /// When it belongs to another domain, has a version that this build does not know, or is not what
    /// [`GroupsEntry::encode`] writes.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeGroupsError> {
        match body.first() {
            Some(&domain) if domain != DOMAIN => {
                return Err(DecodeGroupsError::OtherDomain { domain });
            }
            Some(_) => {}
            None => return invalid("an entry has a domain"),
        }
        let mut reader = Reader::new(&body[1..]);
        version(&mut reader, "entry", VERSION)?;
        let mut entry = Self::default();
        while reader.remaining() > 0 {
            let group = decode_name(&mut reader)?;
            let count = count(&mut reader, GroupCommand::BYTES_MIN)?;
            if count == 0 || entry.sections.last().is_some_and(|(last, _)| *last == group) {
                return invalid("a section has all commands of its group that follow each other");
            }
            let mut commands = Vec::with_capacity(count);
            for _ in 0..count {
                commands.push(GroupCommand::decode(&mut reader)?);
            }
            entry.sections.push((group, commands));
        }
        Ok(entry)
    }
}

/// Reads the name of a group.
pub(crate) fn decode_name(reader: &mut Reader<'_>) -> Result<GroupName, DecodeGroupsError> {
    let name = text(reader, GROUP_NAME_BYTES_MAX)?;
    GroupName::new(&name)
        .map_err(|_| DecodeGroupsError::Invalid { rule: "a group has a name that it may have" })
}
