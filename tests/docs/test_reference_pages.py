"""The reference pages describe every parameter, every column and every command."""

from typing import get_args

import pytest
from docs.tools import reference_pages as pages
from pydantic import BaseModel, RootModel

from the_block_llm import schemas
from the_block_llm.cli import cli
from the_block_llm.project.parameter_checks import TYPED_PARAMETERS


def leaf_names(values: dict[str, object], prefix: str) -> set[str]:
    """Return the dotted names of all values; an empty dictionary counts as a value."""
    names: set[str] = set()
    for name, value in values.items():
        inner = leaf_names(value, f"{prefix}{name}.") if isinstance(value, dict) else set()
        names |= inner or {f"{prefix}{name}"}
    return names


@pytest.mark.parametrize("group", TYPED_PARAMETERS)
def test_every_parameter_is_described_in_the_reference(group: str) -> None:
    params_class: type[BaseModel] = TYPED_PARAMETERS[group]
    configured = pages.configured()[group]
    if issubclass(params_class, RootModel):
        params_class = get_args(params_class.model_fields["root"].annotation)[1]
        profiles, configured = configured, {}
        for profile in profiles.values():
            configured |= profile
    listed = pages.parameters(params_class, configured, "")
    assert leaf_names(configured, "") <= {parameter.name for parameter in listed}
    assert set(params_class.model_fields) - {"name"} <= {
        parameter.name.partition(".")[0] for parameter in listed
    }
    assert [p.name for p in listed if not p.description] == [], "missing docstring of the field"
    page = pages.parameters_page()
    assert all(f"{parameter.name}`" in page for parameter in listed)


def test_every_column_is_described_in_the_data_dictionary() -> None:
    page = pages.data_page()
    tables = {name: t for name, t in vars(schemas).items() if isinstance(t, schemas.pa.Schema)}
    assert len(tables) >= 7
    for name, table in tables.items():
        assert f"## {name.lower()}\n" in page
        for column in table:
            assert schemas.description(column), f"{name}.{column.name}: missing description"
            assert f"| `{column.name}` |" in page.partition(f"## {name.lower()}\n")[2]
    for reason in schemas.DROP_REASONS:
        assert f"`{reason}`" in page


def test_every_command_is_in_the_reference_with_an_example() -> None:
    page = pages.commands_page()
    sections = page.split("\n## ")[1:]
    assert all(f"## kedro {name}" in page for name in cli.commands)
    assert [text.splitlines()[0] for text in sections if "Example" not in text] == []
