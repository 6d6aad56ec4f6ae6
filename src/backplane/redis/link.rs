//! The connections to one master: commands and announcements on the same one, so that their order is the server's, and
//! histories on another.
//!
//! The server ends a connection that has subscriptions as soon as 32 MiB wait to be sent on it, whatever they are
//! (`client-output-buffer-limit pubsub`), and what is large is in the way of canaries.

use futures_util::future::try_join;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, ServerError, Value, cmd};

use crate::backplane::broker::BrokerError;
use crate::backplane::redis::dialer::{Dialer, at, failed};
use crate::backplane::redis::events::{Ear, Leaving};
use crate::backplane::redis::servers::Master;
use crate::backplane::redis::url::Address;

/// Defines the functions `pushring_publish`, `pushring_publish_run`, `pushring_read`, `pushring_delete` and
/// `pushring_heir` at the server.
pub(super) const LIBRARY: &str = include_str!("library.lua");

const LIBRARY_NAME: &str = "pushring";

pub(super) const UNREADABLE: &str = "a reply of a function of pushring cannot be read";

/// One of the two connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// Carries announcements, and whatever else has a short answer.
    Main,
    Histories,
}

pub(super) struct Link {
    pub(super) master: Master,
    main: MultiplexedConnection,
    histories: MultiplexedConnection,
    leaving: Leaving,
    /// As the server calls itself in what it writes, if it took over from another one.
    pub(super) heir: Option<String>,
}

impl Link {
    pub(super) async fn connect(
        dialer: &Dialer,
        master: Master,
        (ear, leaving): (Ear, Leaving),
    ) -> Result<Self, BrokerError> {
        let (main, histories) = try_join(
            dialer.connect_with(&master.address, master.db, ear),
            dialer.connect(&master.address, master.db),
        )
        .await?;
        let mut link = Self {
            master,
            main,
            histories,
            leaving,
            heir: None,
        };
        link.install_library().await?;
        link.heir = link.ask_for_heir().await?;
        Ok(link)
    }

    fn address(&self) -> &Address {
        &self.master.address
    }

    /// The server's own words.
    pub(super) fn error(&self, error: &ServerError) -> BrokerError {
        let details = error.details().unwrap_or_default();
        at(self.address(), format!("{} {details}", error.code()))
    }

    /// A reply to each command, in order; errors of the commands are among them.
    pub(super) async fn replies(
        &self,
        lane: Lane,
        commands: &Pipeline,
    ) -> Result<Vec<Value>, BrokerError> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let mut connection = match lane {
            Lane::Main => self.main.clone(),
            Lane::Histories => self.histories.clone(),
        };
        let replies = connection
            .send_packed_commands(commands, 0, commands.len())
            .await
            .map_err(|error| failed(self.address(), &error))?;
        if replies.len() != commands.len() || self.leaving.is_moved() {
            return Err(at(
                self.address(),
                "the replies are not those of the commands; slots were moved",
            ));
        }
        Ok(replies)
    }

    /// The reply to one command, if it is no error.
    pub(super) async fn reply(&self, lane: Lane, command: Cmd) -> Result<Value, BrokerError> {
        let mut commands = Pipeline::with_capacity(1);
        commands.add_command(command);
        let reply = self.replies(lane, &commands).await?.pop();
        match reply.unwrap_or(Value::Nil) {
            Value::ServerError(error) => Err(self.error(&error)),
            reply => Ok(reply),
        }
    }

    /// Returns when the server has answered what it was asked on the lane by now. On the main one its announcements up
    /// to now are heard then, too; the other one is in use, and nobody takes it for a connection that was left open.
    pub(super) async fn ping(&self, lane: Lane) -> Result<(), BrokerError> {
        // `PING` would be another right to grant.
        self.reply(lane, cmd("TIME")).await.map(drop)
    }

    /// What the server's clock shows, in milliseconds since 1970.
    pub(super) async fn now_ms(&self) -> Result<u64, BrokerError> {
        let reply = self.reply(Lane::Main, cmd("TIME")).await?;
        let time: Result<(u64, u64), _> = redis::from_redis_value(reply);
        let (seconds, micros) = time.map_err(|_| at(self.address(), "its TIME cannot be read"))?;
        Ok(seconds * 1000 + micros / 1000)
    }

    /// To be called before as many channels are left by `SUNSUBSCRIBE`.
    pub(super) fn expect_leaving(&self, channels: usize) {
        self.leaving.expect(channels);
    }

    /// Loads the functions, if the server has none or older ones.
    async fn install_library(&self) -> Result<(), BrokerError> {
        let mut list = cmd("FUNCTION");
        list.arg("LIST");
        list.arg("LIBRARYNAME").arg(LIBRARY_NAME).arg("WITHCODE");
        let listed = self.reply(Lane::Main, list).await.map_err(|error| {
            BrokerError(format!(
                "{error} (Redis 7.0, Valkey 7.2 or later is needed)"
            ))
        })?;
        if is_as_good(library_code(&listed).unwrap_or_default()) {
            return Ok(());
        }
        let mut load = cmd("FUNCTION");
        load.arg("LOAD").arg("REPLACE").arg(LIBRARY);
        self.reply(Lane::Main, load).await.map(drop)
    }

    async fn ask_for_heir(&self) -> Result<Option<String>, BrokerError> {
        let mut ask = cmd("FCALL");
        ask.arg("pushring_heir").arg(0);
        match self.reply(Lane::Main, ask).await? {
            Value::BulkString(heir) if heir.is_empty() => Ok(None),
            Value::BulkString(heir) => Ok(Some(String::from_utf8_lossy(&heir).into_owned())),
            _ => Err(at(self.address(), UNREADABLE)),
        }
    }
}

