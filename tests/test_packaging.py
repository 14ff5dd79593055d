"""What is installed, built and deployed agrees: locks, wheel, Makefile, image, examples."""

import ast
import http.server
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from proxy.config import Settings, load_settings, units

ROOT = Path(__file__).parent.parent
PACKAGES = ("proxy", "cache_backends")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# The extras whose drivers the command and the image have; LangChain is of use to who has it anyway.
STORES = ["postgres", "redis"]
# Brought by what is declared; by who imports an old cache, in the version that has filled it; by
# pytest itself, which alone loads its plugin.
NOT_DECLARED = {"pydantic-core", "langchain-openai", "pytest"}


def pins(name: str) -> dict[str, str]:
    """The versions in a lock by the canonical names of their distributions."""
    found = re.findall(r"^([\w.-]+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE)
    return {canonicalize_name(distribution): version for distribution, version in found}


def declared(group: str) -> list[Requirement]:
    """The requirements that pyproject.toml names for running, for building, or for an extra."""
    project = PYPROJECT["project"]
    named = {
        "run": project["dependencies"],
        "build": PYPROJECT["dependency-groups"]["build"],
        **project["optional-dependencies"],
    }
    return [Requirement(line) for line in named[group]]


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-test.lock"])
def test_a_lock_holds_pins_with_hashes_and_no_address(lock: str) -> None:
    """Whoever installs from a lock decides where from, and gets what was locked or nothing."""
    text = (ROOT / lock).read_text()
    assert "make lock" in text.splitlines()[1]
    for entry in re.sub(r"^#.*\n|\\\n", "", text, flags=re.MULTILINE).splitlines():
        pin, *hashes = entry.split(" --hash=")
        assert re.fullmatch(r"[\w.-]+==[\w.]+( ; [^/@]+?)? *", pin), entry
        assert hashes, pin
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64} *", digest) for digest in hashes), pin


@pytest.mark.parametrize(
    ("lock", "groups"),
    [
        ("requirements.lock", ["run", "build", *STORES]),
        ("requirements-test.lock", ["run", "build", *STORES, "langchain", "test"]),
    ],
)
def test_a_lock_satisfies_what_the_project_declares(lock: str, groups: list[str]) -> None:
    """A dependency added or raised without `make lock` is noticed."""
    locked = pins(lock)
    for wanted in (requirement for group in groups for requirement in declared(group)):
        assert wanted.specifier.contains(locked[canonicalize_name(wanted.name)]), wanted


def test_the_lock_of_the_node_clients_is_like_the_others() -> None:
    """Exact versions with hashes and no address, for just what package.json names."""
    folder = ROOT / "tests" / "node"
    named = json.loads((folder / "package.json").read_text())["dependencies"]
    locked = json.loads((folder / "package-lock.json").read_text())["packages"]
    assert locked.pop("")["dependencies"] == named
    for name, version in named.items():
        assert locked[f"node_modules/{name}"]["version"] == version
    for name, package in locked.items():
        assert package["integrity"].startswith("sha512-"), name
        assert "resolved" not in package, name


def test_tests_run_against_the_versions_that_users_get() -> None:
    """The lock for tests holds the lock for running, version for version."""
    assert pins("requirements.lock").items() <= pins("requirements-test.lock").items()


def test_the_build_backend_is_locked() -> None:
    """What builds the package is what the locks pin: without isolation nothing else is fetched."""
    assert PYPROJECT["build-system"]["requires"] == PYPROJECT["dependency-groups"]["build"]


def test_whatever_is_imported_is_declared() -> None:
    """An install with all extras for users brings all that the packages import."""
    wanted = (each for group in ("run", *STORES, "langchain") for each in declared(group))
    brought = {canonicalize_name(requirement.name) for requirement in wanted} | NOT_DECLARED
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    modules = set().union(*map(imported, files)) - set(sys.stdlib_module_names) - set(PACKAGES)
    distributions = packages_distributions()
    owners = {canonicalize_name(distributions.get(module, [module])[0]) for module in modules}
    assert owners <= brought


