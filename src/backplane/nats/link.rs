//! One connection to the servers: requests with their answers, and its end.
//!
//! The client library connects again by itself, and resumes subscriptions as if nothing had been. Here the first sign
//! of a lost connection, or of a message that the library had no room for, is the end: everybody who waits is told.

use std::cell::Cell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::client::PublishErrorKind;
use async_nats::{Client, ConnectOptions, HeaderMap, Message, Subscriber};
use futures_util::StreamExt;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::backplane::broker::{BrokerError, Event, Settings, Trace};
use crate::threads::or_abort;

use super::address::{Address, Login};
use super::queue::{Full, Queue};

/// Messages of one subscription that may wait. The library reads up to 8 MiB from a socket in one go, before anybody
/// else on this thread gets to take any of it.
const SUBSCRIPTION_MESSAGES_MAX: usize = 131_072;

pub struct Link {
    client: Client,
    shared: Arc<Shared>,
    /// Answers come to subjects under this one.
    inbox: String,
    calls: Cell<u64>,
    timeout: Duration,
    router: AbortHandle,
}

/// What the tasks of a connection share. They are on one thread, but the runtime wants them to be able to move.
pub struct Shared {
    /// By the number of the call. A call gets as many answers as it has asked for, so the queue is bounded.
    waiting: Mutex<HashMap<u64, mpsc::UnboundedSender<Answer>>>,
    error: Mutex<Option<BrokerError>>,
    /// What came of the stream last.
    newest: Mutex<Option<Trace>>,
    queue: Queue,
}

/// Which of a call's requests it is for, and the answer.
type Answer = (usize, Message);

/// Why something could not be sent.
#[derive(Debug)]
pub enum SendError {
    /// Larger than the server's `max_payload`.
    TooLarge,
    Broken(BrokerError),
}

/// The server's interface has refused a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: u64,
    pub description: String,
}

/// Requests whose answers are waited for together.
pub struct Call<'a> {
    link: &'a Link,
    number: u64,
    answers: mpsc::UnboundedReceiver<Answer>,
}

impl Link {
    pub async fn connect(
        settings: &Settings,
    ) -> Result<(Self, mpsc::Receiver<Event>), BrokerError> {
        let address = Address::parse(&settings.url).map_err(BrokerError)?;
        let (queue, receiver) = Queue::new();
        let shared = Arc::new(Shared {
            waiting: Mutex::default(),
            error: Mutex::default(),
            newest: Mutex::default(),
            queue,
        });
        let options = options(settings, &address, shared.clone()).await?;
        let names = address.servers.join(", ");
        let no_connection =
            |why: String| BrokerError(format!("no connection to NATS at {names}: {why}"));
        let client = options
            .connect(&address.servers)
            .await
            .map_err(|error| no_connection(error.to_string()))?;
        if !client.is_server_compatible(2, 11, 0) {
            let version = client.server_info().version;
            return Err(no_connection(format!(
                "it is NATS {version}; at least 2.11 is needed"
            )));
        }
        let inbox = client.new_inbox();
        let answers = client
            .subscribe(format!("{inbox}.*"))
            .await
            .map_err(|error| no_connection(error.to_string()))?;
        let route = route(answers, inbox.len() + 1, shared.clone());
        let router = tokio::spawn(or_abort(route)).abort_handle();
        let link = Self {
            client,
            shared,
            inbox,
            calls: Cell::new(0),
            timeout: settings.timeout,
            router,
        };
        Ok((link, receiver))
    }

    pub fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    pub async fn subscribe(&self, subject: String) -> Result<Subscriber, BrokerError> {
        self.in_time(self.client.subscribe(subject))
            .await?
            .map_err(|error| BrokerError(format!("NATS: {error}")))
    }

    /// Sends what the server has to take.
    pub async fn send(
        &self,
        subject: String,
        reply: Option<String>,
        headers: HeaderMap,
        payload: &[u8],
    ) -> Result<(), BrokerError> {
        let sent = self.try_send(subject, reply, headers, payload).await;
        sent.map_err(SendError::into_error)
    }

