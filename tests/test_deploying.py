"""The image and the manifests: they say what the program takes, and its steps make something that runs as nobody on a
file system that nobody writes to."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import stat
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.main import get_command

from policyengine import __version__
from policyengine.cli.app import COMMANDS, build_application
from policyengine.cli.settings.registry import BY_OPTION
from tests import forking
from tests.pages import ran
from tests.ports import free_port
from tests.processes import stop
from tests.stores import servers

yaml = pytest.importorskip("yaml")

CHECKOUT = Path(__file__).parent.parent
KUBERNETES = CHECKOUT / "deploy" / "kubernetes"
DOCKERFILE = (CHECKOUT / "Dockerfile").read_text()
TOKEN = "a-token-of-the-gateway"
NOBODY = 10_001
AS_NOBODY = (
    "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs", "--bounding-set=-all"
)  # fmt: skip
ASK = {"request": {"method": "GET", "path": "/health"}}


def tool(name: str) -> str:
    """Out of `.venv-tools`, where it stays apart from what we are made of; or from anywhere else."""
    path = os.pathsep.join([str(CHECKOUT / ".venv-tools" / "bin"), os.environ["PATH"]])
    found = shutil.which(name, path=path)
    if found is None:
        pytest.skip(f"{name} is missing: make tools")
    return found


# ── Dockerfile ────────────────────────────────────────────────────────────────────────────────


def instructions() -> list[tuple[str, str]]:
    """Each with its arguments, on one line."""
    lines = re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", DOCKERFILE)).splitlines()
    return [(word, " ".join(rest.split())) for word, _, rest in (line.partition(" ") for line in lines) if word]


def of(word: str) -> list[str]:
    return [rest for one, rest in instructions() if one == word]


def command(word: str) -> list[str]:
    """What the last such instruction runs: `["policyengine"]`."""
    found: list[str] = json.loads(of(word)[-1].partition("CMD ")[2] or of(word)[-1])
    return found


def options_of(program: str) -> set[str]:
    command: Any = get_command(build_application([program], alone=True))
    return {option for one in command.params for option in one.opts}


def option(arguments: list[str], name: str) -> str:
    joined = " ".join(arguments).replace("=", " ").split()
    return joined[joined.index(name) + 1]


def test_the_image_runs_a_known_command_with_known_options() -> None:
    assert command("ENTRYPOINT") == ["policyengine"]
    program, *arguments = command("CMD")
    assert program in COMMANDS
    assert {one for one in arguments if one.startswith("--")} <= options_of(program)


def test_the_image_exposes_its_ports_and_checks_its_metrics_port() -> None:
    arguments = command("CMD")
    ports = {option(arguments, "--port"), option(arguments, "--metrics-port")}
    assert ports == set(of("EXPOSE")[0].split())
    [asked] = re.findall(r"C\('127\.0\.0\.1', (\d+), .*'(/\w+)'", command("HEALTHCHECK")[-1])
    assert asked == (option(arguments, "--metrics-port"), "/readyz")


def test_the_image_runs_as_an_unprivileged_user_and_stops_by_sigterm() -> None:
    last = DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :]
    assert re.search(rf"^USER {NOBODY}:{NOBODY}$", last, re.MULTILINE)
    assert of("STOPSIGNAL") == ["SIGTERM"]
    assert "USER root" not in last
    assert len(of("FROM")) == 2


def test_the_image_installs_known_extras_and_copies_existing_files() -> None:
    known = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    [extras] = [one.partition("=")[2].split(",") for one in of("ARG") if one.startswith("EXTRAS")]
    assert set(extras) <= set(known)
    ignored = (CHECKOUT / ".dockerignore").read_text().splitlines()
    for copied in of("COPY"):
        if not copied.startswith("--from"):
            for one in copied.split()[:-1]:
                assert (CHECKOUT / one).exists()
                assert f"!{one}" in ignored


def test_hadolint_accepts_the_dockerfile() -> None:
    said = subprocess.run([tool("hadolint"), CHECKOUT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout) == (0, "")


# ── Kubernetes ────────────────────────────────────────────────────────────────────────────────


def manifest(name: str) -> Any:
    return yaml.safe_load((KUBERNETES / f"{name}.yaml").read_text())


def pod() -> Any:
    return manifest("deployment")["spec"]["template"]["spec"]


def container() -> Any:
    [found] = pod()["containers"]
    return found


def probes() -> list[Any]:
    return [container()[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")]


def test_the_container_runs_a_known_command_with_known_options() -> None:
    program, *arguments = container()["args"]
    assert program in COMMANDS
    written = (KUBERNETES / "deployment.yaml").read_text()
    commented = re.findall(r"# - (--[a-z-]+)", written)
    assert {one.partition("=")[0] for one in [*arguments, *commented] if one.startswith("--")} <= options_of(program)


def test_the_manifests_agree_on_the_ports() -> None:
    ports = {one["name"]: one["containerPort"] for one in container()["ports"]}
    arguments = container()["args"]
    assert ports == {"http": int(option(arguments, "--port")), "metrics": int(option(arguments, "--metrics-port"))}
    [served] = manifest("service")["spec"]["ports"]
    assert served["targetPort"] in ports
    allowed = [port["port"] for one in manifest("networkpolicy")["spec"]["ingress"] for port in one["ports"]]
    assert set(allowed) == set(ports)
    assert {one["port"] for one in probes()} <= set(ports)


def test_the_container_is_unprivileged_and_read_only() -> None:
    assert pod()["securityContext"]["runAsNonRoot"] is True
    assert pod()["securityContext"]["runAsUser"] == NOBODY
    assert container()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert all(one["readOnly"] for one in container()["volumeMounts"])
    assert pod()["automountServiceAccountToken"] is False


def test_the_mounted_volumes_match_the_container_arguments() -> None:
    volumes = {one["name"]: one for one in pod()["volumes"]}
    mounts = {one["name"]: one["mountPath"] for one in container()["volumeMounts"]}
    assert mounts.keys() == volumes.keys()
    assert mounts["policies"] == container()["args"][1]
    assert Path(option(container()["args"], "--token-file")).parent == Path(mounts["tokens"])
    assert volumes["tokens"]["secret"]["defaultMode"] & stat.S_IROTH == 0
    [generated] = manifest("kustomization")["configMapGenerator"]
    assert volumes["policies"]["configMap"]["name"] == generated["name"]
    assert sorted(generated["files"]) == sorted(f"policies/{one.name}" for one in KUBERNETES.glob("policies/*.policy"))


def with_comments(name: str) -> Any:
    """The manifest with what stands there in comments."""
    text = (KUBERNETES / f"{name}.yaml").read_text()
    written = re.sub(
        r"^( *)# (- [-a-z]|  (?:mountPath|readOnly|secret|  secretName|  defaultMode)\b)", r"\1\2", text, flags=re.M
    )
    return yaml.safe_load(written)


def test_the_commented_identity_settings_are_consistent() -> None:
    spec = with_comments("deployment")["spec"]["template"]["spec"]
    [told] = spec["containers"]
    mounts = {one["name"]: one for one in told["volumeMounts"]}
    volumes = {one["name"]: one for one in spec["volumes"]}
    assert mounts.keys() == volumes.keys() == {"policies", "tokens", "identity"}
    assert all(one["readOnly"] for one in mounts.values())
    assert volumes["identity"]["secret"]["defaultMode"] & stat.S_IRWXO == 0
    named = Path(option(told["args"], "--identity"))
    assert named.parent == Path(mounts["policies"]["mountPath"])
    [generated] = with_comments("kustomization")["configMapGenerator"]
    assert f"policies/{named.name}" in generated["files"]
    assert f'"file:{mounts["identity"]["mountPath"]}/' in (KUBERNETES / "deployment.yaml").read_text()
    assert any({"port": 443} in one["ports"] for one in egress())


def egress() -> list[Any]:
    text = (KUBERNETES / "networkpolicy.yaml").read_text()
    found: list[Any] = yaml.safe_load("\n".join(re.findall(r"^ +# (- .*)$", text, re.M)))
    return found


def test_the_grace_period_covers_the_pause_and_the_drain() -> None:
    pause = int(re.findall(r"sleep\((\d+)\)", container()["lifecycle"]["preStop"]["exec"]["command"][2])[0])
    assert pause + float(option(container()["args"], "--drain-seconds")) < pod()["terminationGracePeriodSeconds"]


def store() -> tuple[Any, Any, Any]:
    """The server, its service, and who may reach it."""
    found = list(yaml.safe_load_all((KUBERNETES / "store.yaml").read_text()))
    assert [one["kind"] for one in found] == ["StatefulSet", "Service", "NetworkPolicy"]
    return found[0], found[1], found[2]


def test_all_pods_share_a_store_that_only_they_reach() -> None:
    server, service, reached = store()
    [inside] = server["spec"]["template"]["spec"]["containers"]
    assert manifest("deployment")["spec"]["replicas"] > 1
    environment = {one["name"]: one.get("value") for one in container()["env"]}
    named = environment[BY_OPTION["serve", "store"].variable]
    assert named == f"redis://:$(STORE_PASSWORD)@{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    assert container()["env"][:1] == inside["env"]
    assert {"--requirepass=$(STORE_PASSWORD)", "--appendonly=yes", "--maxmemory-policy=noeviction"} <= {*inside["args"]}
    labels = server["spec"]["template"]["metadata"]["labels"]
    selectors = (
        server["spec"]["selector"]["matchLabels"],
        service["spec"]["selector"],
        reached["spec"]["podSelector"]["matchLabels"],
    )
    assert all(one == labels for one in selectors)
    [(asks,)] = [one["from"] for one in reached["spec"]["ingress"]]
    ours = manifest("deployment")["spec"]["template"]["metadata"]["labels"]
    assert asks == {"podSelector": {"matchLabels": ours}}
    out = manifest("networkpolicy")["spec"]["egress"]
    assert {"podSelector": {"matchLabels": labels}} in out[0]["to"]
    assert {"port": 53, "protocol": "UDP"} in out[1]["ports"]


def test_all_manifests_select_the_same_pods() -> None:
    labels = manifest("deployment")["spec"]["template"]["metadata"]["labels"]
    for selector in (
        manifest("deployment")["spec"]["selector"]["matchLabels"],
        manifest("service")["spec"]["selector"],
        manifest("poddisruptionbudget")["spec"]["selector"]["matchLabels"],
        manifest("networkpolicy")["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector == labels
    assert manifest("horizontalpodautoscaler")["spec"]["scaleTargetRef"]["name"] == "policyengine"


def test_the_kustomization_lists_every_manifest_and_the_current_version() -> None:
    text = (KUBERNETES / "kustomization.yaml").read_text()
    files = {one.name for one in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(re.findall(r"- (\w+\.yaml)", text)) == files
    assert manifest("kustomization")["images"] == [{"name": container()["image"], "newTag": __version__}]


def test_the_kubernetes_policies_pass_their_tests() -> None:
    said = ran("policyengine check --strict policies && policyengine test policies", KUBERNETES)
    assert "3 passed" in said, said


def test_the_manifests_match_the_kubernetes_schemas() -> None:
    validate = tool("kubernetes-validate")
    files = [one for one in sorted(KUBERNETES.glob("*.yaml")) if one.name != "kustomization.yaml"]
    said = subprocess.run([validate, "--strict", *files], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout + said.stderr


# ── systemd ───────────────────────────────────────────────────────────────────────────────────


def test_the_systemd_unit_uses_known_options_and_allows_time_to_drain() -> None:
    unit = (CHECKOUT / "deploy" / "systemd" / "policyengine.service").read_text()
    [start] = re.findall(r"^ExecStart=(.*)$", unit.replace("\\\n", " "), re.M)
    _, program, _, *arguments = start.split()
    assert program in COMMANDS
    assert {one for one in arguments if one.startswith("--")} <= options_of(program)
    assert re.search(r"^ExecReload=/bin/kill -HUP \$MAINPID$", unit, re.M)
    [patience] = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.M)
    assert int(option(arguments, "--drain-seconds")) < int(patience)


# ── For real ──────────────────────────────────────────────────────────────────────────────────


def mounted(folder: Path) -> tuple[Path, Path]:
    """Policies and tokens as Kubernetes mounts them: links to a hidden folder, which a change replaces."""
    for name, file in (("policies", KUBERNETES / "policies" / "shop.policy"), ("tokens", None)):
        data = folder / name / "..2027_01_01"
        data.mkdir(parents=True)
        (folder / name / "..data").symlink_to(data.name)
        inside = data / (file.name if file else "tokens")
        inside.write_text(file.read_text() if file else f"edge: {TOKEN}\n")
        (folder / name / inside.name).symlink_to(f"..data/{inside.name}")
        if file is None and os.geteuid() == 0:
            os.chown(inside, 0, NOBODY)
            inside.chmod(0o440)
    return folder / "policies", folder / "tokens" / "tokens"


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[str]:
    """The URL of a server with what store.yaml says of its memory, and a password."""
    [inside] = store()[0]["spec"]["template"]["spec"]["containers"]
    said = dict(one.removeprefix("--").split("=", 1) for one in inside["args"][1:])
    options = [f"--{name} {said[name]}".split() for name in ("maxmemory", "maxmemory-policy")]
    with servers.running(
        "valkey-server", tmp_path, *(word for pair in options for word in pair), "--requirepass", "secret"
    ) as server:
        yield server.url.replace("://", "://:secret@") + "?timeout=20s"


@contextmanager
def running(
    program: Sequence[str], folder: Path, shared: str, before: tuple[str, ...] = ()
) -> Iterator[tuple[int, int, Any]]:
    """What the container is told, with other ports and folders; who runs it has no home and writes nowhere."""
    policies, tokens = mounted(folder)
    port, metrics = free_port(), free_port()
    instead = {"/policies": str(policies), "--host=0.0.0.0": "--host=127.0.0.1", "--port=8080": f"--port={port}",
               "--metrics-port=9090": f"--metrics-port={metrics}",
               "--token-file=/run/secrets/policyengine/tokens": f"--token-file={tokens}",
               }  # fmt: skip
    arguments = [instead.get(one, one) for one in container()["args"]]
    assert instead.keys() <= set(container()["args"])
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1",
                   "POLICYENGINE_STORE_URL": shared}  # fmt: skip
    everything = [*before, *program, *arguments, "--format", "json"]
    with subprocess.Popen(everything, env=environment, cwd=policies, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["packages"] == ["shop"]
            yield port, metrics, process
        finally:
            process.kill()


def answers_as_the_manifests_say(port: int, metrics: int, process: Any) -> None:
    bases = {"http": f"http://127.0.0.1:{port}", "metrics": f"http://127.0.0.1:{metrics}"}
    for probe in probes():
        assert httpx.get(bases[probe["port"]] + probe["path"]).status_code == 200
    assert "policyengine_policy_info" in httpx.get(f"{bases['metrics']}/metrics").text
    assert httpx.post(f"{bases['http']}/decide", json=ASK).status_code == 401
    answer = httpx.post(f"{bases['http']}/decide", json=ASK, headers={"authorization": f"Bearer {TOKEN}"})
    assert answer.json()["outcome"] == "allow"
    process.terminate()
    assert process.wait(20) == 0


def test_the_container_command_answers_its_probes(tmp_path: Path, shared: str) -> None:
    with running(forking.command(), tmp_path, shared) as served:
        answers_as_the_manifests_say(*served)


def steps(folder: Path) -> str:
    """What the first stage runs, in another place."""
    [run] = [one for one in of("RUN") if "pip --python" in one]
    [extras] = [one.partition("=")[2] for one in of("ARG") if one.startswith("EXTRAS")]
    return run.replace("/opt/policyengine", shlex.quote(str(folder))).replace("${EXTRAS}", extras)


@pytest.mark.deep
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root can become nobody")
def test_the_built_image_runs_unprivileged_and_read_only(shared: str) -> None:
    """pytest's own folders are shut to others, so this has one beside them."""
    folder = Path("/var/tmp") / f"policyengine-image-{os.getpid()}"
    source, installed = folder / "src", folder / "installed"
    folder.mkdir(mode=0o755)
    try:
        source.mkdir()
        for copied in [one for one in of("COPY") if not one.startswith("--from")]:
            *names, target = copied.split()
            for name in names:
                into = source / (name if target == "./" else target)
                copy = shutil.copytree if (CHECKOUT / name).is_dir() else shutil.copy
                copy(CHECKOUT / name, into)
        built = subprocess.run(
            ["bash", "-ec", steps(installed)], cwd=source, capture_output=True, text=True, check=False
        )
        assert built.returncode == 0, built.stdout + built.stderr
        assert not list(installed.glob("bin/pip*"))
        assert not list(installed.glob("lib/*/site-packages/hatchling"))
        subprocess.run(["chmod", "-R", "a-w,a+rX", installed], check=True)
        quiet = 'mount --make-rprivate / && mount -o remount,bind,ro / && exec "$0" "$@"'
        before = ("unshare", "--mount", "sh", "-c", quiet, *AS_NOBODY)
        with running([str(installed / "bin" / "policyengine")], folder, shared, before) as served:
            answers_as_the_manifests_say(*served)
    finally:
        subprocess.run(["chmod", "-R", "u+w", folder], check=True)
        shutil.rmtree(folder)


def test_the_sample_upstream_prints_each_request_at_once() -> None:
    port = free_port()
    command = [sys.executable, str(CHECKOUT / "deploy" / "upstream.py"), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as upstream:
        try:
            assert upstream.stdout is not None
            connect_and_send(port, b"POST /v1/refunds?a=1 HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n")
            assert upstream.stdout.readline() == "POST /v1/refunds?a=1\n"
        finally:
            stop(upstream)


def connect_and_send(port: int, request: bytes) -> None:
    """Send a request to a server that may still be starting."""
    until = time.monotonic() + 30
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
                connection.sendall(request)
                assert connection.recv(1)
                return
        except ConnectionRefusedError:
            assert time.monotonic() < until
            time.sleep(0.05)
