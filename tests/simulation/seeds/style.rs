//! What the simulation relies on in the product's code, where a compiler does not hold it.

use std::fs;
use std::path::{Path, PathBuf};

/// Crates whose code runs in the simulation.
const CRATES: [&str; 6] = [
    "broker/gateways",
    "broker/node",
    "broker/peers",
    "broker/replication",
    "client",
    "protocol/transport",
];

/// `select!` over sockets, and in a test of its own time: neither is reached in a simulation.
const EXCEPTIONS: [&str; 2] = ["protocol/transport/src/listener.rs", "frame_room.rs"];

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a folder of the repository") {
        let path = entry.expect("a name in it").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// tokio begins at a random branch otherwise.
#[test]
fn every_select_is_biased() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut found = Vec::new();
    for name in CRATES {
        sources(&root.join(name).join("src"), &mut found);
    }
    let mut wrong = Vec::new();
    for path in found {
        if EXCEPTIONS.iter().any(|exception| path.ends_with(exception)) {
            continue;
        }
        let text = fs::read_to_string(&path).expect("a source file");
        let mut lines = text.lines().enumerate();
        while let Some((number, line)) = lines.next() {
            if !line.contains("select! {") {
                continue;
            }
            let first = lines.find(|(_, line)| !line.trim_start().starts_with("//"));
            if first.is_none_or(|(_, line)| line.trim() != "biased;") {
                wrong.push(format!("{}:{}", path.display(), number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "add `biased;`, the order of branches is seen: {wrong:#?}");
}
