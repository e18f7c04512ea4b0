"""`make ui`; tests/test_pipeline.py opens its pages."""

import socket

import pytest

from framebudget.commands.ui import check_free
from framebudget.console import UserError


def test_a_port_that_is_taken_or_impossible_is_an_error():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port}: Address already in use; choose another: make ui PORT=5001"):
            check_free(port)
    check_free(port)
    with pytest.raises(UserError, match=r"port 70000: .*0-65535"):
        check_free(70000)
