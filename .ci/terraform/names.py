"""Writes names.json: what the pinned modules and providers know, so that check.py needs none of them.

    python3 .ci/terraform/names.py CHECKOUTS >.ci/terraform/names.json

CHECKOUTS holds a git clone of every module that k8s/terraform names (the folder is named like the repository) and, as
`provider-aws` and `provider-helm`, the unpacked npm packages @cdktf/provider-aws and @cdktf/provider-helm, whose types carry the
providers' names in their links. To be run whenever a pin changes; check.py fails until then.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import hcl2

ROOT = Path("k8s/terraform")
TOKEN = re.compile(r'#[^\n]*|"(?:[^"\\]|\\.)*"|[\w-]+|[(){}\[\],=]')
SOURCE = re.compile(r'source\s*=\s*"(git::https://github\.com/[\w.-]+/([\w.-]+)\.git(?://([\w./-]+))?\?ref=(\w{40}))" # (v[\d.]+)')
BLOCK = re.compile(r'^(data|resource) "(\w+)" "', re.MULTILINE)


class TypeExpression:
    """`map(object({ a = optional(string) }))` as {"map": {"object": {"a": None}}}: None is anything without names."""

    def __init__(self, text):
        self.tokens = [token for token in TOKEN.findall(text) if not token.startswith("#")]

    def type(self):
        word = self.tokens.pop(0)
        if not self.tokens or self.tokens[0] != "(":
            return None
        self.tokens.pop(0)
        inner = self.attributes() if word == "object" else self.type()
        self.skip_to_end()
        if word == "optional":
            return inner
        return {word: inner} if inner is not None else None

    def attributes(self):
        names = {}
        self.tokens.pop(0)  # {
        while self.tokens[0] != "}":
            name = self.tokens.pop(0)
            self.tokens.pop(0)  # =
            names[name] = self.type()
            if self.tokens[0] == ",":
                self.tokens.pop(0)
        self.tokens.pop(0)
        return names

    def skip_to_end(self):
        """Past the closing bracket; what is left before it is the default of an optional attribute."""
        depth = 1
        while depth:
            token = self.tokens.pop(0)
            depth += (token in "({[") - (token in ")}]")


def type_of(text, variable):
    """Of a variable in the text of variables.tf."""
    block = text[text.index(f'variable "{variable}" {{') :]
    found = re.search(r"^  type\s*=\s*", block, re.MULTILINE)
    return TypeExpression(block[found.end() :]).type() if found else None


def module(checkouts, repository, folder, commit, tag):
    def show(path):
        named = f"{commit}:{folder + '/' if folder else ''}{path}"
        return subprocess.run(["git", "-C", checkouts / repository, "show", named], check=True, capture_output=True, text=True).stdout

    if commit_of(checkouts / repository, tag) != commit:
        sys.exit(f"{repository}: {tag} is not {commit}")
    variables, outputs = show("variables.tf"), show("outputs.tf")
    names = re.findall(r'^variable "(\w+)"', variables, re.MULTILINE)
    types = {name: tree for name in names if (tree := type_of(variables, name)) is not None}
    return {"tag": tag, "variables": sorted(names), "outputs": sorted(re.findall(r'^output "(\w+)"', outputs, re.MULTILINE)), "types": types}


def commit_of(repository, tag):
    command = ["git", "-C", repository, "rev-parse", f"{tag}^{{commit}}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def resource(checkouts, kind, name):
    provider, _, rest = name.partition("_")
    package = checkouts / f"provider-{provider}"
    folder = rest.replace("_", "-") if kind == "resource" else f"data-{provider}-{rest.replace('_', '-')}"
    text = "".join(path.read_text() for path in sorted((package / "lib" / folder).glob("*.d.ts")))
    # Arguments of the resource and of its blocks, as the links to the documentation spell them.
    arguments = set(re.findall(r"#(\w+) \w+#\1\}", text))
    getters = {re.sub("(?<!^)([A-Z])", r"_\1", getter).lower() for getter in re.findall(r"get (\w+)\(\)", text)}
    package_json = json.loads((package / "package.json").read_text())
    return {
        "source": f"npm {package_json['name']} {package_json['version']}",
        "arguments": sorted(arguments),
        "blocks": sorted(set(re.findall(r"\* (\w+) block$", text, re.MULTILINE))),
        "attributes": sorted(getters | arguments),
    }


def used_types(types, used):
    """The types of what is used: the others would make the list ten times as long."""
    return {name: tree for name, tree in types.items() if name in used}


def written(value, depth=3, indent=""):
    """JSON with a line for each list of names, so that a change of a pin can be read."""
    if not depth or not isinstance(value, dict):
        return json.dumps(value)
    lines = [f"{indent} {json.dumps(key)}: {written(inner, depth - 1, indent + ' ')}" for key, inner in value.items()]
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"


def main():
    checkouts = Path(sys.argv[1])
    texts = [path.read_text() for path in sorted(ROOT.rglob("*.tf"))]
    used = {key for text in texts for call in hcl2.loads(text).get("module", []) for body in call.values() for key in body}
    modules = {}
    for source, repository, folder, commit, tag in sorted({found for text in texts for found in SOURCE.findall(text)}):
        modules[source] = module(checkouts, repository, folder, commit, tag)
        modules[source]["types"] = used_types(modules[source]["types"], used)
    blocks = sorted({found for text in texts for found in BLOCK.findall(text)})
    resources = {f"{kind}.{name}": resource(checkouts, kind, name) for kind, name in blocks}
    print(written({"modules": modules, "resources": resources}))


if __name__ == "__main__":
    main()
