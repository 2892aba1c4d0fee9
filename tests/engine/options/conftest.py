"""The log, for what the command line tells."""

import logging

import pytest


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """Lines of the log."""
    monkeypatch.setattr(logging.getLogger("distilplace"), "propagate", True)
    caplog.set_level(logging.INFO, logger="distilplace")
    return caplog
