"""What a comparison leaves behind: the runs as JSON, the table and the details as Markdown, and the charts."""

import json
import os
import platform
import statistics
import subprocess
from pathlib import Path

from .charts import chart
from .figures import client_slab_bytes, memory_bytes, slab_row
from .scenarios import FLOOR
from .servers import DESCRIPTORS, ROOT

STEAL_PERCENT_MAX = 2.0

# Per scenario the figures of its details: key in the load generator's report, title, divisor.
DETAILS = {
    "connect": [("rate_per_s", "admitted 1/s", 1), ("connect_server_cpu_per_connection_us", "server CPU each µs", 1),
                ("connect_client_cpu_cores", "client cores", 1)],
    "broadcast": [("first_delivery_(median_of_messages)_us", "first ms", 1e3),
                  ("median_delivery_(median_of_messages)_us", "median ms", 1e3),
                  ("last_delivery_(median_of_messages)_us", "last ms", 1e3),
                  ("deliveries_at_the_median_last_per_s", "deliveries 1/s", 1),
                  ("broadcast_server_cpu_per_delivery_us", "server CPU each µs", 1)],
    "saturated": [("deliveries_per_s", "deliveries 1/s", 1), ("published_per_s", "published 1/s", 1),
                  ("saturate_server_cpu_per_delivery_us", "server CPU each µs", 1),
                  ("saturate_server_cpu_cores", "server cores", 1), ("saturate_client_cpu_cores", "client cores", 1)],
    "steady": [("deliveries_per_s", "offered deliveries 1/s", 1), ("delivery_p50_us", "p50 ms", 1e3),
               ("delivery_p99_us", "p99 ms", 1e3), ("delivery_max_us", "max ms", 1e3),
               ("steady_server_cpu_cores", "server cores", 1), ("publisher_lateness_p99_us", "publisher late p99 ms", 1e3)],
    "publish": [("rate_per_s", "requests 1/s", 1), ("publish_server_cpu_per_request_us", "server CPU each µs", 1),
                ("publish_server_cpu_cores", "server cores", 1), ("publish_client_cpu_cores", "client cores", 1)],
    "short": [("rate_per_s", "requests 1/s", 1), ("poll_server_cpu_per_request_us", "server CPU each µs", 1),
              ("poll_server_cpu_cores", "server cores", 1), ("poll_client_cpu_cores", "client cores", 1)],
    "leave": [("all_left_s", "all left s", 1), ("all_left_server_cpu_per_connection_us", "server CPU each µs", 1)],
}
DETAILS["load"] = DETAILS["steady"]


def commit():
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True).stdout.strip()
    watched = ["src", "bench/src", "bench/peers", "bench/comparison", "bench/compare", "Cargo.toml", "Cargo.lock"]
    changed = subprocess.run([*git, "status", "--porcelain", "--", *watched], capture_output=True, text=True).stdout
    return (head or "unknown") + ("-with-changes" if changed else "")


def machine():
    cpus = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")]
    memory_kib = int(Path("/proc/meminfo").read_text().split()[1])
    mitigations = Path("/sys/devices/system/cpu/vulnerabilities/spectre_v2")
    return {
        "cores": os.cpu_count(),
        "cpu": cpus[0] if cpus else platform.machine(),
        "memory_gib": round(memory_kib / 2**20),
        "kernel": platform.release(),
        "descriptors_per_table": DESCRIPTORS,
        "spectre_v2": mitigations.read_text().strip() if mitigations.exists() else "unknown",
    }


def text_of(value):
    """A number with three digits that count, whole from a hundred on."""
    if value is None:
        return "–"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def median_and_range(values):
    if not values:
        return "–"
    if len(values) == 1:
        return text_of(values[0])
    return f"{text_of(statistics.median(values))} ({text_of(min(values))} – {text_of(max(values))})"


def row(*cells):
    return "| " + " | ".join(cells) + " |"