/// Whether what the server has can stay: the same, or a later version, which serves this node too.
fn is_as_good(code: &str) -> bool {
    code == LIBRARY || version(code) > version(LIBRARY)
}

fn version(code: &str) -> Option<u32> {
    let mut lines = code.lines();
    lines.find_map(|line| line.strip_prefix("-- version ")?.parse().ok())
}

/// The code in what `FUNCTION LIST` says.
fn library_code(value: &Value) -> Option<&str> {
    match value {
        Value::Array(values) => values.iter().find_map(library_code),
        Value::Map(pairs) => pairs.iter().find_map(|pair| match pair {
            (Value::BulkString(key), Value::BulkString(code)) if key == b"library_code" => {
                str::from_utf8(code).ok()
            }
            _ => None,
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Namespace};

    #[test]
    fn an_older_library_is_replaced_and_a_later_one_is_not() {
        let own = version(LIBRARY).unwrap();
        let with = |version| LIBRARY.replacen(&format!("-- version {own}\n"), version, 1);
        for (code, wanted) in [
            (LIBRARY.to_owned(), true),
            (String::new(), false),
            (with("-- version 0\n"), false),
            (with(""), false),
            (with(&format!("-- version {}\n", own + 1)), true),
            (format!("{LIBRARY}\n"), false),
        ] {
            assert_eq!(is_as_good(&code), wanted);
        }
        assert!(LIBRARY.starts_with(&format!("#!lua name={LIBRARY_NAME}\n")));
    }

    #[test]
    fn a_channel_that_no_node_has_told_of_is_kept_as_by_default() {
        let config = Config::default();
        let (namespace, timing) = (Namespace::default(), &config.timing);
        let kept = format!(
            "local KEEP, WINDOW_MS = '{} {} {}', '{}'\n",
            namespace.history_messages,
            namespace.history_age_ms,
            timing.channel_idle_timeout_ms,
            timing.idempotency_window_ms
        );
        assert!(LIBRARY.contains(&kept), "{kept}");
    }

    #[test]
    fn the_code_is_found_in_the_list() {
        let bulk = |text: &str| Value::BulkString(text.into());
        let map = Value::Map(vec![
            (bulk("library_name"), bulk("library_code")),
            (bulk("library_code"), bulk("x")),
        ]);
        assert_eq!(library_code(&Value::Array(vec![map])), Some("x"));
        assert_eq!(library_code(&Value::Array(vec![])), None);
    }
}
