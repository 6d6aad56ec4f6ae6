//! The server's own counters: gauges and counters out of a page in the Prometheus text format.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use crate::clients::http::{Body, Chunk, decode_chunk, decode_head};

const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub(crate) struct MetricsPage {
    authority: String,
    path: String,
}

impl MetricsPage {
    pub(crate) fn new(url: &str) -> Result<Self, String> {
        let rest = url
            .strip_prefix("http://")
            .ok_or_else(|| format!("{url}: must begin with http://"))?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, "metrics"));
        Ok(Self {
            authority: authority.to_owned(),
            path: format!("/{path}"),
        })
    }

    /// The value of `name`, summed over its labels; `None` if the page doesn't have it.
    pub(crate) fn value(&self, name: &str) -> Result<Option<f64>, String> {
        let samples = self.samples(name)?;
        Ok(samples.into_values().reduce(|sum, value| sum + value))
    }

    /// The values of `name` by its labels as they are written; none if the page doesn't have it.
    pub(crate) fn samples(&self, name: &str) -> Result<BTreeMap<String, f64>, String> {
        let text = self
            .fetch()
            .map_err(|error| format!("http://{}{}: {error}", self.authority, self.path))?;
        Ok(samples(&text, name))
    }

    fn fetch(&self) -> Result<String, String> {
        let text = |error: std::io::Error| error.to_string();
        let address = self
            .authority
            .to_socket_addrs()
            .map_err(text)?
            .next()
            .ok_or("no address")?;
        let mut stream = TcpStream::connect_timeout(&address, TIMEOUT).map_err(text)?;
        stream.set_read_timeout(Some(TIMEOUT)).map_err(text)?;
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.path, self.authority
        );
        stream.write_all(request.as_bytes()).map_err(text)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).map_err(text)?;
        let head = decode_head(&answer)
            .ok()
            .flatten()
            .ok_or("the answer cannot be read")?;
        if head.status != 200 {
            return Err(format!("status {}", head.status));
        }
        let mut body = &answer[head.head_bytes..];
        if head.body != Body::Chunked {
            return Ok(String::from_utf8_lossy(body).into_owned());
        }
        let mut joined = Vec::new();
        while let Ok(Some((Chunk::Data(data), chunk_bytes))) = decode_chunk(body) {
            joined.extend_from_slice(data);
            body = &body[chunk_bytes..];
        }
        Ok(String::from_utf8_lossy(&joined).into_owned())
    }
}

fn samples(page: &str, name: &str) -> BTreeMap<String, f64> {
    let samples = page.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let (labels, value) = match rest.strip_prefix('{') {
            Some(labelled) => labelled.rsplit_once('}')?,
            None => ("", rest.strip_prefix(' ')?),
        };
        let value = value.split_whitespace().next()?.parse().ok()?;
        Some((labels.to_owned(), value))
    });
    samples.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_name_with_its_labels() {
        let page = "# TYPE a gauge\na{t=\"ws\"} 3\na{t=\"}\"} 4 1700000000\na_total 9\nb 1.5\n";
        check(page, "a", &[("t=\"ws\"", 3.0), ("t=\"}\"", 4.0)]);
        check(page, "a_total", &[("", 9.0)]);
        check(page, "b", &[("", 1.5)]);
        check(page, "c", &[]);
    }

    #[track_caller]
    fn check(page: &str, name: &str, want: &[(&str, f64)]) {
        let want = want.iter().map(|&(labels, value)| (labels.into(), value));
        assert_eq!(samples(page, name), want.collect());
    }
}
