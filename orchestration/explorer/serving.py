"""Starts the explorer on a port of this machine."""

from __future__ import annotations

import socket
import sys

from compute.errors import BadInput
from orchestration.explorer.app import explorer
from orchestration.home import Home
from orchestration.local_server import HOST
from orchestration.results import Results


def serve_explorer(home: Home, port: int) -> None:
    """Serves until it is interrupted. Raises BadInput where the port is taken, or the lake is of a newer layout."""
    import uvicorn

    results = Results.open(home)
    results.lake.place.check_layout(mark=False)
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
        except OSError as error:
            raise BadInput(
                f"port {port} of {HOST} cannot be used ({error.strerror}); choose another with --port"
            ) from error
        listening.listen(128)
        print(f"http://{HOST}:{listening.getsockname()[1]}  (Ctrl-C stops it)", file=sys.stderr, flush=True)
        config = uvicorn.Config(explorer(results, home.cache), log_level="warning", lifespan="off")
        uvicorn.Server(config).run(sockets=[listening])
