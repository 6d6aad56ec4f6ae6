//! What the operator should hear of: once in a while in the log, always in a counter.

use crate::hub::HomeRefusal;
use crate::logging::LineLimit;

/// Between two log lines about the same thing: a flood of newcomers must not become a flood of lines.
const INTERVAL_MS: u64 = 60_000;

/// A limit, or somebody else's fault, that turns clients away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Complaint {
    Connections,
    Descriptors,
    Channels,
    History,
    Backlog,
    AddressConnections,
    AcceptRate,
    ProxySource,
    ProxyHeader,
    Outboxes,
    DiskSlow,
    WriteFailed,
    TlsHandshake,
    BrokerAway,
    BrokerSlow,
    BrokerRefused,
    Callbacks,
}

impl Complaint {
    /// `Callbacks` is the last.
    const COUNT: usize = Self::Callbacks as usize + 1;

    /// What to change.
    pub(super) fn advice(self) -> &'static str {
        match self {
            Self::Connections => {
                "newcomers are turned away with 503: raise connections_max, or the descriptor limit (ulimit -n) that \
                 it follows, or add a host"
            }
            Self::Descriptors => {
                "cannot accept: raise the descriptor limit (ulimit -n, LimitNOFILE), or lower connections_max"
            }
            Self::Channels => {
                "no room for another channel, requests get 503: raise channels_max, or lower channel_idle_timeout"
            }
            Self::History => {
                "no room in the histories, publishes get 503: raise history_bytes_total_max, or keep less per channel \
                 (history_messages, history_bytes, history_age)"
            }
            Self::Backlog => {
                "messages are published faster than they can be delivered, publishes get 503: publish less, add \
                 threads or hosts, or raise fanout_backlog_bytes_max and mailbox_max"
            }
            Self::AddressConnections => {
                "newcomers of one address are turned away with 429: raise connections_per_address_max if it stands for \
                 many clients; where it is a balancer's, set proxy_protocol"
            }
            Self::AcceptRate => {
                "newcomers come faster than accepts_per_second_max and are turned away with 503: raise it, or add \
                 threads or hosts"
            }
            Self::ProxySource => {
                "somebody who is not a proxy is turned away with 403: add the address to proxy_sources if it is a \
                 balancer's, or keep others from reaching this listener"
            }
            Self::ProxyHeader => {
                "a connection does not begin with a PROXY header and is turned away: let the balancer send one, also \
                 with its health checks, or turn proxy_protocol off"
            }
            Self::TlsHandshake => {
                "a TLS handshake fails: look at the client; where all of them fail, at tls_certificate, and whether \
                 whoever is in front speaks TLS to this listener"
            }
            Self::Callbacks => {
                "too many questions wait for the backend, requests get 503: see to its speed, or raise \
                 callback_concurrency_max and callback_queue_max"
            }
            Self::Outboxes => {
                "clients read too slowly, those with the most are closed: raise outbox_bytes_total_max, lower \
                 outbox_bytes_max, or publish less"
            }
            Self::DiskSlow => {
                "the disk of history_dir does not keep up, publishes get 503: use a faster disk, publish less, or raise \
                 history_queue_bytes_max and history_stall_timeout"
            }
            Self::WriteFailed => {
                "history_dir cannot be written, publishes get 503 until it can: make space there, or see to the disk; \
                 the line of its log says what the system answered"
            }
            Self::BrokerAway => {
                "the broker of backplane cannot be heard, publishes and new channels get 503 until it can: see to it; \
                 the line of its connection says what is wrong"
            }
            Self::BrokerSlow => {
                "messages are published faster than the broker takes them, publishes get 503: publish less, give the \
                 broker more room, or raise backplane_queue_bytes_max"
            }
            Self::BrokerRefused => {
                "the broker of backplane takes no message, publishes get 503: its own log says why; it may be out of \
                 memory or disk, or read-only"
            }
        }
    }
}

impl From<HomeRefusal> for Complaint {
    fn from(refusal: HomeRefusal) -> Self {
        match refusal {
            HomeRefusal::ChannelsFull => Self::Channels,
            HomeRefusal::HistoryFull => Self::History,
            HomeRefusal::BacklogFull => Self::Backlog,
            HomeRefusal::DiskSlow => Self::DiskSlow,
            HomeRefusal::WriteFailed => Self::WriteFailed,
            HomeRefusal::BrokerAway => Self::BrokerAway,
            HomeRefusal::BrokerSlow => Self::BrokerSlow,
            HomeRefusal::BrokerRefused => Self::BrokerRefused,
        }
    }
}

/// When each may be told.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    lines: [LineLimit; Complaint::COUNT],
}

impl Complaints {
    /// `true` when it is time to tell, which counts as told.
    pub(super) fn is_due(&mut self, complaint: Complaint, now_ms: u64) -> bool {
        self.lines[complaint as usize].is_due(now_ms, INTERVAL_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_once_in_a_while() {
        let mut complaints = Complaints::default();
        assert!(complaints.is_due(Complaint::Connections, 5));
        assert!(!complaints.is_due(Complaint::Connections, 5 + INTERVAL_MS - 1));
        assert!(complaints.is_due(Complaint::Backlog, 6));
        assert!(complaints.is_due(Complaint::Connections, 5 + INTERVAL_MS));
        assert!(!complaints.is_due(Complaint::Connections, 6 + INTERVAL_MS));
    }
}
