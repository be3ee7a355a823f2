"""Configuration and code match: every configured name is used, and every used name exists."""

import io
import re
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from kedro.framework.project import configure_project, pipelines
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from omegaconf import OmegaConf
from tests.builders.project import copy_project

from the_block_llm.errors import ParameterError, ProfileError
from the_block_llm.project.config_loader import (
    LOADER_ARGS,
    ProjectConfigLoader,
    config_loader,
    project_parameters,
)
from the_block_llm.project.parameter_checks import RENAMED_PARAMETERS, check_parameters

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def configuration(project: Path) -> dict[str, dict[str, Any]]:
    bootstrap_project(project)
    with KedroSession.create(project, env="base") as session:
        loader = session.load_context().config_loader
        return {"catalog": loader["catalog"], "parameters": loader["parameters"]}


def test_catalog_matches_the_datasets_of_the_pipelines(
    configuration: dict[str, dict[str, Any]],
) -> None:
    configure_project("the_block_llm")
    all_pipelines = pipelines["__default__"] + pipelines["export"]
    used = {
        name for name in all_pipelines.datasets() if not name.startswith(("params:", "parameters"))
    }
    # Small, and created within the pipeline that reads it.
    in_memory = {"probe_suites"}
    assert used - in_memory == set(configuration["catalog"])


def test_parameters_are_read_once_per_session(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    load = OmegaConf.load

    def load_and_record(file: io.StringIO) -> Any:
        read.append(file.getvalue())
        return load(file)

    monkeypatch.setattr(OmegaConf, "load", load_and_record)
    bootstrap_project(project)
    with KedroSession.create(project, env="base") as session:
        assert len(session.load_context().catalog) > 20
    assert 0 < read.count((project / "conf/base/parameters.yml").read_text()) < 3


def test_every_parameter_group_is_used(
    configuration: dict[str, dict[str, Any]],
) -> None:
    configure_project("the_block_llm")
    read = {
        re.split(r"[:.]", name)[1]
        for name in (pipelines["__default__"] + pipelines["export"]).datasets()
        if name.startswith("params:")
    }
    # Also read by kedro ask, kedro serve and kedro estimate, and by the catalog.
    assert read | {"advisor", "planning", "storage"} == set(configuration["parameters"])


def test_configured_parameters_are_valid(
    configuration: dict[str, dict[str, Any]],
) -> None:
    from the_block_llm.project.parameter_checks import TYPED_PARAMETERS

    for group, params_class in TYPED_PARAMETERS.items():
        if group != "models":
            assert params_class.model_validate(configuration["parameters"][group]), group


@pytest.mark.parametrize("path", sorted((ROOT / "conf").rglob("*.yml")), ids=lambda p: p.name)
def test_every_configuration_file_loads(path: Path) -> None:
    assert yaml.safe_load(path.read_text(encoding="utf-8"))


def test_pipeline_inputs_are_written_by_earlier_pipelines() -> None:
    configure_project("the_block_llm")
    order = ("git_ingest", "sequence_build", "qlora_train", "behavioral_eval")
    written: set[str] = {"suite_files"}
    for name in order:
        inputs = {i for i in pipelines[name].inputs() if not i.startswith("params:")}
        assert inputs <= written, name
        written |= pipelines[name].all_outputs()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"modle": "x"}, "There is no parameter modle. Did you mean model?"),
        ({"model": 3}, "model is 3"),
        ({"qlora_train": {"max_stps": 3}}, "Did you mean qlora_train.max_steps?"),
        ({"qlora_train": {"max_steps": "many"}}, "qlora_train.max_steps is 'many'"),
        ({"qlora_train": {"max_steps": 0}}, "greater than or equal to 1"),
        ({"sequence_build": {"cutoff": 2.0}}, "sequence_build"),
        ({"git_ingest": {"reff": "HEAD"}}, "Did you mean git_ingest.ref?"),
        ({"behavioral_eval": {"arms": ["guess"]}}, "behavioral_eval.arms"),
        ({"planning": {"rates": None}}, "planning.rates is None"),
        ({"models": {"mine": {"role": "advisor"}}}, "models.mine.lora is missing"),
        ({"models": {"llama-3.1-8b": {"lora": {"r": 0}}}}, "models.llama-3.1-8b.lora.r is 0"),
    ],
)
def test_wrong_parameters_are_named(
    configuration: dict[str, dict[str, Any]], changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(ParameterError) as caught:
        check_parameters(merged(configuration["parameters"], changed))
    assert message in str(caught.value)


def test_unknown_profile_is_refused(
    configuration: dict[str, dict[str, Any]],
) -> None:
    with pytest.raises(ProfileError, match="Known: llama-3.1-8b"):
        check_parameters({**configuration["parameters"], "model": "gpt-9"})


def test_unknown_environment_is_refused(project: Path) -> None:
    with pytest.raises(ParameterError, match=r"environment tests in .*KEDRO_ENV\).* mean test\?"):
        config_loader(project, "tests")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"model: x\nrepository: [a\n", "parameters.yml, line 3: invalid YAML"),
        (b"model: x\nmodel: y\n", "parameters.yml, line 2: invalid YAML: found duplicate key"),
        (b"model: ${nothing:x}\n", "cannot be resolved: Unsupported interpolation type nothing"),
        (b"- model\n", "parameters.yml, line 1: not a mapping"),
        (b"model: \xff\n", "parameters.yml is not UTF-8"),
    ],
)
def test_unreadable_file_is_named_with_its_line(tmp_path: Path, text: bytes, message: str) -> None:
    project = copy_project(tmp_path)
    (project / "conf/local/parameters.yml").write_bytes(text)
    with pytest.raises(ParameterError) as caught:
        project_parameters(project)
    assert message in str(caught.value)


