//! The real `plimsoll` binary, of the same build as the test that runs it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Path of the binary: what `PLIMSOLL_TEST_BINARY` names, which must be of the same sources; else the first
/// call has cargo build it, in the profile and target directory of the running test; where it is up to date
/// that takes a moment.
///
/// # Panics
/// When it cannot be built.
pub fn plimsoll_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(build)
}

fn build() -> PathBuf {
    if let Some(binary) = std::env::var_os("PLIMSOLL_TEST_BINARY") {
        return binary.into();
    }
    // TARGET/PROFILE/deps/this-test
    let test = std::env::current_exe().expect("a running test has a path");
    let profile = test.ancestors().nth(2).expect("a test lies in TARGET/PROFILE/deps");
    let target = profile.parent().expect("a profile lies in a target directory");
    let name = match profile.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--package", "plimsoll-cli", "--bin", "plimsoll"])
        .args(["--profile", name, "--target-dir"])
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo can be run");
    assert!(status.success(), "cargo could not build the plimsoll binary: {status}");
    let binary = profile.join("plimsoll");
    assert!(binary.is_file(), "cargo built no {}", binary.display());
    binary
}
