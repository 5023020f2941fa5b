"""Renders everything under k8s/ that can be rendered, and checks it strictly: `kubernetes.py FOLDER` leaves the overlays there.

Each base, overlay and Argo CD folder, and every combination of components on the bases that the overlays share, against the
schemas of the current Kubernetes versions and of the custom resources (.ci/schemas). Then what no schema says.
"""

import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml

K8S = Path("k8s")
VERSIONS = ["1.34", "1.35", "1.36", "1.37"]
CUSTOM = {file.stem: json.loads(file.read_text()) for file in Path(".ci/schemas").glob("*.json")}
ENVIRONMENTS = ["dev", "prod"]
# Who asks the API server, each with a Role of its own.
TALKS_TO_THE_CLUSTER = {"retraining-trigger", "kube-state-metrics"}
SHARED_BASES = ["stream-processor", "compactor", "trainer", "retraining-trigger"]


def kinds_of_kustomization(kind):
    files = sorted(K8S.rglob("kustomization.yaml"))
    return [file.parent for file in files if yaml.safe_load(file.read_text())["kind"] == kind]


def render(folder):
    done = subprocess.run(["kubectl", "kustomize", str(folder)], check=False, capture_output=True, text=True)
    if done.returncode or done.stderr:
        raise SystemExit(f"error: {folder}: {done.stderr.strip()}")
    return done.stdout


def combinations(scratch):
    """A kustomization for every set of the components that concern workloads."""
    components = [c for c in kinds_of_kustomization("Component") if c.parent.name == "components"]
    for count in range(len(components) + 1):
        for chosen in itertools.combinations(components, count):
            name = "+".join(["bases", *(c.name for c in chosen)])
            folder = Path(scratch, name)
            folder.mkdir()
            relative = [os.path.relpath(path, folder.resolve()) for path in (p.resolve() for p in chosen)]
            bases = [os.path.relpath((K8S / "base" / base).resolve(), folder.resolve()) for base in SHARED_BASES]
            kustomization = {"resources": bases, "components": relative, "namespace": "millwright"}
            (folder / "kustomization.yaml").write_text(json.dumps(kustomization))
            yield folder


def schema_problems(resource):
    if custom := CUSTOM.get(resource["kind"]):
        validator = jsonschema.Draft202012Validator(custom)
        yield from (f"{'.'.join(map(str, e.absolute_path))}: {e.message}" for e in validator.iter_errors(resource))
        return
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(resource, version, strict=True)
        except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as e:
            yield f"Kubernetes {version}: {str(e).splitlines()[0]}"


def pod_spec(resource):
    spec = resource.get("spec", {})
    spec = spec.get("jobTemplate", {}).get("spec", spec)
    return spec.get("template", {}).get("spec")


def restricted_problems(pod):
    """The Pod Security Standard `restricted`, which the namespace enforces, and no token of the cluster but for those that need it."""
    security = pod.get("securityContext", {})
    if security.get("runAsNonRoot") is not True or security.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "may run as root or without seccomp"
    if pod.get("automountServiceAccountToken") is not False:
        yield "mounts a token of the cluster"
    if any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
        yield "shares a namespace of the host"
    allowed = {"name", "configMap", "secret", "projected", "emptyDir", "persistentVolumeClaim"}
    if any(set(volume) - allowed for volume in pod.get("volumes", [])):
        yield "has a volume of another kind"
    sources = [source for volume in pod.get("volumes", []) for source in volume.get("projected", {}).get("sources", [])]
    if any("serviceAccountToken" in source for source in sources) and pod["serviceAccountName"] not in TALKS_TO_THE_CLUSTER:
        yield "asks for a token of the cluster"
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        own = container.get("securityContext", {})
        if own != {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}:
            yield f"{container['name']}: more rights than none"
        resources = container.get("resources", {})
        if not {"cpu", "memory"} <= set(resources.get("requests", {})) or "memory" not in resources.get("limits", {}):
            yield f"{container['name']}: requests, or the limit of memory, are missing"


def drain_seconds():
    """What the processor takes for its stop at most, by its own constants: both begin with the signal."""
    stop = re.search(r"STOP_MAX: Duration = Duration::from_millis\(([\d_]+)\)", Path("stream-processor/src/processor.rs").read_text())
    force = re.search(r"FORCE_SECONDS: u64 = (\d+);", Path("stream-processor/src/cli/signals.rs").read_text())
    return max(int(stop[1].replace("_", "")) / 1000, int(force[1]))


def trained_by_the_workflow():
    """The environment on whose archive the workflow `model` trains by schedule."""
    config = re.search(r"MODEL_CONFIG:-k8s/overlays/(\w+)/processor\.toml", Path(".github/scripts/train").read_text())
    scheduled = "\n  schedule:\n" in Path(".github/workflows/model.yml").read_text()
    return config[1] if scheduled else None


