"""Checks the dependency graph against deny.toml in seconds, with nothing but cargo.

`cargo deny check` is the complete check (it knows the advisories too), but a clean run can't spend the minutes that
building it takes. This reads the same file and enforces what must never slip in: banned crates, licences, foreign
sources, unexplained duplicates. An explanation that explains nothing any more fails as well, so the list stays true.
"""

import subprocess
import sys
import tomllib
from collections import defaultdict


def resolved(targets):
    """(name, version, licence, foreign source) of all that is compiled into a program, to build one, or to test it."""
    found = set()
    for target in targets:
        command = ["cargo", "tree", "--workspace", "--all-features", "--locked", f"--target={target}"]
        command += ["--edges=normal,build,dev", "--prefix=none", "--format={p}|{l}"]
        for line in subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines():
            if not line:  # between two members
                continue
            package, _, licence = line.replace(" (*)", "").rpartition("|")
            name, version, *notes = package.split(" ", 2)
            source = notes[0] if notes and "proc-macro" not in notes[0] else ""
            found.add((name, version.removeprefix("v"), licence.strip(), "" if source.startswith("(/") else source))
    return sorted(found)


def allows(expression, allowed):
    """Whether a licence expression (SPDX, or the old `A/B`) can be met with the allowed licences alone."""
    tokens = expression.replace("/", " OR ").replace("(", " ( ").replace(")", " ) ").split()

    def either():
        met = both()
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            met = both() or met
        return met

    def both():
        met = one()
        while tokens and tokens[0] == "AND":
            tokens.pop(0)
            met = one() and met
        return met

    def one():
        name = tokens.pop(0) if tokens else "none"
        if name == "(":
            met = either()
            tokens.pop(0)
            return met
        if tokens and tokens[0] == "WITH":
            tokens.pop(0)
            name += f" WITH {tokens.pop(0)}"
        return name in allowed

    return either()


def means(spec, name, version):
    """Whether `name` or `name:version` of deny.toml means this package; a short version is a prefix."""
    spec_name, _, spec_version = spec.partition(":")
    return spec_name == name and f"{version}.".startswith(f"{spec_version}." if spec_version else "")


def problems(rules, packages):
    allowed = set(rules["licenses"]["allow"])
    skips = [skip["crate"] for skip in rules["bans"]["skip"]]
    unexplained = defaultdict(set)
    for name, version, licence, source in packages:
        for ban in rules["bans"]["deny"]:
            if means(ban["crate"], name, version):
                yield f"{name} {version} is banned: {ban['reason']}"
        if not allows(licence, allowed):
            yield f"{name} {version}: licence {licence or 'none'} is not allowed"
        if source:
            yield f"{name} {version} comes from {source}"
        if not any(means(skip, name, version) for skip in skips):
            unexplained[name].add(version)
    for name, versions in unexplained.items():
        if len(versions) > 1:
            yield f"{name}: unexplained duplicates {', '.join(sorted(versions))}"
    for skip in skips:
        copies = [version for name, version, *_ in packages if name == skip.partition(":")[0]]
        if len(copies) < 2 or not any(means(skip, skip.partition(":")[0], version) for version in copies):
            yield f"deny.toml explains {skip}, which is no duplicate any more"


def main():
    with open("deny.toml", "rb") as file:
        rules = tomllib.load(file)
    packages = resolved(rules["graph"]["targets"])
    found = list(problems(rules, packages))
    for problem in found:
        print(f"error: {problem}")
    print(f"{len(packages)} packages, {len(rules['bans']['skip'])} explained duplicates, {len(found)} problems")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
