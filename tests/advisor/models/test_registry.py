import pytest
from tests.builders.advised_repository import (
    advisor_parameters,
    build_advised_repository,
    write_adapter,
)

from the_block_llm.advisor.models.registry import ModelRegistry, check_model_name
from the_block_llm.advisor.params import AdvisorParams
from the_block_llm.errors import AdapterError, ProfileError, RoleError

OLD, NEW = "2026-01-01T00.00.00Z", "2026-02-01T00.00.00Z"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = build_advised_repository(tmp_path_factory.mktemp("advised"))
    write_adapter(folder, NEW)
    (folder / "06_models/tiny/2026-03-01T00.00.00Z").mkdir()  # incomplete
    return folder


def registry(folder, **overrides):
    parameters = advisor_parameters(folder, **overrides)
    return ModelRegistry(parameters, AdvisorParams.model_validate(parameters["advisor"]))


@pytest.mark.parametrize(
    ("model", "adapter", "name"),
    [
        (None, None, f"tiny@{NEW}"),
        ("tiny", OLD, f"tiny@{OLD}"),
        (f"tiny@{OLD}", None, f"tiny@{OLD}"),
        ("tiny@base", None, "tiny@base"),
        ("tiny", "base", "tiny@base"),
    ],
)
def test_newest_complete_adapter_is_the_default(folder, model, adapter, name):
    assert registry(folder).resolve("advisor", model, adapter).name == name


def test_pinned_version_is_the_default(folder):
    pinned = registry(folder, adapters={"tiny": OLD})
    assert pinned.resolve("advisor").name == f"tiny@{OLD}"
    assert pinned.resolve("advisor", f"tiny@{NEW}").name == f"tiny@{NEW}"


@pytest.mark.parametrize(
    ("role", "model", "adapter", "error", "message"),
    [
        ("completion", "tiny@base", None, RoleError, "Use tiny-coder instead"),
        ("advisor", "tiny-coder@base", None, RoleError, "Use tiny instead"),
        ("advisor", "gpt-9", None, ProfileError, "Known: tiny, tiny-coder"),
        ("advisor", "tiny", "1999", AdapterError, NEW),
        ("advisor", "tiny", "../tiny/" + NEW, AdapterError, "There is no adapter"),
        ("completion", None, None, AdapterError, "--base"),
    ],
)
def test_errors_name_the_available_models(folder, role, model, adapter, error, message):
    with pytest.raises(error, match=message):
        registry(folder).resolve(role, model, adapter)


def test_completion_without_a_completion_model_is_an_error(folder):
    parameters = advisor_parameters(folder, completion_model="tiny")
    models = ModelRegistry(parameters, AdvisorParams.model_validate(parameters["advisor"]))
    with pytest.raises(RoleError, match=r"advisor\.completion_model"):
        models.resolve("completion")


def test_all_versions_are_listed(folder):
    names = [version.name for version in registry(folder).list_models()]
    assert names == [f"tiny@{NEW}", f"tiny@{OLD}", "tiny@base", "tiny-coder@base"]


@pytest.mark.parametrize("name", ["", "/etc", "../x", "~root", "a\\b", ".hidden", "a\x00", "a/b"])
def test_a_path_is_not_a_model_name(name):
    with pytest.raises(ProfileError):
        check_model_name(name)
