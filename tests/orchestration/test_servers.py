"""`headwater ui`, with real servers: both answer, and nothing is left when it ends, however it ends."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import urllib.request

import dagster as dg
import pytest

from compute.errors import BadInput
from orchestration.home import OVERRIDES, Home
from orchestration.resources import resources_of
from orchestration.servers import links_told, serve
from orchestration.ui_processes import LAUNCHED_BY, stop_all
from tests.orchestration.tiny_study import headwater
from tests.ui.running import InTerminal, RunningUI, free_ports


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name in ("DAGSTER_HOME", *OVERRIDES):
        monkeypatch.setenv(name, "")  # so that what the code sets is undone as well
        monkeypatch.delenv(name)
    monkeypatch.setenv("HEADWATER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def _status(address: str) -> int:
    with urllib.request.urlopen(address, timeout=10) as answer:
        return answer.status


def _refuses(address: str) -> bool:
    host, port = address.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=2)
    try:
        connection.connect()
    except ConnectionRefusedError:
        return True
    connection.close()
    return False


@pytest.mark.slow
def test_both_answer_only_one_works_on_a_home_and_sigterm_leaves_nothing(home):
    with RunningUI(home) as ui:
        ui.until_it_says("Ctrl-C")
        assert ui.dagster in ui.said and ui.mlflow in ui.said
        assert _status(ui.dagster) == _status(ui.mlflow) == 200
        for name, address in (("HEADWATER_TRACKING_UI", ui.mlflow), ("HEADWATER_DAGSTER_UI", ui.dagster)):
            assert {process.environ()[name] for process in ui.processes()} == {address}
        second = headwater(home, "ui", "--port", free_ports(1)[0])
        assert second.returncode == 1 and ui.dagster in second.stderr and "HEADWATER_HOME" in second.stderr
        assert _status(ui.dagster) == 200
        assert ui.stop(signal.SIGTERM) == 0
        assert ui.processes() == []
        assert _refuses(ui.dagster) and _refuses(ui.mlflow)


@pytest.mark.slow
def test_when_a_server_dies_it_is_named_and_the_others_are_stopped(home):
    """With MLflow's server elsewhere: its address is shown, and none is started."""
    with RunningUI(home, HEADWATER_TRACKING_URI="http://lab.invalid:5000") as ui:
        ui.until_it_says("Ctrl-C")
        assert "http://lab.invalid:5000" in ui.said
        assert not any("mlflow" in process.cmdline() for process in ui.processes())
        ui.process_of("dagster._daemon").kill()
        assert ui.ended() == 1
        assert "Dagster's daemon has ended" in ui.said and str(home / "logs" / "dagster.log") in ui.said
        assert ui.processes() == []


@pytest.mark.slow
def test_a_terminal_that_closes_during_the_start_leaves_nothing(home):
    with InTerminal(home) as ui:
        ui.until_it_says("Starting")
        ui.close()
        assert ui.ended() == 0
        assert ui.processes() == []


@pytest.mark.slow
def test_ctrl_c_during_the_start_leaves_nothing(home):
    with InTerminal(home) as ui:
        ui.until_it_says("Starting")
        ui.press_ctrl_c()
        assert ui.ended() == 0
        assert ui.processes() == []


@pytest.mark.slow
def test_what_a_killed_one_left_is_ended_by_the_next(home):
    with RunningUI(home) as killed:
        killed.until_it_says("Starting")
        killed.process.send_signal(signal.SIGKILL)
        killed.ended()
        left = {process.pid for process in killed.processes()}
        assert left
        with RunningUI(home) as ui:
            ui.until_it_says("Starting")
            assert "had left running is ended" in ui.said
            assert not left & {process.pid for process in ui.processes()}
            assert ui.stop() == 0


@dg.job
def any_job():
    pass


@pytest.mark.parametrize("alive", [False, True])
def test_a_run_whose_code_server_is_gone_is_ended_and_leaves_its_pool(home, tmp_path, alive):
    place = Home.from_environment().prepare()
    with socket.socket(socket.AF_UNIX) as server, place.instance() as instance:
        server.bind(str(tmp_path / "socket"))
        if alive:
            server.listen()
        launched_by = {LAUNCHED_BY: json.dumps({"host": "localhost", "socket": str(tmp_path / "socket")})}
        run = instance.create_run_for_job(any_job, status=dg.DagsterRunStatus.STARTED, tags=launched_by)
        instance.event_log_storage.set_concurrency_slots("gpu", 1)
        instance.event_log_storage.claim_concurrency_slot("gpu", run.run_id, "step")
        assert stop_all(place) == ([] if alive else [run.run_id])
        ended = instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.FAILURE
        taken = instance.event_log_storage.get_concurrency_info("gpu").claimed_slots
        assert (ended, len(taken)) == (not alive, int(alive))


@pytest.mark.parametrize("taken", ["port", "mlflow_port"])
def test_a_port_that_is_taken_is_a_sentence_before_anything_starts(home, taken):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        number = server.getsockname()[1]
        [free] = free_ports(1)
        ports = {"port": free, "mlflow_port": free} | {taken: number}
        with pytest.raises(BadInput, match=f"port {number} .* taken .* --{taken.replace('_', '-')}"):
            serve(Home.from_environment().prepare(), **ports)
    assert not (home / "logs").exists()


def test_both_ports_alike_is_a_sentence(home):
    [port] = free_ports(1)
    with pytest.raises(BadInput, match=f"port {port} .*twice"):
        serve(Home.from_environment().prepare(), port=port, mlflow_port=port)


@pytest.mark.parametrize(("name", "field"), [("HEADWATER_TRACKING_UI", "ui"), ("HEADWATER_DAGSTER_UI", "dagster_ui")])
def test_links_lead_to_the_address_that_the_environment_names(home, monkeypatch, name, field):
    monkeypatch.setenv(name, "http://127.0.0.1:5555")
    assert getattr(resources_of(Home.from_environment())["tracking"], field) == "http://127.0.0.1:5555"
    assert Home.from_environment().environment()[name] == "http://127.0.0.1:5555"


def test_another_port_of_mlflow_is_told_with_what_makes_links_lead_there(home, monkeypatch):
    of_environment = Home.from_environment
    assert links_told(of_environment(), "http://127.0.0.1:5000") is None
    told = links_told(of_environment(), "http://127.0.0.1:5377")
    assert "HEADWATER_TRACKING_UI=http://127.0.0.1:5377" in told and "link to http://127.0.0.1:5000" in told
    monkeypatch.setenv("HEADWATER_TRACKING_UI", "http://127.0.0.1:5377")
    assert links_told(of_environment(), "http://127.0.0.1:5377") is None
    monkeypatch.setenv("HEADWATER_TRACKING_URI", "http://lab.invalid:80")
    assert links_told(of_environment(), "http://lab.invalid:80") is None


def test_a_relative_store_is_the_same_one_from_every_directory(home, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADWATER_TRACKING_URI", "sqlite:///runs.db")
    assert Home.from_environment().tracking == f"sqlite:///{tmp_path}/runs.db"
