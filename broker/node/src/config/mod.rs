//! The configuration of a node: read once, checked once, passed on as a value.
//!
//! Order of precedence, later wins: defaults, the file, `PLIMSOLL_*` of the environment, flags.
//! Promise: a [`NodeConfig`] that passed [`NodeConfig::check`] is consistent; unknown keys are
//! refused, never ignored.

mod reference;
mod settings;
mod value;

use std::path::{Path, PathBuf};

use thiserror::Error;

pub use reference::reference_page;
pub use settings::{NodeConfig, Setting, settings};
pub use value::{ByteSize, ConfigValue, NameList, PeerTransport};

/// Why a configuration was refused.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration file {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{path} is not valid TOML: {message}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        message: String,
    },
    /// There is no such setting.
    #[error("{origin}: there is no setting `{key}`{}; `plimsoll config reference` lists all",
        nearest.map(|name| format!(" (did you mean `{name}`?)")).unwrap_or_default())]
    UnknownKey {
        /// The key as written.
        key: String,
        /// The file, or the flag, it came from.
        origin: String,
        /// A setting whose name is close.
        nearest: Option<&'static str>,
    },
    /// The value of a setting is of another kind, or out of bounds.
    #[error("{origin}: `{key} = {value}` cannot be used: {problem}")]
    BadValue {
        /// The setting.
        key: String,
        /// The value as written.
        value: String,
        /// Where it was written.
        origin: String,
        /// What was expected.
        problem: String,
    },
    /// Two settings contradict each other.
    #[error("the configuration contradicts itself: {0}")]
    Contradiction(String),
}

impl NodeConfig {
    /// Reads a TOML file over the values at hand.
    ///
    /// # Errors
    /// Where the file cannot be read or parsed, names an unknown setting, or gives a wrong value.
    pub fn read_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        self.read_toml(&text, path)
    }

    /// Reads TOML text over the values at hand; `path` is only named in errors.
    ///
    /// # Errors
    /// As [`NodeConfig::read_file`].
    pub fn read_toml(&mut self, text: &str, path: &Path) -> Result<(), ConfigError> {
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            ConfigError::Syntax { path: path.to_owned(), message: error.to_string() }
        })?;
        for (key, value) in table {
            let text = match value {
                toml::Value::String(text) => text,
                toml::Value::Array(items) => items
                    .into_iter()
                    .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned))
                    .collect::<Vec<_>>()
                    .join(","),
                other => other.to_string(),
            };
            self.set(&key, &text, &path.display().to_string())?;
        }
        Ok(())
    }

    /// Reads `PLIMSOLL_<SETTING>` variables over the values at hand. `lookup` is usually
    /// `|name| std::env::var(name).ok()`.
    ///
    /// # Errors
    /// Where a variable has a wrong value.
    pub fn read_environment(
        &mut self,
        lookup: impl Fn(&str) -> Option<String>,
    ) -> Result<(), ConfigError> {
        for setting in settings() {
            let variable = setting.variable();
            if let Some(text) = lookup(&variable) {
                self.set(setting.key, &text, &format!("environment variable {variable}"))?;
            }
        }
        Ok(())
    }

    /// Sets one setting by its key (`-` and `_` mean the same); `origin` is named in errors.
    ///
    /// # Errors
    /// Where there is no such setting or the value is wrong.
    pub fn set(&mut self, key: &str, text: &str, origin: &str) -> Result<(), ConfigError> {
        let key = key.replace('-', "_");
        let all = settings();
        let Some(setting) = all.iter().find(|setting| setting.key == key) else {
            let nearest = nearest(&key, all.iter().map(|setting| setting.key));
            return Err(ConfigError::UnknownKey { key, origin: origin.to_owned(), nearest });
        };
        (setting.set)(self, text).map_err(|problem| ConfigError::BadValue {
            key,
            value: text.to_owned(),
            origin: origin.to_owned(),
            problem,
        })
    }

    /// Each setting's key with its present value, as a file would have it.
    pub fn values(&self) -> Vec<(&'static str, String)> {
        settings().into_iter().map(|setting| (setting.key, (setting.get)(self))).collect()
    }

    /// Checks the settings against each other.
    ///
    /// # Errors
    /// The first contradiction, and what to change.
    pub fn check(&self) -> Result<(), ConfigError> {
        let room_for_head = 64 * 1024;
        let rules = [
            (
                self.tls_certificate.is_some() == self.tls_key.is_some(),
                "`tls_certificate` and `tls_key` belong together; set both or none",
            ),
            (
                self.tls_authority.is_none() || self.tls_certificate.is_some(),
                "`tls_authority` is the authority of your own certificate; set `tls_certificate` \
                 and `tls_key` too, or none of the three",
            ),
            (
                self.listen_plaintext
                    .is_none_or(|plaintext| plaintext.port() == 0 || plaintext != self.listen),
                "`listen_plaintext` is the address of `listen`; give it a port of its own",
            ),
            (
                self.liveness_interval.saturating_mul(4) <= self.liveness_timeout,
                "`liveness_timeout` must be at least four times `liveness_interval`, so that one lost \
                 message does not make a node seem dead",
            ),
            (
                self.batch_bytes_max.0 + room_for_head <= self.frame_bytes_max.0,
                "`batch_bytes_max` and 64 KiB for the rest of a frame do not fit into \
                 `frame_bytes_max`; raise the frame or lower the batch",
            ),
            (
                self.delivery_bytes.0 + room_for_head <= self.frame_bytes_max.0,
                "`delivery_bytes` and 64 KiB for the rest of a frame do not fit into \
                 `frame_bytes_max`; raise the frame or lower the delivery",
            ),
            (
                self.batch_bytes_max.0 <= self.connection_in_flight_bytes_max.0,
                "a batch of `batch_bytes_max` could never pass `connection_in_flight_bytes_max`; \
                 raise the latter",
            ),
            (
                self.connection_in_flight_bytes_max.0 <= self.in_flight_bytes_max.0,
                "`connection_in_flight_bytes_max` is above `in_flight_bytes_max`, the limit of the \
                 whole node",
            ),
            (
                self.batch_bytes_max.0.saturating_mul(2) <= self.journal_file_bytes.0,
                "`journal_file_bytes` must hold two batches of `batch_bytes_max`; raise it or lower \
                 the batch",
            ),
            (
                self.journal_file_bytes.0.saturating_mul(3) <= self.journal_bytes_max.0,
                "`journal_bytes_max` must hold three files of `journal_file_bytes`: one in use, one \
                 ready, one that waits for a checkpoint",
            ),
            (
                self.checkpoint_bytes.0 <= self.journal_bytes_max.0 / 2,
                "`checkpoint_bytes` must be at most half of `journal_bytes_max`, so that the \
                 journal is not full before a checkpoint is made",
            ),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            Some((_, problem)) => Err(ConfigError::Contradiction(problem.to_owned())),
            None => Ok(()),
        }
    }
}