def imported(path: Path) -> set[str]:
    """The top-level modules that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


def test_the_wheel_holds_both_packages_typed_and_nothing_else(tmp_path: Path) -> None:
    """What `pip install .` installs: two typed packages, the command and the licence."""
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns(
        ".*", "*.egg-info", "build", "dist", "__pycache__", "node_modules"
    )
    shutil.copytree(ROOT, source, ignore=ignored)
    build = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-cache-dir"]
    subprocess.run([sys.executable, *build, "-w", tmp_path, source], check=True, timeout=120)
    [wheel] = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {path.relative_to(ROOT).as_posix() for name in PACKAGES for path in shipped(name)}
    info = {name for name in names if ".dist-info/" in name}
    assert names - info == sources
    assert {f"{name}/py.typed" for name in PACKAGES} <= sources
    assert {"entry_points.txt", "licenses/LICENSE"} <= {name.partition("/")[2] for name in info}


def shipped(package: str) -> list[Path]:
    """Every file of a package, also what is not code."""
    found = (ROOT / package).rglob("*")
    return [path for path in found if path.is_file() and "__pycache__" not in path.parts]


TARGETS = ["setup", "run", "demo", "test", "lint", "types", "bench", "lock", "clean"]


@pytest.mark.parametrize("target", TARGETS)
def test_make_knows_the_target(target: str) -> None:
    """Every promised target is there, and named by a plain `make`."""
    planned = make("--dry-run", target)
    assert planned.returncode == 0, planned.stderr
    assert re.search(rf"^{target}\t", make().stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("lack", "way_out"),
    [
        ("sys.version_info = (3, 10)", "Python 3.11 or newer is needed"),
        ("sys.modules['ensurepip'] = None", "apt-get install python3-venv"),
    ],
)
def test_setup_says_what_the_machine_lacks(tmp_path: Path, lack: str, way_out: str) -> None:
    """An old Python and a missing venv are named, with what to do, before anything is made."""
    python = tmp_path / "python"
    lacking = f'{sys.executable} -c "import sys; {lack}; exec(sys.argv[1])"'
    python.write_text(f'#!/bin/sh\nexec {lacking} "$2"\n')
    python.chmod(0o755)
    setup = make("setup", f"PYTHON={python}", f"VENV={tmp_path}/venv")
    assert setup.returncode != 0
    assert way_out in setup.stderr
    assert not (tmp_path / "venv").exists()


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    # Not as a part of the `make test` that runs these tests.
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def test_the_image_runs_without_rights() -> None:
    """The last user is a number that is not root's, so that Kubernetes can check it."""
    *_, user = (value for word, value in instructions() if word == "USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


def test_the_image_installs_from_the_lock() -> None:
    """Nothing enters the image that the lock does not pin by hash."""
    installs = [value for word, value in instructions() if word == "RUN" and "pip install" in value]
    assert installs
    assert all("--require-hashes" in line or "--no-deps" in line for line in installs)


def test_the_image_is_built_from_files_that_reach_the_builder() -> None:
    """Whatever is copied from the repository exists and is let in by .dockerignore."""
    let_in = (ROOT / ".dockerignore").read_text().splitlines()
    copies = [value.split() for word, value in instructions() if word == "COPY"]
    for name in (name for copy in copies if "--from" not in copy[0] for name in copy[:-1]):
        assert f"!{name}" in let_in
        assert (ROOT / name).exists(), name


def health_checks() -> dict[str, list[str]]:
    """The commands that tell whether the proxy is well, without their `python`."""
    [check] = (value for word, value in instructions() if word == "HEALTHCHECK")
    return {
        "image": yaml.safe_load(check.partition("CMD ")[2])[1:],
        "compose": compose_service()["healthcheck"]["test"][2:],
    }


@pytest.mark.parametrize("where", ["image", "compose"])
@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_the_health_check_asks_the_proxy_itself(where: str, status: int, code: int) -> None:
    """Healthy is a 200 of /healthz on the container's own port, whatever HTTP proxy is set."""
    with answering(status) as (port, asked):
        environment = {
            "HTTP_PROXY": "http://127.0.0.1:9",
            "LLM_CACHE_PROXY_SERVER__PORT": str(port),
        }
        check = [part.replace("8484", str(port)) for part in health_checks()[where]]
        result = subprocess.run([sys.executable, *check], env=environment, timeout=30, check=False)
    assert (result.returncode, asked) == (code, ["/healthz"])


@contextmanager
def answering(status: int) -> Iterator[tuple[int, list[str]]]:
    """A server that answers `status` to everything; its port, and the paths it was asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port, asked
        finally:
            server.shutdown()
            thread.join()


def compose_service() -> dict[str, Any]:
    service: dict[str, Any] = document("compose.yaml")["services"]["proxy"]
    return service


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = document("kubernetes-sidecar.yaml")["spec"]["template"]["spec"]
    return spec


def document(name: str) -> Any:
    return yaml.safe_load((ROOT / "deploy" / name).read_text())


def sidecar() -> dict[str, Any]:
    container: dict[str, Any]
    [container] = pod()["initContainers"]
    return container


def settings_in(example: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings of the proxy in the image, or in an example that runs it."""
    [image] = (
        shlex.split(value) for word, value in instructions() if word == "ENV" and "URL" in value
    )
    variables = dict(pair.split("=", 1) for pair in image)
    if example == "compose":
        variables |= compose_service()["environment"]
    if example == "sidecar":
        variables |= {variable["name"]: variable["value"] for variable in sidecar()["env"]}
    for name in [name for name in os.environ if name.startswith("LLM_CACHE_PROXY_")]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        if name.startswith("LLM_CACHE_PROXY_"):
            monkeypatch.setenv(name, value)
    return load_settings()


def test_the_image_keeps_its_cache_in_the_volume(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the image sets are settings; it is reached from outside and writes to the volume."""
    settings = settings_in("image", monkeypatch)
    values = dict(instructions())
    assert (settings.server.host, str(settings.server.port)) == ("0.0.0.0", values["EXPOSE"])
    assert settings.cache.url.startswith(f"sqlite:///{values['VOLUME']}/")


@pytest.mark.parametrize("example", ["compose", "sidecar"])
def test_examples_keep_answers_for_seven_days(
    example: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who copies an example does not keep answers for ever without having said so."""
    assert settings_in(example, monkeypatch).cache.ttl == 7 * 24 * 3600


def test_examples_let_the_proxy_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither example kills the proxy while it still waits for running requests."""
    drain_s = settings_in("image", monkeypatch).server.drain_s
    assert drain_s < units.seconds(compose_service()["stop_grace_period"])
    assert drain_s < pod()["terminationGracePeriodSeconds"]


def test_the_sidecar_s_cache_fits_its_volume(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eviction begins before the pod's disk is full."""
    [volume] = (volume for volume in pod()["volumes"] if volume["name"] == "llm-cache")
    limit = units.size(volume["emptyDir"]["sizeLimit"] + "B")
    assert (settings_in("sidecar", monkeypatch).cache.max_bytes or limit) < limit


def test_compose_publishes_on_loopback_only() -> None:
    """Nobody else in the network reaches a proxy started from the example."""
    assert all(port.startswith("127.0.0.1:") for port in compose_service()["ports"])


def test_examples_take_every_right_away() -> None:
    """Read-only roots, no capabilities, no way to gain any; only the volumes are written to."""
    service, container = compose_service(), sidecar()
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    context = container["securityContext"]
    assert context["readOnlyRootFilesystem"]
    assert not context["allowPrivilegeEscalation"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert pod()["securityContext"]["runAsNonRoot"]


def test_the_sidecar_answers_on_loopback_and_tells_its_health_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The data port stays inside the pod, the probes reach the ops listener."""
    settings, container = settings_in("sidecar", monkeypatch), sidecar()
    assert settings.on_loopback
    [port] = container["ports"]
    assert (settings.ops.host, settings.ops.port) == ("0.0.0.0", port["containerPort"])
    probes = [container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")]
    assert [probe["path"] for probe in probes] == ["/healthz", "/healthz", "/readyz"]
    assert {probe["port"] for probe in probes} == {port["name"]}
    assert container["restartPolicy"] == "Always"