def table_of_figures(figures):
    lines = [row("figure", "must", "aim", "measured: median (range)", "beside", ""), "|---|---|---|---|---|---|"]
    sign = {"<=": "≤", ">=": "≥"}
    for one in figures:
        limit = lambda value: "–" if value is None else f"{sign[one.order]} {text_of(value)} {one.unit}"
        verdict = "not measured" if one.median is None else "missed" if not one.meets(one.must) else (
            "aim" if one.meets(one.aim) else "must")
        beside = "; ".join(filter(None, (one.ratio, one.note)))
        verdict = f"**{verdict}**" if verdict in ("missed", "not measured") else verdict
        lines.append(row(one.name, limit(one.must), limit(one.aim), median_and_range(one.values), beside, verdict))
    return lines


def details(scenario, results, servers):
    lines = [f"### {scenario.name}: {scenario.question}", ""]
    columns = DETAILS.get(scenario.name.split("-")[0], [])
    measured = [servers[name] for name in scenario.servers if name in servers and results.of(scenario.name, name)]
    if scenario.name == "memory":
        columns, cells = memory_details(results, measured)
    else:
        cells = {server.name: [results.values(scenario.name, server.name, lambda run: scaled(run, key, divisor))
                               for key, _, divisor in columns] for server in measured}
        columns = [title for _, title, _ in columns]
    if measured:
        lines += [f"`{results.of(scenario.name, measured[0].name)[0].command}`", ""]
        lines += [row("server", *columns, "runs that count"), "|---" * (len(columns) + 2) + "|"]
    for server in measured:
        runs = results.of(scenario.name, server.name)
        counted = f"{sum(run.agrees for run in runs)} of {len(runs)}"
        values = [median_and_range([*one.values()]) for one in cells[server.name]]
        lines.append(row(server.label, *values, counted))
    for server in measured:
        for run in results.of(scenario.name, server.name):
            if not run.agrees:
                lines += ["", f"Not counted, {server.label}, repetition {run.repetition}: {run.failure}"]
    if scenario.name == "leave":
        lines += leave_details(results)
    return [*lines, ""]


def scaled(run, key, divisor):
    value = run.figure(key)
    return None if value is None else value / divisor


def memory_details(results, measured):
    columns = ["kernel and user B", "of it user B (Pss)", "both ends' slab B"]
    cells = {
        server.name: [
            memory_bytes(results, server.name),
            results.values("memory", server.name, "server_memory_per_connection_(pss)_bytes"),
            results.values("memory", server.name, lambda run: (slab_row(run) or {}).get("total_B")),
        ]
        for server in measured
    }
    return columns, cells


def leave_details(results):
    lines = ["", row("open", "server CPU for one end µs", "elapsed for one end µs"), "|---|---|---|"]
    by_size = {}
    for run in results.of("leave", "pushring"):
        for end in run.table("ends") if run.agrees else []:
            by_size.setdefault(end["open"], []).append((end["server_cpu_us"], end["elapsed_us"]))
    for size, pairs in by_size.items():
        lines.append(row(text_of(size), *(median_and_range([*column]) for column in zip(*pairs))))
    return lines


def memory_line(results, server):
    """Connections → MB of the server's end, kernel and user."""
    client, by_size = results.median("memory", FLOOR, client_slab_bytes), {}
    for run in results.of("memory", server):
        steps = run.table("memory")
        if not run.agrees or client is None or not steps:
            continue
        empty = steps[0]["slab_B"]
        for step in steps[1:]:
            total = step["slab_B"] - empty - client * step["connections"] + step["server_pss_B"]
            by_size.setdefault(step["connections"], []).append(total / 1e6)
    return [(size, statistics.median(values)) for size, values in sorted(by_size.items())]


