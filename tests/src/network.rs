//! Network namespaces for nodes on one machine: each node with an address of its own, joined by a
//! bridge, so that what goes from one to another can be cut without touching anything else.
//!
//! ```text
//!  namespace of the test: 10.77.0.254 on the bridge     clients run here
//!       │ veth         │ veth         │ veth
//!  10.77.0.1        10.77.0.2      10.77.0.3            a namespace per node
//! ```
//! A cut is a wrong hardware address for the other end: packets leave and arrive nowhere, in one
//! direction, and nobody is told. Everything is gone when the test's process ends, however it ends:
//! each namespace is held by a child whose standard input closes then.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const NOBODY: &str = "02:00:00:00:00:01";
const PORT: u16 = 7420;
const PLAINTEXT_PORT: u16 = 7421;

/// A network of so many nodes, and the namespaces that it is made of.
#[derive(Debug)]
pub struct Network {
    nodes: Vec<Namespace>,
    slows: Slows,
    _hub: Namespace,
}

/// How a node's link is slowed down here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slows {
    /// Delay, jitter and loss.
    Netem,
    /// A rate, and a queue that it fills. Where the kernel has no netem.
    Rate,
}

/// Why there is no network: what is missing on this machine.
#[derive(Debug)]
pub struct NotAllowed(pub String);

impl Network {
    /// Makes the network and moves this thread into its middle. Threads and processes that this one
    /// starts afterwards are there too: make the runtime after this.
    ///
    /// # Errors
    /// When this user may not make namespaces, or `unshare`, `nsenter` or `ip` is missing.
    pub fn enter(nodes: usize) -> Result<Self, NotAllowed> {
        let hub = Namespace::new()?;
        let file = File::open(hub.path()).map_err(|error| NotAllowed(error.to_string()))?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|error| NotAllowed(format!("setns: {error}")))?;
        run("ip", "link set lo up")?;
        run("ip", "link add bridge type bridge")?;
        run("ip", &format!("addr add {}/24 dev bridge", address(254)))?;
        run("ip", "link set bridge up")?;
        let mut network = Self { nodes: Vec::new(), slows: Slows::Rate, _hub: hub };
        for index in 0..nodes {
            let node = Namespace::new()?;
            let peer = format!("name eth0 netns {}", node.holder.id());
            run("ip", &format!("link add node{index} type veth peer {peer}"))?;
            run("ip", &format!("link set node{index} master bridge up"))?;
            node.run("ip link set lo up")?;
            node.run(&format!("ip addr add {}/24 dev eth0", node_address(index)))?;
            node.run("ip link set eth0 up")?;
            network.nodes.push(node);
        }
        if network.nodes[0].run("tc qdisc add dev eth0 root netem delay 1ms").is_ok() {
            network.slows = Slows::Netem;
            network.restore_speed(0)?;
        }
        Ok(network)
    }

    /// Where a node listens: for QUIC and TLS, and for plaintext.
    pub fn addresses(&self, index: usize) -> (SocketAddr, SocketAddr) {
        let ip = node_address(index);
        ((ip, PORT).into(), (ip, PLAINTEXT_PORT).into())
    }

    /// The words before a command that make it run at a node's place.
    pub fn launcher(&self, index: usize) -> Vec<OsString> {
        self.nodes[index].launcher()
    }

    /// Nothing that `from` sends reaches `to`, until [`Network::heal`].
    pub fn cut(&self, from: usize, to: usize) -> Result<(), NotAllowed> {
        let to = node_address(to);
        let entry = format!("{to} lladdr {NOBODY} dev eth0 nud permanent");
        self.nodes[from].run(&format!("ip neigh replace {entry}"))
    }

    /// Ends a cut of this direction.
    pub fn heal(&self, from: usize, to: usize) -> Result<(), NotAllowed> {
        self.nodes[from].run(&format!("ip neigh del {} dev eth0", node_address(to)))
    }

    /// How a node is slowed down on this machine.
    pub fn slows(&self) -> Slows {
        self.slows
    }

    /// Slows down what a node sends, to nodes and clients alike.
    pub fn slow_down(&self, index: usize) -> Result<(), NotAllowed> {
        let how = match self.slows {
            Slows::Netem => "netem delay 40ms 20ms loss 2%",
            Slows::Rate => "tbf rate 8mbit burst 16kb latency 300ms",
        };
        self.nodes[index].run(&format!("tc qdisc add dev eth0 root {how}"))
    }

    /// Ends that.
    pub fn restore_speed(&self, index: usize) -> Result<(), NotAllowed> {
        self.nodes[index].run("tc qdisc del dev eth0 root")
    }
}

