"""deploy/: each file is what its program reads, and what it says of the others and of serve.py is true."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import promql_parser
import pytest
import yaml
from conftest import ROOT, assert_worked

import serve
from utils.serving.workers import GRACE_SECONDS, KEEP_ALIVE_SECONDS

DEPLOY = ROOT / "deploy"
METRIC = re.compile(r"gru4rec_\w+")
SUFFIXES = "", "_total", "_bucket", "_sum", "_count"


def read(name):
    return (DEPLOY / name).read_text(encoding="utf-8")


def objects(kind, name="gru4rec"):
    """The one Kubernetes object of this kind and name."""
    found, = (item for item in yaml.safe_load_all(read("kubernetes.yaml"))
              if item["kind"] == kind and item["metadata"]["name"] == name)
    return found


def flags_of(command):
    """What serve.py makes of a command's flags, with the defaults of environment variables in them."""
    flags = command[command.index("serve.py") + 1:] if "serve.py" in command else command
    return serve.parse_arguments([re.sub(r"\$\{\w+:-(.*)\}", r"\1", word) for word in flags])


# Kubernetes

@pytest.mark.parametrize("version", ["1.31", "1.34", "1.37"])
def test_kubernetes_knows_every_field(version):
    for item in yaml.safe_load_all(read("kubernetes.yaml")):
        kubernetes_validate.validate(item, version, strict=True)
    item["spec"]["unknown"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(item, version, strict=True)


def test_kubernetes_objects_fit_each_other_and_the_server():
    deployment = objects("Deployment")
    pod = deployment["spec"]["template"]
    container, = pod["spec"]["containers"]
    options = flags_of(container["args"])
    assert int(container["resources"]["requests"]["cpu"]) == options.workers
    assert container["ports"][0]["containerPort"] == options.port and options.host == "0.0.0.0"
    stopping = container["lifecycle"]["preStop"]["sleep"]["seconds"] + options.drain_seconds + GRACE_SECONDS
    assert pod["spec"]["terminationGracePeriodSeconds"] > stopping
    probe = container["readinessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] < options.drain_seconds, "it is seen while it drains"
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in pod["spec"]["volumes"]}
    assert options.model_dir == mounts["model"] and {"/tmp", "/dev/shm"} <= set(mounts.values())
    labels = pod["metadata"]["labels"]
    for selector in (deployment["spec"]["selector"]["matchLabels"], objects("Service")["spec"]["selector"],
                     objects("PodDisruptionBudget")["spec"]["selector"]["matchLabels"]):
        assert selector == labels
    scaler = objects("HorizontalPodAutoscaler")["spec"]
    assert scaler["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert scaler["minReplicas"] == deployment["spec"]["replicas"]
    redis = objects("Service", "gru4rec-redis")
    assert options.session_store == f"redis://gru4rec-redis:{redis['spec']['ports'][0]['port']}/0"
    claim = pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"]
    assert objects("PersistentVolumeClaim", claim)


@pytest.mark.parametrize("name", ["gru4rec", "gru4rec-redis"])
def test_no_pod_may_more_than_it_needs(name):
    pod = objects("Deployment", name)["spec"]["template"]["spec"]
    container, = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                            "capabilities": {"drop": ["ALL"]}}
    assert "memory" in container["resources"]["limits"]


# compose

def test_compose_knows_every_field():
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec",
               DEPLOY / "compose.yaml"]
    assert_worked(subprocess.run(command, capture_output=True, text=True))


