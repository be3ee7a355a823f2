"""The reference names every parameter, every column and every command, each with a sentence."""

from typing import get_args

import pytest
from docs.tools import reference_pages as pages
from pydantic import BaseModel, RootModel

from the_block_llm import schemas
from the_block_llm.cli import cli
from the_block_llm.project.parameter_checks import TYPED_PARAMETERS


def leaves(values: dict[str, object], prefix: str) -> set[str]:
    """Names of all values of conf/base; a dictionary that is empty is a value itself."""
    found: set[str] = set()
    for name, value in values.items():
        inner = leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else set()
        found |= inner or {f"{prefix}{name}"}
    return found


@pytest.mark.parametrize("group", TYPED_PARAMETERS)
def test_every_parameter_is_described_in_the_reference(group: str) -> None:
    kind: type[BaseModel] = TYPED_PARAMETERS[group]
    configured = pages.configured()[group]
    if issubclass(kind, RootModel):
        kind = get_args(kind.model_fields["root"].annotation)[1]
        profiles, configured = configured, {}
        for profile in profiles.values():
            configured |= profile
    listed = pages.parameters(kind, configured, "")
    assert leaves(configured, "") <= {one.name for one in listed}
    assert set(kind.model_fields) - {"name"} <= {one.name.partition(".")[0] for one in listed}
    assert [one.name for one in listed if not one.says] == [], "say what it is, under the field"
    page = pages.parameters_page()
    assert all(f"{one.name}`" in page for one in listed)


def test_every_column_is_described_in_the_data_dictionary() -> None:
    page = pages.data_page()
    tables = {name: t for name, t in vars(schemas).items() if isinstance(t, schemas.pa.Schema)}
    assert len(tables) >= 7
    for name, table in tables.items():
        assert f"## {name.lower()}\n" in page
        for column in table:
            assert schemas.description(column), f"{name}.{column.name}: say what it holds"
            assert f"| `{column.name}` |" in page.partition(f"## {name.lower()}\n")[2]
    for reason in schemas.DROP_REASONS:
        assert f"`{reason}`" in page


def test_every_command_is_in_the_reference_with_an_example() -> None:
    page = pages.commands_page()
    sections = page.split("\n## ")[1:]
    assert all(f"## kedro {name}" in page for name in cli.commands)
    assert [text.splitlines()[0] for text in sections if "Example" not in text] == []
