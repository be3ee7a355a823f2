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


def registry(folder, **changed):
    parameters = advisor_parameters(folder, **changed)
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
def test_the_newest_complete_adapter_unless_another_is_named(folder, model, adapter, name):
    assert registry(folder).resolve("advisor", model, adapter).name == name


def test_a_pinned_version_is_used_until_it_is_unpinned(folder):
    pinned = registry(folder, adapters={"tiny": OLD})
    assert pinned.resolve("advisor").name == f"tiny@{OLD}"
    assert pinned.resolve("advisor", f"tiny@{NEW}").name == f"tiny@{NEW}"


@pytest.mark.parametrize(
    ("role", "model", "adapter", "error", "said"),
    [
        ("completion", "tiny@base", None, RoleError, "Use tiny-coder instead"),
        ("advisor", "tiny-coder@base", None, RoleError, "Use tiny instead"),
        ("advisor", "gpt-9", None, ProfileError, "Known: tiny, tiny-coder"),
        ("advisor", "tiny", "1999", AdapterError, NEW),
        ("advisor", "tiny", "../tiny/" + NEW, AdapterError, "There is no adapter"),
        ("completion", None, None, AdapterError, "--base"),
    ],
)
def test_what_cannot_be_asked_says_what_can(folder, role, model, adapter, error, said):
    with pytest.raises(error, match=said):
        registry(folder).resolve(role, model, adapter)


def test_two_advisors_leave_nobody_to_complete(folder):
    parameters = advisor_parameters(folder, completion_model="tiny")
    offered = ModelRegistry(parameters, AdvisorParams.model_validate(parameters["advisor"]))
    with pytest.raises(RoleError, match=r"advisor\.completion_model"):
        offered.resolve("completion")


def test_all_that_can_be_asked_is_listed(folder):
    names = [version.name for version in registry(folder).list_models()]
    assert names == [f"tiny@{NEW}", f"tiny@{OLD}", "tiny@base", "tiny-coder@base"]


@pytest.mark.parametrize("name", ["", "/etc", "../x", "~root", "a\\b", ".hidden", "a\x00", "a/b"])
def test_a_client_cannot_name_a_folder(name):
    with pytest.raises(ProfileError):
        check_model_name(name)
