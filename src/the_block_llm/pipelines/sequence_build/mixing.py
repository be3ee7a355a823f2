"""Which training documents the mix has room for."""

from collections import defaultdict
from collections.abc import Mapping
from hashlib import blake2b

from the_block_llm.datasets.parts import ParquetParts
from the_block_llm.pipelines.sequence_build.params import Mix

_ROUNDS = 200  # of a sum that settles by halves; more than the precision of a float


def left_out_by_mix(documents: ParquetParts, mix: Mix, seed: int) -> frozenset[str]:
    """Choose the training documents to leave out, evenly over each kind that has too many.

    Args:
        documents: The table ``documents``.
        mix: Most that each kind may take.
        seed: Of the choice.
    """
    tokens: dict[str, int] = defaultdict(int)
    columns = ["document_id", "kind", "split", "n_tokens"]
    for row in documents.rows(columns):
        if row["split"] == "train":
            tokens[row["kind"]] += row["n_tokens"]
    shares = kept_shares(tokens, mix.model_dump())
    if all(share >= 1 for share in shares.values()):
        return frozenset()
    return frozenset(
        row["document_id"]
        for row in documents.rows(columns)
        if row["split"] == "train" and _position(row["document_id"], seed) >= shares[row["kind"]]
    )


def kept_shares(tokens: Mapping[str, int], caps: Mapping[str, float]) -> dict[str, float]:
    """How much of each kind stays, so that none takes more of what stays than its cap.

    >>> kept_shares({"file": 300, "chat": 100}, {"file": 0.5, "chat": 1.0})["chat"]
    1.0
    >>> round(kept_shares({"file": 300, "chat": 100}, {"file": 0.5, "chat": 1.0})["file"], 3)
    0.333
    """
    kept = {kind: float(count) for kind, count in tokens.items()}
    for _ in range(_ROUNDS):
        for kind, cap in caps.items():
            others = sum(count for other, count in kept.items() if other != kind)
            if kind in kept and cap < 1 and kept[kind] > cap / (1 - cap) * others:
                kept[kind] = cap / (1 - cap) * others
    return {kind: kept[kind] / count if count else 1.0 for kind, count in tokens.items()}


def _position(document_id: str, seed: int) -> float:
    digest = blake2b(f"{seed}:{document_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64
