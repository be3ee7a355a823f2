"""The advisor as one object: questions about the repository, completions, and both together."""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch

from the_block_llm.advisor.index.repository_index import (
    RepositoryIndex,
    open_index,
    tables_fingerprint,
)
from the_block_llm.advisor.models.pool import LoadedModels
from the_block_llm.advisor.models.registry import Choice, Choices
from the_block_llm.advisor.output.citation_stream import CitationCheck, Part
from the_block_llm.advisor.output.line_perplexity import excerpts, surprising_lines
from the_block_llm.advisor.output.results import Answer, Completion, HybridAnalysis, Wish
from the_block_llm.advisor.output.streaming import StreamEnd, stream_text
from the_block_llm.advisor.params import AdvisorBudget, AdvisorParams
from the_block_llm.advisor.prompt.prompts import (
    Message,
    middle_marks,
    with_passages,
)
from the_block_llm.advisor.prompt.truncation import (
    affordable,
    check_characters,
    conversation_ids,
    last_question,
    nearest_ids,
)
from the_block_llm.errors import PromptError, TableError
from the_block_llm.models.inference.generation import SamplingParams
from the_block_llm.retrieval.passages import Passage

# Of a long context, the first words say what it is about.
_QUERY_CHARACTERS: Final = 4000
_WHAT_IS_ODD: Final = (
    "A code model found these lines unlikely. Say for each whether it looks like a mistake, is "
    "unusual but right, or is only a name the model did not know, and what to check."
)


def _ignore(piece: object) -> None:
    """Nobody is listening."""


