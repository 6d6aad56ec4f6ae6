"""What is measured: scenarios of the load generator, with sizes, and which servers take part in each.

A run is one scenario against one freshly started server. Within a repetition the servers of a scenario take turns, so
what the host does meanwhile meets all of them alike.
"""

import json
import statistics
import subprocess
from dataclasses import dataclass, field

from .servers import CLIENT_CORE, DESCRIPTORS, WORK, pinned, say

FLOOR, ECHO = "floor-hold", "floor-echo"
PUSHPIN = "pushpin"
ALL = ("pushring", "nchan", "node-ws", "python-websockets")
# Room for the spread of connections over the listeners, which the kernel does by a hash.
PER_THREAD = max(1, DESCRIPTORS * 7 // 8)


@dataclass
class Sizes:
    """How large and how long; connections of one server thread stay within one descriptor table."""

    table: int = 18_000
    memory_steps: tuple = (6_000, 12_000, 18_000)
    broadcast: tuple = (1_000, 3_000, 10_000)
    messages: int = 8
    saturated: int = 1_000
    steady: int = 10_000
    steady_channels: int = 100
    leave: tuple = (10_000, 100_000)
    leaving: int = 2_000
    duration_s: float = 2.0
    saturated_s: float = 2.0
    settle_s: float = 1.0
    load_steps: tuple = (0.1, 0.25, 0.5, 0.75, 0.9)


COUNTS_ONLY = Sizes(
    table=600, memory_steps=(200, 400, 600), broadcast=(100, 200), messages=3, saturated=50, steady=200,
    steady_channels=10, leave=(400, 1_000), leaving=100, duration_s=0.5, saturated_s=0.5, settle_s=0.2,
    load_steps=(0.5,),
)


@dataclass
class Scenario:
    name: str
    question: str
    servers: tuple
    # Arguments of the load generator; a callable takes what was measured so far.
    arguments: object
    threads: int = 1
    # Once, after the repetitions: a curve, not a figure.
    is_curve: bool = False


@dataclass
class Run:
    """What one run found; `report` is the load generator's own."""

    scenario: str
    server: str
    repetition: int
    start_ms: float
    command: str
    agrees: bool
    report: dict = field(repr=False)
    failure: str = ""

    def figure(self, key):
        return self.report.get("figures", {}).get(key)

    def table(self, name):
        return self.report.get("tables", {}).get(name, [])


class Results:
    def __init__(self):
        self.runs = []

    def of(self, scenario, server):
        return [run for run in self.runs if run.scenario == scenario and run.server == server]

    def values(self, scenario, server, value):
        """One value for each repetition that agreed, by repetition."""
        found = {}
        for run in self.of(scenario, server):
            number = (value(run) if callable(value) else run.figure(value)) if run.agrees else None
            if number is not None:
                found[run.repetition] = number
        return found

    def median(self, scenario, server, value):
        numbers = self.values(scenario, server, value).values()
        return statistics.median(numbers) if numbers else None


def scenarios(sizes):
    """All scenarios in the order in which a repetition makes them."""
    threads = sizes.leave[-1] // PER_THREAD + 1
    steps = ",".join(map(str, sizes.memory_steps))
    broadcast = ["broadcast", "--messages", sizes.messages, "--pause", 0.1]
    small = ["--payload-bytes", 32, "--duration", sizes.saturated_s]
    made = [
        Scenario("memory", "What does an idle WebSocket cost, in the server and in the kernel?", (FLOOR, *ALL),
                 ["idle", "--steps", steps, "--settle", sizes.settle_s]),
        Scenario("connect", "How fast are WebSockets admitted?", (FLOOR, *ALL),
                 ["connect", "--connections", sizes.table]),
        Scenario("broadcast-table", "One message to as many as one descriptor table holds", (FLOOR, "pushring"),
                 [*broadcast, "--connections", sizes.table]),
    ]
    made += [
        # Pushpin asks its backend about every connection, which takes so long that it is measured at the smallest size.
        Scenario(f"broadcast-{size}", f"One message to {size:,} subscribers",
                 (FLOOR, *ALL, PUSHPIN) if size == sizes.broadcast[0] else (FLOOR, *ALL),
                 [*broadcast, "--connections", size])
        for size in sizes.broadcast
    ]
    made += [
        Scenario("saturated", f"Small messages to {sizes.saturated:,} subscribers, as many as it takes", ALL,
                 ["saturate", "--connections", sizes.saturated, *small]),
        Scenario("steady", "How late are messages at half of the bare send loop's rate?", ALL,
                 lambda results: steady(sizes, results, 0.5)),
        Scenario("publish", "Publishes over keep-alive connections, one in flight on each", (ECHO, "pushring", "nchan"),
                 ["publish", "--duration", sizes.duration_s]),
        Scenario("publish-pipelined", "The same with 32 in flight on each connection", ("pushring", "nchan"),
                 ["publish", "--pipeline", 32, "--duration", sizes.duration_s]),
        Scenario("short-poll", "Polls that find nothing new", (ECHO, "pushring"),
                 ["poll", "--duration", sizes.duration_s]),
        Scenario("leave", "What does the end of a connection cost, with few and with many open?", ("pushring",),
                 ["leave", "--steps", ",".join(map(str, sizes.leave)), "--leaving", sizes.leaving], threads=threads),
    ]
    made += [
        Scenario(f"load-{share:.0%}", f"Latency at {share:.0%} of the bare send loop's rate",
                 ("pushring", "nchan", "node-ws"), lambda results, share=share: steady(sizes, results, share),
                 is_curve=True)
        for share in sizes.load_steps
    ]
    return made


def steady(sizes, results, share):
    """An open loop at a share of what the bare send loop delivers, to many channels, so that a message is small."""
    largest = f"broadcast-{sizes.broadcast[-1]}"
    capacity = next(iter(results.values(largest, FLOOR, "deliveries_at_the_median_last_per_s").values()), 100_000)
    rate = max(1, round(capacity * share / (sizes.steady / sizes.steady_channels)))
    return ["steady", "--connections", sizes.steady, "--channels", sizes.steady_channels, "--rate", rate,
            "--duration", sizes.duration_s]


def run(program, scenario, server, repetition, results):
    """Starts the server, lets the load generator measure it, and adds the run to the results."""
    arguments = scenario.arguments(results) if callable(scenario.arguments) else scenario.arguments
    say(f"{repetition}: {scenario.name}: {server.label}")
    report_file = WORK / "report.json"
    report_file.unlink(missing_ok=True)
    report, failure, start_ms, agrees = {}, "", None, False
    try:
        with server.start(scenario.threads) as running:
            start_ms = running.start_ms
            command = [program, *arguments, "--stall-timeout", 10, "--json", report_file]
            command += running.bench_options()
            done = subprocess.run(pinned(CLIENT_CORE, command), capture_output=True, text=True, timeout=180)
        agrees = done.returncode == 0
        if report_file.exists():
            report = json.loads(report_file.read_text())
            bad = [f"{one['name']}: {one['got']} (want {one['want']})" for one in report["checks"] if not one["agrees"]]
            failure = "; ".join(bad + report["warnings"] * (not agrees))
        else:
            failure = done.stderr.strip()[-500:]
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        failure = str(error)[-500:]
    if not agrees:
        say(f"   not counted: {failure}")
    words = " ".join(map(str, arguments))
    results.runs.append(
        Run(scenario.name, server.name, repetition, start_ms, f"pushring-bench {words}", agrees, report, failure)
    )
