"""What the doctor says of LangSmith."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.doctor.helpers import PASSWORD, examine


@pytest.mark.parametrize(
    ("environ", "status", "says", "fix"),
    [
        ({}, "ok", "Not in use", ""),
        ({"LANGSMITH_TRACING": "false", "LANGSMITH_API_KEY": PASSWORD}, "ok", "Not in use", ""),
        ({"LANGSMITH_TRACING": "true", "LANGSMITH_API_KEY": PASSWORD}, "ok", "Turns are traced", ""),
        ({"LANGSMITH_TRACING": "true"}, "fault", "there is no LANGSMITH_API_KEY", "Set LANGSMITH_API_KEY"),
        ({"LANGSMITH_TRACING": "True", "LANGSMITH_API_KEY": PASSWORD}, "fault", "not exactly true", "TRACING=true"),
        ({"LANGSMITH_TRACING": "1"}, "fault", "not exactly true", "LANGSMITH_TRACING=true"),
        ({"LANGSMITH_API_KEY": PASSWORD}, "warning", "LANGSMITH_TRACING is not", "LANGSMITH_TRACING=true"),
        ({"LANGCHAIN_TRACING_V2": "true", "LANGCHAIN_API_KEY": PASSWORD}, "warning", "LANGCHAIN_TRACING_V2", "Rename"),
    ],
)
def test_langsmith(
    environ: dict[str, str], status: str, says: str, fix: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    found = [finding for finding in examine(environ=environ) if finding.name == "langsmith"]
    assert found[-1].status == status
    assert says in found[-1].says
    assert fix in found[-1].fix


@pytest.mark.parametrize("secrets", ["LANGSMITH_TRACING = true\n", '[langsmith]\nLANGSMITH_TRACING = "true"\n'])
def test_langsmith_in_streamlits_secrets(secrets: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".streamlit").mkdir()
    path = tmp_path / ".streamlit" / "secrets.toml"
    path.write_text(f'LANGSMITH_API_KEY = "{PASSWORD}"\n{secrets}')
    found = examine(environ={"LANGSMITH_API_KEY": PASSWORD})
    (finding,) = [finding for finding in found if finding.name == "langsmith"]
    assert finding.status == "fault"
    assert "boolean or in a section" in finding.says
    assert 'LANGSMITH_TRACING = "true"' in finding.fix
    path.write_text('LANGSMITH_TRACING = "true"\n')
    assert examine(environ={"LANGSMITH_API_KEY": PASSWORD, "LANGSMITH_TRACING": "true"})[-1].status == "ok"
