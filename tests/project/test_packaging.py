"""Nothing private travels with `kedro package`; the package runs in another folder."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.builders.project import ROOT, copy_project

from the_block_llm.errors import StorageError
from the_block_llm.project.packaging import check_packaged_configuration

NAMES = st.text("abcxyzABC019.-_~#", min_size=1, max_size=12).filter(lambda n: n not in {".", ".."})
FOLDERS = st.sampled_from(["local", "local/more", "base", "prod"])
SUFFIXES = st.sampled_from(["", ".yml", ".yaml", ".json", ".key", ".pem", ".yml~", ".env"])


def archived(project: Path) -> list[str]:
    """Return the files in the archive that Kedro makes of the configuration."""
    # As kedro.framework.cli.project.package calls it.
    target = project / "conf.tar.gz"
    subprocess.run(
        ["tar", "--exclude=local/*.yml", "-czf", str(target), f"--directory={project}", "conf"],
        check=True,
    )
    with tarfile.open(target) as file:
        return [member.name for member in file if not member.isdir()]


@given(st.lists(st.tuples(FOLDERS, NAMES, SUFFIXES), max_size=4))
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_file_of_local_is_archived_unless_packaging_is_refused(
    tmp_path_factory: pytest.TempPathFactory, files: list[tuple[str, str, str]]
) -> None:
    project = tmp_path_factory.mktemp("project")
    (project / "conf/local").mkdir(parents=True)
    (project / "conf/local/.gitkeep").touch()
    for folder, name, suffix in files:
        path = project / "conf" / folder / (name + suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    private = [
        name for name in archived(project)
        if name.startswith("conf/local/") and not name.endswith("/.gitkeep")
    ]  # fmt: skip
    if private:
        with pytest.raises(StorageError) as caught:
            check_packaged_configuration(project / "conf")
        assert all(name in str(caught.value) for name in private)
    else:
        check_packaged_configuration(project / "conf")


def test_credentials_outside_of_local_and_the_former_key_are_named(tmp_path: Path) -> None:
    conf = tmp_path / "conf"
    for name in ("local/credentials.yml", "local/parameters.yml", "base/catalog.yml"):
        (conf / name).parent.mkdir(parents=True, exist_ok=True)
        (conf / name).touch()
    check_packaged_configuration(conf)
    (conf / "base/credentials.yml").touch()
    with pytest.raises(StorageError, match=r"private files .*: conf/base/credentials\.yml\. "):
        check_packaged_configuration(conf)
    (conf / "base/credentials.yml").unlink()
    (conf / "local/pseudonym.key").touch()
    with pytest.raises(StorageError, match=r"mv conf/local/pseudonym\.key \.pseudonym\.key"):
        check_packaged_configuration(conf)


def run(command: list[str], folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, env=os.environ | variables, capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip


@pytest.mark.slow(seconds=40)
def test_the_package_holds_nothing_private_and_runs_in_another_folder(
    tmp_path: Path, small_repository: Path
) -> None:
    project = copy_project(tmp_path / "project")
    for name in ("src", "README.md", ".gitignore"):
        (project / name).rmdir() if name == "src" else None
        subprocess.run(["cp", "-r", str(ROOT / name), str(project / name)], check=True)
    kedro = str(Path(sys.executable).with_name("kedro"))
    source = {"PYTHONPATH": str(project / "src")}
    ingest = ["--pipelines=git_ingest", f"--params=repository={small_repository}"]
    (project / "conf/local/credentials.yml").write_text("store: {key: private}\n")
    first = run([kedro, "run", *ingest], project, **source)
    assert first.returncode == 0, first.stdout + first.stderr
    assert (project / ".pseudonym.key").stat().st_mode & 0o077 == 0

    (project / "conf/local/old.key").write_text("private")
    refused = run([kedro, "package"], project, **source)
    assert refused.returncode == 1
    assert "conf/local/old.key" in refused.stderr
    assert not (project / "dist").exists()
    (project / "conf/local/old.key").unlink()

    packaged = run([kedro, "package"], project, **source)
    if packaged.returncode != 0 and "hatchling" in packaged.stdout + packaged.stderr:
        pytest.skip("no package index has the build backend, hatchling")
    assert packaged.returncode == 0, packaged.stderr
    dist = project / "dist"
    with tarfile.open(dist / "conf-the_block_llm.tar.gz") as file:
        files = [member.name for member in file if not member.isdir()]
        file.extractall(tmp_path / "other", filter="data")
    assert "conf/base/parameters.yml" in files
    assert [name for name in files if name.startswith("conf/local/")] == []
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        folders = {name.split("/")[0] for name in file.namelist()}
        assert folders == {"the_block_llm", wheel.name.split("-py3")[0] + ".dist-info"}
        file.extractall(tmp_path / "site")
    installed = {"PYTHONPATH": str(tmp_path / "site")}
    module = [sys.executable, "-m", "the_block_llm"]
    ran = run([*module, *ingest], tmp_path / "other", **installed)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert (tmp_path / "other/data/08_reporting/ingest_report.json").is_file()
    archive = f"--conf-source={dist / 'conf-the_block_llm.tar.gz'}"
    (tmp_path / "empty").mkdir()
    ran = run([*module, *ingest, archive], tmp_path / "empty", **installed)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for command, message in (([], "contains no configuration"), (["--env=no"], "no configuration")):
        (tmp_path / "nothing").mkdir(exist_ok=True)
        ran = run([*module, *command], tmp_path / "nothing", **installed)
        assert ran.returncode == 1
        assert message in ran.stderr
        assert "Traceback" not in ran.stderr
