"""The server on Ray Serve: two replicas, one of which dies, and the music goes on."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

pytest.importorskip("ray.serve", reason="Ray Serve (the scale extra)", exc_type=ImportError)

import httpx2
import ray
from ray import serve
from ray.serve.schema import ServeDeploySchema
from served import WAIT, go_on, hear, hear_block, hear_state, say, wait_for
from test_live_socket import WISH, ending
from websockets.sync.client import connect

from rtjazz_hf import cli
from rtjazz_hf.server.ray_deployment import NAME, RayOptions, app, deploy
from rtjazz_hf.server.relay import GONE

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
SESSIONS = 2  # that a replica takes


class TestOptions:
    def test_application(self):
        made = app({"replicas": "2", "cpus": "0.5", "max_sessions": "3", "load": "0.5"})._bound_deployment
        assert made.num_replicas == 2 and made.ray_actor_options["num_cpus"] == 0.5
        assert made.max_ongoing_requests > 3
        scaled = app({"replicas": 1, "max_replicas": 4, "sessions_per_replica": 6})._bound_deployment
        autoscaling = scaled._deployment_config.autoscaling_config
        assert (autoscaling.min_replicas, autoscaling.max_replicas) == (1, 4)
        assert autoscaling.target_ongoing_requests == 6

    def test_file_for_serve_deploy(self):
        yaml = pytest.importorskip("yaml")
        file = Path(__file__).parents[2] / "pipelines" / "ray" / "serve.yaml"
        config = ServeDeploySchema.model_validate(yaml.safe_load(file.read_text()))
        (application,) = config.applications
        assert application.import_path == f"{app.__module__}:{app.__name__}"
        app(application.args)

    @pytest.mark.parametrize(
        ("args", "says"),
        [
            ({"replica": 2}, "known are replicas"),
            ({"replicas": 0}, "replicas"),
            ({"replicas": 3, "max_replicas": 2}, "max_replicas 2"),
            ({"dtype": "int3"}, "dtype"),
            ({"load": -1}, "load -1"),
            ({"max_sessions": 0}, "max_sessions 0"),
        ],
    )
    def test_refused(self, args, says):
        with pytest.raises(ValueError, match=says):
            app(args)

    def test_command(self, capsys):
        arguments = ["serve", "--port", "0", "--on", "ray", "--device", "cpu", "--replicas"]
        assert cli.main([*arguments, "0"]) == 2
        assert "replicas" in capsys.readouterr().err
        assert cli.main([*arguments, "2", "--max-replicas", "1"]) == 2
        assert "max_replicas 1" in capsys.readouterr().err


class Deployed:
    """Two replicas behind a proxy."""

    def __init__(self, model):
        self.options = {
            "model": str(model),
            "cpus": 0.5,
            "block_frames": 12,
            "load": 1e9,
            "max_sessions": SESSIONS,
        }
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def deploy(self, **options):
        deploy(RayOptions(**self.options, **options), "127.0.0.1", self.port)

    def live(self):
        address = f"ws://127.0.0.1:{self.port}/v1/live"
        return connect(address, open_timeout=WAIT, close_timeout=5, max_size=None)

    def start(self, stack, **fields):
        """A session that plays: its listener, and its server's name."""
        listener = stack.enter_context(self.live())
        say(listener, "start", **WISH, **fields)
        return listener, hear(listener, "started")["server"]

    def kill(self, name):
        found = [
            actor for actor in ray.util.list_named_actors(all_namespaces=True) if actor["name"].endswith(name)
        ]
        ray.kill(ray.get_actor(**found[0]))

    def replicas(self):
        states = serve.status().applications[NAME].deployments["RealTimeJazz"].replica_states
        return {str(getattr(state, "value", state)): count for state, count in states.items()}.get(
            "RUNNING", 0
        )


@pytest.fixture(scope="module")
def deployed(tiny_folder):
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    deployed = Deployed(tiny_folder)
    try:
        deployed.deploy(replicas=2)
        yield deployed
    finally:
        serve.shutdown()
        ray.shutdown()


@pytest.mark.slow
class TestTwoReplicas:
    def test_share_the_sessions_and_refuse_more_than_they_can_play(self, deployed):
        with ExitStack() as stack:
            servers = []
            for _ in range(2 * SESSIONS):
                listener, name = deployed.start(stack)
                hear_block(listener)
                servers.append(name)
            assert sorted(servers.count(name) for name in set(servers)) == [SESSIONS, SESSIONS]
            late = stack.enter_context(deployed.live())
            say(late, "start", **WISH)
            problem = hear(late, "error")
            assert f"{SESSIONS} sessions play" in problem["detail"] and problem["retry_after"] > 0
            assert ending(late)[0] == 1013
        answer = httpx2.post(
            f"http://127.0.0.1:{deployed.port}/v1/generate",
            json={"prompt": "swing", "duration": 1},
            timeout=WAIT,
        )
        assert answer.status_code == 200 and len(answer.content) == 44 + 48_000 * 4

    def test_one_is_killed(self, deployed):
        with ExitStack() as stack:
            one, first = deployed.start(stack, state_every=5)
            two, second = deployed.start(stack, state_every=5)
            assert first != second
            state = hear_state(one)
            deployed.kill(first)
            assert ending(one) == GONE  # with a word
            hear_block(two)  # the other plays on
            again = stack.enter_context(deployed.live())
            go_on(again, state)
            assert hear(again, "started")["server"] != first  # and so does this
            described, _ = hear_block(again)
            assert described["tempo"] == WISH["tempo"]

        def started_elsewhere():
            with ExitStack() as stack:
                return deployed.start(stack)[1] not in (first, second)

        wait_for(started_elsewhere)  # new ones are taken, and Serve has started another replica

    def test_more_come_with_the_sessions_and_old_ones_end_well(self, deployed):
        with ExitStack() as stack:
            listener, before = deployed.start(stack, state_every=5)
            hear_block(listener)
            update = threading.Thread(
                target=deployed.deploy, kwargs={"replicas": 1, "max_replicas": 2, "sessions_per_replica": 1}
            )  # another version: its replicas take the place of these
            update.start()
            heard = []
            state = hear_state(listener, heard, last=True)
            assert ending(listener) == (1012, "the server is stopping")
            update.join()
            again = stack.enter_context(deployed.live())
            go_on(again, state)
            assert hear(again, "started")["server"] != before
            end = heard[-1][0]["start"] + heard[-1][0]["samples"] / 48_000
            assert hear_block(again)[0]["start"] == pytest.approx(end, abs=1e-4)  # nothing is lost
            deployed.start(stack)
            wait_for(lambda: deployed.replicas() == 2)
