"""Builds the images and runs them: `containers.py FOLDER-OF-PROGRAMS ARM-AGENT`.

The dev overlay's processor and gateway run as the pods that kustomize renders, by `podman kube play`, against a mosquitto
with the shipped settings and an S3 server; beside them a second gateway from the static image for ARM, under an emulator.
The processor has to become ready and to commit what both gateways send.

The programs for amd64 are the ones that the tests use, so they take this machine's libraries along; that the released ones
need none is the release workflow's to check (.github/scripts/binaries).
"""

import copy
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path

import boto3
import pyarrow.parquet
import yaml
from watched import addresses, started

K8S = Path("k8s").resolve()
NAME = "localhost/millwright/{}:{}"
USER = 65532
DEADLINE_SECONDS = 60
# A build for tests is not as small as a released one.
TEST_BYTES_MAX = 200_000_000
LIBRARIES = ["/lib/x86_64-linux-gnu", "/lib64"]
EMULATOR = "/usr/bin/qemu-aarch64-static"
STORAGE_CONF = '[storage]\ndriver = "vfs"\nrunroot = "{0}/run"\ngraphroot = "{0}/graph"\n'
# What a container needs to run inside another one.
CONTAINERS_CONF = """\
[engine]
cgroup_manager = "cgroupfs"
runtime = "runc"
events_logger = "file"
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
"""
HTTP, BROKER_PORT = "http://127.0.0.1:8080", 8883
ARM_GATEWAY = "gateway-2"


def run(*command, **options):
    done = subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True, **options)
    if done.returncode:
        raise SystemExit(f"error: {' '.join(map(str, command))}: {done.stderr.strip()[-2000:]}")
    return done.stdout


def build(folder, name, arch, program):
    """An image from the last stage of its Dockerfile, known to podman."""
    out = folder / arch / name / "out"
    out.mkdir(parents=True)
    run("strip", "--strip-all", "-o", out / name, program) if arch == "amd64" else shutil.copy(program, out / name)
    shutil.copy("/etc/ssl/certs/ca-certificates.crt", out)
    archive = folder / f"{name}-{arch}.tar"
    limit = [TEST_BYTES_MAX] if arch == "amd64" else []
    print(run(".github/scripts/image", name, arch, folder / arch, archive, *limit).splitlines()[-1])
    image = run("podman", "pull", "--quiet", f"oci-archive:{archive}").strip()
    run("podman", "tag", image, NAME.format(name, arch))
    archive.unlink()
    config = json.loads(run("podman", "image", "inspect", image))[0]
    found = {"arch": config["Architecture"], "user": config["User"], "entrypoint": config["Config"]["Entrypoint"]}
    wanted = {"arch": arch, "user": f"{USER}:{USER}", "entrypoint": [f"/{name}"]}
    if found != wanted or not all(config["Labels"].get(f"org.opencontainers.image.{x}") for x in ("version", "revision")):
        raise SystemExit(f"error: the image {name} for {arch} is {found} with labels {config['Labels']}")
    shell = subprocess.run(["podman", "run", "--rm", "--entrypoint=/bin/sh", image, "-c", "true"], check=False, capture_output=True)
    if shell.returncode == 0:
        raise SystemExit(f"error: there is a shell in {name} for {arch}")


def certificates(folder):
    """What cert-manager makes in a cluster; answers the CA's."""
    ca, ca_key, request = folder / "ca.crt", folder / "ca.key", folder / "tls.csr"
    elliptic = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    run("openssl", "req", "-x509", *elliptic, "-days=1", "-subj=/CN=ca", "-keyout", ca_key, "-out", ca)
    run("openssl", "req", *elliptic, "-subj=/CN=mqtt", "-keyout", folder / "tls.key", "-out", request)
    (folder / "names").write_text("subjectAltName=DNS:mqtt")
    signing = ["-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days=1", "-extfile", folder / "names"]
    run("openssl", "x509", "-req", "-in", request, *signing, "-out", folder / "tls.crt")
    return ca


def broker(stack, folder, passwords):
    """mosquitto as the component configures it, at this machine's address."""
    ca = certificates(folder)
    users = folder / "passwords"
    users.touch(mode=0o600)
    for user, password in passwords.items():
        run("mosquitto_passwd", "-b", users, user, password)
    shutil.copy(K8S / "base/broker/mosquitto.acl", folder)
    (folder / "data").mkdir()
    text = (K8S / "components/broker/mosquitto.conf").read_text()
    text = text.replace("listener 8883", f"user root\nlistener {BROKER_PORT} 127.0.0.1")
    for place in ["tls", "secrets", "acl"]:
        text = text.replace(f"/mosquitto/{place}/", f"{folder}/")
    (folder / "mosquitto.conf").write_text(text.replace("/mosquitto/data/", f"{folder}/data/"))
    started(stack, folder, "mosquitto", "mosquitto", "-c", "mosquitto.conf")
    return ca