/// The name among `names` that is at most two edits away from `wanted`, the closest first.
fn nearest(wanted: &str, names: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    names
        .map(|name| (edits(wanted, name), name))
        .filter(|(distance, name)| *distance <= 2 || name.starts_with(wanted))
        .min()
        .map(|(_, name)| name)
}

/// Levenshtein distance.
fn edits(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (line, a) in left.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], line + 1);
        for (column, b) in right.iter().enumerate() {
            let changed = diagonal + usize::from(a != *b);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> &'static Path {
        Path::new("node.toml")
    }

    #[test]
    fn a_join_token_is_not_printed_with_the_settings() {
        let config = NodeConfig { join_token: Some("PLM1-x-y".into()), ..NodeConfig::default() };
        let printed = format!("{config:?}");
        assert!(!printed.contains("PLM1"), "{printed}");
        assert!(printed.contains("listen: 127.0.0.1:7420"), "{printed}");
    }

    #[test]
    fn defaults_are_within_their_own_bounds_and_consistent() {
        let mut config = NodeConfig::default();
        for (key, value) in NodeConfig::default().values() {
            config.set(key, &value, "default").expect("a default passes its own check");
        }
        assert_eq!(config, NodeConfig::default());
        config.check().expect("defaults agree with each other");
    }

    #[test]
    fn a_file_then_the_environment_then_a_flag_win() {
        let mut config = NodeConfig::default();
        config
            .read_toml(
                "listen = \"0.0.0.0:1\"\nconnections_max = 7\ntls_names = [\"a\", \"b\"]",
                here(),
            )
            .unwrap();
        config
            .read_environment(|name| (name == "PLIMSOLL_CONNECTIONS_MAX").then(|| "8".to_owned()))
            .unwrap();
        config.set("sleep-after", "1m", "--set").unwrap();
        assert_eq!(config.listen.to_string(), "0.0.0.0:1");
        assert_eq!(config.connections_max, 8);
        assert_eq!(config.tls_names.0, ["a", "b"]);
        assert_eq!(config.sleep_after.as_secs(), 60);
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_name() {
        let problem = NodeConfig::default().read_toml("lisen = \"x\"", here()).unwrap_err();
        assert_eq!(
            problem.to_string(),
            "node.toml: there is no setting `lisen` (did you mean `listen`?); \
             `plimsoll config reference` lists all"
        );
    }

    #[test]
    fn a_wrong_value_names_the_setting_the_place_and_the_bounds() {
        let problem = NodeConfig::default().read_toml("connections_max = 0", here()).unwrap_err();
        let text = problem.to_string();
        assert!(text.contains("node.toml") && text.contains("connections_max = 0"), "{text}");
        assert!(text.contains("between 1 and 1000000"), "{text}");
        let problem = NodeConfig::default().read_toml("idle_timeout = 30", here()).unwrap_err();
        assert!(problem.to_string().contains("`30s`"), "{problem}");
        let problem = NodeConfig::default().read_toml("listen = ", here()).unwrap_err();
        assert!(matches!(problem, ConfigError::Syntax { .. }));
    }

    #[test]
    fn contradictions_say_what_to_change() {
        let config = NodeConfig { tls_certificate: Some("a.pem".into()), ..NodeConfig::default() };
        assert!(config.check().unwrap_err().to_string().contains("tls_key"));
        let config = NodeConfig { frame_bytes_max: ByteSize(1024 * 1024), ..NodeConfig::default() };
        assert!(config.check().unwrap_err().to_string().contains("frame_bytes_max"));
    }

    #[test]
    fn edit_distance_counts_single_changes() {
        assert_eq!(edits("listen", "lisen"), 1);
        assert_eq!(edits("", "abc"), 3);
        assert_eq!(edits("kitten", "sitting"), 3);
    }
}
