//! One question by HTTP, over connections that are kept.

use std::io;
use std::time::{Duration, Instant};

use ureq::Agent;
use ureq::tls::{RootCerts, TlsConfig};

use crate::api::callback::{ANSWER_BYTES_MAX, Reply};

use super::Call;

/// What the backend has said.
#[derive(Debug)]
pub struct CallAnswer {
    pub reply: Reply,
    pub cache_control: Option<String>,
}

/// The parts of it that say something.
struct Response {
    status: u16,
    content_type: Option<String>,
    cache_control: Option<String>,
    body: Vec<u8>,
}

/// Clones share their connections.
#[derive(Clone, Debug)]
pub struct Client {
    agent: Agent,
}

impl Client {
    /// Keeps a connection for each of `concurrency_max` calls.
    pub fn new(roots: RootCerts, concurrency_max: usize) -> Self {
        let config = Agent::config_builder()
            // The answer of whoever it is redirected to is not the backend's.
            .max_redirects(0)
            .http_status_as_error(false)
            .max_idle_connections(concurrency_max)
            .max_idle_connections_per_host(concurrency_max)
            .max_response_header_size(ANSWER_BYTES_MAX)
            // The backend is named by the operator; a proxy of the environment is meant for others.
            .proxy(None)
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .user_agent(concat!("pushring/", env!("CARGO_PKG_VERSION")));
        Self {
            agent: config.build().into(),
        }
    }

    /// Takes `timeout` at most.
    pub fn call(&self, call: &Call, timeout: Duration) -> Result<CallAnswer, String> {
        let deadline = Instant::now() + timeout;
        let result = match self.send(call, timeout) {
            // A backend may close a kept connection in the moment of its use. To ask twice is to ask once (RFC 9110
            // §9.2.2).
            Err(ureq::Error::Io(error)) if is_cut(&error) => {
                let left = deadline.saturating_duration_since(Instant::now());
                self.send(call, left.max(Duration::from_millis(1)))
            }
            result => result,
        };
        let response = result.map_err(|error| error.to_string())?;
        let content_type = response.content_type.as_deref();
        let reply = Reply::parse(
            call.consultation.about,
            response.status,
            content_type,
            &response.body,
        );
        Ok(CallAnswer {
            reply: reply.map_err(|error| error.to_string())?,
            cache_control: response.cache_control,
        })
    }

    fn send(&self, call: &Call, timeout: Duration) -> Result<Response, ureq::Error> {
        let mut request = (self.agent.post(&*call.consultation.url))
            .config()
            .timeout_global(Some(timeout))
            .build()
            .header("Content-Type", "application/json")
            .header("Accept", "application/json");
        for (name, value) in call.consultation.credentials.fields() {
            request = request.header(name, value);
        }
        let mut response = request.send(call.body.as_bytes())?;
        let field = |name: &str| {
            let value = response.headers().get(name)?.to_str().ok()?;
            Some(value.to_owned())
        };
        let (content_type, cache_control) = (field("content-type"), field("cache-control"));
        let status = response.status().as_u16();
        let body = response.body_mut().with_config();
        Ok(Response {
            status,
            content_type,
            cache_control,
            body: body.limit(ANSWER_BYTES_MAX as u64).read_to_vec()?,
        })
    }
}

fn is_cut(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    [
        BrokenPipe,
        ConnectionAborted,
        ConnectionReset,
        UnexpectedEof,
    ]
    .contains(&error.kind())
}
