"""Probe suites: questions, and what a good answer must name.

A suite is one YAML file. Reading it checks everything, and an error says file, line and
field, because these files are written by hand.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from the_block_llm.errors import SuiteError
from the_block_llm.pipelines.behavioral_eval.probes.word_patterns import Pattern
from the_block_llm.retrieval.words import split_words

FACT: Final = re.compile(r"\{(project|main_language|folder_[123])\}")
"""What a suite may leave to be looked up in the repository; other braces are code."""
_SLUG: Final = r"^[a-z][a-z0-9_]*$"


class Concept(BaseModel, frozen=True, extra="forbid"):
    """Something a good answer names, in any of several wordings."""

    concept: str = Field(min_length=1)
    any_of: tuple[str, ...] = Field(min_length=1)
    """Whole words or phrases; ``coupl*`` stands for coupled, coupling and so on."""

    @field_validator("any_of")
    @classmethod
    def _check_patterns(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        for text in texts:
            Pattern(FACT.sub("fact", text))
        return texts

    @property
    def is_filled(self) -> bool:
        """True where no wording has a placeholder."""
        return not any(FACT.search(text) for text in self.any_of)

    def named_in(self, words: Sequence[str]) -> bool:
        """True where one of the wordings stands in ``words``."""
        return any(Pattern(text).found_in(words) for text in self.any_of)


class Probe(BaseModel, frozen=True, extra="forbid"):
    """One question."""

    id: str = Field(pattern=_SLUG)
    category: str = Field(pattern=_SLUG)
    prompt: str = Field(min_length=1)
    """The question; for a completion suite, the text to continue."""
    context: str = ""
    """Code or facts put before the question."""
    concepts: tuple[Concept, ...] = Field(min_length=1)
    must_not_claim: tuple[Concept, ...] = ()
    why: str = Field(min_length=1)
    """What the question is meant to find out."""

    @model_validator(mode="after")
    def _check_nothing_given_away(self) -> "Probe":
        asked = split_words(f"{self.context} {self.prompt}")
        # Placeholders are compared once they are filled, when this check runs again.
        given = [c.concept for c in self.concepts if c.is_filled and c.named_in(asked)]
        if given:
            raise ValueError(
                f"the question itself names {given}: repeating it would score. Reword the "
                "question or the concept"
            )
        return self


class Suite(BaseModel, frozen=True, extra="forbid"):
    """One file of probes."""

    name: str = Field(pattern=_SLUG)
    version: Literal[1]
    role: Literal["advisor", "completion"]
    about: str = Field(min_length=1)
    probes: tuple[Probe, ...] = Field(min_length=1)
    text_hash: str
    """Of the file's text, so that a report says which wording it used."""

    @model_validator(mode="after")
    def _check_ids(self) -> "Suite":
        ids = [probe.id for probe in self.probes]
        repeated = sorted({id_ for id_ in ids if ids.count(id_) > 1})
        if repeated:
            raise ValueError(f"probe ids must differ; repeated: {repeated}")
        return self


def read_suites(files: Mapping[str, Callable[[], str]], names: Sequence[str]) -> list[Suite]:
    """Read the suites called ``names``.

    Args:
        files: By name, something that gives the file's text.
        names: Which to read, in this order.

    Raises:
        SuiteError: A file is missing or wrong.
    """
    missing = [name for name in names if name not in files]
    if missing:
        raise SuiteError(
            f"There is no suite {missing[0]!r} in conf/base/suites. There are: "
            f"{', '.join(sorted(files))}. Correct behavioral_eval.suites or add the file."
        )
    return [parse_suite(name, files[name]()) for name in names]


def parse_suite(name: str, text: str) -> Suite:
    """Check the text of one suite file.

    Raises:
        SuiteError: Naming file, line and field of everything that is wrong.
    """
    file = f"suites/{name}.yml"
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise SuiteError(f"{file}, line {line}: this is not YAML: {error.problem}.") from error
    except yaml.YAMLError as error:
        raise SuiteError(f"{file}: this is not YAML: {error}.") from error
    if not isinstance(data, dict):
        raise SuiteError(f"{file}, line 1: a suite is a mapping with version, role and probes.")
    text_hash = hashlib.sha256(text.encode()).hexdigest()[:16]
    try:
        return Suite.model_validate({**data, "name": name, "text_hash": text_hash})
    except ValidationError as error:
        wrong = [
            f"{file}, line {_line_of(tree, item['loc'])}, {_field(item['loc'])}: "
            f"{_message(item['msg'])}."
            for item in error.errors()
            if not _follows_from_another(item, error.errors())
        ]
        raise SuiteError("\n".join(wrong)) from error


def _follows_from_another(item: Any, errors: Sequence[Any]) -> bool:
    """A list is also called too short once an item of it is wrong."""
    loc = item["loc"]
    return item["type"] == "too_short" and any(
        len(other["loc"]) > len(loc) and other["loc"][: len(loc)] == loc for other in errors
    )


def _line_of(node: yaml.Node | None, location: Sequence[Any]) -> int:
    """Line of the innermost part of ``location`` that the file holds, counted from 1."""
    line = node.start_mark.line + 1 if node is not None else 1
    for part in location:
        child: yaml.Node | None = None
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    child, line = value, key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and part in range(len(node.value)):
            child = node.value[part]
            line = child.start_mark.line + 1
        if child is None:
            break
        node = child
    return line


def _field(location: Sequence[Any]) -> str:
    """``("probes", 2, "why")`` as ``probes[2].why``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".") or "the file"


def _message(message: str) -> str:
    return re.sub(r"^Value error, ", "", message).rstrip(".")
