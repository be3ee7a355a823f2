"""Options and results of the advisor."""

from collections.abc import Callable
from dataclasses import dataclass

from the_block_llm.advisor.output.citation_stream import Part
from the_block_llm.advisor.output.line_perplexity import LinePerplexity
from the_block_llm.advisor.output.streaming import FinishReason
from the_block_llm.retrieval.citations import Citation
from the_block_llm.retrieval.passages import Passage


@dataclass(frozen=True)
class GenerationOptions:
    """Options of one answer; None means the value of the parameters."""

    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop_strings: tuple[str, ...] = ()
    is_cancelled: Callable[[], bool] = lambda: False
    deadline: float | None = None
    """On the clock of ``time.monotonic``."""


@dataclass(frozen=True)
class Completion:
    """Code that a model generated."""

    text: str
    model: str
    n_prompt_tokens: int
    n_tokens: int
    finish_reason: FinishReason


@dataclass(frozen=True)
class Answer:
    """A generated answer with its citations and retrieved passages."""

    parts: tuple[Part, ...]
    passages: tuple[Passage, ...]
    """Passages that retrieval added to the prompt."""
    model: str
    n_prompt_tokens: int
    n_tokens: int
    finish_reason: FinishReason
    dropped_turns: int
    """Earliest messages of the conversation that did not fit into the prompt."""
    citations_checked: bool
    """False if there are no tables to check citations against."""

    @property
    def text(self) -> str:
        """The answer, with a marker after each citation that does not exist."""
        return "".join(part.annotated_text() for part in self.parts)

    @property
    def citations(self) -> tuple[Citation, ...]:
        """The distinct citations, in order of appearance."""
        return tuple(dict.fromkeys(p.citation for p in self.parts if p.citation is not None))


@dataclass(frozen=True)
class HybridAnalysis:
    """Lines that the completion model finds unlikely, and the advisor's assessment of them."""

    lines: tuple[LinePerplexity, ...]
    completion_model: str
    answer: Answer
