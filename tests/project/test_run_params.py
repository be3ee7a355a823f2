"""Values that YAML reads otherwise: as they were typed, or an error that says how to write it."""

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from pydantic import BaseModel, ValidationError
from tests.builders.project import ROOT, copy_project

from the_block_llm.errors import BlockError, ParameterError
from the_block_llm.pipelines.git_ingest.params import GitIngestParams
from the_block_llm.project.config_loader import project_parameters
from the_block_llm.project.parameter_checks import TYPED_PARAMETERS, check_parameters
from the_block_llm.project.run_params import parse_params

# Tags, branches, short shas, folders and names that exist.
LOOKALIKES = (
    "1.10", "007", "2024", "20240131", "1e3", "1234567e8", "0x10", "0o17", "0b1", "1_000", "12:30",
    "yes", "no", "on", "off", "y", "true", "False", "null", "~", "NULL", "@", "@~1", "2024-01-31",
    "2024-01-31T10:00:00Z", ".5", "1.", "-1", "+1", ".inf", ".nan", "=", "<<", "-", "?", "*", "&a",
    "!x", "%y", "`z`", "|", ">", "#1", "a: b", "a #b", "x=y", "a:b", "HEAD^{commit}", "v1.0@{u}",
    "/x/1.10", "/x/a=b:c", "it's", 'say "so"', "\\\\host\\share", "~ann/repo", "ünïcode", "a b",
)  # fmt: skip


def text_parameters() -> Iterator[tuple[str, bool]]:
    """Yield every parameter that is a string, and whether it may be null."""
    yield "repository", False
    yield "model", False
    yield "repositories", False  # null in a file is an empty list
    for group, params_class in TYPED_PARAMETERS.items():
        if group != "models":
            yield from text_fields(params_class, group)
    profile = get_args(TYPED_PARAMETERS["models"].model_fields["root"].annotation)[1]
    yield from text_fields(profile, "models.llama-3.1-8b")


def text_fields(params_class: type[BaseModel], prefix: str) -> Iterator[tuple[str, bool]]:
    for name, field in params_class.model_fields.items():
        is_union = get_origin(field.annotation) in {Union, UnionType}
        members = get_args(field.annotation) if is_union else (field.annotation,)
        if str in members and float not in members:
            yield f"{prefix}.{name}", type(None) in members
        for member in members:
            if isinstance(member, type) and issubclass(member, BaseModel):
                yield from text_fields(member, f"{prefix}.{name}")


TEXT_PARAMETERS = dict(text_parameters())


def value_or_error(read: Callable[[], Any]) -> Any:
    """Return the value, or the message of a user error."""
    try:
        return read()
    except BlockError as error:
        return str(error)


def select(values: dict[str, Any], name: str) -> Any:
    path = name.replace("llama-3.1-8b", "llama-3_1-8b").split(".")
    for key in path:
        values = values[key.replace("llama-3_1-8b", "llama-3.1-8b")]
    return values


@pytest.fixture(scope="module")
def parameters() -> dict[str, Any]:
    return project_parameters(ROOT, "base")


def with_value(parameters: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(parameters))
    *groups, last = name.replace("llama-3.1-8b", "llama-3_1-8b").split(".")
    target = copy
    for key in groups:
        target = target[key.replace("llama-3_1-8b", "llama-3.1-8b")]
    target[last] = value
    return copy


def test_there_are_text_parameters_of_every_kind() -> None:
    assert {
        "repository", "model", "git_ingest.ref", "git_ingest.cache_folder", "storage.folder",
        "sequence_build.only_repository", "models.llama-3.1-8b.folder",
        "models.llama-3.1-8b.hub_revision", "advisor.completion_model", "execution.address",
    } <= set(TEXT_PARAMETERS)  # fmt: skip


@pytest.mark.parametrize("name", TEXT_PARAMETERS)
def test_command_line_values_are_read_as_typed(name: str) -> None:
    for value in LOOKALIKES:
        is_null = TEXT_PARAMETERS[name] and value.lower() in {"null", "~"}
        read = select(parse_params(f"{name}={value}"), name)
        assert read == (None if is_null else value), value
        # Between others, and in quotes, where null is a name.
        others = parse_params(f"qlora_train.max_steps=3,{name}={value},model=m")
        if name != "model":
            assert select(others, name) == read
            assert (others["qlora_train"]["max_steps"], others["model"]) == (3, "m")
        assert select(parse_params(f"{name}={json.dumps(value)}"), name) == value
        single = "'" + value.replace("'", "''") + "'"
        assert select(parse_params(f"{name}={single},execution.cpus=2"), name) == value


@pytest.mark.parametrize("name", TEXT_PARAMETERS)
def test_values_in_files_are_strings_or_an_error_says_to_quote_them(
    name: str, parameters: dict[str, Any]
) -> None:
    for value in LOOKALIKES:
        try:
            read = OmegaConf.to_container(OmegaConf.create(f"value: {value}"))["value"]
        except yaml.YAMLError:
            continue  # below: the error names the line
        if isinstance(read, str | list | dict):
            continue  # a string with other text (a comment, quotes) is what YAML documents
        if read is None and (TEXT_PARAMETERS[name] or name == "repositories"):
            continue
        with pytest.raises(ParameterError) as caught:
            check_parameters(with_value(parameters, name, read))
        assert name in str(caught.value), value
        assert "in quotes in the file" in str(caught.value), value


