"""Show every run in the MLflow UI, on this machine only.

    $ python -m framebudget.commands.ui 5000        (make ui)

If MLFLOW_TRACKING_URI names a server, print its address instead.
"""

import os
import socket
import sys

from framebudget import params
from framebudget.console import UserError, redacted, stage, usage
from framebudget.learning.mlflow_store import connect, tracking_uri


@stage
def main() -> None:
    parser = usage(__doc__)
    parser.add_argument("port", type=int)
    port, client = parser.parse_args().port, connect()
    elsewhere = tracking_uri().startswith("http")
    server = tracking_uri().rstrip("/") if elsewhere else f"http://127.0.0.1:{port}"
    if not elsewhere:
        check_free(port)
    experiment = client.get_experiment_by_name(params.load().dataset)
    page = f"experiments/{experiment.experiment_id}/runs" if experiment else "experiments"
    # without the type, MLflow shows an empty page for language models
    print(f"Open {redacted(server)}/#/{page}?workflowType=machine_learning", flush=True)
    if not elsewhere:
        # one process is enough for one user; the others would wait for jobs of language models
        os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
        command = ["ui", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        os.execv(sys.executable, [sys.executable, "-m", "mlflow", *command, "--backend-store-uri", tracking_uri()])


def check_free(port: int) -> None:
    """Raises UserError if another process listens on this port, or it may not be used."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except (OSError, OverflowError) as error:
        why = os.strerror(error.errno) if isinstance(error, OSError) else error
        raise UserError(f"port {port}: {why}; choose another: make ui PORT=5001") from None


if __name__ == "__main__":
    main()