def test_compose_fits_the_other_files():
    compose = yaml.safe_load(read("compose.yaml"))
    services = compose["services"]
    assert services.keys() == {"serve", "nginx", "redis", "prometheus"}
    options = flags_of(services["serve"]["command"])
    seconds = int(services["serve"]["stop_grace_period"].removesuffix("s"))
    assert seconds > options.drain_seconds + GRACE_SECONDS and options.host == "0.0.0.0"
    targets = {name: [re.sub(r"\$\{.*?\}", "", mount).split(":")[1] for mount in service.get("volumes", [])]
               + [config["target"] for config in service.get("configs", [])] for name, service in services.items()}
    for service in services.values():
        for mount in service.get("volumes", []):
            assert not mount.startswith("./") or (DEPLOY / mount.split(":")[0]).is_file()
        assert service["read_only"] and service["mem_limit"] and service["cap_drop"] == ["ALL"]
    assert options.model_dir in targets["serve"]
    for name in "nginx", "prometheus":  # beside the file that includes them
        first, *others = [Path(target) for target in targets[name] if not target.endswith("prometheus")]
        assert first.parent.as_posix() in " ".join(services[name]["command"])
        assert all(other.parent == first.parent for other in others)
    assert f"serve:{options.port}" in compose["configs"]["upstream"]["content"]
    assert yaml.safe_load(compose["configs"]["targets"]["content"])[0]["targets"] == [f"serve:{options.port}"]


# systemd

def unit_settings():
    lines = read("gru4rec.service").replace("\\\n", " ").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def test_the_unit_stops_after_the_server_and_does_not_repeat_a_mistake():
    settings = unit_settings()
    options = flags_of(shlex.split(settings["ExecStart"]))
    assert int(settings["TimeoutStopSec"]) > options.drain_seconds + GRACE_SECONDS
    assert settings["RestartPreventExitStatus"] == "2" and settings["KillMode"] == "mixed"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze on this machine")
def test_systemd_reads_the_unit(tmp_path):
    unit = tmp_path / "gru4rec.service"
    unit.write_text(read("gru4rec.service").replace("/opt/gru4rec/.venv/bin/python", sys.executable))
    assert_worked(subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True))


# nginx

def test_nginx_gives_up_idle_connections_before_the_server_does():
    upstream = re.search(r"upstream gru4rec \{.*?\n    \}", read("nginx.conf"), re.DOTALL)[0]
    assert int(re.search(r"keepalive_timeout (\d+)s", upstream)[1]) < KEEP_ALIVE_SECONDS


# Prometheus and Grafana

def metrics_of_the_server():
    """The names of all metrics, as they stand in the exposition."""
    source = (ROOT / "utils" / "serving" / "monitoring.py").read_text(encoding="utf-8")
    return {name + suffix for name in METRIC.findall(source) for suffix in SUFFIXES}


def alert_expressions():
    return {rule["alert"]: rule["expr"] for group in yaml.safe_load(read("alerts.yml"))["groups"]
            for rule in group["rules"]}


def dashboard_expressions():
    return {f"{panel['title']} {target['refId']}": target["expr"].replace("$__rate_interval", "1m")
            for panel in json.loads(read("grafana.json"))["panels"] for target in panel["targets"]}


@pytest.mark.parametrize("expressions", [alert_expressions, dashboard_expressions])
def test_expressions_can_be_read_and_ask_for_metrics_that_there_are(expressions):
    for name, expression in expressions().items():
        promql_parser.parse(expression)
        assert set(METRIC.findall(expression)) <= metrics_of_the_server(), name


def test_every_alert_is_tried():
    tried = yaml.safe_load((ROOT / "tests/deploy/alerts_test.yml").read_text(encoding="utf-8"))["tests"]
    firing = {test["alertname"] for case in tried for test in case["alert_rule_test"] if "exp_alerts" in test}
    silent = {test["alertname"] for case in tried for test in case["alert_rule_test"] if "exp_alerts" not in test}
    assert firing == silent == set(alert_expressions())


@pytest.mark.skipif(not shutil.which("promtool"), reason="no promtool on this machine (Debian's package prometheus)")
def test_alerts_fire_where_they_should():
    tests = ROOT / "tests" / "deploy" / "alerts_test.yml"
    assert_worked(subprocess.run(["promtool", "test", "rules", tests], capture_output=True, text=True))


def test_panels_have_their_own_places():
    panels = json.loads(read("grafana.json"))["panels"]
    cells = [(x, y) for place in (panel["gridPos"] for panel in panels)
             for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in panels}) == len(panels)
