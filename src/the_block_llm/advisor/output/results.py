"""What the advisor is asked for beside the question, and what it gives."""

from collections.abc import Callable
from dataclasses import dataclass

from the_block_llm.advisor.output.citation_stream import Part
from the_block_llm.advisor.output.line_perplexity import SurprisingLine
from the_block_llm.advisor.output.streaming import Finish
from the_block_llm.retrieval.citations import Citation
from the_block_llm.retrieval.passages import Passage


@dataclass(frozen=True)
class Wish:
    """How an answer is to be made; what is not set follows the parameters."""

    new_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop_texts: tuple[str, ...] = ()
    is_cancelled: Callable[[], bool] = lambda: False
    deadline: float | None = None
    """On the clock of ``time.monotonic``."""


@dataclass(frozen=True)
class Completion:
    """Code that a model wrote."""

    text: str
    model: str
    n_prompt_tokens: int
    n_tokens: int
    finish: Finish


@dataclass(frozen=True)
class Answer:
    """What the advisor said, and what it rests on."""

    parts: tuple[Part, ...]
    passages: tuple[Passage, ...]
    """What retrieval put before the question."""
    model: str
    n_prompt_tokens: int
    n_tokens: int
    finish: Finish
    dropped_turns: int
    """Earliest turns of the conversation that had to be left out."""
    is_checked: bool
    """False where there are no tables to look citations up in."""

    @property
    def text(self) -> str:
        """The answer; citations of what does not exist are marked."""
        return "".join(part.marked() for part in self.parts)

    @property
    def citations(self) -> tuple[Citation, ...]:
        """Each citation once, in order."""
        return tuple(dict.fromkeys(p.citation for p in self.parts if p.citation is not None))


@dataclass(frozen=True)
class HybridAnalysis:
    """What the completion model found unlikely, and what the advisor says about it."""

    surprises: tuple[SurprisingLine, ...]
    completion_model: str
    answer: Answer