    /// Sends; an answer comes to `reply`, if there is one.
    pub async fn try_send(
        &self,
        subject: String,
        reply: Option<String>,
        headers: HeaderMap,
        payload: &[u8],
    ) -> Result<(), SendError> {
        let payload = payload.to_vec().into();
        let sent = async {
            match (reply, headers.is_empty()) {
                (Some(reply), true) => {
                    self.client
                        .publish_with_reply(subject, reply, payload)
                        .await
                }
                (Some(reply), false) => {
                    self.client
                        .publish_with_reply_and_headers(subject, reply, headers, payload)
                        .await
                }
                (None, _) => {
                    self.client
                        .publish_with_headers(subject, headers, payload)
                        .await
                }
            }
        };
        match self.in_time(sent).await.map_err(SendError::Broken)? {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == PublishErrorKind::MaxPayloadExceeded => {
                Err(SendError::TooLarge)
            }
            Err(error) => Err(SendError::Broken(BrokerError(format!("NATS: {error}")))),
        }
    }

    pub fn call(&self) -> Call<'_> {
        let number = self.calls.get();
        self.calls.set(number + 1);
        let (sender, answers) = mpsc::unbounded_channel();
        // After the end nobody would take it out again: the call sees the end of its answers at once.
        if self.shared.error().is_none() {
            self.shared.waiting().insert(number, sender);
        }
        Call {
            link: self,
            number,
            answers,
        }
    }

    /// One request, one answer.
    pub async fn request(
        &self,
        subject: String,
        headers: HeaderMap,
        payload: &[u8],
    ) -> Result<Message, BrokerError> {
        let mut call = self.call();
        self.send(subject, Some(call.reply(0)), headers, payload)
            .await?;
        Ok(call.answer().await?.1)
    }

    /// Asks JetStream's interface.
    pub async fn ask(
        &self,
        what: &str,
        stream: &str,
        body: &Value,
    ) -> Result<Result<Value, Refusal>, BrokerError> {
        let body = match body {
            Value::Null => Vec::new(),
            body => body.to_string().into_bytes(),
        };
        let subject = format!("$JS.API.{what}.{stream}");
        let message = self.request(subject, HeaderMap::new(), &body).await?;
        if message.status.is_some() {
            return Err(BrokerError(
                "NATS has no JetStream for this user: start the server with --jetstream, and enable it for the account"
                    .into(),
            ));
        }
        let answer: Value = serde_json::from_slice(&message.payload)
            .map_err(|_| BrokerError("JetStream answers what is not JSON".into()))?;
        Ok(match answer.get("error") {
            None => Ok(answer),
            Some(error) => Err(Refusal::parse(error)),
        })
    }

    /// Asks what it cannot refuse.
    pub async fn demand(
        &self,
        what: &str,
        stream: &str,
        body: &Value,
    ) -> Result<Value, BrokerError> {
        let answer = self.ask(what, stream, body).await?;
        answer.map_err(Refusal::into_error)
    }

    async fn in_time<T>(&self, future: impl Future<Output = T>) -> Result<T, BrokerError> {
        timeout(self.timeout, future)
            .await
            .map_err(|_| self.shared.silence())
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.router.abort();
    }
}

impl Call<'_> {
    /// Where the answer to the call's request with this index is to go.
    pub fn reply(&self, index: usize) -> String {
        format!("{}.{}-{index}", self.link.inbox, self.number)
    }

    /// The next answer, to whichever request.
    pub async fn answer(&mut self) -> Result<Answer, BrokerError> {
        let answer = self.link.in_time(self.answers.recv()).await?;
        answer.ok_or_else(|| self.link.shared.silence())
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.link.shared.waiting().remove(&self.number);
    }
}

impl Refusal {
    pub fn parse(error: &Value) -> Self {
        let text = error.get("description").and_then(Value::as_str);
        Self {
            code: error.get("err_code").and_then(Value::as_u64).unwrap_or(0),
            description: text.unwrap_or("no reason is given").into(),
        }
    }

    pub fn into_error(self) -> BrokerError {
        let Self { code, description } = self;
        BrokerError(format!("JetStream refuses: {description} ({code})"))
    }
}

impl SendError {
    fn into_error(self) -> BrokerError {
        match self {
            Self::TooLarge => {
                BrokerError("a message is larger than max_payload of the NATS server".into())
            }
            Self::Broken(error) => error,
        }
    }
}

impl Shared {
    pub fn is_broken(&self) -> bool {
        self.error().is_some()
    }

