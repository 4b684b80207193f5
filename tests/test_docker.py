"""The image's own steps and commands, the compose file, the Prometheus configuration; without a container engine."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import httpx
import psycopg
import pytest
import yaml

from pgtattle.proxy.cli import main
from pgtattle.proxy.demo.cluster import free_port
from tests.conftest import Database, Serve
from tests.waiting import wait_for

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
PROMETHEUS = DOCKER / "prometheus" / "prometheus.yml"


@dataclass(frozen=True)
class Stage:
    """A stage of the Dockerfile; `steps` are (instruction, arguments) with those of the stages that it is made from."""

    name: str
    steps: tuple[tuple[str, str], ...]

    def last(self, instruction: str) -> str:
        return [arguments for name, arguments in self.steps if name == instruction][-1]


def dockerfile() -> dict[str, Stage]:
    text = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#")).replace("\\\n", " ").splitlines()
    stages: dict[str, Stage] = {}
    for line in filter(None, lines):
        instruction, arguments = line.split(maxsplit=1)
        if instruction == "FROM":
            parent, _, name = arguments.split()
            stage = Stage(name, stages[parent].steps if parent in stages else ())
        elif instruction == "ARG":
            continue
        else:
            stage = Stage(stage.name, (*stage.steps, (instruction, arguments)))
        stages[stage.name] = stage
    return stages


def parse(words: list[str]) -> None:
    """Parse a command line of pgtattle without running it."""
    with click.Context(main, info_name="pgtattle") as context:
        name, command, rest = main.resolve_command(context, words)
        assert command is not None
        command.make_context(name, rest, parent=context).close()


def test_the_image_runs_without_root_and_says_how_it_is() -> None:
    stage = dockerfile()["runtime"]
    user, group = map(int, stage.last("USER").split(":"))
    assert user > 0
    assert group > 0
    assert json.loads(stage.last("ENTRYPOINT")) == ["pgtattle"]
    assert stage.last("STOPSIGNAL") == "SIGTERM"
    parse(json.loads(stage.last("CMD")))
    _, check = stage.last("HEALTHCHECK").split("CMD", 1)
    program, *words = json.loads(check)
    assert program == "pgtattle"
    parse(words)


def test_the_default_image_is_the_proxy() -> None:
    assert list(dockerfile())[-1] == "runtime"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the builder stage's own steps were taken."""
    root = tmp_path_factory.mktemp("image")
    (root / "opt").mkdir()
    # Compiling takes a minute, and `make artifact` does it.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PGTATTLE_PURE": "1"}
    folder = root
    for instruction, arguments in dockerfile()["builder"].steps:
        placed = arguments.replace("/opt/", f"{root}/opt/")
        if instruction == "WORKDIR":
            folder = root / arguments.lstrip("/")
            folder.mkdir(parents=True)
        elif instruction == "ENV":
            environment.update(dict(word.split("=", 1) for word in shlex.split(placed)))
        elif instruction == "COPY":
            *sources, target = arguments.split()
            for source in sources:
                if (ROOT / source).is_dir():
                    ignored = shutil.ignore_patterns("__pycache__")
                    shutil.copytree(ROOT / source, folder / target, ignore=ignored)
                else:
                    (folder / target).mkdir(exist_ok=True)
                    shutil.copy(ROOT / source, folder / target)
        elif instruction == "RUN":
            ran = subprocess.run(
                placed, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False
            )
            assert ran.returncode == 0, f"{placed}\n{ran.stdout}{ran.stderr}"
    return root


@pytest.mark.slow
def test_the_images_own_steps_make_a_program_that_runs(image: Path, serve: Serve, database: Database) -> None:
    programs = image / "opt" / "pgtattle" / "bin"
    said = subprocess.run([programs / "pgtattle", "--help"], capture_output=True, text=True, check=True)
    assert said.stdout.startswith("Usage: pgtattle ")
    assert not list(programs.glob("pip*"))
    where = subprocess.run(
        [programs / "python", "-c", "import pgtattle.proxy.profiler as module; print(module.__file__)"],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    assert where.stdout.startswith(str(image / "opt" / "pgtattle"))
    listen = serve(database).addresses["listen"]
    for address, healthy in ((listen, True), ("127.0.0.1:1", False)):
        check = [str(programs / "pgtattle"), "healthcheck", "--listen", address]
        assert (subprocess.run(check, capture_output=True, check=False).returncode == 0) is healthy


def test_the_build_context_holds_what_the_image_copies() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for stage in dockerfile().values():
        for instruction, arguments in stage.steps:
            if instruction == "COPY" and not arguments.startswith("--from"):
                for source in arguments.split()[:-1]:
                    assert (ROOT / source).exists()
                    assert any(Path(source).match(pattern) for pattern in allowed), source


def test_the_compose_file_holds_together() -> None:
    services = COMPOSE["services"]
    assert set(COMPOSE) == {"services"}
    assert {"postgres", "bookshop", "application", "pgtattle", "prometheus"} == set(services)
    stages = dockerfile()
    for name, service in services.items():
        assert ("image" in service) != ("build" in service), name
        if "build" in service:
            build = service["build"]
            context = DOCKER / build["context"]
            assert (context / build["dockerfile"]).is_file()
            assert build["target"] in stages
        for other, condition in service.get("depends_on", {}).items():
            checked = "healthcheck" in services[other] or services[other].get("build", {}).get("target") == "runtime"
            waits = "service_healthy" if checked else "service_completed_successfully"
            assert condition == {"condition": waits}, f"{name} waits for {other}"
        for volume in service.get("volumes", []):
            assert (DOCKER / volume.split(":")[0]).is_file()
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} publishes {port} beyond this machine"
        if "command" in service and service.get("build", {}).get("target") == "runtime":
            parse(service["command"])


