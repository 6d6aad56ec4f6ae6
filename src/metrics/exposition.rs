//! All shards' counts in the Prometheus text format, version 0.0.4: tables of what is said, and how each is written.

mod backplane;
mod families;

use std::collections::BTreeMap;
use std::fmt::{Display, Write};

use super::{Metrics, RefusalCounts, TIME_BOUNDS_US, TimeHistogram};

/// The lines of one name.
struct Family<T> {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: Value<T>,
}

/// Where the figures are in a shard's counts `T`, and what becomes of those of all shards: they stand side by side
/// where a skew matters, and are summed elsewhere.
enum Value<T> {
    Sum(fn(&T) -> u64),
    /// Of microseconds, told in seconds.
    SumUs(fn(&T) -> u64),
    SumBy(Label, fn(&T) -> &[u64]),
    SumByRefusal(fn(&T) -> &RefusalCounts),
    /// What every shard has come to.
    Least(fn(&T) -> u64),
    PerShard(fn(&T) -> u64),
    PerShardBy(Label, fn(&T) -> &[u64]),
    Histogram(fn(&T) -> &TimeHistogram),
    /// How many there were, and the microseconds of all together.
    Summary(fn(&T) -> u64, fn(&T) -> u64),
}

/// The name of a label, and its value for each place of what is counted by it.
type Label = (&'static str, fn(usize) -> &'static str);

const fn counter<T>(name: &'static str, help: &'static str, value: Value<T>) -> Family<T> {
    family(name, "counter", help, value)
}

const fn gauge<T>(name: &'static str, help: &'static str, value: Value<T>) -> Family<T> {
    family(name, "gauge", help, value)
}

const fn histogram<T>(
    name: &'static str,
    help: &'static str,
    times: fn(&T) -> &TimeHistogram,
) -> Family<T> {
    family(name, "histogram", help, Value::Histogram(times))
}

const fn summary<T>(
    name: &'static str,
    help: &'static str,
    count: fn(&T) -> u64,
    us: fn(&T) -> u64,
) -> Family<T> {
    family(name, "summary", help, Value::Summary(count, us))
}

const fn family<T>(
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: Value<T>,
) -> Family<T> {
    Family {
        name,
        kind,
        help,
        value,
    }
}

/// Writes everything that is counted; of a broker nothing on a node that works alone.
pub fn write_exposition(out: &mut String, shards: &[Metrics]) {
    let all: Vec<_> = shards.iter().collect();
    let backplane: Vec<_> = shards
        .iter()
        .filter_map(|shard| shard.backplane.as_deref())
        .collect();
    write_families(out, families::CONNECTIONS, &all);
    write_families(out, families::REQUESTS, &all);
    write_families(out, families::CALLBACK, &all);
    write_families(out, families::MESSAGES, &all);
    write_families(out, families::SHARDS, &all);
    write_families(out, families::HISTORY_LOG, &all);
    if !backplane.is_empty() {
        write_families(out, backplane::BACKPLANE, &backplane);
    }
    write_families(out, families::PROCESS, &all);
}

fn write_families<T>(out: &mut String, families: &[Family<T>], shards: &[&T]) {
    for family in families {
        let Family {
            name, kind, help, ..
        } = family;
        writeln!(
            out,
            "# HELP pushring_{name} {help}\n# TYPE pushring_{name} {kind}"
        )
        .expect("writing to a String");
        family.write_lines(out, shards);
    }
}

