"""Follows edge-agent/ENROLLING.md word by word: `enrolling.py FOLDER-OF-PROGRAMS`, once with a certificate and once with a password.

The page's commands and its gateway.toml are taken from the page. Only places differ: names that a network would resolve, folders that
belong to root, and the agent is started by hand where the page asks systemd.
"""

import re
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import boto3
from watched import addresses, started

PAGE = Path("edge-agent/ENROLLING.md").read_text()
ACCESS_RULES = Path("k8s/base/broker/mosquitto.acl").resolve()
DEADLINE_SECONDS = 60
BROKER = """
listener {port} 127.0.0.1
cafile ca.crt
certfile broker.crt
keyfile broker.key
allow_anonymous false
acl_file {rules}
user root
"""
KNOWN = {
    "certificate": "require_certificate true\nuse_identity_as_username true\n",
    "password": "password_file passwords\n",
}
PROCESSOR = """
site = "mill"
[mqtt]
url = "mqtts://localhost:{port}"
ca_file = "ca.crt"
{identity}
[s3]
endpoint = "{s3}"
bucket = "millwright"
path_style = true
access_key_file = "key"
secret_key_file = "key"
[serve]
http = "{http}"
grpc = "{grpc}"
[archive]
staging = "staging"
"""


def commands(name):
    """The page's block of that name."""
    block = re.search(rf"^```console {name}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [line.removeprefix("$ ") for line in block[1].splitlines()]


def shell(folder, command, programs):
    environment = {"PATH": f"{programs}:/usr/sbin:/usr/bin:/bin", "HOME": str(folder)}
    done = subprocess.run(["bash", "-ec", command], cwd=folder, env=environment, check=False, capture_output=True, text=True)
    print(f"$ {command}", *done.stdout.splitlines()[:3], sep="\n")
    if done.returncode:
        raise SystemExit(f"error: it ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def gateway_toml(way, places):
    text = re.search(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[1]
    if way == "password":
        # The lines that the page gives in comments, in place of the two they stand beside.
        text = re.sub(r"^cert_file.*# or: (.*)$", r"\1", text, flags=re.MULTILINE)
        text = re.sub(r"^key_file.*#\s+(.*)$", r"\1", text, flags=re.MULTILINE)
    return placed(text, places)


def placed(text, places):
    for page, here in places.items():
        text = text.replace(page, here)
    return text


def until(what, happens):
    began = time.monotonic()
    while not happens():
        if time.monotonic() - began > DEADLINE_SECONDS:
            raise SystemExit(f"error: {what}: not within {DEADLINE_SECONDS} s")
        time.sleep(0.5)


def site(stack, folder, way, programs):
    """What is there before a gateway comes: CA, broker, bucket, processor. Answers the broker's port, and what starts the processor."""
    broker, s3, http, grpc = addresses(4)
    port = broker.rpartition(":")[2]
    elliptic = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    for command in (
        f"openssl req -x509 {elliptic} -days 1 -subj /CN=ca -keyout ca.key -out ca.crt",
        f"openssl req -new {elliptic} -subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout broker.key -out broker.csr",
        "openssl x509 -req -in broker.csr -CA ca.crt -CAkey ca.key -days 1 -copy_extensions copy -out broker.crt",
        f"openssl req -new {elliptic} -subj /CN=stream-processor -addext extendedKeyUsage=clientAuth -keyout processor.key -out processor.csr",
        "openssl x509 -req -in processor.csr -CA ca.crt -CAkey ca.key -days 1 -copy_extensions copy -out processor.crt",
        "echo secret > processor.password && touch passwords && mosquitto_passwd -b passwords stream-processor secret",
    ):
        subprocess.run(command, shell=True, cwd=folder, check=True, capture_output=True)
    identity = {
        "certificate": 'cert_file = "processor.crt"\nkey_file = "processor.key"',
        "password": 'username = "stream-processor"\npassword_file = "processor.password"',
    }[way]
    (folder / "key").write_text("test")
    names = {"port": port, "s3": f"http://{s3}", "http": http, "grpc": grpc, "identity": identity}
    (folder / "processor.toml").write_text(PROCESSOR.format(**names))
    (folder / "mosquitto.conf").write_text(BROKER.format(port=port, rules=ACCESS_RULES) + KNOWN[way])
    started(stack, folder, "s3", "moto_server", "-H", "127.0.0.1", "-p", s3.rpartition(":")[2])
    key = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    boto3.client("s3", endpoint_url=f"http://{s3}", region_name="us-east-1", **key).create_bucket(Bucket="millwright")
    return port, lambda: started(stack, folder, "processor", programs / "stream-processor", "run", "--config", "processor.toml")


def followed(way, programs):
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        port, processor = site(stack, folder, way, programs)
        places = {
            "/etc/millwright": str(folder),
            "/var/lib/millwright": str(folder / "spool"),
            "mqtt.example:8883": f"localhost:{port}",
            "127.0.0.1:9100": addresses(1)[0],
        }
        for command in commands(way):
            shell(folder, command, programs)
        # The broker reads its passwords when it starts.
        started(stack, folder, "mosquitto", "mosquitto", "-c", "mosquitto.conf")
        processor()
        (folder / "gateway.toml").write_text(gateway_toml(way, places))
        for command in commands("check"):
            shell(folder, placed(command, places), programs)
        if commands("start") != ["systemctl enable --now millwright-agent"]:
            raise SystemExit("error: the page starts the agent in another way")
        started(stack, folder, "agent", programs / "edge-agent", "--config", "gateway.toml")

        [look] = commands("gateway")
        connected_and_reading = r"(?s)connected\S* 1.*readings_sealed_total\S* [1-9]"
        until("the first reading", lambda: re.search(connected_and_reading, quietly(folder, placed(look, places))))
        shell(folder, placed(look, places), programs)
        for command in commands("archive"):
            until(command, lambda: quietly(folder, command, programs))  # noqa: B023
            shell(folder, command, programs)


def quietly(folder, command, programs=""):
    environment = {"PATH": f"{programs}:/usr/bin:/bin"}
    return subprocess.run(["bash", "-c", command], cwd=folder, env=environment, check=False, capture_output=True, text=True).stdout


if __name__ == "__main__":
    for known_by in KNOWN:
        print(f"--- with a {known_by}")
        followed(known_by, Path(sys.argv[1]).resolve())