@pytest.mark.parametrize("value", LOOKALIKES)
def test_a_ref_in_a_file_is_read_as_typed_or_named(tmp_path: Path, value: str) -> None:
    project = copy_project(tmp_path)
    file = project / "conf/local/parameters.yml"
    file.write_text(f"git_ingest:\n  ref: {value}\n", encoding="utf-8")
    outcome = value_or_error(lambda: project_parameters(project)["git_ingest"]["ref"])
    # What stands behind # is a comment.
    assert (
        outcome in {value, value.partition(" #")[0]}
        or "quotes" in outcome
        or (value.startswith(("#", "a: b", "|", ">")) and "git_ingest.ref" in outcome)
    )
    file.write_text(f"git_ingest:\n  ref: {json.dumps(value)}\n", encoding="utf-8")
    assert project_parameters(project)["git_ingest"]["ref"] == value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("a.b=1", {"a": {"b": 1}}),
        (" model = x , repository = y ", {"model": "x", "repository": "y"}),
        ("qlora_train.max_steps=20", {"qlora_train": {"max_steps": 20}}),
        ("qlora_train.preflight_only=true", {"qlora_train": {"preflight_only": True}}),
        ("qlora_train.memory_cap_gib=7e0", {"qlora_train": {"memory_cap_gib": 7.0}}),
        ("qlora_train.max_steps=null", {"qlora_train": {"max_steps": None}}),
        ("qlora_train.layers=streamed", {"qlora_train": {"layers": "streamed"}}),
        ("sequence_build.cutoff=0.7", {"sequence_build": {"cutoff": 0.7}}),
        ("sequence_build.cutoff=2024-01-31", {"sequence_build": {"cutoff": "2024-01-31"}}),
        ("sequence_build.cutoff=null", {"sequence_build": {"cutoff": None}}),
        ("sequence_build.mix={file: 1.0, chat: 0.5}",
         {"sequence_build": {"mix": {"file": 1.0, "chat": 0.5}}}),
        ("behavioral_eval.suites=[general, 007],model=m",
         {"behavioral_eval": {"suites": ["general", "007"]}, "model": "m"}),
        ("behavioral_eval.sampling.seeds=[0, 1]",
         {"behavioral_eval": {"sampling": {"seeds": [0, 1]}}}),
        ("repositories=[1.10, /x/2024]", {"repositories": ["1.10", "/x/2024"]}),
        ("advisor.adapters={smollm2-135m: 2026}",
         {"advisor": {"adapters": {"smollm2-135m": "2026"}}}),
        ("advisor.adapters.llama-3.1-8b=1.10", {"advisor": {"adapters": {"llama-3.1-8b": "1.10"}}}),
        ("models.llama-3.1-8b.lora.r=8", {"models": {"llama-3.1-8b": {"lora": {"r": 8}}}}),
        ("models.007.folder=007", {"models": {"007": {"folder": "007"}}}),
        ("repository='a,b=c',model=m", {"repository": "a,b=c", "model": "m"}),
        ('repository="/x/a, b",model=m', {"repository": "/x/a, b", "model": "m"}),
        ("repository=https://host/a?b=c", {"repository": "https://host/a?b=c"}),
        ("git_ingest.ref=a,git_ingest.since=2024-01-31",
         {"git_ingest": {"ref": "a", "since": "2024-01-31"}}),
    ],
)  # fmt: skip
def test_values_have_the_type_of_their_parameter(text: str, expected: dict[str, Any]) -> None:
    assert parse_params(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("repository=/x/a,b", "'b' is not of the form NAME=VALUE.*comma in quotes"),
        ("max_steps", "'max_steps' is not of the form"),
        ("=5", "not of the form"),
        ("qlora_train.max_steps=@", "value of qlora_train.max_steps, '@', cannot be read as YAML"),
        ("sequence_build.mix={file", "cannot be read as YAML"),
        ("models=5,models.a.folder=x", "sets both models and models.a.folder"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(text: str, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        parse_params(text)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_text_is_read_or_refused_in_one_sentence(text: str) -> None:
    outcome = value_or_error(lambda: parse_params(text))
    assert outcome == {} or outcome


@given(
    st.lists(
        st.tuples(
            st.sampled_from(sorted(set(TEXT_PARAMETERS) - {"repositories"})),
            st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1),
        ),
        unique_by=lambda pair: pair[0],
    )
)
def test_quoted_text_comes_back(pairs: list[tuple[str, str]]) -> None:
    quoted = ",".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in pairs)
    read = parse_params(quoted)
    assert [select(read, name) for name, _ in pairs] == [value for _, value in pairs]


@pytest.mark.parametrize("since", [2024, 20240131, "2024", "20240131", 1.5, True])
def test_a_number_is_no_date(since: Any) -> None:
    with pytest.raises(ValidationError, match="is not a date; use one such as 2026-01-31"):
        GitIngestParams(since=since)
    assert GitIngestParams(since="2024-01-31").since.year == 2024


def test_every_literal_parameter_takes_its_values_as_typed() -> None:
    for group, params_class in TYPED_PARAMETERS.items():
        for name, field in params_class.model_fields.items():
            members = itertools.chain([field.annotation], get_args(field.annotation))
            for member in members:
                if get_origin(member) is Literal:
                    for value in get_args(member):
                        assert parse_params(f"{group}.{name}={value}") == {group: {name: value}}
