//! The server's own counters: one gauge or counter out of a page in the Prometheus text format.

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
        let text = self
            .fetch()
            .map_err(|error| format!("http://{}{}: {error}", self.authority, self.path))?;
        Ok(sum_samples(&text, name))
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

fn sum_samples(page: &str, name: &str) -> Option<f64> {
    let samples = page.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = match rest.strip_prefix('{') {
            Some(labelled) => labelled.rsplit_once('}')?.1,
            None => rest.strip_prefix(' ')?,
        };
        value.split_whitespace().next()?.parse::<f64>().ok()
    });
    samples.reduce(|sum, value| sum + value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_a_name_over_its_labels() {
        let page = "# TYPE a gauge\na{t=\"ws\"} 3\na{t=\"}\"} 4 1700000000\na_total 9\nb 1.5\n";
        assert_eq!(sum_samples(page, "a"), Some(7.0));
        assert_eq!(sum_samples(page, "a_total"), Some(9.0));
        assert_eq!(sum_samples(page, "b"), Some(1.5));
        assert_eq!(sum_samples(page, "c"), None);
    }
}
