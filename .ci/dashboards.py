"""Every panel of every dashboard has data: `dashboards.py FOLDER-OF-PROGRAMS`.

A real Prometheus with our rules scrapes the running factory and two agents beside it, until each panel's query has an answer.
That the names are right where the answer may be "never happened" is metrics.py's to check.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import yaml

MONITORING = Path("k8s/monitoring").resolve()
AGENTS = ["outside-1", "outside-2"]
# The factory plays six weeks of history and trains before it is live; all on a busy machine.
DEADLINE_SECONDS = 240
STOP_SECONDS = 20
# Plant seconds in one: how good the model is, is known after some tens of failures and verdicts.
SPEED = 40_000
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


def scrape_config(processor, agents):
    """The shipped configuration, with addresses in place of the names that only a cluster has."""
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    targets = {"stream-processor": [processor], "edge-agent": agents}
    jobs = [
        {"job_name": job, "static_configs": [{"targets": found, "labels": {"namespace": "millwright", "pod": job}}]}
        for job, found in targets.items()
    ]
    if not set(targets) <= {job["job_name"] for job in config["scrape_configs"]}:
        raise SystemExit("error: the shipped configuration has other jobs")
    rules = [str(MONITORING / "rules/*.yml")]
    return {"global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "rule_files": rules, "scrape_configs": jobs}


def queries():
    for file in sorted((MONITORING / "dashboards").glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel["targets"]:
                yield f"{file.stem}, {panel['title']}", target["expr"]


def answered(prometheus, expression):
    """Whether Prometheus has a number for it; an expression that it can't read ends the run."""
    url = f"http://{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    try:
        with urllib.request.urlopen(url) as response:
            found = json.load(response)["data"]["result"]
    except urllib.error.HTTPError as e:
        raise SystemExit(f"error: {expression}: {e.read().decode()}") from e
    except OSError:
        return False
    return any(sample["value"][1] != "NaN" for sample in found)


class Crew:
    """Says of each alert of the model that it was right: without verdicts nobody knows how good the model is."""

    def __init__(self, http):
        self.http, self.told = http, set()

    def work(self):
        try:
            with urllib.request.urlopen(f"http://{self.http}/alerts?include_closed=true") as response:
                alerts = json.load(response)
            for alert in alerts:
                if alert["source"] == "model" and alert["id"] not in self.told:
                    self.confirm(alert)
        except OSError:
            return

    def confirm(self, alert):
        event = {"machine": alert["machine"], "time": alert["opened_ms"], "alert_id": alert["id"], "verdict": "confirmed", "author": "crew"}
        body = json.dumps(event | {"request_id": alert["id"]}).encode()
        headers = {"Content-Type": "application/json"}
        urllib.request.urlopen(urllib.request.Request(f"http://{self.http}/events", body, headers)).close()
        self.told.add(alert["id"])


def main():
    programs = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        http, grpc, broker, s3, prometheus, *agents = addresses(5 + len(AGENTS))
        options = {"data": folder / "data", "http": http, "grpc": grpc, "mqtt": broker, "s3": s3, "speed": SPEED}
        flags = [f"--{flag}={value}" for flag, value in options.items()]
        running = [started(stack, folder, "factory", programs / "stream-processor", *flags)]
        for agent, metrics in zip(AGENTS, agents, strict=True):
            text = AGENT.format(name=agent, folder=folder, broker=broker, metrics=metrics)
            (folder / f"{agent}.toml").write_text(text)
            running.append(started(stack, folder, agent, programs / "edge-agent", "--config", f"{agent}.toml"))
        (folder / "prometheus.yml").write_text(yaml.safe_dump(scrape_config(http, agents)))
        flags = ["--config.file=prometheus.yml", "--storage.tsdb.path=prometheus", f"--web.listen-address={prometheus}"]
        running.append(started(stack, folder, "prometheus", "prometheus", *flags))

        began, waiting = time.monotonic(), list(queries())
        count, crew = len(waiting), Crew(http)
        while waiting and time.monotonic() - began < DEADLINE_SECONDS and all(p.poll() is None for p in running):
            time.sleep(1)
            crew.work()
            waiting = [(place, query) for place, query in waiting if not answered(prometheus, query)]
        for place, query in waiting:
            print(f"error: {place}: no data for {query}")
        if waiting:
            for log in sorted(folder.glob("*.log")):
                print(f"--- the end of {log.name}", *log.read_text(errors="replace").splitlines()[-8:], sep=os.linesep)
        print(f"{count - len(waiting)} of {count} queries have data, after {time.monotonic() - began:.0f} s")
    sys.exit(bool(waiting))


if __name__ == "__main__":
    main()
