//! What all connections of a run have in common: where they go and the bytes they send.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::options::{Mode, Options, Scenario, Server};
use crate::stamp::{STAMP_BYTES, Stamp};

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    WebSocket,
    EventStream,
    /// Polls without end: each answer is followed by the next request.
    Poll,
    /// Publishes without end, `pipeline` requests in flight.
    Publish {
        pipeline: u16,
    },
}

#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) protocol: Protocol,
    pub(crate) target: SocketAddr,
    pub(crate) publish_target: SocketAddr,
    pub(crate) connections: u32,
    pub(crate) channels: u32,
    pub(crate) workers: u32,
    pub(crate) payload_bytes: usize,
    receive_buffer_bytes: Option<usize>,
    /// Only of this share of the connections, in percent.
    receive_buffer_share: u32,
    /// What a connection sends first.
    pub(crate) first_request: Template,
    /// What a poll sends after each answer.
    pub(crate) next_request: Template,
    /// The first answer admits a poll; without a request for the cursor, writing the request does.
    pub(crate) admitted_by_answer: bool,
    /// Headers of a poll's answer that together are its cursor.
    pub(crate) cursor_headers: Vec<String>,
    pub(crate) publish_reconnect: bool,
    publish_head: Template,
    /// What stands before and after the payload in the body of a publish.
    publish_body: [Template; 2],
    connections_per_source: u32,
}

impl Plan {
    /// A plan for subscribers in each of the options' modes; they differ in what is spoken alone.
    pub(crate) fn subscribers(options: &Options, workers: u32) -> Vec<Self> {
        let plan = |mode| {
            let protocol = match mode {
                Mode::Ws => Protocol::WebSocket,
                Mode::Sse => Protocol::EventStream,
                Mode::Long | Mode::Short => Protocol::Poll,
            };
            Self::new(options, protocol, mode, options.server.target, workers)
        };
        options.modes().into_iter().map(plan).collect()
    }

    /// A plan for connections that publish.
    pub(crate) fn publishers(options: &Options, pipeline: u16, workers: u32) -> Self {
        let target = options
            .server
            .publish_target
            .unwrap_or(options.server.target);
        let protocol = Protocol::Publish { pipeline };
        Self::new(options, protocol, options.load.mode, target, workers)
    }

