//! A node in a process of its own: `plimsoll serve` as a child, so that it can be killed without
//! warning and its memory measured alone.
//!
//! Everything it writes lies in one directory: its data in `data/`, what it printed in `serve.log`.
//! It leaves no context for other clients. It is killed when dropped.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use plimsoll_client::{Client, ClientConfig, Trust};
use plimsoll_transport::TransportKind;
use rustix::process::{Pid, Signal, kill_process};

use crate::report::ProcessMemory;

/// A dial that is not answered by then is begun anew: the node was not yet there.
const DIAL: Duration = Duration::from_millis(200);
/// Between two dials: the node that starts needs the cores too.
const DIAL_PAUSE: Duration = Duration::from_millis(1);
/// A node that does not answer by then never will.
const PATIENCE: Duration = Duration::from_secs(120);

/// How to start a node: the same command, directory and ports each time.
#[derive(Debug, Clone)]
pub struct ServeCommand {
    binary: PathBuf,
    directory: PathBuf,
    address: SocketAddr,
    plaintext: SocketAddr,
    arguments: Vec<String>,
    /// Words before the binary: what starts it in another place.
    launcher: Vec<OsString>,
    token: Option<String>,
}

/// A running child.
#[derive(Debug)]
pub struct ServeProcess {
    child: Child,
    log: PathBuf,
}

impl ServeCommand {
    /// A node of `binary` that keeps everything in `directory`, on free ports of 127.0.0.1.
    pub fn new(binary: &Path, directory: &Path) -> io::Result<Self> {
        Ok(Self {
            binary: binary.to_owned(),
            directory: directory.to_owned(),
            address: free_address()?,
            plaintext: free_address()?,
            arguments: Vec::new(),
            launcher: Vec::new(),
            token: None,
        })
    }

    /// The same on addresses of the caller's choice.
    #[must_use]
    pub fn listening(self, address: SocketAddr, plaintext: SocketAddr) -> Self {
        Self { address, plaintext, ..self }
    }

    /// The same, started by another program, which must become the node (`exec`): `nsenter` puts it
    /// into a network namespace.
    #[must_use]
    pub fn launched_by(self, launcher: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self { launcher: launcher.into_iter().map(Into::into).collect(), ..self }
    }

    /// The same as a member of the cluster that a node at `address` belongs to. The token is given
    /// in the environment of each start, as a user would who does not want it to be seen.
    #[must_use]
    pub fn joining(self, address: SocketAddr, token: impl Into<String>) -> Self {
        let joining = Self { token: Some(token.into()), ..self };
        joining.argument("--join").argument(address.to_string())
    }

    /// Adds an argument of `serve`.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Where it listens for QUIC and TLS.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens for plaintext TCP.
    pub fn plaintext_address(&self) -> SocketAddr {
        self.plaintext
    }

