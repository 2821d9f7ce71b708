"""Good records, written once and copied for every test that breaks something of them."""

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
