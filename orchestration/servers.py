"""`headwater ui`: the Dagster UI with its daemon, and MLflow's UI next to it, on loopback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from orchestration.home import Home

HOST = "127.0.0.1"
MLFLOW_PORT = 5000
SECONDS_TO_STOP = 10


def serve(home: Home, *, port: int) -> None:
    """Runs both until Ctrl-C (or SIGTERM), or until Dagster's ends."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    dagster = [sys.executable, "-m", "dagster", "dev", "-m", "orchestration.definitions", "-h", HOST, "-p", str(port)]
    mlflow = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", home.tracking, "--host", HOST]
    environment = os.environ | home.environment()
    # Sessions of their own: started from a script, dagster dev would otherwise inherit an ignored SIGINT.
    servers = [
        subprocess.Popen(command, env=environment, start_new_session=True)
        for command in (dagster, [*mlflow, "--port", str(MLFLOW_PORT)])
    ]
    print(f"Dagster: http://{HOST}:{port}   MLflow: http://{HOST}:{MLFLOW_PORT}   (Ctrl-C stops both)", file=sys.stderr)
    try:
        servers[0].wait()
    except KeyboardInterrupt:
        pass
    finally:
        for server in servers:
            _stop(server)


def _stop(server: subprocess.Popen) -> None:
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGINT)
        try:
            server.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
