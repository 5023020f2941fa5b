"""Plays a release and its way back on local git repositories, with the configuration in this repository and in a second one.

Release: one commit changes the tag in one file, and what a fresh clone renders carries it, and differs in nothing else.
Rollback: a revert, after which a fresh clone renders what it rendered before, byte for byte.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

RELEASE = "v9.9.9"
PLACE = "k8s/components/release/kustomization.yaml"
SETTING = "k8s/argocd/repository/repository.yaml"
ENVIRONMENTS = ["dev", "prod"]
IMAGE = re.compile(r"image: (?:\S+/)?millwright/[\w-]+:(\S+)")
NOBODY = {"GIT_AUTHOR_NAME": "release", "GIT_AUTHOR_EMAIL": "release@example.com", "GIT_CONFIG_GLOBAL": "/dev/null"}
NOBODY |= {"GIT_COMMITTER_NAME": "release", "GIT_COMMITTER_EMAIL": "release@example.com", "GIT_CONFIG_NOSYSTEM": "1"}


def run(*command, cwd=None):
    done = subprocess.run(command, cwd=cwd, env=os.environ | NOBODY, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"error: {' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def expect(what, holds):
    if not holds:
        raise SystemExit(f"error: not so: {what}")


class Config:
    """A repository that Argo CD would read, and the clone of someone who releases."""

    def __init__(self, folder, files):
        self.origin, self.clone, self.fresh = folder / "origin.git", folder / "clone", folder / "fresh"
        run("git", "init", "--quiet", "--bare", "--initial-branch=main", str(self.origin))
        run("git", "clone", "--quiet", str(self.origin), str(self.clone))
        run("git", "checkout", "--quiet", "-B", "main", cwd=self.clone)
        for file in files:
            (self.clone / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, self.clone / file)
        setting = self.clone / SETTING
        setting.write_text(re.sub(r"url: .*", f"url: file://{self.origin}", setting.read_text()))
        self.publish("The configuration")

    def publish(self, message):
        run("git", "add", "--all", cwd=self.clone)
        run("git", "commit", "--quiet", "--message", message, cwd=self.clone)
        run("git", "push", "--quiet", "origin", "main", cwd=self.clone)

    def rendered(self):
        """What Argo CD would apply in each environment: it follows its own applications from a fresh clone."""
        shutil.rmtree(self.fresh, ignore_errors=True)
        run("git", "clone", "--quiet", "--branch", "main", f"file://{self.origin}", str(self.fresh))
        found = {}
        for environment in ENVIRONMENTS:
            applications = run("kubectl", "kustomize", f"k8s/argocd/{environment}", cwd=self.fresh)
            sources = re.findall(r"path: (\S+)\n\s+repoURL: (\S+)\n\s+targetRevision: (\S+)", applications)
            expect("two applications in each environment", len(sources) == 2)
            for path, url, revision in sources:
                expect("applications read the configured repository", (url, revision) == (f"file://{self.origin}", "main"))
                found[environment, path] = run("kubectl", "kustomize", path, cwd=self.fresh)
        return found


def tags(rendered):
    return {tag for text in rendered.values() for tag in IMAGE.findall(text)}


def play(name, files):
    with tempfile.TemporaryDirectory() as folder:
        config = Config(Path(folder), files)
        before = config.rendered()
        (old,) = tags(before)

        run(str(config.clone / "k8s/components/release/set-version"), RELEASE)
        config.publish(f"Release {RELEASE}")
        changed = run("git", "show", "--format=", "--numstat", cwd=config.clone).split()
        expect("a release changes the tags of two images in one file", changed == ["2", "2", PLACE])
        released = config.rendered()
        expect("every image of ours carries the release", tags(released) == {RELEASE})
        expect("nothing else is different", before == {key: text.replace(RELEASE, old) for key, text in released.items()})

        run("git", "revert", "--no-edit", "HEAD", cwd=config.clone)
        run("git", "push", "--quiet", "origin", "main", cwd=config.clone)
        expect("a revert renders the manifests of before, byte for byte", config.rendered() == before)
        print(f"{name}: {old} -> {RELEASE} -> {old}, {len(before)} applications")


def main():
    files = run("git", "ls-files").splitlines()
    play("configuration in this repository", files)
    play("configuration in a second one", [file for file in files if file.startswith("k8s/")])


if __name__ == "__main__":
    sys.exit(main())
