"""Values of ``--params``, each read as the type of its parameter requires.

Kedro reads every value as YAML, which makes a number of the tag ``1.10`` and nothing of ``~``. The
value of a parameter that is a string is taken as it was typed.
"""

import re
from pathlib import Path
from types import UnionType
from typing import Any, Final, Literal, TypeGuard, Union, get_args, get_origin

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel

from the_block_llm.errors import ParameterError
from the_block_llm.project.parameter_checks import STRING_PARAMETERS, TYPED_PARAMETERS

# A quoted value; a list or mapping, whose end is followed by another parameter or by nothing; or
# everything up to the next comma.
_ITEM: Final = re.compile(
    r"""\s*(?:(?P<name>[^=,]*)=\s*)?
    (?P<value>
        "(?:[^"\\]|\\.)*"(?=\s*(?:,|$))
        | '(?:[^']|'')*'(?=\s*(?:,|$))
        | [\[{].*?[\]}](?=\s*(?:,[^,=\]}]*=|$))
        | [^,]*
    )\s*(?:,|$)""",
    re.VERBOSE | re.DOTALL,
)
_QUOTED: Final = re.compile(r"""("(?:[^"\\]|\\.)*"|'(?:[^']|'')*')""", re.DOTALL)


def parse_params(text: str) -> dict[str, Any]:
    """Parse ``NAME=VALUE,NAME=VALUE``.

    A value is quoted if it contains a comma, or begins or ends with a space or a quotation mark.

    >>> parse_params("git_ingest.ref=1.10,git_ingest.n_processes=2,repository='a,b'")
    {'git_ingest': {'ref': '1.10', 'n_processes': 2}, 'repository': 'a,b'}

    Raises:
        ParameterError: An item has no ``=``, or a value is not of the parameter's type.
    """
    params: dict[str, Any] = {}
    position = 0
    while position < len(text):
        item = _ITEM.match(text, position)
        assert item is not None  # noqa: S101  # every part of the pattern may be empty
        position = item.end()
        name, raw = (item["name"] or "").strip(), item["value"].strip()
        if item["name"] is None and not raw:
            continue
        if not name:
            raise ParameterError(
                f"--params: {raw!r} is not of the form NAME=VALUE. Put a value that contains a "
                "comma in quotes, for the shell too: --params='repository=\"a,b\"'."
            )
        path, annotation = _locate(name)
        _insert(params, path, _read(name, raw, annotation))
    return params


def _locate(name: str) -> tuple[list[str], Any]:
    """Return the keys of a parameter and its type; None for one that does not exist."""
    group, _, rest = name.partition(".")
    if group in STRING_PARAMETERS and not rest:
        return [group], str
    if group == "repositories" and not rest:
        return [group], str | list[str]
    if group in TYPED_PARAMETERS and rest:
        found = _descend(TYPED_PARAMETERS[group], rest)
        if found is not None:
            return [group, *found[0]], found[1]
    return name.split("."), None


def _descend(annotation: Any, name: str) -> tuple[list[str], Any] | None:
    """Find ``name`` below a type; the keys of a mapping, as of the profiles, may contain dots."""
    for member in _members(annotation):
        if _is_model(member) and "root" in member.model_fields:
            return _descend(member.model_fields["root"].annotation, name)
        if _is_model(member):
            first, _, rest = name.partition(".")
            if (field := member.model_fields.get(first)) is None:
                continue
            if not rest:
                return [first], field.annotation
            if (found := _descend(field.annotation, rest)) is not None:
                return [first, *found[0]], found[1]
        elif get_origin(member) is dict:
            value_type = get_args(member)[1]
            for dot in re.finditer(r"\.", name):
                if (found := _descend(value_type, name[dot.end() :])) is not None:
                    return [name[: dot.start()], *found[0]], found[1]
            return [name], value_type
    return None


def _read(name: str, raw: str, annotation: Any) -> Any:
    """Return the value of the text ``raw``, by the type of its parameter."""
    members = _members(annotation)
    is_collection = raw.startswith(("[", "{")) and any(
        (get_origin(member) in {tuple, list, dict} and _is_text(get_args(member)[-1]))
        or (get_origin(member) is tuple and _is_text(get_args(member)[0]))
        for member in members
    )  # fmt: skip
    try:
        if is_collection:
            # Every scalar stays a string.
            return yaml.load(raw, Loader=yaml.BaseLoader)  # noqa: S506
        if _QUOTED.fullmatch(raw):
            return yaml.safe_load(raw)  # without interpolation: ${x} in quotes is text
        if not any(_is_text(member) for member in members):
            return _as_yaml(raw)
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ParameterError(
            f"--params: the value of {name}, {raw!r}, cannot be read as YAML. Correct it, or put "
            "it in quotes."
        ) from error
    if type(None) in members and raw.lower() in {"", "~", "null"}:
        return None
    if float in members and isinstance(number := _number(raw), int | float):
        return number
    return raw


def _members(annotation: Any) -> tuple[Any, ...]:
    is_union = get_origin(annotation) in {Union, UnionType}
    return get_args(annotation) if is_union else (annotation,)


def _is_model(annotation: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _is_text(annotation: Any) -> bool:
    if get_origin(annotation) is Literal:
        return all(isinstance(value, str) for value in get_args(annotation))
    return annotation in {str, Path}


def _as_yaml(raw: str) -> Any:
    """Read YAML as OmegaConf does for files and for Kedro's ``--params``."""
    return OmegaConf.to_container(OmegaConf.from_dotlist([f"value={raw}"]))["value"]  # type: ignore[call-overload,index]


def _number(raw: str) -> float | None:
    try:
        return float(raw)
    except ValueError:
        return None


def _insert(params: dict[str, Any], path: list[str], value: Any) -> None:
    *groups, last = path
    for group in groups:
        params = params.setdefault(group, {})
        if not isinstance(params, dict):
            raise ParameterError(
                f"--params sets both {group} and {'.'.join(path)}, which is a part of it. Remove "
                "one of them."
            )
    params[last] = value
