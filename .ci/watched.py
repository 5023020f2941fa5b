"""A running factory as Prometheus sees it, for the scripts that ask: real programs on loopback, with our configuration."""

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

MONITORING = Path("k8s/monitoring").resolve()
AGENTS = ["outside-1", "outside-2"]
STOP_SECONDS = 20
# Plant seconds in one: how good the model is, is known after some tens of failures and verdicts.
SPEED = 40_000
ANSWER_SECONDS, CALLS_AT_ONCE = 20, 16
AGENT = """
site = "mill"
agent = "{name}"
data = "{folder}/{name}"
[mqtt]
url = "mqtt://{broker}"
[serve]
metrics = "{metrics}"
[[source]]
type = "exec"
name = "baler"
command = ["sh", "-c", "while :; do echo pressure 3.2; echo temperature none; sleep 0.2; done"]
[[source.machines]]
id = "{name}-baler"
kind = "baler"
sensors = [{{ sensor = "pressure", unit = "bar", at = "pressure" }}, {{ sensor = "temperature", unit = "C", at = "temperature" }}]
"""


def addresses(count):
    """Of listeners that were free a moment ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    found = [f"127.0.0.1:{listener.getsockname()[1]}" for listener in sockets]
    for listener in sockets:
        listener.close()
    return found


def started(stack, folder, name, *command):
    """A program that is stopped, in form if it can be, when the stack unwinds."""
    log = stack.enter_context(open(folder / f"{name}.log", "wb"))
    program = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder)

    def stop():
        program.terminate()
        try:
            program.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            program.kill()
            program.wait()

    stack.callback(stop)
    return program


def opened(url, body=None):
    """What is there, as JSON is read; OSError where nothing is."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    return urllib.request.urlopen(request, timeout=ANSWER_SECONDS)


class Factory:
    """The embedded factory, two agents beside it, and a Prometheus that scrapes them."""

    def __init__(self, stack, folder, programs, *flags):
        self.stack, self.folder, self.programs = stack, folder, programs
        self.http, grpc, broker, s3, self.prometheus, *self.agents = addresses(5 + len(AGENTS))
        options = {"data": folder / "data", "http": self.http, "grpc": grpc, "mqtt": broker, "s3": s3, "speed": SPEED}
        flags = [*(f"--{flag}={value}" for flag, value in options.items()), *flags]
        self.running = [started(stack, folder, "factory", programs / "stream-processor", *flags)]
        for agent, metrics in zip(AGENTS, self.agents, strict=True):
            text = AGENT.format(name=agent, folder=folder, broker=broker, metrics=metrics)
            (folder / f"{agent}.toml").write_text(text)
            self.running.append(started(stack, folder, agent, programs / "edge-agent", "--config", f"{agent}.toml"))

    def watch(self, rules=MONITORING / "rules", alertmanager=None, **more_jobs):
        """Starts Prometheus with the shipped configuration, and addresses in place of the names that only a cluster has."""
        targets = {"stream-processor": [self.http], "edge-agent": self.agents, **more_jobs}
        shipped = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
        if not set(targets) <= {job["job_name"] for job in shipped["scrape_configs"]}:
            raise SystemExit("error: the shipped configuration has other jobs")
        config = {"global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "rule_files": [str(rules / "*.yml")]}
        config["scrape_configs"] = [
            {"job_name": job, "static_configs": [{"targets": found, "labels": {"namespace": "millwright", "pod": job}}]}
            for job, found in targets.items()
        ]
        if alertmanager:
            config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]}
        (self.folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        flags = ["--config.file=prometheus.yml", "--storage.tsdb.path=prometheus", f"--web.listen-address={self.prometheus}"]
        self.running.append(started(self.stack, self.folder, "prometheus", "prometheus", *flags))

    def query(self, expression):
        """What Prometheus has for it: (labels, number); an expression that it can't read ends the run."""
        url = f"http://{self.prometheus}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        try:
            with opened(url) as response:
                found = json.load(response)["data"]["result"]
        except urllib.error.HTTPError as e:
            raise SystemExit(f"error: {expression}: {e.read().decode()}") from e
        except OSError:
            return []
        return [(sample["metric"], float(sample["value"][1])) for sample in found if sample["value"][1] != "NaN"]

    def is_well(self):
        return all(program.poll() is None for program in self.running)

    def print_logs(self):
        for log in sorted(self.folder.glob("*.log")):
            print(f"--- the end of {log.name}", *log.read_text(errors="replace").splitlines()[-8:], sep=os.linesep)


class Crew:
    """Gives each alert of the model its `verdict`: without them nobody knows how good the model is."""

    def __init__(self, http):
        self.http, self.told = http, set()

    def work(self):
        try:
            with opened(f"http://{self.http}/alerts?include_closed=true") as response:
                alerts = json.load(response)
            # Each is answered after its commit, and one commit may hold them all.
            with ThreadPoolExecutor(CALLS_AT_ONCE) as pool:
                list(pool.map(self.tell, [a for a in alerts if a["source"] == "model" and a["id"] not in self.told]))
        except OSError:
            return

    def tell(self, alert):
        event = {"machine": alert["machine"], "time": alert["opened_ms"], "alert_id": alert["id"], "author": "crew"}
        event |= {"verdict": self.verdict(alert), "request_id": alert["id"]}
        opened(f"http://{self.http}/events", json.dumps(event).encode()).close()
        self.told.add(alert["id"])


class Panels:
    """The queries of every dashboard's panels, until each had data once."""

    def __init__(self):
        self.waiting = [
            (f"{file.stem}, {panel['title']}", target["expr"])
            for file in sorted((MONITORING / "dashboards").glob("*.json"))
            for panel in json.loads(file.read_text())["panels"]
            for target in panel["targets"]
        ]
        self.count, self.began = len(self.waiting), time.monotonic()

    def look(self, factory):
        """Whether all have data."""
        self.waiting = [(place, query) for place, query in self.waiting if not factory.query(query)]
        return not self.waiting

    def print(self):
        for place, query in self.waiting:
            print(f"error: {place}: no data for {query}")
        after = time.monotonic() - self.began
        print(f"{self.count - len(self.waiting)} of {self.count} queries have data, after {after:.0f} s")
