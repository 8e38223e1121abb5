"""The server that the tests of injected faults share."""

from collections.abc import Iterator

import pytest

from faults import harness
from faults.harness import Server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("faults")
    library = harness.shim(folder)
    if library is None:
        pytest.skip("this needs Linux and a C compiler")
    server = Server(library, folder / "server")
    yield server
    server.close()
