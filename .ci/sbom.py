#!/usr/bin/env python3
"""sbom.py PACKAGE TARGET: a CycloneDX bill of materials of what is compiled into a program, from Cargo's own graph."""

import json
import subprocess
import sys
import tomllib

FEATURES = {"stream-processor": ["--no-default-features"], "edge-agent": []}


def components(package, target):
    """(name, version, licence) of every crate that ends up in the program; build scripts and tests do not."""
    command = ["cargo", "tree", "--locked", f"--package={package}", *FEATURES[package], f"--target={target}"]
    command += ["--edges=normal", "--prefix=none", "--format={p}|{l}"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    for line in sorted(set(line.replace(" (*)", "") for line in lines)):
        named, _, licence = line.rpartition("|")
        name, version, *source = named.split(" ", 2)
        # A path in brackets is one of ours.
        yield name, version.removeprefix("v"), licence.replace("/", " OR "), any("(/" in part for part in source)


def checksums():
    with open("Cargo.lock", "rb") as file:
        return {(p["name"], p["version"]): p["checksum"] for p in tomllib.load(file)["package"] if "checksum" in p}


def bill(package, target):
    known, listed, program = checksums(), [], None
    for name, version, licence, ours in components(package, target):
        purl = f"pkg:cargo/{name}@{version}"
        component = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
        if licence:
            component["licenses"] = [{"expression": licence}]
        if (name, version) in known:
            component["hashes"] = [{"alg": "SHA-256", "content": known[name, version]}]
        if ours and name == package:
            program = component | {"type": "application"}
        else:
            listed.append(component)
    metadata = {"component": program, "properties": [{"name": "target", "value": target}]}
    return {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "metadata": metadata, "components": listed}


if __name__ == "__main__":
    print(json.dumps(bill(*sys.argv[1:3]), indent=1))
