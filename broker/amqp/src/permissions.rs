//! What a user may do with names of a virtual host.
//!
//! Source: RabbitMQ, "Access Control": a name is allowed where the pattern is found in it; an empty
//! pattern is that of the empty name only; the default exchange is called `amq.default`; its texts.

use plimsoll_amqp::error::{Fault, ReplyCode, Resource};
use regex::{Regex, RegexBuilder};
use thiserror::Error;

use crate::catalog::PermissionPatterns;

/// Bytes of one compiled pattern; larger ones allow nothing.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// What is to be done with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// Declare or delete it.
    Configure,
    /// Send messages into it.
    Write,
    /// Take messages out of it.
    Read,
}

impl Permission {
    const fn name(self) -> &'static str {
        match self {
            Self::Configure => "configure",
            Self::Write => "write",
            Self::Read => "read",
        }
    }
}

/// The permissions of one user in one virtual host, ready to be asked.
#[derive(Debug)]
pub struct Permissions {
    patterns: PermissionPatterns,
    configure: Option<Regex>,
    write: Option<Regex>,
    read: Option<Regex>,
}

/// A text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{pattern:?} is not a pattern: {reason}")]
pub struct InvalidPattern {
    /// The text.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Whether a text can be a pattern of a permission.
///
/// # Errors
/// [`InvalidPattern`].
pub fn check_pattern(pattern: &str) -> Result<(), InvalidPattern> {
    build(pattern).map(drop)
}

fn build(pattern: &str) -> Result<Regex, InvalidPattern> {
    let text = if pattern.is_empty() { "^$" } else { pattern };
    RegexBuilder::new(text).size_limit(PATTERN_BYTES_MAX).build().map_err(|error| {
        // The text shows the pattern again, over several lines; the last says what is wrong.
        let told = error.to_string();
        let reason = told.lines().last().unwrap_or_default().trim_start_matches("error: ");
        InvalidPattern { pattern: pattern.to_owned(), reason: reason.to_owned() }
    })
}

/// None: the pattern is not one, and allows nothing.
fn compile(pattern: &str) -> Option<Regex> {
    build(pattern)
        .inspect_err(|error| tracing::warn!(%error, "pattern of a permission allows nothing"))
        .ok()
}

impl Permissions {
    /// Compiles the patterns. One that is none allows nothing.
    #[must_use]
    pub fn new(patterns: PermissionPatterns) -> Self {
        Self {
            configure: compile(&patterns.configure),
            write: compile(&patterns.write),
            read: compile(&patterns.read),
            patterns,
        }
    }

    /// What they were compiled from.
    #[must_use]
    pub fn patterns(&self) -> &PermissionPatterns {
        &self.patterns
    }

    /// Whether `user`, whose permissions these are, may do this.
    ///
    /// # Errors
    /// 403.
    pub fn check(
        &self,
        user: &str,
        permission: Permission,
        resource: Resource<'_>,
    ) -> Result<(), Fault> {
        let pattern = match permission {
            Permission::Configure => &self.configure,
            Permission::Write => &self.write,
            Permission::Read => &self.read,
        };
        let resource = match resource {
            Resource { kind: "exchange", name: "", vhost } => {
                Resource::exchange("amq.default", vhost)
            }
            other => other,
        };
        if pattern.as_ref().is_some_and(|pattern| pattern.is_match(resource.name)) {
            return Ok(());
        }
        let text = format!("{} access to {resource} refused for user '{user}'", permission.name());
        Err(Fault::new(ReplyCode::AccessRefused, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permissions(pattern: &str) -> Permissions {
        let write = pattern.to_owned();
        Permissions::new(PermissionPatterns { write, ..PermissionPatterns::default() })
    }

    fn may(pattern: &str, name: &str) -> bool {
        let resource = Resource::exchange(name, "/");
        permissions(pattern).check("ann", Permission::Write, resource).is_ok()
    }

    #[test]
    fn pattern_is_found_anywhere_and_empty_allows_nothing() {
        assert!(may(".*", "x") && may("ship", "my-ship-2") && !may("^ship", "my-ship"));
        assert!(!may("", "x") && !may("(", "x"));
        assert!(may("^amq\\.default$", "") && !may("^$", ""));
    }

    #[test]
    fn text_that_is_no_pattern_is_told_why() {
        for good in ["", ".*", "^ship-[0-9]+$"] {
            assert_eq!(check_pattern(good), Ok(()));
        }
        let told = check_pattern("a(b").unwrap_err().to_string();
        assert_eq!(told, "\"a(b\" is not a pattern: unclosed group");
        assert!(check_pattern("(?=a)b").is_err(), "no look-around");
        assert!(check_pattern(&"\\w{999}".repeat(20)).is_err(), "too large when compiled");
    }

    #[test]
    fn refusal_names_what_whom_and_where() {
        let resource = Resource::queue("q", "/");
        let fault = permissions("x").check("ann", Permission::Read, resource).unwrap_err();
        let text = "ACCESS_REFUSED - read access to queue 'q' in vhost '/' refused for user 'ann'";
        assert_eq!(&*fault.reply_text(), text);
    }
}
