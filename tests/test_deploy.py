"""What lies in deploy/: rules, their tests, the dashboard and the unit are read by the programs they are for, and name what is there."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from lienzo.server import metrics

DEPLOY = Path(__file__).parent.parent / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"
DASHBOARD = json.loads((DEPLOY / "grafana" / "lienzo.json").read_text())
OPERATE = (DEPLOY.parent / "docs" / "howto" / "operate.md").read_text()


def run(program: str, package: str, *args: str, cwd: Path | None = None) -> str:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed (Debian: apt-get install {package})")
    done = subprocess.run([program, *args], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def exported() -> set[str]:
    """Names of all samples, those that go with histograms' counts included."""
    names = metrics.names()
    counts = {name.removesuffix("_count") for name in names if name.endswith("_count")}
    return names | {name + ending for name in counts for ending in ("_bucket", "_sum")}


def named(expression: str) -> set[str]:
    return set(re.findall(r"\blienzo[_:][a-z0-9_:]+", re.sub(r'"[^"]*"', "", expression)))


def test_promtool_reads_the_rules() -> None:
    assert f"{len(rules())} rules found" in run("promtool", "prometheus", "check", "rules", str(RULES))


def test_alerts_come_when_they_should() -> None:
    run("promtool", "prometheus", "test", "rules", "rules_test.yml", cwd=RULES.parent)


def test_every_alert_is_tested_and_explained() -> None:
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    tested = (RULES.parent / "rules_test.yml").read_text()
    assert {alert for alert in alerts if alert not in tested} == set()
    assert {alert for alert in alerts if f"`{alert}`" not in OPERATE} == set()
    assert set(re.findall(r"`(Lienzo\w+)`", OPERATE)) - {"LienzoError"} == alerts


def test_promtool_reads_the_example(tmp_path: Path) -> None:
    text = (RULES.parent / "prometheus.yml").read_text()
    (tmp_path / "key").write_text("lk_x")
    (tmp_path / "prometheus.yml").write_text(text.replace("/etc/prometheus/lienzo.key", str(tmp_path / "key")))
    shutil.copy(RULES, tmp_path)
    run("promtool", "prometheus", "check", "config", str(tmp_path / "prometheus.yml"))


def test_rules_name_what_is_measured() -> None:
    records = {rule["record"] for rule in rules() if "record" in rule}
    for rule in rules():
        assert named(rule["expr"]) <= exported() | records, rule


def test_the_dashboard_names_what_is_measured_and_leaves_nothing_out() -> None:
    expressions = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    shown = set().union(*map(named, expressions))
    records = {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}
    assert shown <= exported() | records.keys()
    behind = shown | set().union(*(named(records[name]) for name in shown & records.keys()))
    bases = {re.sub("_(count|sum|bucket)$", "", name) for name in behind}
    assert {name for name in metrics.names() if name.removesuffix("_count") not in bases} == set()


def test_promtool_reads_the_dashboards_expressions(tmp_path: Path) -> None:
    expressions = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    listed = [
        {"record": f"panel:{n}", "expr": one.replace("$__rate_interval", "5m")} for n, one in enumerate(expressions)
    ]
    file = tmp_path / "panels.yml"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": listed}]}))
    assert f"{len(listed)} rules found" in run("promtool", "prometheus", "check", "rules", str(file))


def test_the_dashboards_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        x, y, w, h = (panel["gridPos"][side] for side in "xywh")
        cells = {(column, row) for column in range(x, x + w) for row in range(y, y + h)}
        assert x + w <= 24 and not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_systemd_reads_the_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "systemd" / "lienzo.service").read_text()
    assert "ExecStart=/opt/lienzo/.venv/bin/lienzo serve\n" in text
    unit = tmp_path / "lienzo.service"
    unit.write_text(text.replace("/opt/lienzo/.venv/bin/lienzo", str(shutil.which("true"))))
    run("systemd-analyze", "systemd", "verify", "--man=no", str(unit))
