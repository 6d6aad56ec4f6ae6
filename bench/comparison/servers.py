"""The servers that are compared: how each is installed, started, addressed and ended.

Each is started afresh for each run, pinned to the server's core, with the heartbeat and the history of pushring.
"""

import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

BENCH = Path(__file__).resolve().parent.parent
ROOT = BENCH.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
WORK = TARGET / "compare"
NODE_MODULES = WORK / "node"
PYTHON_ENVIRONMENT = WORK / "python"

HEARTBEAT_S = 25
HISTORY_MESSAGES = 100
START_TIMEOUT_S = 20
DESCRIPTORS = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
# What one table holds beside a server's own files.
TABLE = DESCRIPTORS - 200
SERVER_CORE, CLIENT_CORE = (0, 1) if os.cpu_count() > 1 else (None, None)


def say(text):
    print(f"== {text}", file=sys.stderr, flush=True)


def pinned(core, command):
    prefix = [] if core is None else ["taskset", "--cpu-list", str(core)]
    return prefix + [str(word) for word in command]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def install_packages(*packages):
    say(f"installing Debian packages: {' '.join(packages)}")
    as_root = [] if os.geteuid() == 0 else ["sudo"]
    install = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "--yes", "--no-install-recommends"]
    for command in (["apt-get", "update"], [*install, *packages]):
        subprocess.run(as_root + command, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)


def output_of(*command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True)
    return (done.stdout + done.stderr).strip()


class Server:
    """One server; the name is its key in results, the label stands in tables and charts."""

    name = label = tuning = ""
    path = "/healthz"

    def install(self):
        """Makes sure it can be started; an exception says why it can't."""

    def version(self):
        return ""

    def commands(self, work, ports, threads):
        """Command lines to start, each with its core; the first is the server itself."""
        raise NotImplementedError

    def environment(self):
        return {}

    def bench_options(self, ports):
        """Options of the load generator to reach it."""
        return []

    def start(self, threads=1):
        return Running(self, threads)


class Running:
    """A started server, until it is left."""

    def __init__(self, server, threads):
        self.server = server
        self.ports = [free_port() for _ in range(3)]
        self.work = WORK / "run" / server.name
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        self.processes, self.cores = [], []
        self.start_ms = None
        *others, (command, core) = reversed(server.commands(self.work, self.ports, threads))
        for other in others:
            self._spawn(*other)
        begin = time.monotonic()
        self._spawn(command, core)
        self._wait_for_answer(begin)
        self.start_ms = (time.monotonic() - begin) * 1e3

    def _spawn(self, command, core):
        with open(self.work / "log", "ab") as log:
            # Settings of pushring, and proxies that would be asked for the backend, are none of this run.
            environment = {name: value for name, value in os.environ.items()
                           if not name.startswith("PUSHRING_") and not name.lower().endswith("_proxy")}
            environment |= self.server.environment()
            process = subprocess.Popen(pinned(core, command), stdout=log, stderr=log, env=environment)
        self.processes.append(process)
        self.cores.append(core)

    def _wait_for_answer(self, begin):
        request = f"GET {self.server.path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        while time.monotonic() - begin < START_TIMEOUT_S:
            try:
                with socket.create_connection(("127.0.0.1", self.ports[0]), timeout=1) as probe:
                    probe.sendall(request)
                    answer = probe.recv(16)
                    # A proxy whose backend is not up yet says so with 502.
                    if answer.startswith(b"HTTP/1.1 ") and answer[9:10] != b"5":
                        return
            except OSError:
                pass
            if self.processes[-1].poll() is not None:
                break
            time.sleep(0.0002)
        self.stop()
        raise RuntimeError(f"{self.server.label} did not start: {(self.work / 'log').read_text()[-2000:]}")

    @property
    def pids(self):
        """The processes on the server's core and those they started."""
        children = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(stat.read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(stat.parent.name))
        found, todo = [], [process.pid for process, core in zip(self.processes, self.cores) if core == SERVER_CORE]
        while todo:
            found.append(todo.pop())
            todo += children.get(found[-1], [])
        return found

    def bench_options(self):
        options = ["--target", f"127.0.0.1:{self.ports[0]}", *self.server.bench_options(self.ports)]
        for pid in self.pids:
            options += ["--server-pid", str(pid)]
        return options

    def stop(self):
        # Nobody waits for its clients here, so it need not say goodbye to them. Children first: they are found by
        # their parent.
        for pid in reversed(self.pids):
            if pid not in (process.pid for process in self.processes):
                try:
                    os.kill(pid, 9)
                except ProcessLookupError:
                    pass
        for process in self.processes:
            process.kill()
            process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