    /// Its data directory.
    pub fn data_directory(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// What it printed in all its lives.
    pub fn output(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    fn log(&self) -> PathBuf {
        self.directory.join("serve.log")
    }

    /// How to reach it over `transport`.
    ///
    /// # Errors
    /// Before its first start it has no authority that could be trusted.
    pub fn client_config(&self, transport: TransportKind) -> io::Result<ClientConfig> {
        if transport == TransportKind::Tcp {
            return Ok(ClientConfig::plaintext(self.plaintext.to_string()));
        }
        let authority = self.data_directory().join("tls").join("ca.pem");
        let trust = Trust::CaPem(std::fs::read_to_string(authority)?);
        Ok(ClientConfig { transport, ..ClientConfig::new(self.address.to_string(), trust) })
    }

    /// Dials the process, which was just started, until it answers.
    ///
    /// # Errors
    /// When it has ended, or does not answer for two minutes; with what it printed.
    pub async fn connect(
        &self,
        process: &mut ServeProcess,
        transport: TransportKind,
    ) -> anyhow::Result<Client> {
        let began = Instant::now();
        loop {
            process.check_alive()?;
            let problem = match self.client_config(transport) {
                Err(error) => error.to_string(),
                Ok(config) => {
                    let config = ClientConfig { connect_timeout: DIAL, ..config };
                    match Client::connect(config).await {
                        Ok(client) => return Ok(client),
                        Err(error) => error.to_string(),
                    }
                }
            };
            if began.elapsed() > PATIENCE {
                bail!("the node does not answer: {problem}; it said:\n{}", process.output());
            }
            tokio::time::sleep(DIAL_PAUSE).await;
        }
    }

    /// Starts it. It listens some time after this returns; a client dials until it does.
    pub fn start(&self) -> anyhow::Result<ServeProcess> {
        let log = self.log();
        let output = File::options().create(true).append(true).open(&log)?;
        let child = self.command().stdout(output.try_clone()?).stderr(output).spawn();
        let child =
            child.with_context(|| format!("cannot start {} serve", self.binary.display()))?;
        Ok(ServeProcess { child, log })
    }

    /// Runs it to its end and returns how it ended and what it printed: for a start that must fail.
    pub fn run(&self) -> anyhow::Result<Output> {
        let output = self.command().stdout(Stdio::piped()).stderr(Stdio::piped()).output();
        output.with_context(|| format!("cannot start {} serve", self.binary.display()))
    }

    fn command(&self) -> Command {
        let mut words = self.launcher.iter().cloned().chain([self.binary.clone().into_os_string()]);
        let mut command = Command::new(words.next().expect("at least the binary"));
        command
            .args(words)
            .args(["serve", "--no-context"])
            .env("PLIMSOLL_LOG", std::env::var_os("PLIMSOLL_LOG").unwrap_or_else(|| "warn".into()))
            .arg("--data")
            .arg(self.data_directory())
            .args(["--listen", &self.address.to_string()])
            .args(["--listen-plaintext", &self.plaintext.to_string()])
            .args(&self.arguments)
            .stdin(Stdio::null());
        if let Some(token) = &self.token {
            command.env("PLIMSOLL_JOIN_TOKEN", token);
        }
        command
    }
}

impl ServeProcess {
    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Fails with what it printed when it has ended by itself.
    pub fn check_alive(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the node ended with {status}; it said:\n{}", self.output()),
        }
    }

    /// `kill -9`, and waits until the process is gone.
    pub fn kill(mut self) -> io::Result<()> {
        self.end()
    }

    /// Asks it to end (SIGTERM) and waits for it.
    pub fn terminate(mut self) -> io::Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.child.wait()
    }

    /// Stops it where it is (SIGSTOP), until [`ServeProcess::resume`].
    pub fn pause(&self) -> io::Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on (SIGCONT).
    pub fn resume(&self) -> io::Result<()> {
        self.signal(Signal::CONT)
    }

    /// Whether it is stopped by a signal.
    pub fn is_paused(&self) -> anyhow::Result<bool> {
        Ok(self.stat()?.state == 'T')
    }

    /// Processor time that all its threads have used since its start.
    pub fn cpu_time(&self) -> anyhow::Result<Duration> {
        Ok(self.stat()?.cpu_time)
    }

    fn stat(&self) -> anyhow::Result<Stat> {
        let file = format!("/proc/{}/stat", self.child.id());
        let stat = std::fs::read_to_string(&file).with_context(|| format!("reading {file}"))?;
        let ticks = rustix::param::clock_ticks_per_second();
        process_stat(&stat, ticks).with_context(|| format!("{file} has another form: {stat}"))
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        let id = i32::try_from(self.child.id()).map_err(io::Error::other)?;
        let id = Pid::from_raw(id).ok_or(io::ErrorKind::NotFound)?;
        Ok(kill_process(id, signal)?)
    }

    /// What it printed in all its lives.
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its memory now.
    pub fn memory(&self) -> anyhow::Result<ProcessMemory> {
        let file = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(&file).with_context(|| format!("reading {file}"))?;
        process_memory(&status).with_context(|| format!("{file} has no memory figures"))
    }