def charts(sizes, results, servers):
    """Name of the file → SVG; a chart without a line is left out."""

    def lines_of(names, points_of):
        lines = {servers[name].label: points_of(name) for name in names if name in servers}
        return {name: points for name, points in lines.items() if points}

    def broadcast_line(server):
        last = "last_delivery_(median_of_messages)_us"
        points = [(size, results.median(f"broadcast-{size}", server, last)) for size in sizes.broadcast]
        points.append((sizes.table, results.median("broadcast-table", server, last)))
        return [(size, us / 1e3) for size, us in points if us]

    def load_line(server):
        points = []
        for share in sizes.load_steps:
            scenario = f"load-{share:.0%}"
            pair = (results.median(scenario, server, "deliveries_per_s"),
                    results.median(scenario, server, "delivery_p99_us"))
            if None not in pair:
                points.append((pair[0], pair[1] / 1e3))
        return points

    names = list(servers)
    drawn = {
        "memory": ("Memory of the server's end, kernel and user", "idle WebSocket connections", "MB",
                   lines_of(names, lambda name: memory_line(results, name))),
        "broadcast": ("One message of 128 B to all", "subscribers", "last delivery, ms",
                      lines_of(names, broadcast_line)),
        "load": (f"Latency over {sizes.steady:,} WebSockets in {sizes.steady_channels} channels",
                 "offered deliveries per second", "p99 from publish to receipt, ms", lines_of(names, load_line)),
    }
    return {name: chart(title, x, y, lines, is_log_y=True) for name, (title, x, y, lines) in drawn.items() if lines}


def markdown(name, context, scenarios, figures, results, servers, chart_names):
    host, steals = context["machine"], [run.figure("steal_percent") or 0 for run in results.runs]
    noisy = sum(steal > STEAL_PERCENT_MAX for steal in steals)
    lines = [
        f"# Side by side: {name}",
        "",
        f"{host['cores']} cores of {host['cpu']}, {host['memory_gib']} GiB, Linux {host['kernel']}, "
        f"{host['descriptors_per_table']:,} descriptors per table. Spectre v2: {host['spectre_v2']}.",
        "",
        f"Steal: at most {max(steals, default=0):.1f} % in a run; {noisy} of {len(steals)} runs above "
        f"{STEAL_PERCENT_MAX:.0f} %. Load average before: {context['load_before']}.",
        "",
        f"Commit {context['commit']}. Made by `{context['command']}` in {context['minutes']:.0f} minutes. {context['pinning']} "
        f"Medians of {context['repetitions']} repetitions in which the servers take turns; ratios are taken within a repetition.",
        "",
        row("server", "version", "tuning"), "|---|---|---|",
        *(row(one.label, context["versions"][one.name], one.tuning or "–") for one in servers.values()),
        "",
        *(f"Not measured: {label}: {reason}" for label, reason in context["missing"].items()),
        "",
        *table_of_figures(figures),
        "",
        "\"core\" is one core for the server and one for the clients and the publisher, on loopback: the sender of a packet also "
        "pays for its receipt. Half load is half of the rate of the bare send loop. Server's memory: Pss and slab of the kernel; "
        "the clients' end is what two bare sockets cost, halved, with the clients' epoll items and ports.",
        "",
        *(f"![{chart_name}]({name}-{chart_name}.svg)\n" for chart_name in chart_names),
        "## Scenarios", "",
        "Each line is one run of the load generator against a freshly started server, repeated; the addresses are left out.",
        "",
    ]
    for scenario in scenarios:
        lines += details(scenario, results, servers)
    return "\n".join(lines)


def save(folder, name, context, scenarios, figures, results, servers, sizes):
    folder.mkdir(parents=True, exist_ok=True)
    drawn = charts(sizes, results, servers)
    for chart_name, svg in drawn.items():
        (folder / f"{name}-{chart_name}.svg").write_text(svg)
    judged = [{"figure": one.name, "unit": one.unit, "must": f"{one.order} {one.must:g}", "aim": one.aim,
               "median": one.median, "values": one.values, "holds": one.meets(one.must)} for one in figures]
    runs = [vars(run) | {"report": {key: run.report.get(key) for key in ("figures", "tables", "checks", "warnings")}}
            for run in results.runs]
    with open(folder / f"{name}.json", "w") as file:
        json.dump(context | {"figures": judged, "runs": runs}, file, indent=1)
        file.write("\n")
    text = markdown(name, context, scenarios, figures, results, servers, drawn)
    (folder / f"{name}.md").write_text(text)
    return "\n".join(table_of_figures(figures))