def s3(stack, folder, bucket):
    address = addresses(1)[0]
    started(stack, folder, "s3", "moto_server", "-H", "127.0.0.1", "-p", address.rpartition(":")[2])
    request = urllib.request.Request(f"http://{address}/{bucket}", method="PUT")
    wait("the S3 server", lambda: answer(request) is not None)
    return f"http://{address}"


def answer(request):
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return response.read().decode()
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None


def wait(what, happens):
    began = time.monotonic()
    while not (found := happens()):
        if time.monotonic() - began > DEADLINE_SECONDS:
            raise SystemExit(f"error: {what}: not within {DEADLINE_SECONDS} s")
        time.sleep(0.5)
    return found


def rendered():
    return list(yaml.safe_load_all(run("kubectl", "kustomize", K8S / "overlays/dev")))


def pod_of(resources, workload, folder, secrets, environment):
    """The workload's pod and its ConfigMaps, with folders here in place of what only a cluster has: volumes of its own, and
    Secrets (podman plays no projected ones)."""
    [owner] = [r for r in resources if r["kind"] == "StatefulSet" and r["metadata"]["name"] == workload]
    template = copy.deepcopy(owner["spec"]["template"])
    spec = template["spec"]
    template["metadata"] |= {"name": workload}
    for unknown in ("topologySpreadConstraints", "serviceAccountName"):
        spec.pop(unknown, None)
    claims = [claim["metadata"]["name"] for claim in owner["spec"].get("volumeClaimTemplates", [])]
    for volume in spec["volumes"]:
        if "projected" in volume:
            del volume["projected"]
            volume |= host_volume(volume["name"], own_folder(folder / f"{workload}-{volume['name']}", secrets))
    for claim in claims:
        spec["volumes"].append(host_volume(claim, own_folder(folder / f"{workload}-{claim}", {})))
    [container] = spec["containers"]
    # On the host's network ports are what the program opens; and it is here that the probes' questions are asked.
    for unused in ("ports", "startupProbe", "livenessProbe", "readinessProbe"):
        container.pop(unused, None)
    # The first of the set; podman fills in no $(VARIABLE).
    container["args"] = [arg.replace("$(SHARD)", "0") for arg in container["args"]]
    container["env"] = [e for e in container.get("env", []) if e["name"] != "SHARD"]
    container["image"], container["imagePullPolicy"] = NAME.format(workload, "amd64"), "Never"
    container["env"] += [{"name": k, "value": v} for k, v in environment.items()]
    # The broker's name, which a cluster's DNS knows.
    hosts = folder / "hosts"
    hosts.write_text("127.0.0.1 localhost mqtt\n")
    for i, (source, target) in enumerate([*zip(LIBRARIES, LIBRARIES, strict=True), (hosts, "/etc/hosts")]):
        spec["volumes"].append(host_volume(f"host-{i}", Path(source)))
        container["volumeMounts"].append({"name": f"host-{i}", "mountPath": target, "readOnly": True})
    spec["hostNetwork"] = True
    configs = [r for r in resources if r["kind"] == "ConfigMap"]
    return [*configs, {"apiVersion": "v1", "kind": "Pod", **template}]


def host_volume(name, path):
    return {"name": name, "hostPath": {"path": str(path), "type": "Directory" if path.is_dir() else "File"}}


def own_folder(folder, files):
    """A folder of the containers' user."""
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_text(content)
    for path in [folder, *folder.iterdir()]:
        os.chown(path, USER, USER)
    return folder


def play(stack, folder, workload, resources):
    file = folder / f"{workload}.yaml"
    file.write_text(yaml.safe_dump_all(resources))
    stack.callback(lambda: subprocess.run(["podman", "kube", "down", file], check=False, capture_output=True))
    run("podman", "kube", "play", "--network=host", file)


def logs(folder):
    """What the programs said last, to be read where a run fails."""
    for log in sorted(folder.glob("*.log")):
        print(f"--- {log.name}", *log.read_text(errors="replace").splitlines()[-12:], sep=os.linesep)
    for name in run("podman", "ps", "--all", "--format={{.Names}}").split():
        done = subprocess.run(["podman", "logs", "--tail=12", name], check=False, capture_output=True, text=True)
        print(f"--- {name}", done.stdout + done.stderr, sep=os.linesep)


