//! Saved contexts: where a node listens and which authority it is trusted by, so that commands on
//! the same machine need no option.
//!
//! A context is `<config dir>/contexts/NAME.toml`; `<config dir>/current` holds the name in force.
//! The configuration directory is `$PLIMSOLL_CONFIG_DIR`, else `$XDG_CONFIG_HOME/plimsoll`, else
//! `~/.config/plimsoll`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::config::addresses_of;

/// Name of the context that `plimsoll serve` leaves behind.
pub const LOCAL: &str = "local";

/// How to reach a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// `HOST:PORT` of the node, or of several nodes of one cluster with commas between.
    pub address: String,
    /// Name that the node's certificate must carry; the host of the address where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// `quic`, `tls` or `tcp`.
    #[serde(default = "quic")]
    pub transport: String,
    /// The authority in PEM, inline, so that the node's data directory need not be readable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_pem: Option<String>,
    /// SHA-256 fingerprint of the node's certificate or authority, in place of `ca_pem`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
}

impl Context {
    /// The nodes' addresses, each for itself.
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        addresses_of(&self.address)
    }
}

fn quic() -> String {
    "quic".to_owned()
}

/// Why a context could not be read or written.
#[derive(Debug, Error)]
pub enum ContextError {
    /// Neither of the variables that name the configuration directory is set.
    #[error(
        "no configuration directory: none of PLIMSOLL_CONFIG_DIR, XDG_CONFIG_HOME and HOME is set; \
         set one, or name the node with --connect HOST:PORT and --ca FILE"
    )]
    NoDirectory,
    /// The context does not exist.
    #[error(
        "no context {name:?} in {}: start a node with `plimsoll serve --data DIR`, or name one with \
         --connect HOST:PORT and --ca FILE",
        directory.display()
    )]
    Unknown {
        /// The name that was asked for.
        name: String,
        /// Where it was looked for.
        directory: PathBuf,
    },
    /// The name cannot be a file's name.
    #[error("context name {name:?}: use 1 to 64 letters, digits, `.`, `_` or `-`")]
    InvalidName {
        /// The name that was given.
        name: String,
    },
    /// The file is not a context.
    #[error("{} is not a context: {}; remove it or correct it", path.display(), source.message())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<toml::de::Error>,
    },
    /// The context says something that cannot be.
    #[error("the context cannot be used: {reason}; correct it, or use --connect and --ca")]
    Unusable {
        /// What is wrong.
        reason: String,
    },
    /// The file system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// The user's configuration directory of Plimsoll. It need not exist.
///
/// # Errors
/// When no environment variable names it.
pub fn config_dir() -> Result<PathBuf, ContextError> {
    let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(directory) = from("PLIMSOLL_CONFIG_DIR") {
        return Ok(PathBuf::from(directory));
    }
    if let Some(base) = from("XDG_CONFIG_HOME") {
        return Ok(PathBuf::from(base).join("plimsoll"));
    }
    let home = from("HOME").ok_or(ContextError::NoDirectory)?;
    Ok(PathBuf::from(home).join(".config").join("plimsoll"))
}

/// The context of this name, or the current one.
///
/// # Errors
/// When there is none, or it cannot be read.
pub fn load(directory: &Path, name: Option<&str>) -> Result<Context, ContextError> {
    let name = match name {
        Some(name) => name.to_owned(),
        None => current(directory)?.unwrap_or_else(|| LOCAL.to_owned()),
    };
    let path = path_of(directory, &name)?;
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(ContextError::Unknown { name, directory: directory.to_owned() });
        }
        Err(source) => return Err(ContextError::Io { path, source }),
    };
    toml::from_str(&text)
        .map_err(|source| ContextError::Malformed { path, source: Box::new(source) })
}

/// Writes a context in one step, replacing one of the same name.
///
/// # Errors
/// When the name is no file name or the file system refuses.
pub fn save(directory: &Path, name: &str, context: &Context) -> Result<PathBuf, ContextError> {
    let path = path_of(directory, name)?;
    let text = toml::to_string(context).expect("a context is a table of strings");
    write_in_one_step(&path, text.as_bytes())?;
    Ok(path)
}

