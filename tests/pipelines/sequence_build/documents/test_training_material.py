"""What is trained on would be trained on without the evaluation commits as well."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.pipelines.sequence_build.conftest import Story, words

from the_block_llm.datasets.cutoff import read_cutoff
from the_block_llm.pipelines.sequence_build.document import Dropped, RenderedDocument
from the_block_llm.pipelines.sequence_build.documents.chat import TEMPLATE_WORDS, chat_document
from the_block_llm.pipelines.sequence_build.documents.corpus import Corpus
from the_block_llm.pipelines.sequence_build.documents.fill_in_middle import apply_fim
from the_block_llm.pipelines.sequence_build.documents.special_tokens import insert_domain_tokens
from the_block_llm.pipelines.sequence_build.history.commits import History, read_commits
from the_block_llm.pipelines.sequence_build.history.line_normalization import significant_lines
from the_block_llm.pipelines.sequence_build.tokenization.document_table import document_batches
from the_block_llm.schemas import Split

ROOT = Path(__file__).parents[4]
# Facts that only evaluation commits state, each by a word of its own.
SECRETS = (
    "zorvexmodule", "zorvexline", "zorvexsymbol", "zorvexsection", "zorvexmessage", "zorvexmoved",
    "zorvexdoc", "zorvexheld", "zorvexskewed", "zorvexlink",
)  # fmt: skip


LEDGER = '''"""Keeps the balance of every account of the chain."""

from app import codec
HEAD

class Ledger:
    """Holds the accounts and applies one block after another."""

    def apply(self, block: bytes) -> int:
        """Apply one block and return the number of accounts."""
        return codec.decode(block)


EXTRA
def open_ledger(path: str) -> Ledger:
    """Open the ledger at a path of the local disk."""
    return Ledger()
'''
CODEC = '''"""Encodes blocks as bytes and back again, without loss."""

def decode(block: bytes) -> int:
    """Decode a block and return how many accounts it has."""
    return len(block)

def encode(size: int) -> bytes:
    """Encode a block of the given size, with zeros for data."""
    return bytes(size)
'''
NODE = '''"""Runs the node: it asks its peers for blocks and applies them."""

from app import ledger

def run(peers: list[str]) -> None:
    """Run the node until one of its peers says stop."""
    ledger.open_ledger("disk")

def stop() -> None:
    """Stop the node and close the ledger that it holds."""
'''
GUIDE = (
    "# Guide\n\n## Running a node\n\nStart the node with the list of its peers and wait for it.\n\n"
    "## Blocks\n\nA block holds transactions of many accounts in the order of their time.\n"
)
RUST = (
    "//! Counts the votes of the validators in one round of blocks.\n\n"
    "/// Tallies the votes and returns whether the block is final.\n"
    "pub fn tally(votes: usize) -> bool {\n    votes > 2\n}\n\n"
    "/// Resets the counter before the next round of votes begins.\npub fn reset() {}\n"
)


def ledger(extra: str = "", head: str = "") -> str:
    return LEDGER.replace("EXTRA\n", extra).replace("HEAD\n", head)


@dataclass
class SplitStory:
    """A history whose commits are assigned to splits by the test."""

    story: Story = field(default_factory=Story)
    splits: dict[str, Split] = field(default_factory=dict)
    cutoff: int = 0

    def commit(
        self, split: Split, subject: str, files: dict[str, str | None], **fields: Any
    ) -> str:
        before_cutoff = fields.pop("before_cutoff", split != "held_out")
        sha = self.story.commit(subject, files, **fields)
        self.splits[sha] = split
        if before_cutoff:
            self.cutoff = len(self.story.commits) - 1
        return sha

    def corpus(self, folder: Path) -> Corpus:
        story = self.story
        tables = story.tables(folder, (self.cutoff + 1.5) / len(story.commits))
        cutoff = read_cutoff(tables.repository)
        assert cutoff.sha == story.commits[self.cutoff]["sha"]
        commits = read_commits(tables.commits)
        history = History({c.sha: c for c in commits}, self.splits, cutoff)
        return Corpus("chain", history, tables.file_changes, tables.snapshot_files, True, 2, 1)

    def tree(self) -> dict[str, str]:
        return self.story.trees[-1]


def training_period() -> SplitStory:
    """Commits from which every kind of document is made."""
    made = SplitStory()
    made.commit("train", "Start the chain", {
        "app/ledger.py": ledger(), "app/codec.py": CODEC, "app/node.py": NODE,
        "app/__init__.py": "", "votes/src/tally.rs": RUST, "docs/guide.md": GUIDE,
    })  # fmt: skip
    for number in range(4):
        made.commit(
            "train", f"Count {words(number, 3)} in every block",
            {
                "app/codec.py": CODEC + _function(number),
                "app/node.py": NODE + f"\n\nLIMIT_{number} = {number}  # {words(90 + number, 6)}\n",
            },
            body=f"Asked for by the peers: {words(50 + number, 12)}.",
        )  # fmt: skip
    made.commit("train", "Rules of the house", {}, is_merge=True, kind="merge",
                body="Every rule is checked before a block is applied by a node.")  # fmt: skip
    earlier = (made.story.commits[0], made.story.commits[-2])
    made.story.commits[-1]["parents"] = [commit["sha"] for commit in earlier]
    return made


def _function(number: int) -> str:
    return "".join(
        f'\n\ndef {words(200 + n, 2, "_")}(x: int) -> int:\n    """{words(300 + n, 9)}."""\n'
        f"    y = x + {n}\n    return y * {number}\n"
        for n in range(number + 1)
    )


def with_evaluation(made: SplitStory) -> SplitStory:
    """Add evaluation commits with a fact of every sort, and training commits on top of them."""
    node = made.tree()["app/node.py"]
    made.commit("validation", "Add zorvexmessage to the ledger", {
        # An import of a new module, one of a module that was known, a symbol, and plain lines.
        "app/ledger.py": ledger(
            'def zorvexsymbol(x: int) -> int:\n    """Return the zorvexdoc of what came in."""\n'
            "    return x\n\n\nLIMIT = 7  # zorvexline\n",
            "from app import zorvexmodule\nfrom app import node\n",
        ),
        "app/zorvexmodule.py": CODEC.replace("decode", "zorvexlink") + _function(7),
        "docs/guide.md": f"{GUIDE}\n## Zorvexsection\n\nThe zorvexsection is new to all of us.\n",
    }, body="The zorvexmessage was asked for by nobody at all, but it is here.")  # fmt: skip
    validation = made.story.commits[-1]["sha"]
    made.commit("validation", "Move the votes to zorvexmoved",
                {}, moved={"votes/src/tally.rs": "zorvexmoved/src/tally.rs"})  # fmt: skip
    # Commits too large for validation, or without an added line, stay in training.
    ledger_then = made.tree()["app/ledger.py"]
    made.commit("train", "Reword the ledger", {
        "app/ledger.py": ledger_then.replace("LIMIT = 7  # zorvexline\n", "LIMIT = 7\nROUND = 1\n"),
        "app/zorvexmodule.py": made.tree()["app/zorvexmodule.py"] + "\nROUND = 2\n",
        "app/node.py": node + f"\n\n# {words(400, 9)}\n",
    })  # fmt: skip
    made.commit("train", "Remove the zorvexsymbol again", {
        "app/ledger.py": made.tree()["app/ledger.py"].replace("    return x\n\n", "    return x\n"),
    })  # fmt: skip
    made.commit("train", "Undo the message", {"docs/guide.md": GUIDE}, reverts=validation,
                body="This takes back zorvexmessage and whatever came with it.")  # fmt: skip
    merge = "Bring zorvexmessage to the side branch with all that belongs to it"
    made.commit("train", merge, {}, is_merge=True, kind="merge",
                body="It describes zorvexmessage, which it merges, at length here.")  # fmt: skip
    made.story.commits[-1]["parents"] = [made.story.commits[3]["sha"], validation]
    # On the way to the cutoff, although its time is after it.
    made.commit("held_out", "Hold zorvexskewed", {
        "app/codec.py": made.tree()["app/codec.py"] + '\nZORVEX = "zorvexskewed"\n',
    }, before_cutoff=True)  # fmt: skip
    made.commit("train", "Count again", {"app/node.py": NODE + f"\n\n# {words(401, 9)}\n"})
    made.commit("held_out", "Bring zorvexheld", {
        "app/codec.py": made.tree()["app/codec.py"] + "\n\ndef zorvexheld() -> int:\n"
        '    """Return zorvexheld, as nobody asked for before."""\n    return 1\n',
        "app/zorvexheld.py": CODEC,
    })  # fmt: skip
    return made


def topic(document_id: str) -> str:
    return re.sub(r"/[^/]*$", "", document_id) if document_id.startswith("chat/") else (
        document_id.partition("/")[0]
    )  # fmt: skip


def trained(document: RenderedDocument) -> str:
    return "".join(segment.text for segment in document.segments if segment.train)


def training_documents(corpus: Corpus) -> list[RenderedDocument]:
    return [d for d in corpus.documents() if isinstance(d, RenderedDocument) and d.split == "train"]


def documented_topics() -> set[str]:
    """Every type of document in the table of the page about sequences."""
    page = (ROOT / "docs/sequence_build.md").read_text(encoding="utf-8")
    table = page.partition("| type | text | target |")[2].partition("\n\n")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    made = with_evaluation(training_period())
    skewed = next(c for c in made.story.commits if "zorvexskewed" in c["subject"])
    skewed["committed_at"] = max(c["committed_at"] for c in made.story.commits)
    return made.corpus(tmp_path)


def test_no_training_target_of_any_type_states_what_only_evaluation_commits_wrote(
    corpus: Corpus,
) -> None:
    documents = training_documents(corpus)
    assert {topic(document.document_id) for document in documents} == documented_topics()
    layouts = [
        documents,
        list(map(insert_domain_tokens, documents)),
        list(apply_fim(documents, 64, 1.0, 0.5, seed=1)),
    ]
    for document in (document for layout in layouts for document in layout):
        text = f"{trained(document)}{trained(document.fallback) if document.fallback else ''}"
        found = [secret for secret in SECRETS if secret in text.lower()]
        assert not found, (document.document_id, text)
    # The facts are in the repository, so there is something to keep out.
    everything = "".join(s.text for d in corpus.documents() if isinstance(d, RenderedDocument)
                         for s in d.segments)  # fmt: skip
    assert [secret for secret in SECRETS if secret not in everything.lower()] == []


def test_an_import_between_two_known_files_belongs_to_the_commit_that_wrote_it(
    corpus: Corpus,
) -> None:
    answers = {trained(d) for d in training_documents(corpus) if "/depends-on/" in d.document_id}
    assert answers == {"app/ledger.py uses app/codec.py.", "app/node.py uses app/ledger.py."}
    used = {trained(d) for d in training_documents(corpus) if "/used-by/" in d.document_id}
    assert used == {
        "app/codec.py is used by app/ledger.py.",
        "app/ledger.py is used by app/node.py.",
    }


_ADDITIONS = st.sampled_from([
    "from app import node\n", "from app import secretmodule\n", "import codec\n", "LIMIT = 9\n",
    "# a remark that nobody has made\n", "class Added:\n    pass\n", "## A heading\n",
    'def added(x: int) -> int:\n    """Return what nobody has asked for."""\n    return x\n',
])  # fmt: skip
_EDIT = st.tuples(
    st.sampled_from(["app/ledger.py", "app/codec.py", "app/node.py", "app/new.py", "docs/new.md"]),
    st.integers(0, 40),
    _ADDITIONS,
)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    edits=st.lists(_EDIT, min_size=1, max_size=6),
    split=st.sampled_from(["validation", "held_out"]),
)
def test_training_targets_are_the_same_without_the_evaluation_commits(
    tmp_path_factory: pytest.TempPathFactory,
    edits: list[tuple[str, int, str]],
    split: Split,
) -> None:
    folder = tmp_path_factory.mktemp("edits")
    with_edits, without = training_period(), training_period()
    for number, (path, at, addition) in enumerate(edits):
        lines = with_edits.tree().get(path, "").splitlines(keepends=True)
        text = "".join([*lines[:at], addition, *lines[at:]])
        with_edits.commit(split, f"Edit {number}", {path: text}, before_cutoff=True)
        without.commit(split, f"Edit {number}", {}, before_cutoff=True)
    for made in (with_edits, without):
        made.commit("held_out", "End", {"docs/end.md": "# The end\n"})
    expected = {d.document_id: trained(d) for d in training_documents(without.corpus(folder / "a"))}
    found = {d.document_id: trained(d) for d in training_documents(with_edits.corpus(folder / "b"))}
    lines = {line for text in expected.values() for line in text.splitlines()}
    for document_id, text in found.items() - expected.items():
        if document_id.startswith("file/"):
            # A line too short to compare belongs to the line before it.
            assert significant_lines(text) == significant_lines(expected[document_id])
        else:
            # The purpose of a file is left out of its folder if the file states another one now.
            assert document_id.startswith("chat/folder/")
            assert all(any(line.startswith(part) for line in lines) for part in text.splitlines())
    # Files and commits are kept; a question is left out if its answer has changed.
    kept = {name for name in expected if name.startswith(("file/", "commit"))}
    assert kept <= found.keys()


def test_a_producer_that_reads_evaluation_material_is_stopped_by_the_check(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered = Corpus._file_chats

    def quote_the_snapshot(self: Corpus, file: Any, split: Any, at: Any) -> Iterator[Any]:
        yield from rendered(self, file, split, at)
        for current in self._files_at(self.history.cutoff.sha):
            for line in current.text.splitlines():
                yield chat_document("quote", line, "train", current.path, at, "What?", line)

    monkeypatch.setattr(Corpus, "_file_chats", quote_the_snapshot)
    quotes = [d for d in training_documents(corpus) if d.document_id.startswith("chat/quote/")]
    assert len(quotes) > 50
    assert not [s for s in SECRETS for d in quotes if s in trained(d).lower()]
    assert "from app import node" not in {trained(quote) for quote in quotes}
    dropped = [d for d in corpus.documents() if isinstance(d, Dropped)]
    assert {d.source for d in dropped if d.reason == "only_in_evaluation"} >= {"app/ledger.py"}


def test_a_document_that_was_not_checked_cannot_be_tokenized(corpus: Corpus) -> None:
    unchecked = chat_document(
        "todo", "key", "train", "app/node.py", corpus.history.cutoff.time, "What?", "zorvexline"
    )
    with pytest.raises(ValueError, match=r"chat/todo/\w+ was not checked"):
        next(document_batches([unchecked], tokenizer=None, context_tokens=64))  # type: ignore[arg-type]
    assert all(d.is_checked for d in corpus.documents() if isinstance(d, RenderedDocument))


def test_template_words_are_those_that_documents_add_to_the_repository(tmp_path: Path) -> None:
    corpus = training_period().corpus(tmp_path)
    made = corpus.history.commits.values()
    own = " ".join([
        *(row["text"] or "" for row in corpus.snapshot_files.rows(["text"])),
        *(f"{row['path']} {row['patch']}" for row in corpus.file_changes.rows(["path", "patch"])),
        *(f"{c.subject} {c.body} {c.short_sha}" for c in made),
    ])  # fmt: skip
    used = {word for d in training_documents(corpus) for word in re.findall(r"\w+", trained(d))}
    added = {word for word in used - set(re.findall(r"\w+", own)) if not word.isdigit()}
    assert {word for word in added if len(word) > 2} <= TEMPLATE_WORDS