    /// The connection is of no use any more, for the first reason that there was.
    pub fn break_off(&self, reason: &str) {
        if self.is_broken() {
            return;
        }
        let error = BrokerError(reason.into());
        *self.error() = Some(error.clone());
        self.waiting().clear();
        self.queue.push_last(Event::Broken(error));
    }

    /// Hands an event to whoever holds the broker.
    pub fn tell(&self, event: Event, payload_bytes: usize) {
        if self.queue.push(event, payload_bytes) == Err(Full) {
            self.break_off("more comes from NATS than this node takes; it connects anew");
        }
    }

    /// `mark` is told when all that was told until now is with the receiver of events.
    pub fn tell_when_taken(&self, mark: oneshot::Sender<()>) {
        self.queue.push_mark(mark);
    }

    fn silence(&self) -> BrokerError {
        self.error().clone().unwrap_or_else(|| {
            BrokerError(
                "NATS does not answer within backplane_timeout: JetStream may have no leader"
                    .into(),
            )
        })
    }

    fn error(&self) -> MutexGuard<'_, Option<BrokerError>> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn newest(&self) -> MutexGuard<'_, Option<Trace>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, mpsc::UnboundedSender<Answer>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Brings each answer to the call that waits for it.
async fn route(mut answers: Subscriber, token_at: usize, shared: Arc<Shared>) {
    while let Some(message) = answers.next().await {
        let token = message.subject.as_str().get(token_at..);
        let numbers = token.and_then(|token| token.split_once('-'));
        let Some((call, index)) =
            numbers.and_then(|(call, index)| Some((call.parse().ok()?, index.parse().ok()?)))
        else {
            continue;
        };
        if let Some(caller) = shared.waiting().get(&call) {
            let _ = caller.send((index, message));
        }
    }
}

async fn options(
    settings: &Settings,
    address: &Address,
    shared: Arc<Shared>,
) -> Result<ConnectOptions, BrokerError> {
    let mut options = ConnectOptions::new()
        .name(format!("pushring-{:016x}", settings.node.0))
        .connection_timeout(settings.timeout)
        // Two of them without an answer end the connection.
        .ping_interval(settings.timeout)
        .subscription_capacity(SUBSCRIPTION_MESSAGES_MAX)
        .request_timeout(Some(settings.timeout))
        .ignore_discovered_servers()
        // Each server once: as many as there are when connecting, and then no more than that.
        .max_reconnects(address.servers.len())
        .event_callback(move |event| {
            let shared = shared.clone();
            async move {
                if let Some(reason) = end(&event) {
                    shared.break_off(&reason);
                }
            }
        });
    options = match &address.login {
        None => options,
        Some(Login::Token(token)) => options.token(token.clone()),
        Some(Login::User { name, password }) => {
            options.user_and_password(name.clone(), password.clone())
        }
    };
    if let Some(path) = &address.credentials_file {
        options = options.credentials_file(path).await.map_err(|error| {
            BrokerError(format!("the credentials file {path} of NATS: {error}"))
        })?;
    }
    if let Some(path) = &settings.ca_file {
        options = options.add_root_certificates(PathBuf::from(path));
    }
    Ok(options)
}

/// Why the connection is over after `event`, if it is.
fn end(event: &async_nats::Event) -> Option<String> {
    use async_nats::Event as It;
    match event {
        It::Connected | It::LameDuckMode => None,
        It::SlowConsumer(_) => Some(
            "messages from NATS came faster than they were taken, and some were dropped".into(),
        ),
        // Among them: no permission to listen to a subject.
        It::ServerError(error) => Some(format!("NATS says: {error}")),
        It::Disconnected | It::Draining | It::Closed | It::ClientError(_) => {
            Some("the connection to NATS is lost".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_nats::{Event as It, ServerError};

    #[test]
    fn whatever_may_have_lost_a_message_is_the_end() {
        for event in [
            It::Disconnected,
            It::SlowConsumer(7),
            It::Closed,
            It::Draining,
            It::ServerError(ServerError::Other("Permissions Violation".into())),
        ] {
            assert!(
                end(&event).is_some_and(|reason| reason.contains("NATS")),
                "{event}"
            );
        }
        assert_eq!(end(&It::Connected), None);
    }
}