class Pushring(Server):
    name, label = "pushring", "pushring"
    tuning = "defaults; `--threads 1`, so one shard and one descriptor table (`leave`: as many as the connections need)"

    def __init__(self, program):
        self.program = program

    def version(self):
        return output_of(self.program, "--version")

    def commands(self, work, ports, threads):
        listen = ["--listen", f"127.0.0.1:{ports[0]}", "--threads", threads, "--heartbeat", f"{HEARTBEAT_S}s"]
        return [([self.program, "serve", *listen, "--log-level", "warn"], SERVER_CORE)]

    def bench_options(self, ports):
        return ["--metrics-url", f"http://127.0.0.1:{ports[0]}/metrics"]


class Floor(Server):
    """The load generator's own servers that do nothing but the system calls."""

    def __init__(self, program, kind, label):
        self.program, self.kind = program, kind
        self.name, self.label = f"floor-{kind}", label

    def commands(self, work, ports, threads):
        return [([self.program, "floor", self.kind, "--listen", f"127.0.0.1:{ports[0]}"], SERVER_CORE)]


class Nchan(Server):
    name, label, path = "nchan", "Nchan", "/"
    modules = Path("/usr/lib/nginx/modules")
    tuning = (
        f"Debian's nginx and libnginx-mod-nchan; `worker_processes 1`, `worker_rlimit_nofile {DESCRIPTORS}`, "
        f"`worker_connections {DESCRIPTORS - 64}`, `multi_accept on`, `use epoll`, `nchan_shared_memory_size 1024M`, "
        f"buffer of {HISTORY_MESSAGES} messages, ping every {HEARTBEAT_S} s, no access log, keep-alive without an end"
    )

    def install(self):
        if not shutil.which("nginx") or not (self.modules / "ngx_nchan_module.so").exists():
            install_packages("nginx", "libnginx-mod-nchan")

    def version(self):
        nchan = output_of("dpkg-query", "--show", "--showformat", "${Version}", "libnginx-mod-nchan")
        return f"{output_of('nginx', '-v').removeprefix('nginx version: ')}, Nchan {nchan}"

    def commands(self, work, ports, threads):
        config = fill("nginx.conf", work, port=ports[0], modules=self.modules, descriptors=DESCRIPTORS,
                      connections=DESCRIPTORS - 64, history=HISTORY_MESSAGES, heartbeat_s=HEARTBEAT_S)
        return [(["nginx", "-p", work, "-c", config], SERVER_CORE)]

    def bench_options(self, ports):
        return ["--subscribe-path", "/sub/{channel}"]


class Pushpin(Server):
    name, label, path = "pushpin", "Pushpin", "/"
    tuning = (
        "Debian's package; condure, proxy, handler and zurl all on the server's core; limits of connections and message "
        "rate raised out of the way; WebSocket-over-HTTP to a small backend on the clients' core, asked once per "
        "connection; only at a size that it admits in seconds; it takes one publish per connection"
    )

    def install(self):
        if not shutil.which("pushpin"):
            install_packages("pushpin")

    def version(self):
        return output_of("pushpin", "--version")

    def commands(self, work, ports, threads):
        port, publish_port, backend_port = ports
        # The paths of ipc sockets are bounded (unix(7)), so they are short.
        config = fill("pushpin.conf", work, port=port, publish_port=publish_port, zmq_port=free_port(), connections=TABLE)
        (work / "routes").write_text(f"* 127.0.0.1:{backend_port},over_http\n")
        backend = [sys.executable, BENCH / "peers/grip_backend.py", backend_port, HEARTBEAT_S]
        zurl = ["zurl", f"--config={fill('zurl.conf', work)}"]
        return [(["pushpin", f"--config={config}"], SERVER_CORE), (zurl, SERVER_CORE), (backend, CLIENT_CORE)]

    def bench_options(self, ports):
        item = {"channel": "{channel}", "formats": {"ws-message": {"content": "{payload}"}}}
        return ["--connect-rate", "1000", "--publish-reconnect", "--subscribe-path", "/sub/{channel}",
                "--publish-target", f"127.0.0.1:{ports[1]}", "--publish-path", "/publish/", "--publish-body", json.dumps({"items": [item]})]


