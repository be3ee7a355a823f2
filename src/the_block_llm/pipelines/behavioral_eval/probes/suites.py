"""Probe suites: questions, and the concepts that a good answer must name.

A suite is one YAML file, validated when it is read. Since suites are written by hand, errors
name file, line and field.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from the_block_llm.errors import SuiteError
from the_block_llm.pipelines.behavioral_eval.probes.word_patterns import WordPattern
from the_block_llm.retrieval.words import split_words

PLACEHOLDER: Final = re.compile(r"\{(project|main_language|folder_[123])\}")
"""Placeholders that are filled from the repository; other braces are code."""
_SLUG: Final = r"^[a-z][a-z0-9_]*$"


class Concept(BaseModel, frozen=True, extra="forbid"):
    """Something that a good answer names, in any of several wordings."""

    concept: str = Field(min_length=1)
    any_of: tuple[str, ...] = Field(min_length=1)
    """Whole words or phrases; ``coupl*`` matches coupled, coupling and so on."""

    @field_validator("any_of")
    @classmethod
    def _check_patterns(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        for text in texts:
            WordPattern(PLACEHOLDER.sub("fact", text))
        return texts

    @property
    def is_filled(self) -> bool:
        """True if no wording contains a placeholder."""
        return not any(PLACEHOLDER.search(text) for text in self.any_of)

    def is_named_in(self, words: Sequence[str]) -> bool:
        """Return True if one of the wordings occurs in ``words``."""
        return any(WordPattern(text).matches(words) for text in self.any_of)


class Probe(BaseModel, frozen=True, extra="forbid"):
    """A question and the concepts that a good answer names."""

    id: str = Field(pattern=_SLUG)
    category: str = Field(pattern=_SLUG)
    prompt: str = Field(min_length=1)
    """The question; for a completion suite, the text to continue."""
    context: str = ""
    """Code or facts put before the question."""
    concepts: tuple[Concept, ...] = Field(min_length=1)
    must_not_claim: tuple[Concept, ...] = ()
    why: str = Field(min_length=1)
    """Purpose of the question, shown in the report."""

    @model_validator(mode="after")
    def _check_question_names_no_concept(self) -> "Probe":
        question_words = split_words(f"{self.context} {self.prompt}")
        # Concepts with placeholders are checked by the validation after filling.
        named = [c.concept for c in self.concepts if c.is_filled and c.is_named_in(question_words)]
        if named:
            raise ValueError(
                f"the question itself names {named}, so repeating the question would score. "
                "Reword the question or the concept"
            )
        return self


class Suite(BaseModel, frozen=True, extra="forbid"):
    """A file of probes for models of one role."""

    name: str = Field(pattern=_SLUG)
    version: Literal[1]
    role: Literal["advisor", "completion"]
    about: str = Field(min_length=1)
    probes: tuple[Probe, ...] = Field(min_length=1)
    text_hash: str
    """Hash of the file, which identifies the version of the suite in a report."""

    @model_validator(mode="after")
    def _check_ids(self) -> "Suite":
        ids = [probe.id for probe in self.probes]
        repeated = sorted({id_ for id_ in ids if ids.count(id_) > 1})
        if repeated:
            raise ValueError(f"probe ids must be unique; repeated: {repeated}")
        return self


def read_suites(files: Mapping[str, Callable[[], str]], names: Sequence[str]) -> list[Suite]:
    """Read the suites ``names``.

    Args:
        files: Functions that return the text of a suite file, by suite name.
        names: Suites to read, in this order.

    Raises:
        SuiteError: A file is missing or invalid.
    """
    missing = [name for name in names if name not in files]
    if missing:
        raise SuiteError(
            f"There is no suite {missing[0]!r} in conf/base/suites. Available: "
            f"{', '.join(sorted(files))}. Correct behavioral_eval.suites or add the file."
        )
    return [parse_suite(name, files[name]()) for name in names]


def parse_suite(name: str, text: str) -> Suite:
    """Parse and validate the text of one suite file.

    Raises:
        SuiteError: The file is invalid; the message lists every error with file, line and field.
    """
    file = f"suites/{name}.yml"
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise SuiteError(f"{file}, line {line}: invalid YAML: {error.problem}.") from error
    except yaml.YAMLError as error:
        raise SuiteError(f"{file}: invalid YAML: {error}.") from error
    if not isinstance(data, dict):
        raise SuiteError(
            f"{file}, line 1: a suite must be a mapping with version, role and probes."
        )
    text_hash = hashlib.sha256(text.encode()).hexdigest()[:16]
    try:
        return Suite.model_validate({**data, "name": name, "text_hash": text_hash})
    except ValidationError as error:
        messages = [
            f"{file}, line {_line_of(tree, item['loc'])}, {_format_location(item['loc'])}: "
            f"{_strip_error_prefix(item['msg'])}."
            for item in error.errors()
            if not _is_follow_up_error(item, error.errors())
        ]
        raise SuiteError("\n".join(messages)) from error


def _is_follow_up_error(item: Any, errors: Sequence[Any]) -> bool:
    """Return True for the ``too_short`` error that pydantic adds for a list with invalid items."""
    loc = item["loc"]
    return item["type"] == "too_short" and any(
        len(other["loc"]) > len(loc) and other["loc"][: len(loc)] == loc for other in errors
    )


def _line_of(node: yaml.Node | None, location: Sequence[Any]) -> int:
    """Return the 1-based line of the innermost part of ``location`` that is in the file."""
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


def _format_location(location: Sequence[Any]) -> str:
    """Format ``("probes", 2, "why")`` as ``probes[2].why``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".") or "the file"


def _strip_error_prefix(message: str) -> str:
    return re.sub(r"^Value error, ", "", message).rstrip(".")
