//! `plimsoll serve` as a child, and other commands run beside it as its user would.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};

use tempfile::TempDir;

/// A directory of a user: contexts, data, files. Commands run in it see nothing of the real one.
pub(crate) struct User {
    directory: TempDir,
}

/// How a command ended.
pub(crate) struct Run {
    /// Its exit code.
    pub(crate) code: i32,
    /// What it printed.
    pub(crate) stdout: Vec<u8>,
    /// What it told.
    pub(crate) stderr: String,
}

/// A node that runs until it is dropped.
pub(crate) struct Node {
    /// Whose node it is.
    pub(crate) user: User,
    child: Child,
    /// Kept open, so that the node can print.
    _stdout: BufReader<ChildStdout>,
    /// Where it listens for QUIC and TLS.
    pub(crate) address: String,
    /// Where it listens for plaintext TCP.
    pub(crate) plaintext: String,
    /// What it prints for clients that have no file to trust it by.
    pub(crate) fingerprint: String,
}

impl User {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        std::fs::write(self.path(name), content).unwrap();
        self.path(name).to_str().unwrap().to_owned()
    }

    /// A command of the binary; `line` is split at blanks.
    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plimsoll"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PLIMSOLL_") {
                command.env_remove(name);
            }
        }
        command.env("PLIMSOLL_CONFIG_DIR", self.path("config"));
        command.current_dir(self.directory.path());
        command.args(line.split_whitespace());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, line: &str) -> Run {
        Run::of(self.command(line).output().unwrap())
    }

    /// Runs a command to its end, with something to read on standard input.
    pub(crate) fn feed(&self, line: &str, input: impl AsRef<[u8]> + Send) -> Run {
        let mut child = self.command(line).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // A command that fails early does not read to the end.
                let _ = stdin.write_all(input.as_ref());
            });
            Run::of(child.wait_with_output().unwrap())
        })
    }
}

impl Run {
    fn of(output: Output) -> Self {
        let code = output.status.code().unwrap_or_else(|| panic!("ended by {}", output.status));
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        Self { code, stdout: output.stdout, stderr }
    }

    /// The printed text of a command that must have ended with 0.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self}");
        String::from_utf8(self.stdout).unwrap()
    }

    /// The printed lines of a command that must have ended with 0.
    #[track_caller]
    pub(crate) fn lines(self) -> Vec<String> {
        self.ok().lines().map(str::to_owned).collect()
    }

    /// The printed JSON objects, one per line, of a command that must have ended with 0.
    #[track_caller]
    pub(crate) fn objects(self) -> Vec<serde_json::Value> {
        self.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// What was told by a command that must have ended with this code.
    #[track_caller]
    pub(crate) fn fails(self, code: i32) -> String {
        assert_eq!(self.code, code, "{self}");
        assert!(code == 0 || self.stderr.contains("error:"), "{self}");
        self.stderr
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stdout = String::from_utf8_lossy(&self.stdout);
        let shown: String = stdout.chars().take(500).collect();
        write!(f, "exit code {}\nstdout: {shown}\nstderr: {}", self.code, self.stderr)
    }
}

/// Small files, so that a test's node starts at once; everything else as it is by default.
const SERVE: &str = "serve --set journal_file_bytes=16MiB --set journal_bytes_max=64MiB \
                     --set checkpoint_bytes=16MiB";

impl Node {
    pub(crate) fn start() -> Self {
        Self::start_as(User::new())
    }

    /// Starts a node of a user, on the data directory that the user's earlier node had.
    pub(crate) fn start_as(user: User) -> Self {
        Self::start_at(user, "127.0.0.1:0")
    }

    /// As [`Node::start_as`], at an address that clients know already.
    pub(crate) fn start_at(user: User, address: &str) -> Self {
        Self::start_with(user, address, "")
    }

    /// As [`Node::start_at`], with more options.
    pub(crate) fn start_with(user: User, address: &str, options: &str) -> Self {
        let mut command = user.command(SERVE);
        command.args(options.split_whitespace());
        command.arg("--data").arg(user.path("data"));
        command.args(["--listen", address, "--listen-plaintext", "127.0.0.1:0"]);
        let log = std::fs::File::options().create(true).append(true).open(user.path("serve.log"));
        let mut child = command.stderr(log.unwrap()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        // The context is saved before anything is printed.
        let address = read_address(&mut stdout, "QUIC and TLS on ", &user);
        let plaintext = read_address(&mut stdout, "without encryption on ", &user);
        let fingerprint = read_address(&mut stdout, "without that file: --ca ", &user);
        Self { user, child, _stdout: stdout, address, plaintext, fingerprint }
    }

    pub(crate) fn run(&self, line: &str) -> Run {
        self.user.run(line)
    }

    pub(crate) fn feed(&self, line: &str, input: impl AsRef<[u8]> + Send) -> Run {
        self.user.feed(line, input)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.user.path("data")
    }

    /// Ends it as a power switch would.
    pub(crate) fn kill(mut self) -> User {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::mem::replace(&mut self.user, User::new())
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn terminate(mut self) -> (User, ExitStatus) {
        send_signal("TERM", &self.child);
        let status = self.child.wait().unwrap();
        (std::mem::replace(&mut self.user, User::new()), status)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.user.path("serve.log")).unwrap_or_default();
            eprintln!("the node logged:\n{log}");
        }
    }
}

pub(crate) fn send_signal(name: &str, child: &Child) {
    let status = Command::new("kill").args(["-s", name, &child.id().to_string()]).status();
    assert!(status.unwrap().success());
}

fn read_address(stdout: &mut BufReader<ChildStdout>, before: &str, user: &User) -> String {
    let mut line = String::new();
    while !line.contains(before) {
        line.clear();
        if stdout.read_line(&mut line).unwrap() == 0 {
            let log = std::fs::read_to_string(user.path("serve.log")).unwrap_or_default();
            panic!("the node ended before it served:\n{log}");
        }
    }
    line.split_once(before).unwrap().1.trim().to_owned()
}

pub(crate) fn exists(path: &Path) -> bool {
    path.try_exists().unwrap()
}