class NodeWs(Server):
    name, label, path = "node-ws", "Node ws", "/"
    tuning = "`bench/peers/ws_broadcast.cjs`, one process; no compression; a payload is one buffer for all"

    def install(self):
        if not shutil.which("npm"):
            install_packages("nodejs", "npm")
        lock, installed = BENCH / "peers/package-lock.json", NODE_MODULES / "installed-package-lock.json"
        if not installed.exists() or installed.read_text() != lock.read_text():
            say(f"installing npm packages into {NODE_MODULES.relative_to(TARGET.parent)}")
            NODE_MODULES.mkdir(parents=True, exist_ok=True)
            for file in ("package.json", "package-lock.json", ".npmrc"):
                shutil.copy(BENCH / "peers" / file, NODE_MODULES)
            options = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
            subprocess.run(["npm", "ci", *options], cwd=NODE_MODULES, check=True, stdout=subprocess.DEVNULL)
            shutil.copy(lock, installed)

    def environment(self):
        return {"NODE_PATH": str(NODE_MODULES / "node_modules")}

    def version(self):
        package = json.loads((NODE_MODULES / "node_modules/ws/package.json").read_text())
        return f"ws {package['version']}, Node {output_of('node', '--version')}"

    def commands(self, work, ports, threads):
        return [(["node", BENCH / "peers/ws_broadcast.cjs", ports[0], HEARTBEAT_S], SERVER_CORE)]


class PythonWebsockets(Server):
    name, label, path = "python-websockets", "Python websockets", "/"
    tuning = "`bench/peers/websockets_broadcast.py`, one process; no compression; `broadcast()`"

    def install(self):
        requirements, installed = BENCH / "peers/requirements.txt", PYTHON_ENVIRONMENT / "installed-requirements.txt"
        if installed.exists() and installed.read_text() == requirements.read_text():
            return
        if subprocess.run([sys.executable, "-c", "import ensurepip, venv"], stderr=subprocess.DEVNULL).returncode:
            install_packages("python3-venv")
        say(f"installing Python packages into {PYTHON_ENVIRONMENT.relative_to(TARGET.parent)}")
        subprocess.run([sys.executable, "-m", "venv", "--clear", PYTHON_ENVIRONMENT], check=True)
        pip = [PYTHON_ENVIRONMENT / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--requirement", requirements], check=True)
        shutil.copy(requirements, installed)

    def version(self):
        code = "import sys, websockets; print(f'websockets {websockets.__version__}, Python {sys.version.split()[0]}')"
        return output_of(PYTHON_ENVIRONMENT / "bin/python", "-c", code)

    def commands(self, work, ports, threads):
        program = BENCH / "peers/websockets_broadcast.py"
        return [([PYTHON_ENVIRONMENT / "bin/python", program, ports[0], ports[1], HEARTBEAT_S], SERVER_CORE)]

    def bench_options(self, ports):
        return ["--publish-target", f"127.0.0.1:{ports[1]}"]


def fill(template, work, **values):
    """A configuration file from bench/peers with its places filled in."""
    text = (BENCH / "peers" / template).read_text()
    for name, value in {"work": work, **values}.items():
        text = text.replace("{" + name + "}", str(value))
    path = work / template
    path.write_text(text)
    return path


PEERS = {peer.name: peer for peer in (Nchan, Pushpin, NodeWs, PythonWebsockets)}