    fn new(
        options: &Options,
        protocol: Protocol,
        mode: Mode,
        target: SocketAddr,
        workers: u32,
    ) -> Self {
        let server = &options.server;
        let is_poll = protocol == Protocol::Poll;
        let subscribe_path = server.subscribe_path.as_deref().unwrap_or(match mode {
            Mode::Ws => "/ws/{channel}",
            Mode::Sse => "/sse/{channel}",
            Mode::Long => "/poll/{channel}?since={cursor}&wait=60",
            Mode::Short => "/poll/{channel}?since={cursor}",
        });
        let admitted_by_answer = !is_poll || !server.start_path.is_empty();
        let first_path = if is_poll && admitted_by_answer {
            &server.start_path
        } else {
            subscribe_path
        };
        let mut headers = headers(server);
        if protocol == Protocol::EventStream {
            headers.push_str("Accept: text/event-stream\r\n");
        }
        if protocol == Protocol::WebSocket {
            headers.push_str(
                "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            );
        }
        let (cursor_headers, cursor_lines) = cursor_headers(&server.cursor_header);
        Self {
            protocol,
            target,
            publish_target: server.publish_target.unwrap_or(server.target),
            connections: options.connections(),
            channels: options.load.channels,
            workers,
            payload_bytes: options.load.payload_bytes.max(STAMP_BYTES),
            receive_buffer_bytes: options.load.receive_buffer_bytes,
            receive_buffer_share: match &options.scenario {
                Scenario::Slow(slow) => slow.share,
                _ => 100,
            },
            first_request: Template::parse(
                &format!("GET {first_path} HTTP/1.1\r\n{headers}\r\n"),
                &server.channel,
            ),
            next_request: Template::parse(
                &format!("GET {subscribe_path} HTTP/1.1\r\n{headers}{cursor_lines}\r\n"),
                &server.channel,
            ),
            admitted_by_answer,
            cursor_headers,
            publish_reconnect: server.publish_reconnect,
            publish_head: publish_head(server),
            publish_body: publish_body(server),
            connections_per_source: options.load.connections_per_source,
        }
    }

    pub(crate) fn channel_of(&self, connection: u32) -> u32 {
        connection % self.channels
    }

    /// Connections that listen on `channel`, when all are open.
    pub(crate) fn subscribers_of(&self, channel: u32) -> u32 {
        self.connections / self.channels + u32::from(channel < self.connections % self.channels)
    }

    /// Whether a connection is among the share (in percent) of readers that stop reading. Whole blocks of channels are
    /// slow or not, so that every channel has both kinds.
    pub(crate) fn is_slow(&self, connection: u32, share: u32) -> bool {
        (connection / self.channels) % 100 < share
    }

    /// The receive buffer that a connection asks for: a small one shows a slow reader early, and would hold back one
    /// that reads.
    pub(crate) fn receive_buffer_bytes(&self, connection: u32) -> Option<usize> {
        let is_meant = self.is_slow(connection, self.receive_buffer_share);
        self.receive_buffer_bytes.filter(|_| is_meant)
    }

    pub(crate) fn publish_request(&self, channel: u32, stamp: Stamp, out: &mut Vec<u8>) {
        let mut body = [Vec::new(), Vec::new()];
        for (template, bytes) in self.publish_body.iter().zip(&mut body) {
            template.render(channel, "", bytes);
        }
        let [before, after] = body;
        let length = before.len() + self.payload_bytes + after.len();
        self.publish_head.render(channel, "", out);
        out.extend_from_slice(length.to_string().as_bytes());
        out.extend_from_slice(b"\r\n\r\n");
        out.extend_from_slice(&before);
        stamp.encode_payload(self.payload_bytes, out);
        out.extend_from_slice(&after);
    }

    /// The source address of a connection, or `None` to leave it to the kernel.
    ///
    /// On loopback every address of 127.0.0.0/8 is ours, so each serves a share of the connections that leaves free
    /// ports to find. A connection that comes back (`round`) uses another address, since its old pair of ports is
    /// still in TIME_WAIT.
    pub(crate) fn source_of(&self, connection: u32, round: u32) -> Option<SocketAddr> {
        let IpAddr::V4(target) = self.target.ip() else {
            return None;
        };
        let sources_per_round = self.connections.div_ceil(self.connections_per_source);
        let index = connection / self.connections_per_source + round * sources_per_round;
        let first = u32::from(Ipv4Addr::new(127, 0, 0, 2));
        target
            .is_loopback()
            .then(|| (Ipv4Addr::from(first + index % 0x00FF_0000), 0).into())
    }
}

/// The head of a publish up to the length of its body, which depends on the channel's name.
fn publish_head(server: &Server) -> Template {
    let mut headers = format!(
        "Host: {}\r\n",
        server.publish_target.unwrap_or(server.target)
    );
    for header in &server.publish_header {
        headers.push_str(&format!("{header}\r\n"));
    }
    let text = format!(
        "POST {} HTTP/1.1\r\n{headers}Content-Type: text/plain\r\nContent-Length: ",
        server.publish_path,
    );
    Template::parse(&text, &server.channel)
}

fn publish_body(server: &Server) -> [Template; 2] {
    let text = server.publish_body.as_deref().unwrap_or("{payload}");
    let (before, after) = text.split_once("{payload}").unwrap_or((text, ""));
    [before, after].map(|text| Template::parse(text, &server.channel))
}

fn headers(server: &Server) -> String {
    let mut headers = format!("Host: {}\r\n", server.target);
    for header in &server.header {
        headers.push_str(&format!("{header}\r\n"));
    }
    headers
}

/// The headers to read from answers, and the header lines that give their values back.
fn cursor_headers(options: &[String]) -> (Vec<String>, String) {
    let mut lines = String::new();
    let mut names = Vec::new();
    for (index, option) in options.iter().enumerate() {
        let (answer, request) = option.split_once('=').unwrap_or((option, ""));
        names.push(answer.to_owned());
        if !request.is_empty() {
            lines.push_str(&format!("{request}: {{cursor{index}}}\r\n"));
        }
    }
    (names, lines)
}

/// Constant bytes with places for a channel's name and the parts of a cursor.
#[derive(Debug)]
pub(crate) struct Template(Vec<Part>);

#[derive(Debug, PartialEq)]
enum Part {
    Literal(Box<[u8]>),
    ChannelNumber,
    /// The value of one cursor header.
    Cursor(usize),
}

impl Template {
    fn parse(text: &str, channel: &str) -> Self {
        let text = text.replace("{channel}", channel);
        let mut parts = Vec::new();
        let mut rest = text.as_str();
        while let Some((literal, placeholder, after)) = next_placeholder(rest) {
            parts.push(Part::Literal(literal.as_bytes().into()));
            parts.push(placeholder);
            rest = after;
        }
        parts.push(Part::Literal(rest.as_bytes().into()));
        Self(parts)
    }

    /// Appends the bytes for channel number `channel`; `cursor` is one line per cursor header.
    pub(crate) fn render(&self, channel: u32, cursor: &str, out: &mut Vec<u8>) {
        for part in &self.0 {
            match part {
                Part::Literal(bytes) => out.extend_from_slice(bytes),
                Part::ChannelNumber => out.extend_from_slice(channel.to_string().as_bytes()),
                Part::Cursor(index) => {
                    out.extend_from_slice(cursor.lines().nth(*index).unwrap_or("").as_bytes())
                }
            }
        }
    }
}

fn next_placeholder(text: &str) -> Option<(&str, Part, &str)> {
    text.match_indices('{').find_map(|(start, _)| {
        let (name, after) = text[start + 1..].split_once('}')?;
        let part = match name {
            "i" => Part::ChannelNumber,
            "cursor" => Part::Cursor(0),
            _ => Part::Cursor(name.strip_prefix("cursor")?.parse().ok()?),
        };
        Some((&text[..start], part, after))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_fill_in_channel_and_cursor() {
        check("/ws/{channel}", "/ws/bench-7");
        check(
            "/poll/{channel}?since={cursor}&wait=60",
            "/poll/bench-7?since=first&wait=60",
        );
        check("If-None-Match: {cursor1}", "If-None-Match: second");
        check("{cursor9}|{unknown}|{", "|{unknown}|{");
    }

    #[test]
    fn cursor_headers_go_back_by_name_or_by_path() {
        let (names, lines) = cursor_headers(&[
            "Last-Modified=If-Modified-Since".into(),
            "Etag=If-None-Match".into(),
        ]);
        assert_eq!(names, ["Last-Modified", "Etag"]);
        assert_eq!(
            lines,
            "If-Modified-Since: {cursor0}\r\nIf-None-Match: {cursor1}\r\n"
        );
        assert_eq!(cursor_headers(&["Pushring-Cursor".into()]).1, "");
    }

    #[track_caller]
    fn check(template: &str, want: &str) {
        let mut out = Vec::new();
        Template::parse(template, "bench-{i}").render(7, "first\nsecond", &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), want);
    }
}
