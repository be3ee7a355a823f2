"""Pages of the documentation that are written from the code: parameters, tables, commands.

MkDocs calls :func:`on_files` before it reads the pages; nothing of this is kept in git.
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
# What the top of conf/base/parameters.yml says of them is all there is to say.
TEXTS = {
    "repository": "A work tree, bare repository, bundle or URL; `.` is this project's own history.",
    "repositories": "Several of them for one run; empty: the one named by `repository`.",
    "model": "A profile, or a folder with weights.",
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
    """Every parameter with its type, its value in conf/base and what it does."""
    values = configured()
    lines = [
        "---\nhide: [toc]\n---",
        "# Parameters",
        "",
        "Written from the typed parameters and `conf/base`. Set one for a run with",
        "`--params=NAME=VALUE`, for good in `conf/local/parameters.yml`. A name that does not",
        "exist, or a value out of its range, is an error before anything runs.",
        "",
        "| parameter | default | what it is |",
        "|---|---|---|",
    ]
    lines += [f"| `{name}` | {_value(values[name])} | {says} |" for name, says in TEXTS.items()]
    for group, kind in TYPED_PARAMETERS.items():
        lines += ["", f"## {group}", "", _paragraph(kind)]
        if issubclass(kind, RootModel):
            lines += ["", *_profiles(kind, values[group])]
        else:
            lines += ["", "| parameter | type | default | what it is |", "|---|---|---|---|"]
            lines += [
                f"| `{one.name}` | {one.type} | {_value(one.value)} | {one.says} |"
                for one in parameters(kind, values[group], f"{group}.")
            ]
    return "\n".join(lines) + "\n"


def data_page() -> str:
    """Every table with its columns."""
    lines = [
        "# Data dictionary",
        "",
        "Written from `schemas.py`; the same descriptions travel inside each Parquet part. Times",
        "are UTC, text is UTF-8. Read a table with `catalog.load(NAME)`, or with anything that",
        "reads Parquet: `manifest.json` beside the parts names those that count.",
    ]
    for name, dataset in _datasets_by_table().items():
        schema: pa.Schema = getattr(schemas, name)
        lines += ["", f"## {name.lower()}", "", *dataset, ""]
        lines += ["| column | type | what it holds |", "|---|---|---|"]
        for column in schema:
            null = ", or null" if column.nullable else ""
            lines.append(
                f"| `{column.name}` | {_arrow(column.type)}{null} | {schemas.description(column)} |"
            )
    lines += ["", "## Closed sets", "", "| set | values |", "|---|---|"]
    for name in ("COMMIT_KINDS", "DROP_REASONS", "CHANGE_STATUSES", "DOCUMENT_KINDS", "SPLITS"):
        lines.append(f"| `{name}` | {', '.join(f'`{v}`' for v in getattr(schemas, name))} |")
    return "\n".join(lines) + "\n"


def commands_page() -> str:
    """The help of every command of this project."""
    lines = [
        "# Commands",
        "",
        "What `--help` says, beside Kedro's own commands. `make help` lists the targets of the",
        "Makefile.",
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
    """The values of conf/base."""
    values: dict[str, Any] = {}
    for path in sorted((ROOT / "conf/base").glob("parameters*.yml")):
        values |= yaml.safe_load(path.read_text(encoding="utf-8"))
    return values


def _datasets_by_table() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "conf/base").glob("catalog*.yml")):
        for name, entry in yaml.safe_load(path.read_text(encoding="utf-8")).items():
            if "table" in entry:
                where = entry["filepath"].replace("${chosen:model}", "<profile>")
                where = re.sub(r"\$\{stored:(.*)\}$", r"data/\1", where)
                found.setdefault(entry["table"], []).append(f"- `{name}` in `{where}`")
    return found


def _profiles(kind: type[BaseModel], profiles: dict[str, Any]) -> list[str]:
    """One table of all profiles, a column each."""
    profile = get_args(kind.model_fields["root"].annotation)[1]
    columns = [parameters(profile, values, "") for values in profiles.values()]
    lines = [
        "`NAME` stands for the profile: `models.llama-3.1-8b.lora.r`.",
        "",
        f"| `models.NAME.` | type | {' | '.join(profiles)} | what it is |",
        "|---" * (len(profiles) + 3) + "|",
    ]
    for row in zip(*columns, strict=True):
        values = " | ".join(_value(one.value) for one in row)
        lines.append(f"| `{row[0].name}` | {row[0].type} | {values} | {row[0].says} |")
    return lines


@dataclass(frozen=True)
class Parameter:
    """One value that a user may set."""

    name: str
    type: str
    value: Any
    says: str


def parameters(kind: type[BaseModel], values: dict[str, Any], prefix: str) -> list[Parameter]:
    """Every parameter of the class ``kind``, nested ones too, with its value in conf/base."""
    says = field_descriptions(kind)
    found = []
    for name, field in kind.model_fields.items():
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        value = values.get(name, default)
        inner = _model_in(field.annotation)
        if inner is not None and isinstance(value, BaseModel):
            value = value.model_dump()
        if name == "name":  # of a profile: filled in from its key
            continue
        if inner is None or not isinstance(value, dict):
            found.append(Parameter(f"{prefix}{name}", _type(field), value, says.get(name, "")))
        elif set(inner.model_fields) >= set(value):
            found += parameters(inner, value, f"{prefix}{name}.")
        else:  # one for each key: budgets.cpu, budgets.cuda
            for key, one in value.items():
                found += parameters(inner, one, f"{prefix}{name}.{key}.")
    return found


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) is dict:
        return _model_in(get_args(annotation)[1])
    return None


def field_descriptions(kind: type[BaseModel]) -> dict[str, str]:
    """The sentence under each field of a class of parameters, by the field's name."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, after in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            found[field.target.id] = _one_line(str(after.value.value))
    return found


def _paragraph(kind: type[BaseModel]) -> str:
    return _one_line(inspect.getdoc(kind) or "")


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


def _arrow(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"list of {_arrow(kind.value_type)}"
    if pa.types.is_struct(kind):
        return "{" + ", ".join(f"{f.name}: {_arrow(f.type)}" for f in kind) + "}"
    return {"timestamp[s, tz=UTC]": "time", "string": "text", "double": "float64"}.get(
        str(kind), str(kind)
    )
