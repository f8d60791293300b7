"""Requests of 50 clients to a real `mlx-lora serve` while a job trains, in one run.

    python benchmarks/serving.py [--interval 1] [--out benchmarks/serving]

One job trains; windows without and with clients follow each other as A B B A. In each window with clients, these send
1,000 requests: polls of the job's status (every other one), pages of jobs, of files and of the job's events; five more
follow its events from the first on. Clients wait `--interval` seconds between two requests, 0 for none.

latency        from a request's first byte to the answer's last, in milliseconds, seen by the client
training       steps a second, by the times in the job's metrics; `slower` compares the windows with clients to those
               without. `spread` is how far the latter differ among themselves: what other programs on the machine do.
cpu            processor seconds of server, training and clients in a window (Linux); a step's does not depend on what
               else the machine does, and the server's is what it takes from the training where no core is free
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median, quantiles
from typing import Any
from urllib.parse import urlsplit

import httpx
from record import record

from mlx_lora.files import is_locked
from mlx_lora.sources.eisv import make_eisv_dataset

CLIENTS, REQUESTS, FOLLOWERS = 50, 1000, 5
# Records that make pages as long as a desk's are.
OTHERS = 20
JOBS = "/v1/fine_tuning/jobs"
ORDER = "ABBA"


@dataclass
class Server:
    """Server that runs; ``job`` is the one that trains."""

    url: str
    token: str
    process: subprocess.Popen[str]
    job: str = ""
    state: Path = field(default_factory=Path)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    @property
    def directory(self) -> Path:
        return self.state / "jobs" / self.job

    def cpu(self) -> dict[str, float]:
        """Processor seconds of each process so far."""
        worker = json.loads((self.directory / "owner.json").read_text())["pid"]
        clients = resource.getrusage(resource.RUSAGE_SELF)
        own = clients.ru_utime + clients.ru_stime
        return {"server": processor_seconds(self.process.pid), "training": processor_seconds(worker), "clients": own}

    def steps(self) -> list[tuple[float, int]]:
        """(time, step) of the job so far."""
        file = self.directory / "run" / "metrics.jsonl"
        content = file.read_text() if file.exists() else ""
        events = [json.loads(line) for line in content[: content.rfind("\n") + 1].splitlines()]
        return [(event["time"], event["step"]) for event in events if event["event"] == "progress"]


def processor_seconds(pid: int) -> float:
    """Return the processor seconds of a process so far, 0 where the system does not say."""
    file = Path(f"/proc/{pid}/stat")
    if not file.exists():
        return 0.0
    fields = file.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def served(place: Path) -> Iterator[Server]:
    """Run a server until the block ends."""
    state = place / "state"
    command = [sys.executable, "-m", "mlx_lora", "serve", "--port", "0", "--state", str(state), "--models", str(place)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = re.fullmatch(r"API: (\S+)/v1\n", process.stdout.readline())
        if found is None:
            raise SystemExit("the server did not start")
        try:
            yield Server(found[1], (state / "token").read_text().strip(), process, state=state)
        finally:
            process.terminate()


def prepare(server: Server, data: Path, settings: dict[str, Any]) -> None:
    """Fill the server's lists, and start the job that trains for as long as it is let."""
    rows = [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()]
    content = "".join(json.dumps({"messages": row["messages"]}) + "\n" for row in rows).encode()
    with httpx.Client(base_url=server.url, headers=server.headers, timeout=60) as client:
        names = [
            client.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": ("rows.jsonl", content)})
            .raise_for_status()
            .json()["id"]
            for _ in range(OTHERS)
        ]
        for name in names:
            other = _post(client, JOBS, {"model": "builtin/tiny-lumen", "training_file": name})
            _post(client, f"{JOBS}/{other}/cancel", {})
        body = {"model": "builtin/tiny-lumen", "training_file": names[0], "mlx_lora": settings}
        server.job = _post(client, JOBS, body)
        _wait_for_training(client, server)


def _post(client: httpx.Client, path: str, body: dict[str, Any]) -> str:
    answer = client.post(path, json=body)
    if answer.is_error:
        raise SystemExit(f"{path}: {answer.text}")
    return answer.json()["id"]


def _wait_for_training(client: httpx.Client, server: Server) -> None:
    for _ in range(600):
        job = client.get(f"{JOBS}/{server.job}").raise_for_status().json()
        if job["status"] in ("failed", "succeeded", "cancelled"):
            raise SystemExit(f"the job is {job['status']}: {job['error']}")
        # The first steps are slower.
        if job["status"] == "running" and any(step >= 20 for _, step in server.steps()):
            return
        time.sleep(0.2)
    raise SystemExit("the job did not begin to train")


