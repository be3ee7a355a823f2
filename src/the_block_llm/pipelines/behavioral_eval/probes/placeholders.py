"""Plain facts of the repository, to ask about in suites that fit any project.

A suite writes ``{main_language}``; the answer is looked up here, not in the model.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final

from pydantic import ValidationError

from the_block_llm.pipelines.behavioral_eval.probes.suites import FACT, Concept, Probe, Suite
from the_block_llm.retrieval.words import split_words

_FOLDERS_ASKED: Final = 3
_NOT_CODE: Final = frozenset({"Markdown", "YAML", "JSON", "TOML", "Text", "HTML", "CSS", "XML"})
_NOT_PARTS: Final = frozenset({"docs", "doc", "test", "tests", "examples", "scripts"})


def repository_facts(project: str, files: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Look up what can be asked of the snapshot.

    Args:
        project: Name of the repository.
        files: Rows of ``snapshot_files``; ``path``, ``language``, ``size_bytes``, ``kept``.

    Returns:
        By placeholder. ``main_language`` and ``folder_1`` to ``folder_3`` (those with most
        source files) are absent where the repository has no such thing.
    """
    facts = {"project": project}
    bytes_of: Counter[str] = Counter()
    paths: list[PurePosixPath] = []
    for file in files:
        language = file["language"]
        if file["kept"] and language and language.casefold() not in _folded(_NOT_CODE):
            bytes_of[language] += file["size_bytes"]
            paths.append(PurePosixPath(file["path"]))
    if bytes_of:
        facts["main_language"] = bytes_of.most_common(1)[0][0]
    for rank, folder in enumerate(_main_folders(paths), start=1):
        facts[f"folder_{rank}"] = folder
    return facts


def fill_suite(suite: Suite, facts: Mapping[str, str]) -> tuple[Suite | None, dict[str, str]]:
    """Put the facts into a suite's placeholders.

    Returns:
        The suite with the probes that could be filled (none where none could), and by id
        why the others were left out.
    """
    probes: list[Probe] = []
    left_out: dict[str, str] = {}
    for probe in suite.probes:
        unknown = sorted(_placeholders(probe) - set(facts))
        if unknown:
            left_out[probe.id] = f"the repository has no {unknown[0].replace('_', ' ')}"
            continue
        try:
            probes.append(_fill_probe(probe, facts))
        except ValidationError:
            # Say, a project whose own name holds the name of its language.
            left_out[probe.id] = "with this repository's names the question gives its answer"
    filled = suite.model_copy(update={"probes": tuple(probes)}) if probes else None
    return filled, left_out


def choose_probes(suites: Sequence[Suite], n_probes: int) -> list[tuple[str, Probe]]:
    """Take ``n_probes`` at most, from each category in turn, in the order of the files.

    Returns:
        Pairs of suite name and probe.
    """
    by_category: dict[str, list[tuple[str, Probe]]] = {}
    for suite in suites:
        for probe in suite.probes:
            by_category.setdefault(probe.category, []).append((suite.name, probe))
    chosen: list[tuple[str, Probe]] = []
    depth = 0
    while len(chosen) < n_probes and any(len(group) > depth for group in by_category.values()):
        chosen += [group[depth] for group in by_category.values() if len(group) > depth]
        depth += 1
    return chosen[:n_probes]


def _main_folders(paths: Sequence[PurePosixPath]) -> list[str]:
    """Names of the folders with most files, on the first level that has several."""
    depth = 0
    while depth < 4:
        counts = Counter(
            path.parts[depth]
            for path in paths
            if len(path.parts) > depth + 1 and not set(path.parts[:-1]) & _NOT_PARTS
        )
        named = [name for name, _ in counts.most_common() if split_words(name)]
        if len(named) >= _FOLDERS_ASKED:
            return named[:_FOLDERS_ASKED]
        depth += 1
    return []


def _placeholders(probe: Probe) -> set[str]:
    texts = [probe.prompt, probe.context]
    texts += [text for c in (*probe.concepts, *probe.must_not_claim) for text in c.any_of]
    return {name for text in texts for name in FACT.findall(text)}


def _fill_probe(probe: Probe, facts: Mapping[str, str]) -> Probe:
    """Checked again as a whole: a filled concept may stand in the filled question."""
    return Probe.model_validate(
        {
            **probe.model_dump(),
            "prompt": _fill(probe.prompt, facts),
            "context": _fill(probe.context, facts),
            "concepts": [_fill_concept(c, facts) for c in probe.concepts],
            "must_not_claim": [_fill_concept(c, facts) for c in probe.must_not_claim],
        }
    )


def _fill_concept(concept: Concept, facts: Mapping[str, str]) -> dict[str, Any]:
    return {
        "concept": _fill(concept.concept, facts),
        "any_of": [_fill(text, facts) for text in concept.any_of],
    }


def _fill(text: str, facts: Mapping[str, str]) -> str:
    return FACT.sub(lambda match: facts[match[1]], text)


def _folded(names: Iterable[str]) -> set[str]:
    return {name.casefold() for name in names}
