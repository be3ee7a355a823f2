"""Generates the reference pages from the code: parameters, tables, commands.

MkDocs calls :func:`on_files` before it reads the pages; the generated pages are not in git.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

import click
import pyarrow as pa
import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel, RootModel
from pydantic.fields import FieldInfo

from the_block_llm import schemas
from the_block_llm.cli import cli
from the_block_llm.project.parameter_checks import TYPED_PARAMETERS

ROOT = Path(__file__).resolve().parents[2]
# Parameters at the top level, which have no params class.
TOP_LEVEL = {
    "repository": "A work tree, bare repository, bundle or URL; `.` is this project's own history.",
    "repositories": "Several repositories for one run; if empty, `repository` is used.",
    "model": "A model profile, or a folder with weights.",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {
        "reference/parameters.md": parameters_page(),
        "reference/data.md": data_page(),
        "reference/commands.md": commands_page(),
    }
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def parameters_page() -> str:
    """Return the page with every parameter: type, value in conf/base, description."""
    values = configured()
    lines = [
        "---\nhide: [toc]\n---",
        "# Parameters",
        "",
        "Generated from the typed parameters and `conf/base`. Set one for a run with",
        "`--params=NAME=VALUE`, permanently in `conf/local/parameters.yml`. An unknown name or a",
        "value out of range is an error before anything runs.",
        "",
        "| parameter | default | description |",
        "|---|---|---|",
    ]
    lines += [f"| `{name}` | {_value(values[name])} | {text} |" for name, text in TOP_LEVEL.items()]
    for group, params_class in TYPED_PARAMETERS.items():
        lines += ["", f"## {group}", "", _paragraph(params_class)]
        if issubclass(params_class, RootModel):
            lines += ["", *_profiles(params_class, values[group])]
        else:
            lines += ["", "| parameter | type | default | description |", "|---|---|---|---|"]
            lines += [
                f"| `{p.name}` | {p.type} | {_value(p.value)} | {p.description} |"
                for p in parameters(params_class, values[group], f"{group}.")
            ]
    return "\n".join(lines) + "\n"


def data_page() -> str:
    """Return the page with every table and its columns."""
    lines = [
        "# Data dictionary",
        "",
        "Generated from `schemas.py`; each Parquet part contains the descriptions too. Times are",
        "UTC, text is UTF-8. Read a table with `catalog.load(NAME)`, which checks that it is",
        "complete and undamaged, or give its folder to any Parquet reader:",
        "`pandas.read_parquet(folder)`, `pyarrow.dataset.dataset(folder)`, DuckDB, Polars. They",
        "skip `_manifest.json`, which lists the parts with their checksums.",
    ]
    for name, dataset in _datasets_by_table().items():
        schema: pa.Schema = getattr(schemas, name)
        lines += ["", f"## {name.lower()}", "", *dataset, ""]
        lines += ["| column | type | description |", "|---|---|---|"]
        for column in schema:
            null = ", or null" if column.nullable else ""
            column_type = f"{_arrow_type(column.type)}{null}"
            lines.append(f"| `{column.name}` | {column_type} | {schemas.description(column)} |")
    lines += ["", "## Enumerations", "", "| name | values |", "|---|---|"]
    for name in ("COMMIT_KINDS", "DROP_REASONS", "CHANGE_STATUSES", "DOCUMENT_KINDS", "SPLITS"):
        lines.append(f"| `{name}` | {', '.join(f'`{v}`' for v in getattr(schemas, name))} |")
    return "\n".join(lines) + "\n"


def commands_page() -> str:
    """Return the page with the help of every command of this project."""
    lines = [
        "# Commands",
        "",
        "The output of `--help` for each command, in addition to the commands of Kedro.",
        "`make help` lists the targets of the Makefile.",
    ]
    for name, command in sorted(_commands(cli, "kedro")):
        context = click.Context(command, info_name=name, max_content_width=92, terminal_width=92)
        lines += ["", f"## {name}", "", "```text", command.get_help(context).strip(), "```"]
    return "\n".join(lines) + "\n"


def _commands(group: click.Group, prefix: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _commands(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def configured() -> dict[str, Any]:
    """Return the parameters of conf/base."""
    values: dict[str, Any] = {}
    for path in sorted((ROOT / "conf/base").glob("parameters*.yml")):
        values |= yaml.safe_load(path.read_text(encoding="utf-8"))
    return values


def _datasets_by_table() -> dict[str, list[str]]:
    datasets: dict[str, list[str]] = {}
    for catalog in sorted((ROOT / "conf/base").glob("catalog*.yml")):
        for name, entry in yaml.safe_load(catalog.read_text(encoding="utf-8")).items():
            if "table" in entry:
                path = entry["filepath"].replace("${chosen:model}", "<profile>")
                path = re.sub(r"\$\{stored:(.*)\}$", r"data/\1", path)
                datasets.setdefault(entry["table"], []).append(f"- `{name}` in `{path}`")
    return datasets


def _profiles(params_class: type[BaseModel], profiles: dict[str, Any]) -> list[str]:
    """Return one table of all profiles, with a column for each."""
    profile = get_args(params_class.model_fields["root"].annotation)[1]
    columns = [parameters(profile, values, "") for values in profiles.values()]
    lines = [
        "`NAME` stands for the profile: `models.llama-3.1-8b.lora.r`.",
        "",
        f"| `models.NAME.` | type | {' | '.join(profiles)} | description |",
        "|---" * (len(profiles) + 3) + "|",
    ]
    for row in zip(*columns, strict=True):
        values = " | ".join(_value(p.value) for p in row)
        lines.append(f"| `{row[0].name}` | {row[0].type} | {values} | {row[0].description} |")
    return lines


@dataclass(frozen=True)
class Parameter:
    """One value that a user can set."""

    name: str
    type: str
    value: Any
    description: str


def parameters(
    params_class: type[BaseModel], values: dict[str, Any], prefix: str
) -> list[Parameter]:
    """Return all parameters of a class, including nested ones, with their values in conf/base."""
    descriptions = field_descriptions(params_class)
    result: list[Parameter] = []
    for name, field in params_class.model_fields.items():
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        value = values.get(name, default)
        nested = _nested_model(field.annotation)
        if nested is not None and isinstance(value, BaseModel):
            value = value.model_dump()
        if name == "name":  # of a profile: set from its key
            continue
        if nested is None or not isinstance(value, dict):
            description = descriptions.get(name, "")
            result.append(Parameter(f"{prefix}{name}", _type(field), value, description))
        elif set(nested.model_fields) >= set(value):
            result += parameters(nested, value, f"{prefix}{name}.")
        else:  # a dictionary of models: budgets.cpu, budgets.cuda
            for key, entry in value.items():
                result += parameters(nested, entry, f"{prefix}{name}.{key}.")
    return result


def _nested_model(annotation: Any) -> type[BaseModel] | None:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) is dict:
        return _nested_model(get_args(annotation)[1])
    return None


def field_descriptions(params_class: type[BaseModel]) -> dict[str, str]:
    """Return the docstring of each field of a class of parameters, by field name."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(params_class))).body
    assert isinstance(body, ast.ClassDef)
    descriptions = {}
    for field, after in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            descriptions[field.target.id] = _one_line(str(after.value.value))
    return descriptions


