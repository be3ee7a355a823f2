"""Which training documents the mix has room for."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from the_block_llm.datasets.parts import ParquetParts
from the_block_llm.pipelines.sequence_build.drafts import must_stay_whole
from the_block_llm.pipelines.sequence_build.params import Mix

_ROUNDS = 200  # of a sum that settles by halves; more than the precision of a float


def left_out_by_mix(documents: ParquetParts, mix: Mix, context_tokens: int) -> frozenset[str]:
    """Choose the training documents to leave out of a kind that has too many.

    The longest go first; of commits those longer than a row, oldest first: what they left
    stands in the files, and what is no longer there is not worth learning.

    Args:
        documents: The table ``documents``.
        mix: Most that each kind may take.
        context_tokens: Capacity of a row; what fits none takes no share.
    """
    tokens: Counter[str] = Counter()
    for row in _sharing(documents, context_tokens):
        tokens[row["kind"]] += row["n_tokens"]
    shares = kept_shares(tokens, mix.model_dump())
    # Only of kinds that have too much is there anything to sort, and to hold.
    by_kind: dict[str, list[tuple[int, str, float]]] = defaultdict(list)
    if any(share < 1 for share in shares.values()):
        for row in _sharing(documents, context_tokens):
            if shares[row["kind"]] < 1:
                by_kind[row["kind"]].append(
                    (row["n_tokens"], row["document_id"], row["authored_at"].timestamp())
                )
    left_out: set[str] = set()
    for kind, found in by_kind.items():
        surplus = tokens[kind] * (1 - shares[kind])
        if kind == "commit":
            found.sort(key=lambda document: _commit_order(document, context_tokens))
        else:
            found.sort(reverse=True)
        for n_tokens, document_id, _ in found:
            if surplus < 1:
                break
            if n_tokens <= surplus or shares[kind] == 0:
                left_out.add(document_id)
                surplus -= n_tokens
    return frozenset(left_out)


def _sharing(documents: ParquetParts, context_tokens: int) -> Iterator[dict[str, Any]]:
    """The training documents that take a share: those that fit, or may be cut."""
    for row in documents.rows(["document_id", "kind", "split", "n_tokens", "authored_at"]):
        fits = row["n_tokens"] <= context_tokens
        if row["split"] == "train" and (
            fits or not must_stay_whole(row["kind"], row["document_id"])
        ):
            yield row


def _commit_order(
    document: tuple[int, str, float], context_tokens: int
) -> tuple[bool, float, int, str]:
    n_tokens, document_id, authored_at = document
    if n_tokens > context_tokens:
        return False, authored_at, -n_tokens, document_id
    return True, 0.0, -n_tokens, document_id


def kept_shares(tokens: Mapping[str, int], caps: Mapping[str, float]) -> dict[str, float]:
    """How much of each kind stays, so that none takes more of what stays than its cap.

    >>> kept_shares({"file": 300, "chat": 100}, {"file": 0.5, "chat": 1.0})["chat"]
    1.0
    >>> round(kept_shares({"file": 300, "chat": 100}, {"file": 0.5, "chat": 1.0})["file"], 3)
    0.333
    """
    kept = {kind: float(count) for kind, count in tokens.items()}
    # Where a kind is missing, what is there may take its share, or nothing would be left.
    room = min(1.0, sum(caps[kind] for kind, count in tokens.items() if count)) or 1.0
    for _ in range(_ROUNDS):
        for kind, cap in ((kind, cap / room) for kind, cap in caps.items()):
            others = sum(count for other, count in kept.items() if other != kind)
            if kind in kept and cap < 1 and kept[kind] > cap / (1 - cap) * others:
                kept[kind] = cap / (1 - cap) * others
    return {kind: kept[kind] / count if count else 1.0 for kind, count in tokens.items()}
