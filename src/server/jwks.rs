//! The issuer's keys (`jwks`): read at start, now and then, and when a token names one that is not known. A thread of
//! its own does it, so that no shard waits for a file or a network.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use ureq::Agent;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use crate::auth::jwks::{self, JWKS_BYTES_MAX};
use crate::auth::key::TokenKey;
use crate::config::auth::Auth;
use crate::shard::mailbox::{KeysRead, KeysWanted, Mail, Mailbox};
use crate::threads::spawn_or_abort;

/// How long a fetch may take in all: less than the requests wait that it is for.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
const REDIRECTS_MAX: u32 = 3;

/// Where the set is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    File(String),
    Url {
        url: String,
        /// PEM.
        ca_file: Option<String>,
    },
}

impl Source {
    pub fn parse(text: &str, ca_file: Option<&str>) -> Result<Self, String> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(Self::File(text.to_owned()));
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
        match scheme {
            // It would be in every listing of the settings.
            _ if authority.contains('@') => Err("a URL with a password is not taken".to_owned()),
            "http" | "https" if !authority.is_empty() => Ok(Self::Url {
                url: text.to_owned(),
                ca_file: ca_file.map(str::to_owned),
            }),
            _ => Err("give a file, or a URL that begins with https:// or http://".to_owned()),
        }
    }

    /// The text and the keys in it.
    pub fn read(&self) -> Result<(String, Vec<TokenKey>), String> {
        let (place, text) = match self {
            Self::File(path) => (path, read_file(path)?),
            Self::Url { url, ca_file } => (url, fetch(url, ca_file.as_deref())?),
        };
        if text.len() > JWKS_BYTES_MAX {
            return Err(format!("{place} has more than {JWKS_BYTES_MAX} bytes"));
        }
        let keys = jwks::parse(&text).map_err(|error| format!("{place}: {error}"))?;
        Ok((text, keys))
    }

    /// What can be checked without a network.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::File(_) => self.read().map(drop),
            Self::Url { ca_file, .. } => {
                root_certificates("jwks_ca_file", ca_file.as_deref()).map(drop)
            }
        }
    }
}

fn read_file(path: &str) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{path} cannot be read: {error}"))
}

fn fetch(url: &str, ca_file: Option<&str>) -> Result<String, String> {
    let tls = TlsConfig::builder().root_certs(root_certificates("jwks_ca_file", ca_file)?);
    let config = Agent::config_builder()
        .timeout_global(Some(FETCH_TIMEOUT))
        .max_redirects(REDIRECTS_MAX)
        // Whoever names https is not sent elsewhere in the clear.
        .https_only(url.starts_with("https://"))
        .tls_config(tls.build())
        .user_agent(concat!("pushring/", env!("CARGO_PKG_VERSION")));
    let agent: Agent = config.build().into();
    let fetched =
        (agent.get(url).header("accept", "application/json").call()).and_then(|mut response| {
            let body = response.body_mut().with_config();
            body.limit(JWKS_BYTES_MAX as u64 + 1).read_to_string()
        });
    fetched.map_err(|error| format!("{url} cannot be fetched: {error}"))
}

/// Whom to trust: those in the file that `setting` names, or those whom the public trusts.
pub(super) fn root_certificates(setting: &str, ca_file: Option<&str>) -> Result<RootCerts, String> {
    let Some(path) = ca_file else {
        return Ok(RootCerts::WebPki);
    };
    let pem = read_file(path)?;
    let certificates: Vec<Certificate<'static>> = parse_pem(pem.as_bytes())
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(format!("{path} ({setting}) holds no certificate in PEM"));
    }
    Ok(RootCerts::from(certificates))
}

/// Reads the set again and again, and tells all shards.
#[derive(Debug)]
pub(super) struct Refresher {
    source: Source,
    /// As it was read last: the same text is the same keys, and what was verified with them stays.
    text: String,
    keys: Arc<[TokenKey]>,
    refresh: Duration,
    refetch_interval: Duration,
}

impl Refresher {
    /// Reads the set for the first time.
    pub(super) fn start(source: Source, auth: &Auth) -> Result<Self, String> {
        let (text, keys) = source.read()?;
        tracing::info!(keys = keys.len(), "jwks read");
        Ok(Self {
            source,
            text,
            keys: keys.into(),
            refresh: Duration::from_millis(auth.jwks_refresh_ms),
            refetch_interval: Duration::from_millis(auth.jwks_refetch_interval_ms),
        })
    }

    pub(super) fn keys(&self) -> Arc<[TokenKey]> {
        self.keys.clone()
    }

    /// `wanted`: who asks for another look.
    pub(super) fn spawn(
        self,
        boxes: Arc<[Mailbox]>,
        wanted: Receiver<KeysWanted>,
    ) -> io::Result<()> {
        let run = move || self.run(&boxes, &wanted);
        spawn_or_abort("jwks", run).map(drop)
    }

    fn run(mut self, boxes: &[Mailbox], wanted: &Receiver<KeysWanted>) {
        let mut refresh_at = self.next_refresh();
        let mut refetched_at: Option<Instant> = None;
        loop {
            match wanted.recv_timeout(refresh_at.saturating_duration_since(Instant::now())) {
                // Several shards may meet the same new key in the same moment.
                Ok(KeysWanted::Shard(shard))
                    if refetched_at.is_some_and(|at| at.elapsed() < self.refetch_interval) =>
                {
                    self.tell(&boxes[usize::from(shard.0)], KeysRead::TooSoon);
                    continue;
                }
                Ok(_) => refetched_at = Some(Instant::now()),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let read = self.read();
            for mailbox in boxes {
                self.tell(mailbox, read);
            }
            refresh_at = self.next_refresh();
        }
    }

    /// A failure leaves the keys from before.
    fn read(&mut self) -> KeysRead {
        match self.source.read() {
            Ok((text, _)) if text == self.text => KeysRead::Done,
            Ok((text, keys)) => {
                tracing::info!(keys = keys.len(), "jwks has changed");
                self.keys = keys.into();
                self.text = text;
                KeysRead::Done
            }
            Err(error) => {
                tracing::warn!("jwks: {error}; the keys from before stay");
                KeysRead::Failed
            }
        }
    }

    fn tell(&self, mailbox: &Mailbox, read: KeysRead) {
        let issued = self.keys.clone();
        mailbox.post(Mail::Keys { issued, read });
    }

    /// Jittered down by up to a tenth: many servers that were started together do not ask together.
    fn next_refresh(&self) -> Instant {
        Instant::now() + self.refresh.mul_f64(1.0 - fastrand::f64() / 10.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_a_file_or_a_url() {
        let file = |path: &str| Ok(Source::File(path.to_owned()));
        let url = |url: &str| {
            Ok(Source::Url {
                url: url.to_owned(),
                ca_file: Some("ca.pem".to_owned()),
            })
        };
        for (text, want) in [
            ("/etc/keys.json", file("/etc/keys.json")),
            ("keys.json", file("keys.json")),
            ("http://a/k", url("http://a/k")),
            ("https://a:8443/k?x=@", url("https://a:8443/k?x=@")),
            ("https://u:p@a/k", Err(())),
            ("ftp://a/k", Err(())),
            ("https://", Err(())),
        ] {
            assert_eq!(
                Source::parse(text, Some("ca.pem")).map_err(|_| ()),
                want,
                "{text}"
            );
        }
    }
}