    fn end(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for ServeProcess {
    fn drop(&mut self) {
        // It may have ended already, and there is nobody to tell.
        let _ = self.end();
    }
}

/// The memory of this process now.
pub(crate) fn own_memory() -> anyhow::Result<ProcessMemory> {
    let status =
        std::fs::read_to_string("/proc/self/status").context("reading /proc/self/status")?;
    process_memory(&status).context("/proc/self/status has no memory figures")
}

/// A port of 127.0.0.1 that is free for UDP and for TCP, below those that the system hands out by
/// itself: a node that is started again finds it still free.
pub fn free_address() -> io::Result<SocketAddr> {
    const PORTS: std::ops::Range<u16> = 18_000..32_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let begin = u32::from(NEXT.fetch_add(1, Ordering::Relaxed)) + std::process::id() * 97;
    let ports = u32::from(PORTS.end - PORTS.start);
    for step in 0..ports {
        let port = PORTS.start + ((begin + step * 31) % ports) as u16;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return Ok(address);
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, "found no port free for both UDP and TCP"))
}

/// What `/proc/PID/stat` says.
#[derive(Debug, PartialEq)]
struct Stat {
    /// `R`, `S`, `D`, `T` (stopped) and so on.
    state: char,
    cpu_time: Duration,
}

fn process_stat(stat: &str, ticks_per_second: u64) -> Option<Stat> {
    // The name in parentheses may itself hold blanks and parentheses.
    let (_, rest) = stat.rsplit_once(") ")?;
    // From field 3, the state; 14 and 15 are the ticks in user and in kernel mode.
    let fields: Vec<&str> = rest.split(' ').collect();
    let ticks = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let seconds = (ticks(14)? + ticks(15)?) as f64 / ticks_per_second as f64;
    let state = fields.first()?.chars().next()?;
    Some(Stat { state, cpu_time: Duration::from_secs_f64(seconds) })
}

fn process_memory(status: &str) -> Option<ProcessMemory> {
    let megabytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let kib: f64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kib * 1024.0 / 1e6)
    };
    Some(ProcessMemory {
        resident_mb: megabytes("RssAnon")? + megabytes("RssShmem")?,
        resident_with_files_mb: megabytes("VmRSS")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_beside_page_cache_is_anonymous_and_shared() {
        let status = "Name:\tplimsoll\nVmRSS:\t   30000 kB\nRssAnon:\t   10000 kB\n\
                      RssFile:\t   19000 kB\nRssShmem:\t    1000 kB\n";
        let memory = process_memory(status).unwrap();
        assert!((memory.resident_mb - 11.264).abs() < 1e-9);
        assert!((memory.resident_with_files_mb - 30.72).abs() < 1e-9);
        assert_eq!(process_memory("Name:\tplimsoll\n"), None);
    }

    #[test]
    fn processor_time_is_user_and_kernel_ticks() {
        let stat = "7 (a (b) c) T 1 7 7 0 -1 4194560 900 0 3 0 250 50 0 0 20 0 9 0 100 1 2";
        let found = process_stat(stat, 100).unwrap();
        assert_eq!(found, Stat { state: 'T', cpu_time: Duration::from_secs(3) });
        assert_eq!(process_stat("7 (a) S 1", 100), None);
    }

    #[test]
    fn a_command_joins_by_argument_and_environment() {
        let other = free_address().unwrap();
        let node = ServeCommand::new(Path::new("plimsoll"), Path::new("/tmp")).unwrap();
        let node = node.joining(other, "PLM1-a-b").launched_by(["nsenter", "--net=/n"]);
        let command = node.command();
        assert_eq!(command.get_program(), "nsenter");
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
        assert_eq!(words[..3], ["--net=/n", "plimsoll", "serve"]);
        assert!(words.windows(2).any(|pair| pair == ["--join".to_owned(), other.to_string()]));
        assert!(!words.iter().any(|word| word.contains("PLM1")), "{words:?}");
        assert!(command.get_envs().any(|(name, _)| name == "PLIMSOLL_JOIN_TOKEN"));
    }

    #[test]
    fn a_free_address_can_be_bound_for_both_and_is_given_once() {
        let (address, other) = (free_address().unwrap(), free_address().unwrap());
        assert_ne!(address, other);
        let _stream = TcpListener::bind(address).unwrap();
        let _datagrams = UdpSocket::bind(address).unwrap();
    }
}
