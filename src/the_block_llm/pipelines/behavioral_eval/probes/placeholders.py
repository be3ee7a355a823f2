"""Fills the placeholders of probe suites, so that one suite fits any repository.

A suite contains ``{main_language}``, for example; the value is read from the snapshot.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final

from pydantic import ValidationError

from the_block_llm.pipelines.behavioral_eval.probes.suites import PLACEHOLDER, Concept, Probe, Suite
from the_block_llm.retrieval.words import split_words

_N_FOLDERS: Final = 3
_NON_CODE_LANGUAGES: Final = frozenset(
    {"markdown", "yaml", "json", "toml", "text", "html", "css", "xml"}
)
_NON_SOURCE_FOLDERS: Final = frozenset({"docs", "doc", "test", "tests", "examples", "scripts"})


def placeholder_values(project: str, files: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the value of each placeholder, as far as the snapshot has one.

    Args:
        project: Name of the repository.
        files: Rows of ``snapshot_files``; ``path``, ``language``, ``size_bytes``, ``kept``.

    Returns:
        Values by placeholder name. ``main_language`` and ``folder_1`` to ``folder_3`` (the
        folders with the most source files) are absent if the repository has none.
    """
    values = {"project": project}
    language_bytes: Counter[str] = Counter()
    paths: list[PurePosixPath] = []
    for file in files:
        language = file["language"]
        if file["kept"] and language and language.casefold() not in _NON_CODE_LANGUAGES:
            language_bytes[language] += file["size_bytes"]
            paths.append(PurePosixPath(file["path"]))
    if language_bytes:
        values["main_language"] = language_bytes.most_common(1)[0][0]
    for rank, folder in enumerate(_largest_folders(paths), start=1):
        values[f"folder_{rank}"] = folder
    return values


def fill_placeholders(
    suite: Suite, values: Mapping[str, str]
) -> tuple[Suite | None, dict[str, str]]:
    """Substitute the placeholders of a suite.

    Returns:
        The suite with the probes that could be filled (None if there are none), and for each
        other probe the reason, by id.
    """
    probes: list[Probe] = []
    left_out: dict[str, str] = {}
    for probe in suite.probes:
        missing = sorted(_placeholder_names(probe) - set(values))
        if missing:
            left_out[probe.id] = f"the repository has no {missing[0].replace('_', ' ')}"
            continue
        try:
            probes.append(_fill_probe(probe, values))
        except ValidationError:
            # For example, a project whose name contains the name of its language.
            left_out[probe.id] = "with this repository's names the question contains its answer"
    filled = suite.model_copy(update={"probes": tuple(probes)}) if probes else None
    return filled, left_out


def select_probes(suites: Sequence[Suite], n_probes: int) -> list[tuple[str, Probe]]:
    """Select up to ``n_probes``, round-robin over the categories, in file order.

    Returns:
        Pairs of suite name and probe.
    """
    by_category: dict[str, list[tuple[str, Probe]]] = {}
    for suite in suites:
        for probe in suite.probes:
            by_category.setdefault(probe.category, []).append((suite.name, probe))
    selected: list[tuple[str, Probe]] = []
    depth = 0
    while len(selected) < n_probes and any(len(group) > depth for group in by_category.values()):
        selected += [group[depth] for group in by_category.values() if len(group) > depth]
        depth += 1
    return selected[:n_probes]


def _largest_folders(paths: Sequence[PurePosixPath]) -> list[str]:
    """Return the folders with the most files, on the first level with at least three."""
    depth = 0
    while depth < 4:
        counts = Counter(
            path.parts[depth]
            for path in paths
            if len(path.parts) > depth + 1 and not set(path.parts[:-1]) & _NON_SOURCE_FOLDERS
        )
        names = [name for name, _ in counts.most_common() if split_words(name)]
        if len(names) >= _N_FOLDERS:
            return names[:_N_FOLDERS]
        depth += 1
    return []


def _placeholder_names(probe: Probe) -> set[str]:
    texts = [probe.prompt, probe.context]
    texts += [text for c in (*probe.concepts, *probe.must_not_claim) for text in c.any_of]
    return {name for text in texts for name in PLACEHOLDER.findall(text)}


def _fill_probe(probe: Probe, values: Mapping[str, str]) -> Probe:
    """Fill and revalidate: the filled question may contain a filled concept."""
    return Probe.model_validate(
        {
            **probe.model_dump(),
            "prompt": _fill(probe.prompt, values),
            "context": _fill(probe.context, values),
            "concepts": [_fill_concept(c, values) for c in probe.concepts],
            "must_not_claim": [_fill_concept(c, values) for c in probe.must_not_claim],
        }
    )


def _fill_concept(concept: Concept, values: Mapping[str, str]) -> dict[str, Any]:
    return {
        "concept": _fill(concept.concept, values),
        "any_of": [_fill(text, values) for text in concept.any_of],
    }


def _fill(text: str, values: Mapping[str, str]) -> str:
    return PLACEHOLDER.sub(lambda match: values[match[1]], text)