class Load:
    """Requests of the clients in one window, with their latencies and errors."""

    def __init__(self, server: Server, interval: float) -> None:
        self.server, self.interval = server, interval
        self.latencies: dict[str, list[float]] = {"status": [], "jobs": [], "files": [], "events": []}
        self.errors: list[str] = []
        self.followed = 0
        self._stop = threading.Event()

    def run(self) -> None:
        """Send all requests, and return when all are answered."""
        followers = [threading.Thread(target=self._follow, daemon=True) for _ in range(FOLLOWERS)]
        for follower in followers:
            follower.start()
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(self._client, range(CLIENTS)))
        self._stop.set()
        for follower in followers:
            follower.join(30)

    def _client(self, number: int) -> None:
        job = f"{JOBS}/{self.server.job}"
        pages = [("jobs", f"{JOBS}?limit=20"), ("files", "/v1/files?limit=20"), ("events", f"{job}/events?limit=20")]
        connection = http.client.HTTPConnection(urlsplit(self.server.url).netloc, timeout=60)
        time.sleep(self.interval * number / CLIENTS)
        for turn in range(REQUESTS // CLIENTS):
            kind, path = ("status", job) if turn % 2 else pages[(turn // 2 + number) % 3]
            started = time.perf_counter()
            try:
                connection.request("GET", path, headers=self.server.headers)
                answer = connection.getresponse()
                content = json.loads(answer.read())
                self.latencies[kind].append(1000 * (time.perf_counter() - started))
                if answer.status != 200 or (kind == "status" and content["status"] != "running"):
                    self.errors.append(f"{path}: {answer.status} {str(content)[:200]}")
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.errors.append(f"{path}: {error!r}")
                connection.close()
            time.sleep(max(0.0, started + self.interval - time.perf_counter()) if self.interval else 0)
        connection.close()

    def _follow(self) -> None:
        url = f"{self.server.url}/v1/jobs/{self.server.job}/events"
        try:
            with httpx.stream("GET", url, headers=self.server.headers, timeout=60) as answer:
                for line in answer.iter_lines():
                    self.followed += line.startswith("id:")
                    if self._stop.is_set():
                        return
        except httpx.HTTPError as error:
            self.errors.append(f"{url}: {error!r}")


def window(server: Server, clients: bool, seconds: float, interval: float) -> dict[str, Any]:
    """Measure training and server while clients ask, or while none does."""
    load, cpu, started = Load(server, interval), server.cpu(), time.time()
    if clients:
        load.run()
    time.sleep(max(0.0, started + seconds - time.time()))
    ended = time.time()
    inside = [(when, step) for when, step in server.steps() if started <= when <= ended]
    if len(inside) < 3:
        raise SystemExit(f"{len(inside)} steps in {ended - started:.0f} s: the job has ended, or --interval is too low")
    (first, begin), (last, end) = inside[0], inside[-1]
    used = {name: round(seconds - cpu[name], 2) for name, seconds in server.cpu().items()}
    found: dict[str, Any] = {
        "clients": clients,
        "seconds": round(ended - started, 1),
        "steps_per_second": round((end - begin) / (last - first), 3),
        "cpu_seconds": used,
    }
    if clients:
        found |= {"followed_events": load.followed, "errors": load.errors, "latencies": load.latencies}
    return found


def percentiles(latencies: list[float]) -> dict[str, float]:
    cuts = quantiles(latencies, n=100, method="inclusive")
    shown = {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98], "max": max(latencies)}
    return {"requests": len(latencies), **{name: round(value, 1) for name, value in shown.items()}}


def summary(windows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the latencies by kind, the errors, and how much slower the training was."""
    busy = [each for each in windows if each["clients"]]
    alone = [each["steps_per_second"] for each in windows if not each["clients"]]
    kinds: dict[str, list[float]] = {}
    for each in busy:
        for kind, values in each.pop("latencies").items():
            kinds.setdefault(kind, []).extend(values)
    latency = {kind: percentiles(values) for kind, values in kinds.items()}
    errors = [error for each in busy for error in each.pop("errors")]
    slower = 100 * (1 - mean(each["steps_per_second"] for each in busy) / mean(alone))
    spread = 100 * (max(alone) - min(alone)) / median(alone)
    dearer = _cpu_of_a_step(busy) / _cpu_of_a_step(each for each in windows if not each["clients"])
    server = sum(each["cpu_seconds"]["server"] for each in busy) / sum(each["seconds"] for each in busy)
    return {
        "latency_ms": latency,
        "errors": len(errors),
        "first_errors": errors[:5],
        "training_slower_percent": round(slower, 2),
        "spread_without_clients_percent": round(spread, 2),
        "cpu_of_a_step_more_percent": round(100 * (dearer - 1), 2),
        "server_cpu_percent_of_a_core": round(100 * server, 2),
        "met": {
            "no_error": not errors,
            "status_p95_below_100_ms": latency["status"]["p95"] < 100,
            "training_at_most_5_percent_slower": slower <= 5,
        },
        "windows": windows,
    }


def _cpu_of_a_step(windows: Iterable[dict[str, Any]]) -> float:
    """Return the processor seconds that the training takes for a step."""
    chosen = list(windows)
    steps = sum(each["steps_per_second"] * each["seconds"] for each in chosen)
    return sum(each["cpu_seconds"]["training"] for each in chosen) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between two requests of a client")
    parser.add_argument("--rounds", type=int, default=3, help=f"times that {ORDER} is repeated")
    parser.add_argument("--set", action="append", default=[], help="key=value of the job's config")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    seconds = max(10.0, arguments.interval * (REQUESTS // CLIENTS + 1))
    settings: dict[str, Any] = {"num_epochs": 10**6, "log_steps": 1, "save_steps": 200, "batch_size": 4}
    settings |= {key: json.loads(value) for key, _, value in (text.partition("=") for text in arguments.set)}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        make_eisv_dataset(place / "data", min_per_shape=10)
        with served(place) as server:
            prepare(server, place / "data", settings)
            windows = []
            for kind in ORDER * arguments.rounds:
                windows.append(window(server, kind == "B", seconds, arguments.interval))
                told = {key: value for key, value in windows[-1].items() if key not in ("latencies", "errors")}
                print(told, file=sys.stderr, flush=True)
            httpx.post(f"{server.url}{JOBS}/{server.job}/cancel", headers=server.headers, timeout=60)
            # Its files are removed next.
            while is_locked(server.directory / "worker.lock"):
                time.sleep(0.1)
    plan = {"clients": CLIENTS, "requests_a_window": REQUESTS, "followers": FOLLOWERS, "interval_s": arguments.interval}
    machine = {"cores": os.cpu_count(), "load_average": [round(value, 1) for value in os.getloadavg()]}
    record(arguments.out, **machine, **plan, job=settings, **summary(windows))


if __name__ == "__main__":
    main()