def trainer_problems(environment, resource):
    """One archive is trained on by one schedule: the workflow's or the CronJob's."""
    suspended = resource["spec"].get("suspend", False)
    if suspended != (environment == trained_by_the_workflow()):
        yield "is suspended, and nothing else trains by schedule" if suspended else "trains beside the workflow `model`"


def overlay_problems(resource, project, drain):
    """What Argo CD would refuse, and what a pod needs beyond its schema."""
    group = resource["apiVersion"].rpartition("/")[0]
    if {"group": group, "kind": resource["kind"]} not in project["spec"]["namespaceResourceWhitelist"]:
        yield "the project does not allow this kind"
    if resource["metadata"].get("namespace") not in [d["namespace"] for d in project["spec"]["destinations"]]:
        yield "outside the project's namespace"
    if pod := pod_spec(resource):
        yield from restricted_problems(pod)
        grace = pod.get("terminationGracePeriodSeconds", 30)
        if resource["metadata"]["name"] == "stream-processor" and grace <= drain:
            yield f"{grace} s are too short for a drain of {drain} s"


def told_commands():
    """What the pages tell a person to run in a cluster: (page, in a pod or as a Job, the rest of the command)."""
    for page in sorted(K8S.rglob("*.md")):
        text = page.read_text()
        for command in re.findall(r"kubectl exec stream-processor-0 -- ([^`\n]+)", text):
            yield page, "pod", command
        for command in re.findall(r"kubectl create job [\w-]+ --from=cronjob/([^\n]+\n.*?)kubectl create -f -", text, re.DOTALL):
            yield page, "job", command


def told_problems(resources):
    """Those commands name the program and the configuration as the pods have them, and a patch makes a Job that is none of its own."""
    by_name = {(r["kind"], r["metadata"]["name"]): r for r in resources}
    processor = pod_spec(by_name["StatefulSet", "stream-processor"])["containers"][0]
    config = processor["args"][processor["args"].index("--config") + 1]
    program = json.loads(re.search(r"^ENTRYPOINT (.*)$", (K8S / "images/stream-processor.Dockerfile").read_text(), re.MULTILINE)[1])
    for page, kind, command in told_commands():
        if kind == "pod":
            if not (command.startswith(f"{program[0]} ") and command.endswith(f"--config {config}")):
                yield f"{page}: not as the pod has it: {command}"
            continue
        cronjob, patch = by_name["CronJob", command.split()[0]], re.search(r"-p '([^']+)'", command)[1]
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "by-hand"}, "spec": cronjob["spec"]["jobTemplate"]["spec"]}
        patched = subprocess.run(
            ["kubectl", "patch", "--local", "-f", "-", "-o", "json", "-p", patch],
            input=json.dumps(job), check=True, capture_output=True, text=True,
        ).stdout
        template = json.loads(patched)["spec"]["template"]
        (container,) = template["spec"]["containers"]
        fields = [v["valueFrom"]["fieldRef"]["fieldPath"] for v in container.get("env", []) if "valueFrom" in v]
        missing = {f"metadata.annotations['{key}']" for key in template["metadata"].get("annotations", {})} - set(fields)
        if config not in container["args"] or missing or template == job["spec"]["template"]:
            yield f"{page}: the Job of {cronjob['metadata']['name']} is not as its container has it: {patch}"


def documents(text):
    return [document for document in yaml.safe_load_all(text) if document]


def environment_problems(environment, rendered, folder):
    project = next(d for d in documents(rendered[K8S / "argocd" / environment]) if d["kind"] == "AppProject")
    parts = [rendered[K8S / "overlays" / environment], rendered[K8S / "overlays" / environment / "monitoring"]]
    for resource in documents("---\n".join(parts)):
        name = f"{resource['kind']} {resource['metadata']['name']}"
        found = [*overlay_problems(resource, project, drain_seconds())]
        if name == "CronJob trainer":
            found += trainer_problems(environment, resource)
        yield from (f"{environment}: {name}: {problem}" for problem in found)
    Path(folder, f"{environment}.yaml").write_text("---\n".join(parts))


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(os.cpu_count()) as pool:
        folders = [*kinds_of_kustomization("Kustomization"), *combinations(scratch)]
        rendered = dict(zip(folders, pool.map(render, folders), strict=True))
    seen, found = set(), []
    for place, text in rendered.items():
        for document in text.split("\n---\n"):
            if document in seen:  # The combinations share most of what they render.
                continue
            seen.add(document)
            resource = yaml.safe_load(document)
            name = f"{place.name}: {resource['kind']} {resource['metadata']['name']}"
            found += [f"{name}: {problem}" for problem in schema_problems(resource)]
            if resource["kind"] == "Secret":
                found.append(f"{name}: secrets are not kept in a repository")
    for environment in ENVIRONMENTS:
        found += environment_problems(environment, rendered, folder)
    found += told_problems(documents(rendered[K8S / "overlays/prod"]))
    for problem in found:
        print(f"error: {problem}")
    print(f"{len(rendered)} rendered, {len(seen)} different resources, {len(found)} problems")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