/// Makes a context the current one.
///
/// # Errors
/// When it does not exist or the file system refuses.
pub fn set_current(directory: &Path, name: &str) -> Result<(), ContextError> {
    if !path_of(directory, name)?.exists() {
        return Err(ContextError::Unknown {
            name: name.to_owned(),
            directory: directory.to_owned(),
        });
    }
    write_in_one_step(&directory.join("current"), name.as_bytes())
}

/// Name of the current context, where one was chosen.
///
/// # Errors
/// When the file system refuses.
pub fn current(directory: &Path) -> Result<Option<String>, ContextError> {
    let path = directory.join("current");
    match fs::read_to_string(&path) {
        Ok(name) => Ok(Some(name.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ContextError::Io { path, source }),
    }
}

/// Names of all contexts, sorted.
///
/// # Errors
/// When the file system refuses.
pub fn list(directory: &Path) -> Result<Vec<String>, ContextError> {
    let path = directory.join("contexts");
    let entries = match fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(ContextError::Io { path, source }),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|source| ContextError::Io { path: path.clone(), source })?;
        let file = entry.file_name();
        if let Some(name) = file.to_str().and_then(|file| file.strip_suffix(".toml")) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Removes a context.
///
/// # Errors
/// When it does not exist or the file system refuses.
pub fn remove(directory: &Path, name: &str) -> Result<(), ContextError> {
    let path = path_of(directory, name)?;
    match fs::remove_file(&path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(ContextError::Unknown { name: name.to_owned(), directory: directory.to_owned() })
        }
        Err(source) => Err(ContextError::Io { path, source }),
    }
}

fn path_of(directory: &Path, name: &str) -> Result<PathBuf, ContextError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.chars().all(plain) {
        return Err(ContextError::InvalidName { name: name.to_owned() });
    }
    Ok(directory.join("contexts").join(format!("{name}.toml")))
}

/// A reader sees the old bytes or the new ones, never half of them.
fn write_in_one_step(path: &Path, bytes: &[u8]) -> Result<(), ContextError> {
    let fail = |source| ContextError::Io { path: path.to_owned(), source };
    let parent = path.parent().expect("a context's path has a parent");
    fs::create_dir_all(parent).map_err(fail)?;
    let temporary = path.with_extension(format!("tmp{}", std::process::id()));
    fs::write(&temporary, bytes).map_err(fail)?;
    fs::rename(&temporary, path).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> Context {
        Context {
            address: "127.0.0.1:7420".to_owned(),
            server_name: Some("localhost".to_owned()),
            transport: quic(),
            ca_pem: Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".into()),
            fingerprint: None,
        }
    }

    #[test]
    fn a_saved_context_is_loaded_by_name_and_as_the_current_one() {
        let directory = tempfile::tempdir().unwrap();
        save(directory.path(), "prod", &context()).unwrap();
        assert_eq!(load(directory.path(), Some("prod")).unwrap(), context());
        assert!(matches!(load(directory.path(), None), Err(ContextError::Unknown { .. })));
        set_current(directory.path(), "prod").unwrap();
        assert_eq!(load(directory.path(), None).unwrap(), context());
        assert_eq!(list(directory.path()).unwrap(), ["prod"]);
        remove(directory.path(), "prod").unwrap();
        assert!(list(directory.path()).unwrap().is_empty());
    }

    #[test]
    fn names_that_leave_the_directory_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["", "../x", "a/b", ".hidden", "a b"] {
            let outcome = save(directory.path(), name, &context());
            assert!(matches!(outcome, Err(ContextError::InvalidName { .. })), "{name:?}");
        }
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_file_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = save(directory.path(), "x", &context()).unwrap();
        fs::write(&path, "address = \"a:1\"\ncolour = \"red\"\n").unwrap();
        let error = load(directory.path(), Some("x")).unwrap_err();
        assert!(error.to_string().contains("x.toml"), "{error}");
    }
}
