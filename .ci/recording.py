"""What each program really does in the bucket: `recording.py FOLDER-OF-PROGRAMS` prints it as a table and compares it with
what its role may do (k8s/terraform/modules/layout/permissions.tf).

Six weeks of a plant run through a gateway, mosquitto and the processor into an S3 server that writes down every request; then
trainer and compactor run, and the processor once more. A request that the role would be refused ends the check with an error; a
right that nothing used is printed, since a short run is not every run.
"""

import re
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import boto3

sys.path.append(str(Path(__file__).parent / "terraform"))
from check import initialized_layout, layout_outputs  # noqa: E402
from watched import addresses, started  # noqa: E402

BUCKET = "millwright-dev-archive-111111111111"
KEY = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
REQUEST = re.compile(r'"(GET|HEAD|PUT|POST|DELETE) /([^/?]+)/?([^? ]*)(\?\S*)? HTTP/1.1" (\d+)')
ACTIONS = {"GET": "s3:GetObject", "HEAD": "s3:GetObject", "PUT": "s3:PutObject", "DELETE": "s3:DeleteObject"}
DAYS = 42
PROCESSOR = """
site = "mill"
[mqtt]
url = "mqtt://{broker}"
[s3]
endpoint = "{s3}"
region = "eu-central-1"
bucket = "{bucket}"
path_style = true
access_key_file = "key"
secret_key_file = "key"
[serve]
http = "{http}"
grpc = "{grpc}"
[archive]
staging = "staging"
# What is asked for is recorded, not how good the model is.
[train]
rows_max = 4000
epochs_max = 2
"""
GATEWAY = """
site = "mill"
agent = "gateway-1"
data = "spool"
[mqtt]
url = "mqtt://{broker}"
[serve]
metrics = "{metrics}"
[[source]]
type = "simulator"
start = {start}
interval_ms = 300000
"""
DEADLINE_SECONDS = 240


class Recorder:
    """The S3 server's own log of requests, read program by program."""

    def __init__(self, log):
        self.log, self.at = log, 0
        self.seen = {}

    def belongs_to(self, role):
        """What came since the last call was this role's."""
        text = self.log.read_text(errors="replace")
        for method, bucket, key, query, status in REQUEST.findall(text[self.at :]):
            if bucket == BUCKET:
                self.seen.setdefault(role, set()).update(actions(method, key, query, status))
        self.at = len(text)


def actions(method, key, query, status):
    """(action, key) of a request; the key is empty where the action is the bucket's."""
    if not key:
        return {("s3:ListBucket", "")} if "list-type" in query else {(f"{method} of the bucket", "")}
    if method == "POST":
        return {("s3:PutObject", key)}
    # Only who may list is told 404.
    found = {("s3:ListBucket", "")} if status == "404" else set()
    return found | {(ACTIONS[method], key)}


def allows(statements, action, key):
    arn = f"arn:aws:s3:::{BUCKET}/{key}" if key else f"arn:aws:s3:::{BUCKET}"
    resources = [resource for s in statements if action in s["actions"] for resource in s["resources"]]
    return [r for r in resources if re.fullmatch(re.escape(r).replace(r"\*", ".*"), arn)]


def until(what, happens):
    began = time.monotonic()
    while not happens():
        if time.monotonic() - began > DEADLINE_SECONDS:
            raise SystemExit(f"error: {what}: not within {DEADLINE_SECONDS} s")
        time.sleep(0.5)


def stop(*programs):
    for program in programs:
        program.terminate()
    for program in programs:
        if code := program.wait(60):
            raise SystemExit(f"error: {program.args} ended with {code}")


def plant(stack, folder, programs, client, recorder):
    """Fills the archive, trains on it, compacts it, and starts on what was left."""
    http, grpc, broker, metrics = addresses(4)
    (folder / "key").write_text("test")
    (folder / "mosquitto.conf").write_text(f"listener {broker.rpartition(':')[2]} 127.0.0.1\nallow_anonymous true\n")
    now_ms = int(time.time() * 1000)
    names = {"broker": broker, "s3": client.meta.endpoint_url, "bucket": BUCKET, "http": http, "grpc": grpc, "metrics": metrics}
    (folder / "processor.toml").write_text(PROCESSOR.format(**names))
    (folder / "gateway.toml").write_text(GATEWAY.format(start=now_ms - DAYS * 86_400_000, **names))
    started(stack, folder, "mosquitto", "mosquitto", "-c", "mosquitto.conf")
    processor = [programs / "stream-processor", "run", "--config", "processor.toml"]
    running = started(stack, folder, "processor", *processor)
    gateway = started(stack, folder, "gateway", programs / "edge-agent", "--config", "gateway.toml")
    today = time.strftime("archive/v1/readings/site=mill/date=%Y-%m-%d/", time.gmtime())
    until("six weeks in the archive", lambda: client.list_objects_v2(Bucket=BUCKET, Prefix=today)["KeyCount"])
    stop(gateway, running)
    recorder.belongs_to("processor")

    def tool(role, *arguments):
        done = subprocess.run([programs / "stream-processor", *arguments, "--config=processor.toml"], cwd=folder, check=False, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"error: {' '.join(arguments)}: {done.stderr.strip()[-2000:]}")
        recorder.belongs_to(role)

    tool("trainer", "model", "train", "--trials=2", "--write-settings=best.toml")
    if "learning_rate" not in (folder / "best.toml").read_text():
        raise SystemExit("error: model train --write-settings wrote no settings")
    for _ in range(2):
        tool("compactor", "archive", "compact", "--older-than-hours=0", "--grace-hours=0", "--files-min=2")
    tool("compactor", "archive", "verify")
    running = started(stack, folder, "processor-2", *processor)
    until("the champion's start", lambda: "models/" in (folder / "s3.log").read_text()[recorder.at :])
    stop(running)
    recorder.belongs_to("processor")


def compared(statements, recorder):
    """The table, and the requests that no statement allows."""
    refused = []
    print("| role | action | allowed below | seen |\n|---|---|---|---|")
    for role, seen in recorder.seen.items():
        counts = {}
        for action, key in seen:
            allowing = allows(statements[role], action, key)
            refused += [] if allowing else [f"{role}: {action} of {key or 'the bucket'} is not allowed"]
            for resource in allowing:
                counts[action, resource] = counts.get((action, resource), 0) + 1
        for statement in statements[role]:
            for action in statement["actions"]:
                for resource in statement["resources"]:
                    below = resource.partition(f"{BUCKET}/")[2] or "the bucket"
                    print(f"| {role} | {action} | `{below}` | {counts.get((action, resource), 'not in this run')} |")
    return refused


def main():
    programs = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        address = addresses(1)[0]
        server = started(stack, folder, "s3", "moto_server", "-H", "127.0.0.1", "-p", address.rpartition(":")[2])
        client = boto3.client("s3", endpoint_url=f"http://{address}", region_name="eu-central-1", **KEY)
        client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
        recorder = Recorder(folder / "s3.log")
        recorder.at = len(recorder.log.read_text())
        plant(stack, folder, programs, client, recorder)
        refused = compared(layout_outputs(initialized_layout(folder), "dev")["statements"], recorder)
        print(*(f"error: {problem}" for problem in refused), sep="\n")
        stop(server)
    sys.exit(bool(refused))


if __name__ == "__main__":
    main()
