"""Measure the rates that `kedro estimate` uses, on this machine.

    python benchmarks/rates.py REPOSITORY [REPOSITORY …]

Prints values for `planning.rates` in conf/local/parameters.yml. Measures processor seconds, not
wall time, so load from other programs hardly matters. The tokenizer is SmolLM2's.
"""

import argparse
import resource
import tempfile
from pathlib import Path
from typing import Any

import yaml

from scale_out import generate_repository
from the_block_llm import schemas
from the_block_llm.datasets.parquet_table import save_table
from the_block_llm.models.profiles import ModelProfiles
from the_block_llm.pipelines.git_ingest import nodes as ingest
from the_block_llm.pipelines.git_ingest.params import GitIngestParams
from the_block_llm.pipelines.sequence_build import nodes as sequences
from the_block_llm.pipelines.sequence_build.params import SequenceBuildParams

N_TINY = 20


class CpuTimer:
    """Measures processor seconds of this process and of its finished children."""

    def __enter__(self) -> "CpuTimer":
        self._start = self._cpu_s()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = self._cpu_s() - self._start

    @staticmethod
    def _cpu_s() -> float:
        usage = [
            resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        ]
        return sum(one.ru_utime + one.ru_stime for one in usage)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("repositories", nargs="+")
    options = arguments.parse_args()
    project = Path(__file__).parents[1]
    text = (project / "conf/base/parameters_models.yml").read_text(encoding="utf-8")
    text = text.replace("${project_path:", f"{project}/").replace("}\n", "\n")
    models = ModelProfiles.model_validate(yaml.safe_load(text)["models"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny = [
            str(generate_repository(folder / "tiny" / f"t{number}", 3, number))
            for number in range(N_TINY)
        ]
        # The difference of the two is the cost of a repository, without that of starting up.
        quarter = ingest_repositories(folder / "a", tiny[: N_TINY // 4])
        all_tiny = ingest_repositories(folder / "b", tiny)
        per_repository_s = (all_tiny["cpu"] - quarter["cpu"]) / (N_TINY - N_TINY // 4)
        paths = [str(Path(path).resolve()) for path in options.repositories]
        large = ingest_repositories(folder / "c", paths)
        megabytes = large["bytes"] / 1e6
        rates: dict[str, float] = {
            "ingest_cpu_s_per_repository": per_repository_s,
            "ingest_cpu_s_per_mb": large["cpu"] / megabytes,
        }
        rates |= build_sequences(large, models, folder, megabytes)
    print("planning:\n  rates:")
    for key, value in rates.items():
        print(f"    {key}: {value:.3g}")


def ingest_repositories(folder: Path, repositories: list[str]) -> dict[str, Any]:
    params = GitIngestParams(
        cache_folder=str(folder / "cache"), clone_folder=str(folder / "clones"),
        pseudonym_key_file=str(folder / "key"), n_processes=1,
    )  # fmt: skip
    with CpuTimer() as cpu:
        facts = ingest.find_repositories(".", repositories, params, 0.85)
        commits, changes, history = ingest.read_commits(facts, params)
        tables = [
            save_table(folder / "commits", schemas.COMMITS, commits),
            save_table(folder / "file_changes", schemas.FILE_CHANGES, changes),
        ]
        files, snapshots = ingest.read_files(facts, params, history)
        tables.append(save_table(folder / "snapshot_files", schemas.SNAPSHOT_FILES, files))
    heads = {one["name"]: one["head"] for one in facts["repositories"]}
    change_bytes = sum(one["kept_bytes"] for one in history)
    file_bytes = sum(one["kept_bytes"] for one in snapshots if one["sha"] == heads[one["repo"]])
    return {
        "cpu": cpu.seconds, "facts": facts, "tables": tables,
        "bytes": change_bytes + file_bytes,
    }  # fmt: skip


def build_sequences(
    ingested: dict[str, Any], models: ModelProfiles, folder: Path, megabytes: float
) -> dict[str, float]:
    choices = (models, "smollm2-135m", SequenceBuildParams())
    inputs = (ingested["facts"], *ingested["tables"])
    with CpuTimer() as screening:
        screened = sequences.screen_documents(*inputs, *choices)
    with CpuTimer() as rendering:
        documents = save_table(
            folder / "documents", schemas.DOCUMENTS,
            sequences.render_documents(*inputs, screened, *choices),
        )  # fmt: skip
    with CpuTimer() as packing:
        packed = save_table(
            folder / "train", schemas.ROWS, sequences.pack_train(documents, *choices)
        )
        for pack in (sequences.pack_validation, sequences.pack_held_out):
            save_table(folder / pack.__name__, schemas.ROWS, pack(documents, *choices))
    tokens = sum(int(batch["n_tokens"].to_numpy().sum()) for batch in packed.batches(["n_tokens"]))
    return {
        "screening_cpu_s_per_mb": screening.seconds / megabytes,
        "rendering_cpu_s_per_mb": rendering.seconds / megabytes,
        "packing_cpu_s_per_mb": packing.seconds / megabytes,
        "training_tokens_per_mb": tokens / megabytes,
    }


if __name__ == "__main__":
    main()