impl<T> Family<T> {
    fn write_lines(&self, out: &mut String, shards: &[&T]) {
        let sum = |of: fn(&T) -> u64| shards.iter().map(|shard| of(shard)).sum::<u64>();
        match self.value {
            Value::Sum(of) => self.line(out, "", "", sum(of)),
            Value::SumUs(of) => self.line(out, "", "", seconds(sum(of))),
            Value::SumBy((label, word), of) => {
                let places = shards.first().map_or(0, |shard| of(shard).len());
                for place in 0..places {
                    let sum: u64 = shards.iter().map(|shard| of(shard)[place]).sum();
                    self.line(out, "", &format!("{label}=\"{}\"", word(place)), sum);
                }
            }
            Value::SumByRefusal(of) => {
                let mut sums = BTreeMap::new();
                for (key, count) in shards.iter().flat_map(|shard| of(shard)) {
                    *sums.entry(key).or_insert(0) += count;
                }
                for ((code, status), sum) in sums {
                    self.line(
                        out,
                        "",
                        &format!("code=\"{code}\",status=\"{status}\""),
                        sum,
                    );
                }
            }
            Value::Least(of) => {
                let least = shards.iter().map(|shard| of(shard)).min();
                self.line(out, "", "", least.unwrap_or(0));
            }
            Value::PerShard(of) => {
                for (index, shard) in shards.iter().enumerate() {
                    self.line(out, "", &format!("shard=\"{index}\""), of(shard));
                }
            }
            Value::PerShardBy((label, word), of) => {
                for (index, shard) in shards.iter().enumerate() {
                    for (place, count) in of(shard).iter().enumerate() {
                        let labels = format!("shard=\"{index}\",{label}=\"{}\"", word(place));
                        self.line(out, "", &labels, count);
                    }
                }
            }
            Value::Histogram(of) => {
                for (index, shard) in shards.iter().enumerate() {
                    self.write_histogram(out, &format!("shard=\"{index}\""), of(shard));
                }
            }
            Value::Summary(count, us) => {
                self.line(out, "_count", "", sum(count));
                self.line(out, "_sum", "", seconds(sum(us)));
            }
        }
    }

    fn write_histogram(&self, out: &mut String, shard: &str, times: &TimeHistogram) {
        let mut count = 0;
        let bounds = TIME_BOUNDS_US
            .iter()
            .map(|&bound_us| seconds(bound_us).to_string())
            .chain(["+Inf".to_owned()]);
        for (bound, bucket) in bounds.zip(times.buckets) {
            count += bucket;
            self.line(out, "_bucket", &format!("{shard},le=\"{bound}\""), count);
        }
        self.line(out, "_sum", shard, seconds(times.sum_us));
        self.line(out, "_count", shard, count);
    }

    /// `suffix` is for the parts of a histogram or a summary.
    fn line(&self, out: &mut String, suffix: &str, labels: &str, value: impl Display) {
        let name = self.name;
        let result = match labels {
            "" => writeln!(out, "pushring_{name}{suffix} {value}"),
            _ => writeln!(out, "pushring_{name}{suffix}{{{labels}}} {value}"),
        };
        result.expect("writing to a String");
    }
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::close_reason::CloseReason;
    use crate::metrics::TransportKind;

    #[test]
    fn the_exposition_adds_up() {
        let mut one = Metrics {
            accepted_total: 2,
            published_messages_total: 3,
            ..Metrics::default()
        };
        one.on_closed(CloseReason::SlowReader);
        one.on_refusal("path_unknown", 404);
        one.on_transport(None, Some(TransportKind::WebSocket));
        for us in [100, 101, 2_000_000] {
            one.turn_time.record_us(us);
        }
        let mut two = one.clone();
        two.on_transport(Some(TransportKind::WebSocket), None);
        two.turn_time.record_us(100);
        let mut text = String::new();
        write_exposition(&mut text, &[one, two]);
        for line in [
            "pushring_connections_accepted_total{shard=\"1\"} 2",
            "pushring_connections{shard=\"0\",transport=\"websocket\"} 1",
            "pushring_connections{shard=\"1\",transport=\"websocket\"} 0",
            "pushring_connections_closed_total{reason=\"slow_reader\"} 2",
            "pushring_refusals_total{code=\"path_unknown\",status=\"404\"} 2",
            "pushring_messages_published_total 6",
            "pushring_turn_seconds_bucket{shard=\"0\",le=\"0.0001\"} 1",
            "pushring_turn_seconds_bucket{shard=\"0\",le=\"0.00025\"} 2",
            "pushring_turn_seconds_bucket{shard=\"0\",le=\"1\"} 2",
            "pushring_turn_seconds_bucket{shard=\"0\",le=\"+Inf\"} 3",
            "pushring_turn_seconds_sum{shard=\"0\"} 2.000201",
            "pushring_turn_seconds_count{shard=\"0\"} 3",
            "pushring_turn_seconds_count{shard=\"1\"} 4",
        ] {
            assert!(
                text.lines().any(|got| got == line),
                "no line {line:?} in\n{text}"
            );
        }
    }
}
