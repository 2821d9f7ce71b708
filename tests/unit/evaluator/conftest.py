"""Good records, written once and copied for every test that breaks something of them, and a store to publish in."""

import shutil
from pathlib import Path

import pytest

from tests.unit.evaluator import synthetic as syn


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    return syn.write_records(tmp_path_factory.mktemp("template") / "records")


@pytest.fixture
def records(template, tmp_path):
    return Path(shutil.copytree(template, tmp_path / "records"))


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A default store of the test's own."""
    folder = tmp_path / "store"
    monkeypatch.setenv("FLOWSTILL_STORE", folder.as_uri())
    return folder
