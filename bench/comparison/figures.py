"""The figures that are judged: where each comes from, what it must be and what it aims at."""

import statistics
from dataclasses import dataclass, field

from .scenarios import ECHO, FLOOR

PUSHRING, NCHAN = "pushring", "nchan"

# Slab caches that only the clients' side fills where the server has no epoll set of its own. They are told apart in
# the floor's run; the rest of it are two bare sockets, one at each end.
CLIENT_CACHES = ("eventpoll_epi_B", "eventpoll_pwq_B", "ep_head_B", "tcp_bind_bucket_B", "tcp_bind2_bucket_B")


@dataclass
class Figure:
    name: str
    unit: str
    # "<=" or ">=".
    order: str
    must: float
    aim: float
    # One for each repetition; empty if it was not measured.
    values: list
    # The same quantity of another server, and pushring's ratio to it, as text.
    ratio: str = ""
    # What has to be known to read it.
    note: str = ""
    median: float = field(init=False)

    def __post_init__(self):
        self.median = statistics.median(self.values) if self.values else None

    def meets(self, limit):
        if self.median is None or limit is None:
            return False
        return self.median <= limit if self.order == "<=" else self.median >= limit


def slab_row(run):
    rows = run.table("kernel_slab_per_connection,_both_ends")
    return rows[0] if rows else None


def client_slab_bytes(floor_run):
    """The kernel's bytes of the client's end of one connection, from a run against the floor."""
    row = slab_row(floor_run)
    if row is None:
        return None
    clients = sum(row.get(cache, 0) for cache in CLIENT_CACHES)
    return clients + (row["total_B"] - clients) / 2


def memory_bytes(results, server):
    """Kernel and user bytes of the server's end of one connection, by repetition."""
    client = results.median("memory", FLOOR, client_slab_bytes)

    def bytes_of(run):
        row, user = slab_row(run), run.figure("server_memory_per_connection_(pss)_bytes")
        return None if None in (row, user, client) else row["total_B"] - client + user

    return results.values("memory", server, bytes_of)


def ratios(ours, theirs):
    """Ratios within a repetition, where both were measured next to each other."""
    return [ours[repetition] / theirs[repetition] for repetition in ours if theirs.get(repetition)]


def rate_and_bottleneck(results, scenario, words):
    """A note when the clients, not the server, were the limit."""
    for run in results.of(scenario, PUSHRING):
        client, server = run.figure(f"{words}_client_cpu_cores"), run.figure(f"{words}_server_cpu_cores")
        if client and client > 0.9:
            return f"client core {client:.0%} busy, server core {server:.0%}: the client may be the limit"
    return ""


def end_costs(run, open_at):
    rows = [row["server_cpu_us"] for row in run.table("ends") if row["open"] == open_at]
    return rows[0] if rows else None


def figures(sizes, results):
    """All figures, in the order of the table."""

    def values(scenario, key, server=PUSHRING):
        return results.values(scenario, server, key)

    def against(scenario, key, other):
        return ratios(values(scenario, key), values(scenario, key, other))

    def times(scenario, key, other, label):
        found = against(scenario, key, other)
        return f"{statistics.median(found):.2f} × {label}" if found else ""

    memory, floor_memory = memory_bytes(results, PUSHRING), memory_bytes(results, FLOOR)
    last, per_s, p99 = "last_delivery_(median_of_messages)_us", "rate_per_s", "delivery_p99_us"
    connect_cpu = "connect_server_cpu_per_connection_us"
    largest = f"broadcast-{sizes.broadcast[-1]}"
    few, many = sizes.leave
    # No server on one core can be faster than its sends.
    floor_last = ratios(values(largest, last, FLOOR), values(largest, last, NCHAN))
    leave = values("leave", "all_left_s")
    starts = {}
    for run in results.runs:
        if run.server == PUSHRING and run.start_ms is not None:
            starts.setdefault(run.repetition, []).append(run.start_ms)
    bytes_note = ""
    if memory and floor_memory:
        pair = (statistics.median(memory.values()), statistics.median(floor_memory.values()))
        bytes_note = "{:,.0f} B against {:,.0f} B".format(*pair)
    return [
        Figure("Kernel and user memory of an idle WebSocket, against accept-and-hold", "×", "<=", 1.12, 1.08,
               ratios(memory, floor_memory), bytes_note),
        Figure("Connect and upgrade", "1/s", ">=", 20_000, 30_000, [*values("connect", per_s).values()],
               times("connect", per_s, FLOOR, "accept-and-hold"), rate_and_bottleneck(results, "connect", "connect")),
        Figure("Connect and upgrade, per second of the server's CPU, against Nchan", "×", ">=", 1, None,
               [1 / one for one in against("connect", connect_cpu, NCHAN)],
               f"{times('connect', per_s, NCHAN, 'Nchan')} by the clock, with the clients' core as the limit of both"),
        Figure(f"Broadcast of 128 B to {sizes.table:,} on one shard, rate against the bare send loop", "×", ">=", 0.85,
               0.95, [1 / one for one in against("broadcast-table", last, FLOOR)]),
        Figure(f"Broadcast to {sizes.broadcast[-1]:,}, last delivery, against Nchan", "×", "<=", 1 / 2, 1 / 3,
               against(largest, last, NCHAN),
               f"bare send loop: {statistics.median(floor_last):.2f} × Nchan" if floor_last else ""),
        Figure(f"Saturated, {sizes.saturated:,} subscribers, deliveries per second, against Nchan", "×", ">=", 10, 30,
               against("saturated", "deliveries_per_s", NCHAN),
               note=rate_and_bottleneck(results, "saturated", "saturate")),
        Figure("Steady at half load, p99 from publish to receipt", "ms", "<=", 10, 3,
               [us / 1e3 for us in values("steady", p99).values()]),
        Figure("Steady at half load, p99, against Nchan", "×", "<=", 1 / 2, None, against("steady", p99, NCHAN)),
        Figure("POST /pub, keep-alive, one core", "1/s", ">=", 80_000, 120_000, [*values("publish", per_s).values()],
               times("publish", per_s, ECHO, "bare echo"), rate_and_bottleneck(results, "publish", "publish")),
        Figure("POST /pub, pipelined, one core", "1/s", ">=", 500_000, 1_000_000,
               [*values("publish-pipelined", per_s).values()], times("publish-pipelined", per_s, NCHAN, "Nchan"),
               rate_and_bottleneck(results, "publish-pipelined", "publish")),
        Figure("Short poll with nothing new, one core", "1/s", ">=", 80_000, 120_000,
               [*values("short-poll", per_s).values()], times("short-poll", per_s, ECHO, "bare echo"),
               rate_and_bottleneck(results, "short-poll", "poll")),
        Figure(f"{many:,} leave at once, one core", "s", "<=", 2.0 * many / 100_000, 1.0 * many / 100_000,
               [*leave.values()]),
        Figure(f"End of one connection at {many:,} open, against {few:,}", "×", "<=", 1.5, None,
               ratios(values("leave", lambda run: end_costs(run, many)), values("leave", lambda run: end_costs(run, few)))),
        Figure("Start to first answer", "ms", "<=", 50, None, [statistics.median(one) for one in starts.values()],
               note="median of all starts of a repetition"),
    ]
