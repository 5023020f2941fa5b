"""Checks what watches the programs against the programs, without running them.

Every metric that a rule or a dashboard asks for is one that the code counts (or a recording rule makes, or kube-state-metrics
tells), and so is every one that a page names. Every alert has a severity, a team, a runbook section of its own, and a test in
which it does not fire yet, fires, and is resolved.
"""

import json
import re
import sys
from pathlib import Path

import yaml

MONITORING = Path("k8s/monitoring")
SOURCES = ["stream-processor/src/telemetry.rs", "stream-processor/src/telemetry/model.rs", "edge-agent/src/telemetry.rs", "model/src/store/error.rs"]
# Of Prometheus itself.
OWN = {"up", "ALERTS"}
# Of kube-state-metrics, which is no code of ours: only Kubernetes knows what became of a Job. Names are those of its own pages
# (docs/metrics/workload), where all of them are stable.
KUBERNETES = {
    "kube_job_failed",
    "kube_job_owner",
    "kube_job_status_start_time",
    "kube_cronjob_created",
    "kube_cronjob_status_last_successful_time",
}
SEVERITIES, TEAMS = {"critical", "warning"}, {"crew", "ml", "platform"}
UNITS = {"s": "seconds", "By": "bytes"}
UNIT = r'\)\s*(?:\.with_unit\("(\w+)"\))?'
KEYWORDS = {"and", "or", "unless", "by", "without", "on", "ignoring", "group_left", "group_right", "offset", "bool"}


def counted(text):
    """The names under which Prometheus sees the instruments that a Rust source makes."""
    text = text.split("#[cfg(test)]")[0]
    # Its own short forms: closures that take the name.
    short = {
        closure: (kind, unit)
        for closure, kind, unit in re.findall(r"let (\w+) = \|name[^|]*\|[^;]*?meter\.\w+?_(?:observable_)?(\w+)\(name" + UNIT, text)
    }
    for made in re.finditer(r'(\w+)\(\s*"(millwright_\w+)"', text):
        maker, name = made.groups()
        kind, unit = short.get(maker) or (maker.split("_", 1)[1], re.compile(UNIT).match(text, made.end())[1])
        name = f"{name}_{UNITS[unit]}" if unit else name
        yield from {
            "counter": [f"{name}_total"],
            "gauge": [name],
            "histogram": [f"{name}_bucket", f"{name}_sum", f"{name}_count"],
        }[kind]


def asked(expression):
    """The metrics in a PromQL expression: what is no function, no label, no keyword and no number."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]', " ", expression)
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", bare)
    bare = re.sub(r"\boffset\s+\w+", " ", bare)
    for name, called in re.findall(r"(?<![\w:.])([a-zA-Z_:][\w:]*)\s*(\(?)", bare):
        if not called and name not in KEYWORDS:
            yield name


def rules():
    for file in sorted((MONITORING / "rules").glob("*.yml")):
        for group in yaml.safe_load(file.read_text())["groups"]:
            yield from ((file, rule) for rule in group["rules"])


def dashboard_expressions():
    for file in sorted((MONITORING / "dashboards").glob("*.json")):
        dashboard = json.loads(file.read_text())
        for part in [*dashboard["panels"], *dashboard["annotations"]["list"]]:
            for target in part.get("targets", [part]):
                yield f"{file}, {part.get('title') or part['name']}", target["expr"]


def told_metrics():
    """(page, name) of every metric in the prose; a beginning before a bracket is part of a pattern."""
    for page in [*sorted(Path().glob("*.md")), *sorted(MONITORING.parent.rglob("*.md")), *sorted(Path("edge-agent").glob("*.md"))]:
        yield from ((page, name) for name in re.findall(r"\bmillwright_\w+\b(?!\()", page.read_text()))


def alert_problems(alert, sections, tests):
    name, labels, notes = alert["alert"], alert.get("labels", {}), alert.get("annotations", {})
    if labels.get("severity") not in SEVERITIES or labels.get("team") not in TEAMS:
        yield f"{name}: severity or team is missing or unknown"
    page, _, section = notes.get("runbook_url", "").partition("#")
    if not page.endswith("/k8s/monitoring/runbook.md") or section != name.lower() or section not in sections:
        yield f"{name}: no section of its own in the runbook"
    if not notes.get("summary"):
        yield f"{name}: no summary"
    states = [bool(case.get("exp_alerts")) for case in tests.get(name, [])]
    if states != [False, True, False]:
        yield f"{name}: no test of before, firing, resolved"


def problems():
    names = {name for source in SOURCES for name in counted(Path(source).read_text())}
    asked_for = {name for _, rule in rules() for name in asked(rule["expr"])}
    for name in sorted(KUBERNETES - asked_for):
        yield f"no rule asks for {name} of kube-state-metrics"
    known = names | OWN | KUBERNETES | {rule["record"] for _, rule in rules() if "record" in rule}
    expressions = [(f"{file}, {rule.get('record') or rule['alert']}", rule["expr"]) for file, rule in rules()]
    for place, expression in [*expressions, *dashboard_expressions()]:
        for name in sorted(set(asked(expression)) - known):
            yield f"{place}: the code has no metric {name}"

    yield from (f"{page}: the code has no metric {name}" for page, name in told_metrics() if name not in names)

    sections = {title.lower() for title in re.findall(r"^## (\w+)$", (MONITORING / "runbook.md").read_text(), re.MULTILINE)}
    tests = {}
    for file in sorted((MONITORING / "tests").glob("*.yml")):
        for test in yaml.safe_load(file.read_text())["tests"]:
            for case in test["alert_rule_test"]:
                tests.setdefault(case["alertname"], []).append(case)
    alerts = [rule for _, rule in rules() if "alert" in rule]
    for alert in alerts:
        yield from alert_problems(alert, sections, tests)
    for section in sorted(sections - {alert["alert"].lower() for alert in alerts}):
        yield f"the runbook has a section {section} for no alert"
    print(f"{len(names)} metrics in the code, {len(alerts)} alerts, {len(list(dashboard_expressions()))} dashboard queries")


def main():
    found = list(problems())
    for problem in found:
        print(f"error: {problem}")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
