"""One process that forks commands, for all tests that kill them."""

from collections.abc import Iterator

import pytest

from tests.stages.zygote import Zygote


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    zygote = Zygote()
    yield zygote
    zygote.close()
