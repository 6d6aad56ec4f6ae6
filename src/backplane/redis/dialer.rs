//! Connections to servers, by TLS and with a password where the URL says so.

use std::fmt::Display;
use std::time::Duration;

use redis::aio::{AsyncPushSender, MultiplexedConnection};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, IntoConnectionInfo, ProtocolVersion,
    RedisConnectionInfo, RedisError, TlsCertificates, Value,
};

use crate::backplane::broker::BrokerError;
use crate::backplane::redis::url::{Address, Credentials};

/// How to connect to any of the servers.
#[derive(Clone)]
pub(super) struct Dialer {
    pub(super) tls: bool,
    pub(super) credentials: Option<Credentials>,
    /// Certificates in PEM to trust, instead of those that the public trusts.
    pub(super) ca: Option<Vec<u8>>,
    /// For connecting, and for any single answer.
    pub(super) timeout: Duration,
}

impl Dialer {
    pub(super) async fn connect(
        &self,
        address: &Address,
        db: i64,
    ) -> Result<MultiplexedConnection, BrokerError> {
        self.connect_by(address, db, &self.config()).await
    }

    /// A connection on which `push` hears what the server says by itself.
    pub(super) async fn connect_with(
        &self,
        address: &Address,
        db: i64,
        push: impl AsyncPushSender,
    ) -> Result<MultiplexedConnection, BrokerError> {
        let config = self.config().set_push_sender(push);
        self.connect_by(address, db, &config).await
    }

    async fn connect_by(
        &self,
        address: &Address,
        db: i64,
        config: &AsyncConnectionConfig,
    ) -> Result<MultiplexedConnection, BrokerError> {
        let client = self.client(address, db, ProtocolVersion::RESP3);
        let client = client.map_err(|error| failed(address, &error))?;
        let connecting = client.get_multiplexed_async_connection_with_config(config);
        connecting.await.map_err(|error| failed(address, &error))
    }

    /// The answer to one command.
    pub(super) async fn ask(&self, address: &Address, command: &Cmd) -> Result<Value, BrokerError> {
        let answer = self.try_ask(address, command).await;
        answer.map_err(|error| failed(address, &error))
    }

    /// The same with the client's error.
    pub(super) async fn try_ask(
        &self,
        address: &Address,
        command: &Cmd,
    ) -> Result<Value, RedisError> {
        let client = self.client(address, 0, ProtocolVersion::RESP2)?;
        let config = self.config();
        let connecting = client.get_multiplexed_async_connection_with_config(&config);
        let value = connecting.await?.send_packed_command(command).await?;
        value.extract_error()
    }

    fn config(&self) -> AsyncConnectionConfig {
        AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(Some(self.timeout))
    }

    fn client(
        &self,
        address: &Address,
        db: i64,
        protocol: ProtocolVersion,
    ) -> Result<Client, RedisError> {
        let mut settings = RedisConnectionInfo::default()
            .set_protocol(protocol)
            .set_db(db)
            .set_lib_name(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
        if let Some(Credentials { user, password }) = &self.credentials {
            settings = settings.set_password(password);
            if let Some(user) = user {
                settings = settings.set_username(user);
            }
        }
        let (host, port) = (address.host.clone(), address.port);
        if !self.tls {
            let info = ConnectionAddr::Tcp(host, port).into_connection_info()?;
            return Client::open(info.set_redis_settings(settings));
        }
        let address = ConnectionAddr::TcpTls {
            host,
            port,
            insecure: false,
            tls_params: None,
        };
        let info = address.into_connection_info()?.set_redis_settings(settings);
        let certificates = TlsCertificates {
            client_tls: None,
            root_cert: self.ca.clone(),
        };
        Client::build_with_tls(info, certificates)
    }
}

/// What went wrong at a server. Neither side's text has a password in it.
pub(super) fn at(address: &Address, error: impl Display) -> BrokerError {
    BrokerError(format!("Redis at {address}: {error}"))
}

/// What the client says of a server.
pub(super) fn failed(address: &Address, error: &RedisError) -> BrokerError {
    if error.is_timeout() {
        silent(address)
    } else {
        at(address, error)
    }
}

pub(super) fn silent(address: &Address) -> BrokerError {
    at(address, "does not answer within backplane_timeout")
}
