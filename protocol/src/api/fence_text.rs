//! A fence as people and variables carry it: `namespace/lock/token`.
//!
//! A lock's name may have slashes, the other two have none: the text is read from both ends.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::api::{Fence, namespace_topic};

/// The text is no fence.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{text:?} is no fence: write NAMESPACE/LOCK/TOKEN, such as jobs/nightly/42")]
pub struct FenceError {
    /// What was given.
    pub text: String,
}

impl Fence {
    /// Reads `namespace/lock/token`, as [`Fence`] is displayed.
    ///
    /// # Errors
    /// When a part is missing or empty, the namespace is not a name of one, or the token is no number.
    pub fn parse(text: &str) -> Result<Self, FenceError> {
        let refused = || FenceError { text: text.to_owned() };
        let (namespace, rest) = text.split_once('/').ok_or_else(refused)?;
        let (lock, token) = rest.rsplit_once('/').ok_or_else(refused)?;
        // A sign would be read as well.
        let is_number = token.bytes().all(|byte| byte.is_ascii_digit());
        let token = token.parse().ok().filter(|_| is_number).ok_or_else(refused)?;
        if lock.is_empty() || namespace_topic(namespace).is_err() {
            return Err(refused());
        }
        Ok(Self { namespace: namespace.to_owned(), lock: lock.to_owned(), token })
    }
}

impl FromStr for Fence {
    type Err = FenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.namespace, self.lock, self.token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_is_read_from_both_ends() {
        let fence = |namespace: &str, lock: &str, token| Fence {
            namespace: namespace.to_owned(),
            lock: lock.to_owned(),
            token,
        };
        for (text, expected) in [
            ("jobs/nightly/42", fence("jobs", "nightly", 42)),
            ("jobs/a/b/c/7", fence("jobs", "a/b/c", 7)),
            ("jobs/pool#3/9", fence("jobs", "pool#3", 9)),
            ("n///0", fence("n", "/", 0)),
        ] {
            assert_eq!(Fence::parse(text).unwrap(), expected, "{text}");
            assert_eq!(expected.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_fence_is_refused_and_named() {
        for text in [
            "",
            "jobs",
            "jobs/42",
            "/lock/1",
            "a b/lock/1",
            "jobs//1",
            "jobs/l/x",
            "j/l/+1",
            "j/l/-1",
            "j/l/",
        ] {
            let refused = Fence::parse(text).unwrap_err();
            assert!(refused.to_string().contains("NAMESPACE/LOCK/TOKEN"), "{text}");
        }
    }
}