class Advisor:
    """Answers and completes; models are loaded when they are first needed.

    One thread at a time is served; others wait.

    >>> advisor = Advisor(project_parameters("."))                      # doctest: +SKIP
    >>> advisor.analyze_architecture("What breaks if consensus stalls?")  # doctest: +SKIP
    """

    def __init__(self, parameters: Mapping[str, Any], device: torch.device | None = None) -> None:
        """Take the project's parameters; nothing is loaded yet.

        Args:
            parameters: All of them, as ``project_parameters``
                or a Kedro context gives them.
            device: Where models go; by default the GPU where there is one.
        """
        self.params = AdvisorParams.model_validate(parameters["advisor"])
        self.choices = Choices(parameters, self.params)
        self._models = LoadedModels(
            self.params.memory_cap_gib, self.params.adapters_folder / "base", device
        )
        self._index: RepositoryIndex | None = None
        self._index_lock = threading.Lock()
        self._turn = threading.RLock()

    @property
    def budget(self) -> AdvisorBudget:
        """The budget of the device."""
        return self.params.budget_for("cuda" if self._models.device.type == "cuda" else "cpu")

    def index(self) -> RepositoryIndex:
        """The index of the tables as they are now.

        Raises:
            TableError: git_ingest has not run.
        """
        where = (self.params.tables_folder, self.params.repository_file)
        with self._index_lock:
            current = tables_fingerprint(*where, self.params.passage_characters)
            if self._index is None or self._index.fingerprint != current:
                self._index = open_index(
                    *where, self.params.index_folder, self.params.passage_characters
                )
            return self._index

    def load(self, choice: Choice) -> None:
        """Load a model now rather than with the first question."""
        with self._turn, self._models.using(choice.profile, choice.adapter):
            pass

    def complete_code(
        self,
        prefix: str,
        suffix: str = "",
        *,
        model: str | None = None,
        adapter: str | None = None,
        wish: Wish | None = None,
        on_text: Callable[[str], None] = _ignore,
    ) -> Completion:
        """Write the code between ``prefix`` and ``suffix``.

        Of code that is longer than the budget, what is nearest to the gap is read.

        Args:
            prefix: Code before the gap; not empty.
            suffix: Code after it.
            model: Profile with the role completion; by default ``advisor.completion_model``.
            adapter: Version, or ``base``; by default the newest.
            wish: How the code is to be made.
            on_text: Called with each piece as it is written.

        Raises:
            RoleError: The model cannot complete code.
            PromptError: There is nothing to go on with.
        """
        wish = wish or Wish()
        choice = self.choices.choose("completion", model, adapter)
        check_characters(prefix, suffix)
        if not prefix and not suffix:
            raise PromptError("There is no code to complete: prefix and suffix are empty.")
        pieces: list[str] = []

        def take(text: str) -> None:
            pieces.append(text)
            on_text(text)

        with self._turn, self._models.using(choice.profile, choice.adapter) as (net, tokenizer):
            decoding = self._decoding(wish)
            limit = self._prompt_limit(net, decoding)
            ids = nearest_ids(tokenizer, prefix, suffix, choice.profile.name, limit)
            end = stream_text(
                net, tokenizer, ids, decoding, take,
                stop_texts=wish.stop_texts, stop_tokens=middle_marks(tokenizer),
                is_cancelled=wish.is_cancelled, deadline=wish.deadline,
            )  # fmt: skip
        return Completion("".join(pieces), choice.name, len(ids), end.n_tokens, end.finish)

    def analyze_architecture(
        self,
        question: str,
        context: str = "",
        *,
        model: str | None = None,
        adapter: str | None = None,
        retrieval: bool = True,
        wish: Wish | None = None,
        on_part: Callable[[Part], None] = _ignore,
    ) -> Answer:
        """Answer a question about the repository.

        Args:
            question: Not empty.
            context: Code or facts to put before it.
            model: Profile with the role advisor; by default the chosen one.
            adapter: Version, or ``base``; by default the newest.
            retrieval: Search the repository for passages to put before the question.
            wish: How the answer is to be made.
            on_part: Called with each part as it is ready, its citation checked.

        Raises:
            RoleError: The model cannot answer questions.
            PromptError: The question is empty or too long.
            TableError: There is nothing to search.
        """
        return self.converse(
            [Message("user", question)], context=context, model=model, adapter=adapter,
            retrieval=retrieval, wish=wish, on_part=on_part,
        )  # fmt: skip

    def converse(
        self,
        messages: Sequence[Message],
        context: str = "",
        *,
        model: str | None = None,
        adapter: str | None = None,
        retrieval: bool = True,
        wish: Wish | None = None,
        on_part: Callable[[Part], None] = _ignore,
    ) -> Answer:
        """Answer the last of ``messages``, a question; as :meth:`analyze_architecture`."""
        wish = wish or Wish()
        choice = self.choices.choose("advisor", model, adapter)
        check_characters(context, *(message.content for message in messages))
        question = last_question(messages)
        index = self._index_where_there_is_one(needed=retrieval)
        passages: list[Passage] = []
        if retrieval and index is not None:
            asked = [m.content for m in messages if m.role == "user"][-2:]
            query = "\n".join([*asked, context])[-_QUERY_CHARACTERS:]
            passages = index.find(query, self.budget.passages)
        project = index.project if index else None
        check = CitationCheck(index.known if index else None)
        parts: list[Part] = []

        def take(found: Part) -> None:
            parts.append(found)
            on_part(found)

        def take_text(text: str) -> None:
            for part in check.feed(text):
                take(part)

        with self._turn, self._models.using(choice.profile, choice.adapter) as (net, tokenizer):
            decoding = self._decoding(wish)
            passages = affordable(tokenizer, passages, self.budget.passage_tokens)
            last = Message("user", with_passages(question, context, passages, project))
            ids, dropped = conversation_ids(
                tokenizer, [*messages[:-1], last], choice.profile.name,
                self._prompt_limit(net, decoding),
            )  # fmt: skip
            end: StreamEnd = stream_text(
                net, tokenizer, ids, decoding, take_text,
                repetition_penalty=self.params.repetition_penalty,
                stop_texts=wish.stop_texts, is_cancelled=wish.is_cancelled,
                deadline=wish.deadline,
            )  # fmt: skip
        for part in check.flush():
            take(part)
        return Answer(
            parts=tuple(parts),
            passages=tuple(passages),
            model=choice.name,
            n_prompt_tokens=len(ids),
            n_tokens=end.n_tokens,
            finish=end.finish,
            dropped_turns=dropped,
            is_checked=index is not None,
        )

    def hybrid_analysis(
        self,
        code: str,
        *,
        completion_model: str | None = None,
        model: str | None = None,
        retrieval: bool = True,
        wish: Wish | None = None,
        on_part: Callable[[Part], None] = _ignore,
    ) -> HybridAnalysis:
        """Ask the advisor about the lines of ``code`` that surprise the completion model.

        Args:
            code: What is looked at; at least one line of three tokens.
            completion_model: Measures; ``profile@base`` for the untuned one.
            model: Answers, likewise.
            retrieval: As in :meth:`analyze_architecture`.
            wish: How the answer is to be made.
            on_part: Called with each part of the answer as it is ready.

        Raises:
            PromptError: There is no line to ask about.
        """
        measuring = self.choices.choose("completion", completion_model)
        self.choices.choose("advisor", model)  # a wrong name is said before anything slow
        check_characters(code)
        with self._turn:
            with self._models.using(measuring.profile, measuring.adapter) as (net, tokenizer):
                found = surprising_lines(
                    net, tokenizer, code, self.params.perplexity_lines,
                    measuring.profile.document_start,
                )  # fmt: skip
            if not found:
                raise PromptError("There is no code to analyse: no line has three tokens or more.")
            answer = self.analyze_architecture(
                _WHAT_IS_ODD, excerpts(code, found), model=model, retrieval=retrieval,
                wish=wish, on_part=on_part,
            )  # fmt: skip
        return HybridAnalysis(tuple(found), measuring.name, answer)

    def _index_where_there_is_one(self, *, needed: bool) -> RepositoryIndex | None:
        try:
            return self.index()
        except TableError:
            if needed:
                raise
            return None

    def _decoding(self, wish: Wish) -> SamplingParams:
        most = self.budget.new_tokens
        return SamplingParams(
            max_new_tokens=min(wish.new_tokens or most, most),
            temperature=wish.temperature,
            top_p=wish.top_p,
            seed=wish.seed,
        )

    def _prompt_limit(self, model: Any, decoding: SamplingParams) -> int:
        whole = int(model.config.max_position_embeddings)
        return max(1, min(self.budget.prompt_tokens, whole - decoding.max_new_tokens))
