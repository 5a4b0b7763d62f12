//! The reference page of the configuration, made from the table of settings.

use std::fmt::Write as _;

use super::settings::{Setting, settings};

impl Setting {
    /// The environment variable that sets it.
    pub fn variable(&self) -> String {
        format!("PLIMSOLL_{}", self.key.to_uppercase())
    }

    fn flag(&self) -> String {
        match self.key {
            "data" | "listen" | "listen_plaintext" | "listen_amqp" | "listen_amqps" | "join"
            | "join_token" | "advertise" | "rack" | "weight" => {
                format!("--{}", self.key.replace('_', "-"))
            }
            key => format!("--set {key}=..."),
        }
    }

    /// The doc comment with its lines joined to paragraphs.
    fn text(&self) -> String {
        self.doc.lines().map(str::trim).collect::<Vec<_>>().join("\n").trim().to_owned()
    }
}

/// The reference page in Markdown: `plimsoll config reference` prints it, `broker/node/CONFIG.md`
/// is a copy that a test keeps equal.
pub fn reference_page() -> String {
    let mut page = String::from(
        "# Configuration of a node\n\n\
         `plimsoll serve` reads, later wins: the defaults, the TOML file of `--config FILE`, the \
         environment, the flags. A file has one `key = value` per line; sizes and times are strings \
         with a unit (`\"64 MiB\"`, `\"30s\"`). Unknown keys and values out of bounds are refused at \
         the start.\n\n\
         This page is printed by `plimsoll config reference`; a test keeps the file equal.\n",
    );
    let mut group = "";
    for setting in settings() {
        if setting.group != group {
            group = setting.group;
            let _ = write!(page, "\n## {group}\n");
        }
        let _ = write!(page, "\n### `{}`\n\n{}\n\n", setting.key, setting.text());
        let _ = write!(page, "- Value: {}, default `{}`", setting.kind, setting.default);
        if let Some((lowest, highest)) = &setting.bounds {
            let _ = write!(page, ", from `{lowest}` to `{highest}`");
        }
        let _ = write!(page, "\n- Set by `{}` or `{}`\n", setting.variable(), setting.flag());
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `PLIMSOLL_BLESS=1 cargo test -p plimsoll-node` writes the page anew.
    #[test]
    fn the_committed_page_is_the_generated_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/CONFIG.md");
        if std::env::var_os("PLIMSOLL_BLESS").is_some() {
            std::fs::write(path, reference_page()).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            committed == reference_page(),
            "broker/node/CONFIG.md is not what the settings say; write it anew with\n\
             plimsoll config reference > broker/node/CONFIG.md"
        );
    }

    #[test]
    fn every_setting_says_what_it_is_for() {
        for setting in settings() {
            assert!(setting.text().len() > 20, "{} needs a doc comment", setting.key);
        }
    }
}
