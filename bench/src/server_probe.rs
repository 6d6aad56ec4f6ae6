//! Memory and CPU of processes, and the kernel's slab, read from /proc.
//!
//! Descriptor directories are never listed: that would make a dentry per socket and so change what is measured.

use std::collections::BTreeMap;
use std::fs::read_to_string;

use crate::kernel::now_ns;

/// The slab caches that a connection is made of. A cache that the kernel has merged into another is not there by name.
const CONNECTION_CACHES: &[&str] = &[
    "TCP",
    "TCPv6",
    "sock_inode_cache",
    "filp",
    "dentry",
    "eventpoll_epi",
    "eventpoll_pwq",
    "ep_head",
    "io_kiocb",
    "tcp_bind_bucket",
    "tcp_bind2_bucket",
    "request_sock_TCP",
    "skbuff_head_cache",
    "kmalloc-32",
    "kmalloc-64",
    "kmalloc-96",
    "kmalloc-128",
    "kmalloc-192",
    "kmalloc-256",
    "kmalloc-512",
    "kmalloc-1k",
    "kmalloc-cg-64",
    "kmalloc-cg-256",
    "kmalloc-cg-512",
];

/// What some processes together use at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) at_ns: u64,
    /// VmRSS: resident pages, shared ones counted whole.
    pub(crate) rss_bytes: u64,
    /// Pss of smaps_rollup: resident pages, shared ones divided by their users.
    pub(crate) pss_bytes: u64,
    pub(crate) cpu_user_s: f64,
    pub(crate) cpu_system_s: f64,
}

impl Usage {
    pub(crate) fn cpu_s(&self) -> f64 {
        self.cpu_user_s + self.cpu_system_s
    }
}

/// Reads what the processes use; an error names the process that is not there.
pub(crate) fn usage(pids: &[u32]) -> Result<Usage, String> {
    let mut sum = Usage {
        at_ns: now_ns(),
        ..Usage::default()
    };
    for pid in pids {
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            read_to_string(&path).map_err(|error| format!("{path}: {error}"))
        };
        let ticks_per_s = rustix::param::clock_ticks_per_second() as f64;
        let (user_ticks, system_ticks) =
            cpu_ticks(&read("stat")?).ok_or("/proc/PID/stat cannot be read")?;
        sum.cpu_user_s += user_ticks as f64 / ticks_per_s;
        sum.cpu_system_s += system_ticks as f64 / ticks_per_s;
        sum.rss_bytes += kib_field(&read("status")?, "VmRSS:").unwrap_or(0) * 1024;
        // Other users' processes may hide it; then Pss stays 0.
        sum.pss_bytes += read("smaps_rollup")
            .ok()
            .and_then(|text| kib_field(&text, "Pss:"))
            .unwrap_or(0)
            * 1024;
    }
    Ok(sum)
}

/// CPU time of all threads of the processes, in nanoseconds (the first field of `schedstat`): where a difference is too
/// small for the 10 ms ticks of [`usage`].
pub(crate) fn run_time_ns(pids: &[u32]) -> Result<u64, String> {
    let mut sum = 0;
    for pid in pids {
        let path = format!("/proc/{pid}/task");
        let threads = std::fs::read_dir(&path).map_err(|error| format!("{path}: {error}"))?;
        for thread in threads.flatten() {
            // A thread may end between the listing and the look.
            let text = read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            let ns = text.split_whitespace().next();
            sum += ns.and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    Ok(sum)
}

/// CPU time of the whole host so far, and how much of it the hypervisor gave to others, in ticks (proc_stat(5)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostTicks {
    total: u64,
    steal: u64,
}

impl HostTicks {
    pub(crate) fn now() -> Self {
        Self::parse(&read_to_string("/proc/stat").unwrap_or_default())
    }

    /// The stolen share of the time since `before`, in percent.
    pub(crate) fn steal_percent_since(self, before: Self) -> f64 {
        let total = self.total.saturating_sub(before.total).max(1);
        self.steal.saturating_sub(before.steal) as f64 * 100.0 / total as f64
    }

    fn parse(stat: &str) -> Self {
        let line = stat.lines().next().unwrap_or("");
        let ticks = line
            .split_whitespace()
            .skip(1)
            .map(|field| field.parse().unwrap_or(0));
        // user nice system idle iowait irq softirq steal; guest times are in user and nice already.
        let ticks: Vec<u64> = ticks.take(8).collect();
        Self {
            total: ticks.iter().sum(),
            steal: ticks.get(7).copied().unwrap_or(0),
        }
    }
}

/// Bytes in use per cache, with each object's share of its slab; empty if /proc/slabinfo may not be read.
pub(crate) fn slab_bytes() -> BTreeMap<String, u64> {
    let text = read_to_string("/proc/slabinfo").unwrap_or_default();
    text.lines()
        .filter_map(slab_line)
        .filter(|(name, _)| CONNECTION_CACHES.contains(&name.as_str()))
        .collect()
}

/// The slope of a straight line through the points (least squares).
pub(crate) fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let n = points.len() as f64;
    let mean_x = points.iter().map(|point| point.0).sum::<f64>() / n;
    let mean_y = points.iter().map(|point| point.1).sum::<f64>() / n;
    let covariance: f64 = points
        .iter()
        .map(|(x, y)| (x - mean_x) * (y - mean_y))
        .sum();
    let variance: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    (variance > 0.0).then(|| covariance / variance)
}

/// `utime` and `stime` (proc_pid_stat(5)); the name before them may hold anything, even parentheses.
fn cpu_ticks(stat: &str) -> Option<(u64, u64)> {
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn kib_field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// `name <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> …` (slabinfo(5))
fn slab_line(line: &str) -> Option<(String, u64)> {
    let mut fields = line.split_whitespace();
    let name = fields.next()?.to_owned();
    let mut number = || fields.next()?.parse::<u64>().ok();
    let (active, _, _, per_slab, pages) = (number()?, number()?, number()?, number()?, number()?);
    Some((name, active * pages * 4096 / per_slab.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_fields_of_proc() {
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194560 9 0 0 0 250 150 0 0 20 0 8 0 1";
        assert_eq!(cpu_ticks(stat), Some((250, 150)));
        assert_eq!(
            kib_field("Name: x\nVmRSS:\t  1234 kB\n", "VmRSS:"),
            Some(1234)
        );
        let line = "TCP   120   130   2368   13    8 : tunables 0 0 0 : slabdata 10 10 0";
        assert_eq!(slab_line(line), Some(("TCP".into(), 120 * 8 * 4096 / 13)));
        assert_eq!(slab_line("# name            <active_objs>"), None);
    }

    #[test]
    fn steal_is_a_share_of_all_time() {
        let before = HostTicks::parse("cpu  10 0 10 70 0 0 0 10 5 0\ncpu0 1\n");
        assert_eq!(
            before,
            HostTicks {
                total: 100,
                steal: 10
            }
        );
        let after = HostTicks::parse("cpu  100 0 10 70 0 0 5 15 95 0\n");
        assert_eq!(after.steal_percent_since(before), 5.0);
    }

    #[test]
    fn the_slope_ignores_a_constant() {
        assert_eq!(
            slope(&[(1.0, 1007.0), (2.0, 1014.0), (4.0, 1028.0)]),
            Some(7.0)
        );
        assert_eq!(slope(&[(5.0, 3.0)]), None);
    }

    #[test]
    fn this_process_uses_something() {
        let usage = usage(&[std::process::id()]).unwrap();
        assert!(usage.rss_bytes > 0 && usage.cpu_s() >= 0.0);
    }
}