/// A network namespace that lives as long as this.
#[derive(Debug)]
struct Namespace {
    holder: Child,
}

impl Namespace {
    fn new() -> Result<Self, NotAllowed> {
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo here; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| NotAllowed(format!("unshare: {error}")))?;
        let mut line = String::new();
        let out = holder.stdout.as_mut().expect("it was asked for");
        let read = BufReader::new(out).read_line(&mut line);
        let namespace = Self { holder };
        match read {
            Ok(_) if line.trim() == "here" => Ok(namespace),
            _ => Err(NotAllowed("unshare --net is refused".to_owned())),
        }
    }

    fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.holder.id()).into()
    }

    fn launcher(&self) -> Vec<OsString> {
        vec!["nsenter".into(), format!("--net={}", self.path().display()).into()]
    }

    fn run(&self, line: &str) -> Result<(), NotAllowed> {
        run("nsenter", &format!("--net={} {line}", self.path().display()))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // It may be gone already, and there is nobody to tell.
        let _ = self.holder.kill().and_then(|()| self.holder.wait());
    }
}

fn run(program: &str, line: &str) -> Result<(), NotAllowed> {
    let output = Command::new(program).args(line.split(' ')).output();
    let output = output.map_err(|error| NotAllowed(format!("{program}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(NotAllowed(format!("{program} {line}: {}", said.trim())))
}

fn node_address(index: usize) -> Ipv4Addr {
    address(u8::try_from(index + 1).expect("a handful of nodes"))
}

fn address(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, host)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use super::*;

    /// A datagram from one node to the other: whether it came.
    fn arrives(network: &Network, from: usize, to: usize) -> bool {
        let here = std::thread::scope(|scope| {
            let receiver = scope.spawn(|| {
                join(&network.nodes[to]);
                let socket = UdpSocket::bind((node_address(to), 9)).unwrap();
                socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
                socket
            });
            receiver.join().unwrap()
        });
        std::thread::scope(|scope| {
            scope.spawn(|| {
                join(&network.nodes[from]);
                let socket = UdpSocket::bind((node_address(from), 0)).unwrap();
                socket.send_to(b"ping", (node_address(to), 9)).unwrap();
            });
        });
        here.recv(&mut [0; 8]).is_ok()
    }

    fn join(namespace: &Namespace) {
        let file = File::open(namespace.path()).unwrap();
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    }

    #[test]
    fn a_cut_is_one_way_and_heals() {
        let network = match Network::enter(2) {
            Ok(network) => network,
            Err(NotAllowed(why)) => {
                eprintln!("not run: needs CAP_NET_ADMIN: {why}");
                return;
            }
        };
        assert!(arrives(&network, 0, 1) && arrives(&network, 1, 0));
        network.cut(0, 1).unwrap();
        assert!(!arrives(&network, 0, 1) && arrives(&network, 1, 0));
        network.heal(0, 1).unwrap();
        assert!(arrives(&network, 0, 1) && arrives(&network, 1, 0));
        network.slow_down(0).unwrap();
        assert!(arrives(&network, 0, 1));
        network.restore_speed(0).unwrap();
    }
}
