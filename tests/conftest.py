"""What holds for every test: no hub but the one of ``tests/hub_server.py``, no token, a cache of its own."""

from __future__ import annotations

import atexit
import os
import random
import shutil
import socket
import tempfile
from collections.abc import Generator

import pytest


def _free_port() -> int:
    """A free port below those that systems hand out by themselves, so that it is still free when it is needed."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port between 20000 and 32000 on the loopback interface")


_HOME = tempfile.mkdtemp(prefix="diffmeter-tests-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)

# huggingface_hub reads these when it is first imported, so they are set before any test module is.
os.environ.update(
    HF_ENDPOINT=f"http://127.0.0.1:{_free_port()}",
    HF_HOME=_HOME,
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_XET="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    HF_HUB_ETAG_TIMEOUT="1",
    HF_HUB_DOWNLOAD_TIMEOUT="1",
    TRANSFORMERS_VERBOSITY="error",
    DIFFUSERS_VERBOSITY="error",
)
for _name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_CACHE", "TRANSFORMERS_OFFLINE"):
    os.environ.pop(_name, None)
for _name in [name for name in os.environ if name.startswith("DIFFMETER_") or name == "ENABLE_COMPUTE_PROFILING"]:
    del os.environ[_name]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--refresh-golden", action="store_true", help="write the golden files anew; look at each change")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Hostile text in captured output must not stop a test process from reporting: it travels as UTF-8."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "replace").decode("utf-8")) for name, text in report.sections]
    return report
