//! The server that is asked: one that runs already, or a `plimsoll` of this build that is started once
//! per test process and ends with it.

use std::io::{Read as _, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties};

/// How long a server may take until a client can log in.
const START_MAX: Duration = Duration::from_secs(60);

/// Where to connect.
pub(crate) struct Server {
    /// Without TLS.
    pub(crate) url: String,
    /// With TLS, and the certificates to trust; none where the server was given without.
    pub(crate) tls: Option<Tls>,
    /// Its own command line; none where the server was given.
    pub(crate) cli: Option<Cli>,
    /// Its standard input is held open: when this process ends, however it ends, the keeper kills the
    /// server.
    _keeper: Option<Child>,
}

/// The listener with TLS.
pub(crate) struct Tls {
    pub(crate) url: String,
    /// Certificates as PEM.
    pub(crate) ca: String,
}

/// The `plimsoll` that administers the server.
pub(crate) struct Cli {
    binary: PathBuf,
    native: String,
    ca: PathBuf,
    log: PathBuf,
}

impl Cli {
    /// A `plimsoll` with a command and the way to the server; more arguments may follow.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PLIMSOLL_") {
                command.env_remove(name);
            }
        }
        command.env("PLIMSOLL_CONNECT", &self.native).env("PLIMSOLL_CA", &self.ca).args(arguments);
        command
    }

    /// Runs a command of `plimsoll amqp`, as [`Cli::run`].
    pub(crate) fn amqp(&self, arguments: &[&str], input: &str) -> String {
        self.run(&[&["amqp"], arguments].concat(), input)
    }

    /// Runs a command that must succeed, with something to read; gives what it printed.
    pub(crate) fn run(&self, arguments: &[&str], input: &str) -> String {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary can be run");
        let mut stdin = child.stdin.take().expect("it is piped");
        // One that does not read may have ended already.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        let output = child.wait_with_output().expect("it ends");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {told}");
        String::from_utf8(output.stdout).expect("a text")
    }

    /// What the server has logged.
    pub(crate) fn log(&self) -> String {
        read(&self.log)
    }
}

/// The server of this process. The first call starts it where none is given.
///
/// # Panics
/// When it cannot be started; that is tried once, not by every case.
pub(crate) fn server() -> &'static Server {
    static SERVER: OnceLock<Result<Server, String>> = OnceLock::new();
    let server = SERVER.get_or_init(|| given().map_or_else(start, Ok));
    server.as_ref().unwrap_or_else(|error| panic!("no server: {error}"))
}

/// Whether the server is a RabbitMQ older than this. What newer ones do is then not asked of it.
pub(crate) fn is_rabbitmq_before(major: u32, minor: u32) -> bool {
    static VERSION: OnceLock<Option<(u32, u32)>> = OnceLock::new();
    let version = VERSION.get_or_init(|| rabbitmq_version(&server().url));
    version.is_some_and(|version| version < (major, minor))
}

/// The version that a RabbitMQ greets with; none of another server.
fn rabbitmq_version(url: &str) -> Option<(u32, u32)> {
    let uri: AMQPUri = url.parse().expect("the URL is one of AMQP");
    let address = (uri.authority.host.as_str(), uri.authority.port);
    let mut socket = TcpStream::connect(address).expect("the server listens");
    socket.write_all(b"AMQP\0\0\x09\x01").expect("it is written");
    let mut head = [0; 7];
    socket.read_exact(&mut head).expect("a frame");
    let bytes = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
    let mut greeting = vec![0; bytes];
    socket.read_exact(&mut greeting).expect("a frame");
    // Fields of a table: a short name, `S`, and a text with its length in four bytes.
    let text = |name: &str| {
        let field = [&[name.len() as u8], name.as_bytes(), b"S"].concat();
        let at = greeting.windows(field.len()).position(|bytes| bytes == field)? + field.len();
        let length = u32::from_be_bytes(greeting.get(at..at + 4)?.try_into().ok()?) as usize;
        String::from_utf8(greeting.get(at + 4..at + 4 + length)?.to_vec()).ok()
    };
    if text("product")? != "RabbitMQ" {
        return None;
    }
    let version = text("version")?;
    let mut numbers = version.split('.').map_while(|number| number.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

fn given() -> Option<Server> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let url = variable("PLIMSOLL_INTEROP_URL")?;
    let tls = variable("PLIMSOLL_INTEROP_TLS_URL").map(|url| {
        let ca = variable("PLIMSOLL_INTEROP_CA").expect("PLIMSOLL_INTEROP_CA belongs to the URL");
        Tls { url, ca: read(Path::new(&ca)) }
    });
    Some(Server { url, tls, cli: None, _keeper: None })
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The path of a `plimsoll` of the same build as this test.
fn binary() -> Result<PathBuf, String> {
    if let Some(binary) = std::env::var_os("PLIMSOLL_INTEROP_BINARY") {
        return Ok(binary.into());
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
    match status.success() {
        true => Ok(profile.join("plimsoll")),
        false => Err(format!("cargo could not build the plimsoll binary: {status}")),
    }
}

/// Whether the server has begun: it listens before its catalog takes changes.
fn takes_declarations(url: &str) -> bool {
    let declare = async {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        let exclusive = QueueDeclareOptions::exclusive();
        channel.queue_declare("".into(), exclusive, FieldTable::default()).await?;
        connection.close(200, "done".into()).await
    };
    // On a thread of its own: who asks for the server may be in a runtime already.
    std::thread::scope(|scope| {
        let declared = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(declare).is_ok()
        });
        declared.join().is_ok_and(|declared| declared)
    })
}

fn start() -> Result<Server, String> {
    let binary = binary()?;
    let data = tempfile::tempdir().expect("a temporary directory").keep();
    let listeners = [0; 3].map(|port| {
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("a free port of this machine")
    });
    let [native, plain, secure] = listeners
        .map(|listener| listener.local_addr().expect("a listener has an address").to_string());
    // The shell keeps the server: its `read` returns when this process has ended. No destructor of a
    // static runs, and none could after a kill.
    let keeper = "\"$@\" >\"$DATA.log\" 2>&1 & server=$!; read -r _; kill -9 $server; \
                  wait; rm -rf \"$DATA\" \"$DATA.log\"";
    let keeper = Command::new("sh")
        .args(["-c", keeper, "sh"])
        .arg(&binary)
        .args(["serve", "--no-context", "--data"])
        .arg(&data)
        .args(["--listen", &native, "--listen-amqp", &plain, "--listen-amqps", &secure])
        .env("DATA", &data)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a shell can be run");
    let begun = Instant::now();
    let url = |scheme: &str, address: &str| format!("{scheme}://guest:guest@{address}/%2f");
    while TcpStream::connect(&secure).is_err() || !takes_declarations(&url("amqp", &plain)) {
        if begun.elapsed() > START_MAX {
            let log = read(&data.with_extension("log"));
            // The keeper ends with its input.
            drop(keeper);
            return Err(format!("no AMQP at {plain} and {secure} after {START_MAX:?}:\n{log}"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let ca = data.join("tls/ca.pem");
    let tls = Some(Tls { url: url("amqps", &secure), ca: read(&ca) });
    let cli = Some(Cli { binary, native, ca, log: data.with_extension("log") });
    Ok(Server { url: url("amqp", &plain), tls, cli, _keeper: Some(keeper) })
}