def merged(values: dict[str, Any], changed: dict[str, Any]) -> dict[str, Any]:
    result = dict(values)
    for name, value in changed.items():
        are_dicts = isinstance(value, dict) and isinstance(result.get(name), dict)
        result[name] = merged(result[name], value) if are_dicts else value
    return result


@pytest.mark.parametrize(("old", "new"), RENAMED_PARAMETERS.items())
def test_renamed_parameter_error_gives_the_new_name(
    old: str, new: str, configuration: dict[str, dict[str, Any]]
) -> None:
    parameters = OmegaConf.create(configuration["parameters"])
    assert OmegaConf.select(parameters, new, default="missing") != "missing"
    OmegaConf.update(parameters, old, 1)
    with pytest.raises(ParameterError) as caught:
        check_parameters(OmegaConf.to_container(parameters))  # type: ignore[arg-type]
    assert str(caught.value) == f"The parameter {old} is now called {new}. Use the new name."


def archive_of(conf: Path, target: Path) -> Path:
    """Archive the folder ``conf``, in the format of the name of ``target``."""
    if target.suffix == ".zip":
        # Without the empty folder conf/local, which a zip made of files does not have.
        with zipfile.ZipFile(target, "w") as file:
            for path in sorted(conf.rglob("*.yml")):
                file.write(path, path.relative_to(conf.parent))
    else:
        with tarfile.open(target, "w:gz" if target.suffix == ".gz" else "w") as file:
            file.add(conf, "conf")
    return target


@pytest.mark.parametrize("name", ["conf.tar.gz", "conf.tar", "conf.zip", "conf"])
@pytest.mark.parametrize("env", [None, "base", "local", "test"])
def test_configuration_is_read_from_an_archive_with_any_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, env: str | None
) -> None:
    project = copy_project(tmp_path / "project")
    (project / "conf/local/parameters.yml").write_text("model: llama-3.1-8b\n")
    source = archive_of(project / "conf", tmp_path / name) if "." in name else project / "conf"
    monkeypatch.chdir(project)
    loader = ProjectConfigLoader(str(source), env=env, runtime_params={}, **LOADER_ARGS)
    expected = {None: "llama-3.1-8b", "local": "llama-3.1-8b", "base": "smollm2-135m"}
    assert loader["parameters"]["model"] == expected.get(env, "tiny")
    cache = loader["parameters"]["git_ingest"]["cache_folder"]
    assert Path(cache) == project / "data/02_intermediate/.ingest_cache"
    assert loader["catalog"]["train_rows"]["filepath"].endswith(expected.get(env, "tiny"))


@pytest.mark.parametrize("name", ["conf.tar.gz", "conf.zip", "conf"])
def test_the_folder_local_is_optional_unless_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    project = copy_project(tmp_path / "project")
    (project / "conf/local").rmdir()
    source = archive_of(project / "conf", tmp_path / name) if "." in name else project / "conf"
    monkeypatch.chdir(project)
    for env in (None, "local", "base"):
        loader = ProjectConfigLoader(str(source), env=env, runtime_params={}, **LOADER_ARGS)
        assert loader["parameters"]["model"] == "smollm2-135m"
        assert loader["credentials"] == {}
    with pytest.raises(ParameterError, match=r"no configuration environment tset.*mean test\?"):
        ProjectConfigLoader(str(source), env="tset", runtime_params={}, **LOADER_ARGS)


def test_other_entries_of_an_archive_are_not_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = copy_project(tmp_path / "project")
    archive = archive_of(project / "conf", tmp_path / "conf.zip")
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("__MACOSX/conf/._base", "")
        file.writestr("zz/readme.txt", "")
    monkeypatch.chdir(project)
    loader = ProjectConfigLoader(str(archive), env="test", runtime_params={}, **LOADER_ARGS)
    assert loader["parameters"]["model"] == "tiny"


@pytest.mark.parametrize("kind", ["an archive of its content", "an empty archive", "a folder"])
def test_a_source_without_a_configuration_is_one_sentence(tmp_path: Path, kind: str) -> None:
    source = tmp_path / ("elsewhere" if kind == "a folder" else "conf.tar.gz")
    if kind == "a folder":
        source.mkdir()
    else:
        with tarfile.open(source, "w:gz") as file:
            file.add(ROOT / ("conf/base" if "content" in kind else "conf/test"), ".")
    with pytest.raises(ParameterError, match="contains no configuration: there is no folder base"):
        ProjectConfigLoader(str(source), runtime_params={}, **LOADER_ARGS)


def test_a_broken_file_in_an_archive_is_named_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = copy_project(tmp_path / "project")
    (project / "conf/local/parameters.yml").write_text("model: x\nrepository: @\n")
    archive = archive_of(project / "conf", tmp_path / "conf.tar.gz")
    monkeypatch.chdir(project)
    loader = ProjectConfigLoader(str(archive), runtime_params={}, **LOADER_ARGS)
    with pytest.raises(ParameterError, match=r"local/parameters.yml, line 2: .* in quotes"):
        loader["parameters"]
