"""What an owner has found to be no secret is left, by its fingerprint or by its file."""

from pathlib import Path

from tests.builders.git_repository import GitRepository
from tests.pipelines.git_ingest.ingesting import ingest

_VALUE, _OTHER = "Qx7tLm2" + "vWz9p", "Rk4wPn8" + "bTs3y"


def _repository(folder: Path) -> GitRepository:
    repository = GitRepository(folder)
    line = f'password = "{_VALUE}"\nsecret = "{_OTHER}"\n'
    repository.commit("Configure", {"app.py": line, "docs/sample.py": f"x = 1\n{line}"})
    return repository


def test_a_fingerprint_of_the_report_allows_a_value_everywhere(tmp_path: Path) -> None:
    repository = _repository(tmp_path / "project")
    first = ingest(repository.path, tmp_path / "out")
    findings = first.report["history"][0]["findings"]
    assert _VALUE not in str(first.all_rows())
    (allowed,) = {f["fingerprint"] for f in findings if f["kind"] == "password"}
    again = ingest(repository.path, tmp_path / "out", allowed_secrets=(allowed,))
    texts = dict(again.rows("snapshot_files", "path", "text"))
    assert all(_VALUE in text and _OTHER not in text for text in texts.values())


def test_patterns_of_gitignore_allow_files(tmp_path: Path) -> None:
    repository = _repository(tmp_path / "project")
    result = ingest(repository.path, tmp_path / "out", allowed_secret_paths=("docs/",))
    texts = dict(result.rows("snapshot_files", "path", "text"))
    assert _VALUE in texts["docs/sample.py"]
    assert _OTHER in texts["docs/sample.py"]
    assert _VALUE not in texts["app.py"]
    patches = dict(result.rows("file_changes", "path", "patch"))
    assert _VALUE in patches["docs/sample.py"]
    assert _VALUE not in patches["app.py"]