def _paragraph(params_class: type[BaseModel]) -> str:
    return _one_line(inspect.getdoc(params_class) or "")


def _one_line(text: str) -> str:
    text = " ".join(text.split()).replace("``", "`").replace("|", "\\|")
    return text.replace(":class:`~.advisor.Advisor`", "`Advisor`")


def _type(field: FieldInfo) -> str:
    annotation = field.annotation
    text = annotation.__name__ if inspect.isclass(annotation) else str(annotation)
    text = text.replace("typing.", "").replace("datetime.datetime", "date")
    for limit in field.metadata:
        for name, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<")):
            if getattr(limit, name, None) is not None:
                text += f", {sign} {getattr(limit, name):,}"
    text = re.sub(r"Literal\[(.*?)\]", lambda m: m[1].replace("'", "").replace(", ", " | "), text)
    return text.replace("|", "\\|").replace("NoneType", "None").replace("None", "null")


def _value(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, (tuple, set, frozenset)):
        value = list(value)
    text = value if isinstance(value, str) else yaml.safe_dump(
        value, default_flow_style=True, width=10_000, allow_unicode=True
    ).removesuffix("...\n").strip()  # fmt: skip
    text = text.replace("${project_path:", "").removesuffix("}") if "${project" in text else text
    return f"`{text}`".replace("|", "\\|")


def _arrow_type(data_type: pa.DataType) -> str:
    if pa.types.is_list(data_type):
        return f"list of {_arrow_type(data_type.value_type)}"
    if pa.types.is_struct(data_type):
        return "{" + ", ".join(f"{f.name}: {_arrow_type(f.type)}" for f in data_type) + "}"
    return {"timestamp[s, tz=UTC]": "time", "string": "text", "double": "float64"}.get(
        str(data_type), str(data_type)
    )
