"""What actionlint and the schema do not ask of .github/workflows: pins, rights, and that no step holds logic."""

import os
import re
import unittest
from pathlib import Path

import yaml

WORKFLOWS = sorted(Path(".github/workflows").glob("*.yml"))
SCRIPTS = Path(".github/scripts")
PINNED = re.compile(r"uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")
LOCAL = re.compile(r"uses: \./\.github/workflows/[\w-]+\.yml$")
# Commands that are no script of ours, and hold as little logic.
PLAIN = {"cargo", "echo", "mkdir", "rustup"}
# What a job has to do to be given the right.
RIGHTS = {
    ("id-token", "write"): r"configure-aws-credentials|actions/attest@|publish\.yml",
    ("attestations", "write"): r"actions/attest@|publish\.yml",
    ("contents", "write"): r"release-create|config-update",
    ("pull-requests", "write"): r"config-update",
    ("actions", "read"): r"scripts/results|run-id:|publish\.yml",
    ("contents", "read"): r"actions/checkout@|/workflows/",
}


def loaded(path):
    return yaml.safe_load(path.read_text())


def jobs():
    for path in WORKFLOWS:
        for name, job in loaded(path)["jobs"].items():
            yield f"{path.name}: {name}", job, loaded(path).get("permissions")


def steps():
    for where, job, _ in jobs():
        for step in job.get("steps", []):
            yield where, step


class Rules(unittest.TestCase):
    def test_actions_are_pinned_by_commit_and_say_their_version(self):
        for path in WORKFLOWS:
            for line in re.findall(r"uses: .*", path.read_text()):
                self.assertTrue(PINNED.match(line) or LOCAL.match(line), f"{path}: {line}")

    def test_one_action_has_one_version(self):
        versions = {}
        for path in WORKFLOWS:
            for action, pin in re.findall(r"uses: ([\w/-]+)@(.*)", path.read_text()):
                self.assertEqual(versions.setdefault(action, pin), pin, f"{path}: {action}")

    def test_a_job_has_only_rights_that_it_uses(self):
        for where, job, of_workflow in jobs():
            rights = job.get("permissions", of_workflow)
            self.assertIsInstance(rights, dict, f"{where} has no permissions of its own")
            text = yaml.safe_dump(job)
            for right in rights.items():
                self.assertRegex(text, RIGHTS.get(right, "nothing needs this"), f"{where}: {right}")

    def test_nothing_is_kept_between_the_checkout_and_the_steps(self):
        for where, step in steps():
            if step.get("uses", "").startswith("actions/checkout@"):
                kept = step.get("with", {}).get("persist-credentials", True)
                pushes = step.get("with", {}).get("path") == "configuration"
                self.assertEqual(kept, pushes, where)

    def test_the_cloud_is_reached_by_a_role_and_no_key_is_stored(self):
        for path in WORKFLOWS:
            secrets = set(re.findall(r"secrets\.(\w+)", path.read_text()))
            self.assertLessEqual(secrets, {"CONFIG_TOKEN"}, path)
            self.assertNotIn("aws-access-key-id", path.read_text())
        for where, step in steps():
            if "configure-aws-credentials@" in step.get("uses", ""):
                self.assertIn("role-to-assume", step["with"], where)

    def test_whoever_reaches_the_cloud_runs_in_an_environment(self):
        """The role's trust is to an environment, see k8s/terraform/modules/platform/github.tf."""
        trusted = Path("k8s/terraform/modules/platform/github.tf").read_text()
        for where, job, _ in jobs():
            if "configure-aws-credentials@" in yaml.safe_dump(job):
                self.assertRegex(trusted, rf"(?<!\w){job['environment']}\s*=", where)

    def test_a_step_is_one_command_without_expressions(self):
        for where, step in steps():
            if "run" in step:
                command = step["run"].strip()
                self.assertNotIn("${{", command, where)
                self.assertNotIn("\n", command, where)
                self.assertNotRegex(command, r"[;|]|&&", where)
                program = command.split()[0].removeprefix("../source/")
                ours = program.startswith((".ci/", ".github/scripts/")) and os.access(program, os.X_OK)
                self.assertTrue(ours or program in PLAIN, f"{where}: {command}")

    def test_every_script_is_called_and_no_other(self):
        """By a workflow, or by one of their own from beside it."""
        called = {name for path in WORKFLOWS for name in re.findall(r"\.github/scripts/([\w-]+)", path.read_text())}
        called |= {name for path in SCRIPTS.iterdir() for name in re.findall(r'"\$\(dirname "\$0"\)/([\w-]+)"', path.read_text())}
        self.assertEqual(called, {path.name for path in SCRIPTS.iterdir()})

    def test_git_takes_the_checkout_in_a_container_for_its_own(self):
        """By the environment: `git config --global` is not read by what runs git without anybody's settings (release.py)."""
        trusts = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
        for path in WORKFLOWS:
            if any("container" in job for job in loaded(path)["jobs"].values()):
                self.assertLessEqual(trusts.items(), loaded(path).get("env", {}).items(), path)

    def test_jobs_end(self):
        for where, job, _ in jobs():
            self.assertTrue("uses" in job or "timeout-minutes" in job, where)


if __name__ == "__main__":
    unittest.main()
