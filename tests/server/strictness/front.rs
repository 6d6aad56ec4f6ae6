//! A proxy in front of the server, where `PUSHRING_TEST_THROUGH` asks for one: `haproxy` passes the bytes on as they
//! come (mode tcp), `haproxy-send-proxy` puts a PROXY protocol v2 header first. `scripts/test-haproxy` sets it.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};

use rustix::io::FdFlags;

/// What lies between the clients and the server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Through {
    Nothing,
    Haproxy,
    HaproxySendProxy,
}

impl Through {
    pub(super) fn of_environment() -> Self {
        match std::env::var("PUSHRING_TEST_THROUGH").as_deref() {
            Err(_) => Self::Nothing,
            Ok("haproxy") => Self::Haproxy,
            Ok("haproxy-send-proxy") => Self::HaproxySendProxy,
            Ok(other) => {
                panic!("PUSHRING_TEST_THROUGH is haproxy or haproxy-send-proxy, not {other}")
            }
        }
    }

    /// The listener that is put behind the proxy takes every request; the other one stays plain, for the test itself.
    pub(super) fn server_flags(self) -> &'static str {
        match self {
            Self::Nothing | Self::Haproxy => "",
            Self::HaproxySendProxy => {
                "--internal 127.0.0.1:0 --internal-proxy-protocol --proxy-sources 127.0.0.1"
            }
        }
    }

    /// Puts the proxy in front of `server`.
    pub(super) fn front(self, server: SocketAddr) -> Option<Front> {
        match self {
            Self::Nothing => None,
            Self::Haproxy => Some(Front::haproxy(server, "")),
            Self::HaproxySendProxy => Some(Front::haproxy(server, "send-proxy-v2")),
        }
    }
}

/// A running proxy. Dropped, it is ended.
pub(super) struct Front {
    process: Child,
    pub(super) address: SocketAddr,
}

impl Front {
    /// The listening socket is made here and inherited, so that its port is free and known.
    fn haproxy(server: SocketAddr, options: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // The standard library's 128 is less than what connects at once here.
        rustix::net::listen(&listener, 4096).unwrap();
        rustix::io::fcntl_setfd(&listener, FdFlags::empty()).unwrap();
        let descriptor = listener.as_raw_fd();
        let configuration = format!(
            "global\n  maxconn 4000\ndefaults\n  mode tcp\n  timeout connect 20s\n  timeout client 60s\n  \
             timeout server 60s\nlisten front\n  bind fd@{descriptor}\n  server pushring {server} {options}\n"
        );
        let process_id = std::process::id();
        let file = format!("{}/haproxy-{process_id}.cfg", env!("CARGO_TARGET_TMPDIR"));
        std::fs::write(&file, configuration).unwrap();
        let process = Command::new("haproxy")
            .args(["-db", "-f", &file])
            .stdin(Stdio::null())
            .spawn()
            .expect("haproxy is installed");
        Self { process, address }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
