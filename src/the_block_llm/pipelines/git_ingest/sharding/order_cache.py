"""Caches the commit order of a repository on disk."""

from array import array

from the_block_llm.files.durable_files import replacing_file
from the_block_llm.pipelines.git_ingest.sharding.commit_order import CommitOrder
from the_block_llm.pipelines.git_ingest.sharding.shard_cache import ShardCache, finish_shard


def store_commit_order(cache: ShardCache, name: str, order: CommitOrder) -> None:
    """Store ``order`` under ``name`` and remove any other order from the cache."""
    stem = cache.stem(name)
    columns = {".shas": order.packed, ".starts": order.offsets, ".times": order.times}
    for suffix, column in columns.items():
        with replacing_file(stem.with_suffix(suffix), durable=False) as temporary:
            temporary.write_bytes(column)
    files = [stem.with_suffix(suffix) for suffix in columns]
    finish_shard(stem, files, {"sha_bytes": order.sha_bytes})
    cache.prune([name])


def load_commit_order(cache: ShardCache, name: str) -> CommitOrder | None:
    """Return the order stored under ``name``, or None if it is not cached."""
    manifest = cache.manifest(name)
    if manifest is None:
        return None
    stem = cache.stem(name)
    offsets, times = array("Q"), array("q")
    offsets.frombytes(stem.with_suffix(".starts").read_bytes())
    times.frombytes(stem.with_suffix(".times").read_bytes())
    packed = stem.with_suffix(".shas").read_bytes()
    return CommitOrder(packed, offsets, times, manifest["sha_bytes"])
