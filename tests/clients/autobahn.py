"""Runs Autobahn's fuzzing client against an echo channel of the server and judges every case.

Two engines run the same cases: Autobahn's own `wstest` (Python 2.7 only) and `kosoku`, which runs them natively.
Each section gets a server's channel of its own: within a section the suite ends one connection, close handshake and
all, before it opens the next, so nobody is left who could still echo; and what a failing case leaves behind stays
inside its section.
"""

from __future__ import annotations

import argparse
import collections
import json
import pathlib
import subprocess
import sys
import time

from pushring_test import Server

# Cases of each section; 8 and 11 are empty in the suite, 12 and 13 are about compression, which is not offered.
CASES = {1: 16, 2: 11, 3: 7, 4: 10, 5: 20, 6: 145, 7: 37, 9: 54, 10: 1}

# INFORMATIONAL is an outcome that the protocol leaves open; all other words are failures, NON-STRICT among them.
GOOD = {"OK", "INFORMATIONAL"}

# Section 9 sends 16 MiB messages, and its slowest case alone may take a minute on a busy machine.
SECTION_TIMEOUT_S = 900

FLAGS = [
    *("--message-bytes-max", "64MiB"),
    *("--outbox-bytes-max", "64MiB"),
    *("--namespace", "echo.client_publish=true"),
    *("--namespace", "echo.history_messages=0"),
]


def run_section(engine: str, program: str, section: int, url: str, folder: pathlib.Path) -> dict:
    """The verdict of each case, by its number."""
    folder.mkdir(parents=True)
    if engine == "wstest":
        spec = {
            "outdir": str(folder),
            "servers": [{"agent": "pushring", "url": url}],
            # Fails a connection by closing properly, so that the close codes are seen.
            "options": {"failByDrop": False},
            "cases": [f"{section}.*"],
            "exclude-cases": [],
            "exclude-agent-cases": {},
        }
        spec_file = folder / "spec.json"
        spec_file.write_text(json.dumps(spec))
        command = [program, "--mode", "fuzzingclient", "--spec", str(spec_file)]
    else:
        command = [program, "--mode", "fuzzingclient", "--include", f"{section}.*", "--outdir", str(folder), url]
    with (folder / "log").open("wb") as log:
        # The engines' own exit status says less than the report, or something else; the report is what counts.
        subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=SECTION_TIMEOUT_S, check=False
        )
    report = folder / "index.json"
    if not report.exists():
        print((folder / "log").read_text(errors="replace")[-2000:])
        print(f"FAIL section {section}: {engine} wrote no report")
        return {}
    agents = json.loads(report.read_text())
    return {case: verdict for cases in agents.values() for case, verdict in cases.items()}


def is_good(verdict: dict) -> bool:
    return verdict["behavior"] in GOOD and verdict["behaviorClose"] in GOOD


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--engine", choices=["wstest", "kosoku"], required=True)
    arguments.add_argument("--program", required=True, help="the engine's executable")
    arguments.add_argument("--report", type=pathlib.Path, required=True, help="an empty or absent folder")
    arguments.add_argument("sections", type=int, nargs="*", help="default: all of them")
    options = arguments.parse_args()

    passed = failed = 0
    rows = []
    # One shard, so that an echo crosses no thread: the strict verdict wants what came before a protocol error echoed
    # before the connection is failed.
    with Server(*FLAGS, threads=1) as server:
        for section in options.sections or CASES:
            began = time.monotonic()
            url = f"{server.ws_url}/ws/echo:autobahn-{section}"
            verdicts = run_section(options.engine, options.program, section, url, options.report / str(section))
            good = sum(map(is_good, verdicts.values()))
            for case, verdict in verdicts.items():
                if not is_good(verdict):
                    print(f"FAIL {case}: {verdict['behavior']}, close {verdict['behaviorClose']}")
            missing = CASES[section] - len(verdicts)
            if missing:
                print(f"FAIL section {section}: {len(verdicts)} cases ran, {CASES[section]} are expected")
            passed += good
            failed += len(verdicts) - good + abs(missing)
            words = collections.Counter(verdict["behavior"] for verdict in verdicts.values())
            rows.append((section, len(verdicts), good, time.monotonic() - began, words))

    print(f"{'section':>7} {'cases':>5} {'good':>5} {'seconds':>7}  verdicts ({options.engine})")
    for section, cases, good, seconds, words in rows:
        verdict_text = ", ".join(f"{count} {word}" for word, count in words.most_common())
        print(f"{section:>7} {cases:>5} {good:>5} {seconds:>7.1f}  {verdict_text}")
    print(f"cases: {passed} passed, {failed} failed")
    sys.exit(1 if failed or not passed else 0)


if __name__ == "__main__":
    main()
