//! haproxy in front of the nodes: it passes the bytes on, and asks each node whether it wants traffic.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::broker::free_port;

const START_TIMEOUT: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Where Debian keeps it; the path of who is not root does not lead there.
const PROGRAMS: [&str; 2] = ["haproxy", "/usr/sbin/haproxy"];

/// Dropped, it is killed.
pub(super) struct Proxy {
    child: Child,
    pub(super) address: SocketAddr,
}

impl Proxy {
    pub(super) fn start(nodes: &[SocketAddr], folder: &Path) -> Result<Self, String> {
        let address = free_port(Ipv4Addr::LOCALHOST)?;
        let config = folder.join("haproxy.cfg");
        fs::write(&config, config_text(address, nodes)).map_err(|error| error.to_string())?;
        let spawn = |program: &&str| {
            Command::new(program)
                .args(["-db", "-q", "-f"])
                .arg(&config)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .ok()
        };
        let child = PROGRAMS.iter().find_map(spawn);
        let mut proxy = Self {
            child: child.ok_or("haproxy (Debian package haproxy) is missing")?,
            address,
        };
        let end = Instant::now() + START_TIMEOUT;
        while TcpStream::connect(address).is_err() {
            let has_ended = proxy.child.try_wait().is_ok_and(|status| status.is_some());
            if has_ended || Instant::now() > end {
                return Err("haproxy did not start".into());
            }
            thread::sleep(LOOK_AGAIN);
        }
        eprintln!("verify: haproxy on {address}");
        Ok(proxy)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn config_text(address: SocketAddr, nodes: &[SocketAddr]) -> String {
    // Neither side may be quiet for as long as it takes to notice: heartbeats are there for that.
    let mut text = format!(
        "defaults\n  mode tcp\n  timeout connect 2s\n  timeout client 1m\n  timeout server 1m\n\
         \nfrontend clients\n  bind {address}\n  default_backend nodes\n\nbackend nodes\n  balance leastconn\n  \
         option httpchk GET /readyz\n  default-server check inter 250ms fall 2 rise 1\n"
    );
    for (index, node) in nodes.iter().enumerate() {
        let _ = writeln!(text, "  server node{index} {node}");
    }
    text
}