def test_the_addresses_in_the_configurations_are_those_of_the_image() -> None:
    command = json.loads(dockerfile()["runtime"].last("CMD"))
    listen, metrics = (command[command.index(flag) + 1].rsplit(":", 1)[1] for flag in ("--listen", "--metrics"))
    assert f"@pgtattle:{listen}/" in COMPOSE["services"]["application"]["command"][0]
    scrape = yaml.safe_load(PROMETHEUS.read_text(encoding="utf-8"))["scrape_configs"][0]
    assert scrape["static_configs"] == [{"targets": [f"pgtattle:{metrics}"]}]


def test_docker_compose_reads_the_compose_file() -> None:
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("docker-compose is not installed")
    read = subprocess.run(
        [program, "--file", DOCKER / "compose.yaml", "config"], capture_output=True, text=True, check=False
    )
    assert read.returncode == 0, read.stderr
    assert set(yaml.safe_load(read.stdout)["services"]) == set(COMPOSE["services"])


@pytest.mark.slow
def test_the_compose_files_application_works_through_the_proxy(serve: Serve, database: Database) -> None:
    (script,) = COMPOSE["services"]["bookshop"]["command"]
    environment = {**os.environ, "PGPASSWORD": database.password}
    placed = script.replace("postgresql://bookshop@postgres:5432/bookshop", database.dsn_without_password)
    for _ in range(2):
        subprocess.run([sys.executable, "-c", placed], env=environment, check=True)
    *_, module = json.loads(dockerfile()["demo"].last("ENTRYPOINT"))
    served = serve(database)
    command = [sys.executable, "-m", module, served.database.dsn_without_password, "--seconds", "2"]
    subprocess.run(command, env=environment, check=True)
    assert served.report().session.executions > 100


def debian_prometheus(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        pytest.skip("Debian's Prometheus is not installed")
    return path


@pytest.fixture
def metrics(serve: Serve, database: Database) -> str:
    """Where a proxy serves metrics, with some traffic counted."""
    served = serve(database, "--metrics", "127.0.0.1:0")
    with psycopg.connect(served.database.dsn, autocommit=True) as connection:
        for number in range(20):
            connection.execute("SELECT %s::int", [number])
    assert served.report().session.executions >= 20
    return served.addresses["metrics"]


def test_promtool_accepts_the_metrics(metrics: str) -> None:
    text = httpx.get(f"http://{metrics}/metrics").content
    checked = subprocess.run(
        [debian_prometheus("promtool"), "check", "metrics"], input=text, capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")
    assert b"pgtattle_queries_total{" in text


def test_promtool_accepts_the_configuration() -> None:
    promtool = debian_prometheus("promtool")
    checked = subprocess.run([promtool, "check", "config", PROMETHEUS], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.fixture
def prometheus(metrics: str, tmp_path: Path) -> Iterator[str]:
    """A real Prometheus with the committed configuration; only the target's address and the interval are others."""
    program = debian_prometheus("prometheus")
    text = PROMETHEUS.read_text(encoding="utf-8")
    adapted = text.replace("pgtattle:9464", metrics).replace(": 5s", ": 1s").replace(": 4s", ": 1s")
    assert metrics in adapted
    (tmp_path / "prometheus.yml").write_text(adapted, encoding="utf-8")
    address = f"127.0.0.1:{free_port()}"
    with (tmp_path / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(program, f"--config.file={tmp_path / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'data'}"),
                *(f"--web.listen-address={address}", *COMPOSE["services"]["prometheus"]["command"][1:]),
            ],
            stdout=log,
            stderr=log,
        )
    yield f"http://{address}"
    process.kill()
    process.wait()


@pytest.mark.slow
def test_a_real_prometheus_scrapes_a_real_proxy(prometheus: str) -> None:
    def query(expression: str) -> list[dict[str, Any]]:
        try:
            answer = httpx.get(f"{prometheus}/api/v1/query", params={"query": expression})
        except httpx.TransportError:
            return []
        result: list[dict[str, Any]] = answer.json()["data"]["result"] if answer.status_code == 200 else []
        return result

    up = wait_for(lambda: query('up{job="pgtattle"} == 1'), "a scrape of the proxy")
    assert up[0]["value"][1] == "1"
    (queries,) = query('sum(pgtattle_queries_total{command="SELECT", status="ok"})')
    assert float(queries["value"][1]) >= 20
    assert query("pgtattle_build_info")
