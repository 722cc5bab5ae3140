"""What the client of a broker that is killed all the time has to say is not shown."""

import logging

import pytest


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="aiormq")
    caplog.set_level(logging.CRITICAL, logger="aio_pika")
