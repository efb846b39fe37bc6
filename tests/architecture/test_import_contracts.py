"""The import contracts of pyproject.toml hold."""

import logging

import pytest
from importlinter import configuration
from importlinter.application import use_cases

from tests.architecture.tree import ROOT


def test_every_import_contract_is_kept(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    configuration.configure()
    logging.getLogger("grimp").setLevel(logging.ERROR)

    kept = use_cases.lint_imports(no_logo=True, cache_dir=None)

    assert kept, capsys.readouterr().out