def arm_gateway(stack, folder, resources, secrets):
    """The image as it is released, with the dev gateway's settings under another name."""
    [config] = [r for r in resources if r["kind"] == "ConfigMap" and r["metadata"]["name"].startswith("edge-agent")]
    text = config["data"]["gateway.toml"].replace("gateway-1", ARM_GATEWAY)
    text = text.replace("0.0.0.0:9101", addresses(1)[0])
    text = text.replace('type = "simulator"', 'type = "simulator"\nmachines = [{ id = "baler-9", kind = "baler", make = "a", model = "b" }]')
    mounts = {
        own_folder(folder / "arm-config", {"gateway.toml": text}): "/etc/millwright/config:ro",
        own_folder(folder / "arm-secrets", secrets): "/etc/millwright/secrets:ro",
        own_folder(folder / "arm-spool", {}): "/var/lib/millwright",
        EMULATOR: "/emulator:ro",
    }
    flags = [f"--volume={source}:{target}" for source, target in mounts.items()]
    flags += ["--read-only", "--cap-drop=ALL", "--network=host", "--add-host=mqtt:127.0.0.1", "--memory=256m"]
    flags += ['--entrypoint=["/emulator", "/edge-agent"]', "--detach", "--name=arm-gateway"]
    stack.callback(lambda: subprocess.run(["podman", "rm", "--force", "arm-gateway"], check=False, capture_output=True))
    run("podman", "run", *flags, NAME.format("edge-agent", "arm64"), "--config", "/etc/millwright/config/gateway.toml")


def archived(endpoint, bucket):
    """Rows of each gateway in the archive's readings."""
    client = boto3.client("s3", endpoint_url=endpoint, region_name="eu-central-1")
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="archive/v1/readings/")
    rows = Counter()
    for key in [found["Key"] for page in pages for found in page.get("Contents", [])]:
        content = client.get_object(Bucket=bucket, Key=key)["Body"].read()
        rows.update(pyarrow.parquet.read_table(BytesIO(content), columns=["agent"])["agent"].to_pylist())
    return rows


def plant(stack, folder, resources, endpoint, bucket, secrets):
    """A processor and two gateways, until the archive has readings of both."""
    role = {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    os.environ |= role
    play(stack, folder, "stream-processor", pod_of(resources, "stream-processor", folder, secrets["stream-processor"], role))
    wait("/readyz", lambda: answer(f"{HTTP}/readyz") is not None)
    print("the dev overlay's processor is ready")
    play(stack, folder, "edge-agent", pod_of(resources, "edge-agent", folder, secrets["gateway-1"], {}))
    arm_gateway(stack, folder, resources, secrets[ARM_GATEWAY])
    gateways = {"gateway-1", ARM_GATEWAY}
    wait("readings of both gateways", lambda: set(archived(endpoint, bucket)) >= gateways)
    for gateway, rows in archived(endpoint, bucket).items():
        print(f"{gateway}: {rows} readings are in the archive")


def main():
    programs, arm_agent = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "storage.conf").write_text(STORAGE_CONF.format(folder))
        (folder / "containers.conf").write_text(CONTAINERS_CONF)
        os.environ |= {"CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"), "CONTAINERS_CONF": str(folder / "containers.conf")}
        build(folder, "stream-processor", "amd64", programs / "stream-processor")
        build(folder, "edge-agent", "amd64", programs / "edge-agent")
        build(folder, "edge-agent", "arm64", arm_agent)

        passwords = {"stream-processor": "p", "gateway-1": "g1", ARM_GATEWAY: "g2"}
        resources = rendered()
        [config] = [r for r in resources if r["kind"] == "ConfigMap" and r["metadata"]["name"].startswith("stream-processor")]
        bucket = config["data"]["processor.toml"].partition('bucket = "')[2].partition('"')[0]
        endpoint = s3(stack, folder, bucket)
        ca = broker(stack, folder, passwords)
        secrets = {user: {"password": word, "ca.crt": ca.read_text()} for user, word in passwords.items()}
        secrets["stream-processor"]["token"] = "a-token-of-the-crew"

        try:
            plant(stack, folder, resources, endpoint, bucket, secrets)
        except SystemExit:
            logs(folder)
            raise


if __name__ == "__main__":
    main()
