"""An object store that speaks S3, served on this machine."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

NOISE = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
"""Marks for a module of tests: what the libraries of S3 say of themselves is not ours."""


@contextmanager
def served_bucket(name: str) -> Iterator[str]:
    """Yield the address of an empty bucket; this process and those it starts find its server."""
    pytest.importorskip("moto.server", reason="moto[server] is not installed: no S3 to test with")
    fs = pytest.importorskip("s3fs", reason="s3fs is not installed: nothing reads s3://")
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").disabled = True  # a line for every request
    server = ThreadedMotoServer(port=0)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        host, port = server.get_host_and_port()
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fs.S3FileSystem.clear_instance_cache()  # those of another server
        fs.S3FileSystem().mkdir(name)
        yield f"s3://{name}"
        fs.S3FileSystem.clear_instance_cache()
    server.stop()
