"""Runs every command of the workflows as far as it goes without GitHub, a cloud and a registry.

In place of `aws`, `gh`, `cosign` and `terraform` stands a program that writes down how it was called; git, buildah, cargo's
graph and the file system are real. The processor is played, too, but what it is asked is asked of the real one's command
line (`target/debug/stream-processor`, which .ci/run has built by then).
"""

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import tarfile
import tempfile
import textwrap
import unittest
import xml.etree.ElementTree as xml
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

ROOT = Path.cwd()
SCRIPTS = ROOT / ".github" / "scripts"
PROCESSOR = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug" / "stream-processor"
GIT = {f"GIT_{who}_{what}": "test@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
STORAGE = """\
[storage]
driver = "vfs"
runroot = "{folder}/run"
graphroot = "{folder}/graph"
"""
RECORD = """\
#!/bin/sh
echo "$(basename "$0") $*" >>"$CALLS"
"""
# Asks the real command line whether it knows the arguments, then answers as training and evaluation do.
PLAYED_PROCESSOR = RECORD + f"""\
"{PROCESSOR}" "$@" --help >/dev/null || exit 2
case "$*" in
  *retrain*) printf '{{"name": "plant", "version": %s, "verdict": "Promote", "table": "table of both"}}\\n' "${{CHALLENGER-\\"v2\\"}}"; exit "${{GATE:-0}}" ;;
  *show*) printf '{{"version": "v1"}}\\n' ;;
  *evaluate*json*) cat "$FIGURES/$4.json" ;;
  *evaluate*) printf 'table of %s\\n' "$4" ;;
  *promote*) echo promoted ;;
esac
"""

# The registry's reports are downloaded; --only-show-errors stands before both places.
PLAYED_AWS = RECORD + """\
case "$4" in */report.json) cp "$FIGURES/$(basename "$(dirname "$4")")-report.json" "$5" ;; esac
"""
SVG = "{http://www.w3.org/2000/svg}"
# What the program's structs say of these files, as far as `plots` reads them: field to the file that declares it.
FIELDS = {
    "model/src/train.rs": ("version: String", "heads: Vec<HeadReport>", "calibrated: bool", "calibration: &'static str", "reliability: Vec<ReliabilityBin>"),
    "model/src/train/reliability.rs": ("windows: usize", "said: f64", "seen: f64", "low: f64", "high: f64"),
    "model/src/evaluate.rs": ("version: String", "test_rows: usize", "machines: usize", "contenders: Vec<ContenderResult>", "modes: Vec<ModeResult>"),
    "model/src/artifact/origin.rs": ("mode: String", "f1: f64", "average_precision: f64"),
}


def figures(folder, version, modes):
    """An evaluation and a training's report with so many bins for each mode."""
    found = [{"mode": mode, "f1": 0.4, "average_precision": 0.5} for mode in modes]
    evaluation = {"version": version, "test_rows": 90, "machines": 3, "contenders": [{"name": "mlp", "modes": found}, {"name": "always no", "modes": found}]}
    heads = [
        {
            "mode": mode,
            "calibrated": count > 1,
            "calibration": "isotonic" if count > 1 else "none",
            "reliability": [{"windows": 9, "said": i / 10, "seen": i / 9, "low": 0.0, "high": 1.0} for i in range(count)],
        }
        for mode, count in modes.items()
    ]
    (folder / f"{version}.json").write_text(json.dumps(evaluation))
    (folder / f"{version}-report.json").write_text(json.dumps({"version": version, "heads": heads}))


class Command(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.programs = self.folder / "programs"
        self.programs.mkdir()
        self.calls_file = self.folder / "calls"
        self.calls_file.touch()
        (self.folder / "storage.conf").write_text(STORAGE.format(folder=self.folder))
        # Were one of them called by a test that does not expect it, it must not be the real one.
        for name in ("aws", "gh", "cosign", "terraform"):
            self.program(name, RECORD)
        self.env = os.environ | GIT | {
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            # Images are kept here and nowhere else.
            "CONTAINERS_STORAGE_CONF": str(self.folder / "storage.conf"),
            "CALLS": str(self.calls_file),
            "GITHUB_OUTPUT": str(self.folder / "output"),
            "GITHUB_STEP_SUMMARY": str(self.folder / "summary"),
            "GITHUB_ACTOR": "ann",
            "GITHUB_RUN_ID": "7",
        }

    def program(self, name, text):
        path = self.programs / name
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def run_script(self, name, *arguments, cwd=ROOT, fails=None, **env):
        """Gives back what it said; `fails`: what it has to say while it fails."""
        command = [SCRIPTS / name, *map(str, arguments)]
        ended = subprocess.run(command, cwd=cwd, env=self.env | env, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if fails is None:
            self.assertEqual(ended.returncode, 0, ended.stdout + ended.stderr)
        else:
            self.assertNotEqual(ended.returncode, 0)
            self.assertIn(fails, ended.stderr)
        return ended.stdout

    def calls(self):
        return self.calls_file.read_text().splitlines()

    def outputs(self):
        return dict(line.split("=", 1) for line in (self.folder / "output").read_text().splitlines())

    def git(self, *arguments, cwd):
        command = ["git", "-c", "init.defaultBranch=main", *map(str, arguments)]
        return subprocess.run(command, cwd=cwd, env=self.env, check=True, capture_output=True, text=True).stdout.strip()

    def repository(self, files):
        path = self.folder / "repository"
        for name, text in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text(text)
        self.git("init", "--quiet", cwd=path)
        self.commit(path)
        return path

    def commit(self, path):
        self.git("add", "--all", cwd=path)
        self.git("commit", "--quiet", "--allow-empty", "--message", "c", cwd=path)


class Model(Command):
    def setUp(self):
        super().setUp()
        self.assertTrue(PROCESSOR.exists(), f"{PROCESSOR} is not built")
        self.program("processor", PLAYED_PROCESSOR)
        self.program("aws", PLAYED_AWS)
        self.env |= {"PROCESSOR": str(self.programs / "processor"), "MILLWRIGHT_BUCKET": "bucket", "FIGURES": str(self.folder)}
        figures(self.folder, "v1", {"bearing": 3, "belt <slip>": 1})
        figures(self.folder, "v2", {"bearing": 4, "motor": 2})

    def test_training_measures_the_candidate_beside_the_champion(self):
        out = self.folder / "out"
        self.run_script("train", out)
        config = "--config k8s/overlays/dev/processor.toml --bucket bucket"
        self.assertEqual(
            self.calls(),
            [
                f"processor model retrain --hold --json --who ann --why workflow run 7 {config}",
                f"processor model show --json {config}",
                f"processor model evaluate --version v1 {config}",
                f"processor model evaluate --version v1 --json {config}",
                f"aws s3 cp --only-show-errors s3://bucket/models/plant/v1/report.json {out}/champion-report.json",
                f"processor model evaluate --version v2 {config}",
                f"processor model evaluate --version v2 --json {config}",
                f"aws s3 cp --only-show-errors s3://bucket/models/plant/v2/report.json {out}/candidate-report.json",
                f"aws s3 cp --only-show-errors --recursive s3://bucket/models/plant/v2/ {out}/model/",
            ],
        )
        self.assertEqual(self.outputs(), {"version": "v2", "champion": "v1", "verdict": "promote"})
        summary = (self.folder / "summary").read_text()
        self.assertLess(summary.index("table of v2"), summary.index("table of v1"))
        self.assertIn("## The gate: promote\n\n```text\ntable of both\n", summary)
        subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=out, check=True)
        hashed = {line.split("  ")[1] for line in (out / "SHA256SUMS").read_text().splitlines()}
        self.assertLessEqual({"./reliability.svg", "./quality.svg", "./candidate-report.json"}, hashed)

    def test_the_plots_hold_every_bin_and_every_figure(self):
        for name, version in (("candidate", "v2"), ("champion", "v1")):
            shutil.copy(self.folder / f"{version}.json", self.folder / f"{name}.json")
            shutil.copy(self.folder / f"{version}-report.json", self.folder / f"{name}-report.json")
        self.run_script("plots", self.folder)
        drawn = xml.parse(self.folder / "reliability.svg").getroot()
        points = drawn.findall(f".//{SVG}circle")
        self.assertEqual(len(points), 4 + 2 + 3 + 1)
        # What was seen as said lies on the diagonal, and above it where more was seen; the interval is the panel's height.
        first, last = points[0], points[3]
        self.assertEqual(float(first.get("cx")), 60)
        self.assertGreater(float(first.get("cy")), float(last.get("cy")))
        self.assertIn("belt <slip>", " ".join(part.text or "" for part in drawn.iter(f"{SVG}text")))
        bars = xml.parse(self.folder / "quality.svg").getroot().findall(f".//{SVG}rect")
        self.assertEqual(len(bars), 1 + 2 * (2 + 2), "the paper, and two figures of two modes of both")

    def test_the_plots_read_what_the_program_writes(self):
        for file, fields in FIELDS.items():
            for field in fields:
                self.assertIn(f"pub {field},", (ROOT / file).read_text())

    def test_the_gate_decides_whether_a_person_is_asked(self):
        for code, verdict in (("3", "refuse"), ("4", "wait")):
            (self.folder / "output").unlink(missing_ok=True)
            self.env["GATE"] = code
            self.run_script("train", self.folder / f"out{code}")
            self.assertEqual(self.outputs()["verdict"], verdict)
        (self.folder / "output").unlink()
        self.env["GATE"] = "1"
        self.run_script("train", self.folder / "out1", fails="")
        self.assertFalse((self.folder / "output").exists())

    def test_a_training_that_fails_says_nothing_of_versions(self):
        self.program("processor", "#!/bin/sh\necho 'no archive' >&2\nexit 1\n")
        self.run_script("train", self.folder / "out", fails="no archive")
        self.assertFalse((self.folder / "output").exists())

    def test_labels_that_are_refused_leave_nothing_to_measure(self):
        self.env |= {"GATE": "3", "CHALLENGER": "null"}
        self.run_script("train", self.folder / "out")
        self.assertEqual(self.outputs(), {"version": "", "champion": "v1", "verdict": "refuse"})
        self.assertIn("candidate `none`", (self.folder / "summary").read_text())

    def test_the_answer_has_the_fields_that_the_program_writes(self):
        """The played processor prints it; this keeps the play true."""
        program = (ROOT / "model/src/cli/challenge.rs").read_text()
        for field in ("name", "version", "verdict", "text", "table"):
            self.assertIn(f'"{field}": ', program)

    def test_promotion_names_the_version_and_the_run(self):
        self.run_script("promote", "v2", "approved in run 7", "v1")
        trial = "--canary 0.25 --probation 72 --who ann --why approved in run 7 --over v1"
        self.assertIn(f"processor model promote v2 {trial} --config", self.calls()[0])
        self.run_script("promote", "v2;id", "why", "v1", fails="usage")
        self.run_script("promote", "v2", "why", "v1;id", fails="usage")


class Images(Command):
    def binaries(self, name="edge-agent", size=1000):
        out = self.folder / "binaries" / name / "out"
        out.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(b"x" * size)
        (out / "ca-certificates.crt").write_text("certificates")
        return out.parent.parent

    def image(self, name="edge-agent", arch="amd64", suffix=""):
        archive = self.folder / f"{name}-{arch}{suffix}.tar"
        self.run_script("image", name, arch, self.binaries(name), archive)
        return archive

    @staticmethod
    def config(archive):
        with tarfile.open(archive) as tar:
            def blob(descriptor):
                return json.load(tar.extractfile("blobs/" + descriptor["digest"].replace(":", "/")))

            index = json.load(tar.extractfile("index.json"))
            manifest = blob(index["manifests"][0])
            return blob(manifest["config"]), manifest

    def test_binaries_are_built_by_the_commands_of_the_dockerfiles(self):
        self.program("cargo", RECORD + 'mkdir -p "$BUILT"/gateway "$BUILT"/release\ntouch "$BUILT"/gateway/edge-agent "$BUILT"/release/stream-processor\n')
        target = subprocess.run(["rustc", "--print", "host-tuple"], check=True, capture_output=True, text=True).stdout.strip()
        built = self.folder / "target"
        self.run_script("binaries", self.folder / "out", CARGO_TARGET_DIR=str(built), BUILT=str(built / target))
        for call, name in zip(self.calls(), ("edge-agent", "stream-processor"), strict=True):
            dockerfile = (ROOT / f"k8s/images/{name}.Dockerfile").read_text()
            self.assertIn(call.replace(target, '"$target"'), dockerfile)
            self.assertEqual(sorted(p.name for p in (self.folder / "out" / name / "out").iterdir()), ["ca-certificates.crt", name])

    def test_an_image_is_what_the_dockerfile_says_and_says_what_it_is(self):
        for name in ("edge-agent", "stream-processor"):
            config, _ = self.config(self.image(name, "arm64"))
            self.assertEqual((config["os"], config["architecture"]), ("linux", "arm64"))
            self.assertEqual(config["config"]["User"], "65532:65532")
            self.assertEqual(config["config"]["Entrypoint"], [f"/{name}"])
            labels = config["config"]["Labels"]
            self.assertEqual(labels["org.opencontainers.image.revision"], self.git("rev-parse", "HEAD", cwd=ROOT))
            self.assertRegex(labels["org.opencontainers.image.version"], r"^\d+\.\d+\.\d+$")

    def test_the_same_binaries_make_the_same_image(self):
        self.assertEqual(self.config(self.image())[1], self.config(self.image(suffix="-again"))[1])

    def test_an_image_that_is_too_large_is_refused(self):
        large = self.binaries(size=8_000_001)
        self.run_script("image", "edge-agent", "amd64", large, self.folder / "large.tar", fails="more than 8000000 bytes")

    def test_both_architectures_are_published_under_every_tag(self):
        for arch in ("amd64", "arm64"):
            self.image(arch=arch)
        registry = self.folder / "registry"
        registry.mkdir()
        said = self.run_script("publish", "edge-agent", self.folder, "latest v1.2.3", DESTINATION=f"oci:{registry}")
        index = json.loads((registry / "edge-agent" / "index.json").read_text())
        tags = {m["annotations"]["org.opencontainers.image.ref.name"]: m["digest"] for m in index["manifests"]}
        digest = self.outputs()["digest"]
        self.assertEqual(tags, {"latest": digest, "v1.2.3": digest})
        self.assertIn(f"edge-agent@{digest}", said)
        listed = json.loads((registry / "edge-agent/blobs" / digest.replace(":", "/")).read_text())
        self.assertEqual(sorted(m["platform"]["architecture"] for m in listed["manifests"]), ["amd64", "arm64"])

    def test_a_tag_that_is_none_of_ours_is_refused_before_anything_is_pushed(self):
        for tags in ("latest nightly", "v1.2", "latest --all"):
            self.run_script("publish", "edge-agent", self.folder, tags, DESTINATION="oci:/nowhere", fails="is no tag of ours")

    def test_login_asks_for_a_password_and_hands_it_on_unseen(self):
        self.program("aws", RECORD + "echo secret\n")
        self.program("buildah", RECORD + "cat >~/.docker/config.json\n")
        self.env["HOME"] = str(self.folder)
        self.run_script("registry-login", REGISTRY="host.example/millwright")
        file = self.folder / ".docker/config.json"
        self.assertIn(f"buildah login --authfile {file} --username AWS --password-stdin host.example", self.calls())
        self.assertEqual(file.read_text().strip(), "secret")

    def test_an_image_is_signed_by_digest(self):
        self.run_script("sign", "edge-agent", "sha256:1", REGISTRY="host.example/millwright")
        self.assertEqual(self.calls(), ["cosign sign --yes host.example/millwright/edge-agent@sha256:1"])


class Release(Command):
    WORKSPACE = {
        "Cargo.toml": '[workspace.package]\nversion = "1.2.3"\nrust-version = "1.95"\n[workspace.dependencies]\nversion = "9.9.9"\n',
        "CHANGELOG.md": "# Changelog\n\n## [Unreleased]\n\n## [1.2.3]\n\n- What is new.\n\n## [1.2.2]\n\n- What was new.\n",
    }

    def repository_with(self, name, files):
        path = self.repository(files)
        (path / ".github/scripts").mkdir(parents=True)
        shutil.copy(SCRIPTS / name, path / ".github/scripts")
        self.commit(path)
        return path

    def check(self, path, tag, fails=None):
        # It works in the repository that it lies in.
        command = [path / ".github/scripts/release-check", tag]
        ended = subprocess.run(command, env=self.env | {"MAIN": "main"}, capture_output=True, text=True)
        self.assertEqual(ended.returncode == 0, fails is None, ended.stderr)
        self.assertIn(fails or "", ended.stderr)

    def test_a_release_is_the_workspaces_version_in_the_changelog_and_on_main(self):
        path = self.repository_with("release-check", self.WORKSPACE)
        self.check(path, "v1.2.3")
        self.check(path, "v1.2.4", fails="the tag is v1.2.4, the workspace v1.2.3")
        self.check(path, "v1.2.3-rc1", fails="the tag is")
        self.git("switch", "--quiet", "--create", "other", cwd=path)
        self.commit(path)
        self.check(path, "v1.2.3", fails="is not on main")
        self.git("switch", "--quiet", "main", cwd=path)
        (path / "CHANGELOG.md").write_text("## [1.2.2]\n")
        self.check(path, "v1.2.3", fails="no section")

    def test_the_bill_of_materials_is_valid_and_names_what_is_compiled_in(self):
        for package, present, absent in (("edge-agent", "rumqttc", "polars"), ("stream-processor", "polars", "rmqtt")):
            text = self.run_script("../../.ci/sbom.py", package, "aarch64-unknown-linux-gnu")
            self.assertIsNone(JsonStrictValidator(SchemaVersion.V1_6).validate_str(text))
            bill = json.loads(text)
            self.assertEqual(bill["metadata"]["component"]["name"], package)
            names = {component["name"]: component for component in bill["components"]}
            self.assertIn(present, names)
            self.assertNotIn(absent, names)
            self.assertRegex(names[present]["hashes"][0]["content"], "^[0-9a-f]{64}$")
            self.assertNotIn(str(ROOT), text)

    def test_a_release_holds_the_agents_their_bills_and_hashes(self):
        for arch in ("amd64", "arm64"):
            folder = self.folder / f"in/binaries-{arch}/edge-agent"
            (folder / "out").mkdir(parents=True)
            (folder / "out/edge-agent").write_text(arch)
            (folder / "sbom.json").write_text("{}")
        out = self.folder / "files"
        self.run_script("release-files", self.folder / "in", out)
        self.assertEqual((out / "edge-agent-aarch64").read_text(), "arm64")
        self.assertEqual(len(list(out.iterdir())), 5)
        subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=out, check=True)

    def test_the_release_tells_the_changelogs_section_and_no_other(self):
        path = self.repository(self.WORKSPACE)
        (path / "files").mkdir()
        (path / "files/edge-agent-aarch64").touch()
        self.run_script("release-create", "v1.2.3", "files", cwd=path)
        self.assertIn("gh release create v1.2.3 --verify-tag", self.calls()[0])
        self.assertIn("files/edge-agent-aarch64", self.calls()[0])
        self.assertEqual((path / "notes.md").read_text().strip(), "- What is new.")

    def test_the_configuration_is_changed_on_a_branch_of_its_own(self):
        """Played through on local repositories: only the branch is pushed, main stays."""
        release = "k8s/components/release"
        path = self.repository({f"{release}/{name}": (ROOT / release / name).read_text() for name in ("set-version", "kustomization.yaml")})
        (path / release / "set-version").chmod(0o755)
        self.commit(path)
        origin = self.folder / "origin.git"
        self.git("clone", "--quiet", "--bare", path, origin, cwd=self.folder)
        self.git("remote", "add", "origin", origin, cwd=path)
        before = self.git("rev-parse", "main", cwd=origin)
        self.run_script("config-update", "v9.8.7", cwd=path)
        self.assertEqual(self.git("rev-parse", "main", cwd=origin), before)
        changed = self.git("diff", "--unified=0", "main", "release-v9.8.7", cwd=origin)
        self.assertEqual(set(re.findall(r"^\+ .*newTag: (.*)", changed, re.MULTILINE)), {"v9.8.7"})
        self.assertIn("gh pr create --head release-v9.8.7 --base main", self.calls()[0])
        self.git("switch", "--quiet", "main", cwd=path)
        self.run_script("config-update", "v9.8;id", cwd=path, fails="")


class Approval(Command):
    def results(self, tampered=False, **conclusions):
        """A `gh` that knows one run, with these jobs; it has the same jq built in."""
        jobs = {"train": "success", "images / archives": "success", "promote": ""} | conclusions
        (self.folder / "run.json").write_text(json.dumps({"jobs": [{"name": n, "conclusion": c} for n, c in jobs.items()]}))
        self.program("gh", RECORD + textwrap.dedent(f"""\
            case "$*" in
              *"run list"*) echo "$RUN" ;;
              *"run view"*) jq "$7" {self.folder}/run.json ;;
              *"run download"*)
                mkdir -p "$OUT"
                echo table >"$OUT/summary.md"
                echo "{hashlib.sha256(b'other' if tampered else b'table' + bytes([10])).hexdigest()}  summary.md" >"$OUT/SHA256SUMS" ;;
            esac
            """))

    def test_reviewers_see_the_results_of_exactly_this_commit(self):
        self.results()
        out = self.folder / "out"
        self.run_script("results", "abc", out, OUT=str(out), RUN="42")
        self.assertIn("--branch dev --event push --commit abc", self.calls()[0])
        self.assertEqual(self.outputs(), {"run": "42"})
        self.assertEqual((self.folder / "summary").read_text(), "table\n")

    def test_without_a_training_or_with_other_bytes_there_is_nothing_to_approve(self):
        out = self.folder / "out"
        self.results()
        self.run_script("results", "abc", out, OUT=str(out), RUN="", fails="no training of abc")
        for job in ("train", "images / archives"):
            self.results(**{job: "failure"})
            self.run_script("results", "abc", out, OUT=str(out), RUN="42", fails="no training of abc")
        self.results(tampered=True)
        self.run_script("results", "abc", out, OUT=str(out), RUN="42", fails="did NOT match")
        self.assertFalse((self.folder / "summary").exists())

    def test_images_come_from_the_commit_that_was_merged_unchanged(self):
        path = self.repository({"a": "1"})
        self.run_script("approved-commit", cwd=path, fails="is no merge")
        self.git("switch", "--quiet", "--create", "dev", cwd=path)
        (path / "a").write_text("2")
        self.commit(path)
        approved = self.git("rev-parse", "HEAD", cwd=path)
        self.git("switch", "--quiet", "main", cwd=path)
        self.git("merge", "--quiet", "--no-ff", "--message", "m", "dev", cwd=path)
        self.run_script("approved-commit", cwd=path)
        self.assertEqual(self.outputs(), {"commit": approved})
        (path / "b").write_text("slipped in")
        self.git("add", "--all", cwd=path)
        self.git("commit", "--quiet", "--amend", "--no-edit", cwd=path)
        self.run_script("approved-commit", cwd=path, fails="more than what was approved")


class Terraform(Command):
    def test_both_environments_are_initialised_without_their_state(self):
        for environment in ("dev", "prod"):
            self.run_script("terraform-validate", environment)
        self.assertEqual(self.calls(), ["terraform init -backend=false -input=false -no-color", "terraform validate -no-color"] * 2)
        self.run_script("terraform-validate", "staging", fails="No such file")


class Complete(unittest.TestCase):
    def test_no_command_is_left_out(self):
        tried = set(re.findall(r'run_script\(\s*"([\w-]+)"|scripts/([\w-]+)"', Path(__file__).read_text()))
        self.assertEqual({name for pair in tried for name in pair if name}, {path.name for path in SCRIPTS.iterdir()})


if __name__ == "__main__":
    unittest.main()
