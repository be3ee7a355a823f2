"""The advisor: answers questions about the repository, completes code, analyzes code lines."""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from the_block_llm.advisor.index.repository_index import (
    RepositoryIndex,
    open_index,
    tables_fingerprint,
)
from the_block_llm.advisor.models.pool import ModelPool
from the_block_llm.advisor.models.registry import ModelRegistry, ModelVersion
from the_block_llm.advisor.output.citation_stream import CitationStream, Part
from the_block_llm.advisor.output.line_perplexity import format_excerpts, highest_perplexity_lines
from the_block_llm.advisor.output.results import (
    Answer,
    Completion,
    GenerationOptions,
    HybridAnalysis,
)
from the_block_llm.advisor.output.streaming import StreamResult, stream_text
from the_block_llm.advisor.params import AdvisorBudget, AdvisorParams
from the_block_llm.advisor.prompt.prompts import (
    Message,
    fim_token_ids,
    format_question,
)
from the_block_llm.advisor.prompt.truncation import (
    check_unicode,
    encode_around_gap,
    encode_conversation,
    last_question,
    select_passages,
)
from the_block_llm.errors import PromptError, TableError, TableReplacedError
from the_block_llm.models.inference.generation import SamplingParams
from the_block_llm.retrieval.passages import Passage

# Only the end of the questions and the context is used as the search query.
_QUERY_CHARACTERS: Final = 4000
_UNLIKELY_LINES_QUESTION: Final = (
    "A code model found these lines unlikely. Say for each whether it looks like a mistake, is "
    "unusual but right, or is only a name the model did not know, and what to check."
)


def _discard(chunk: object) -> None:
    """Do nothing; the default callback."""


class Advisor:
    """Answers questions and completes code; loads models on first use.

    Thread-safe: calls from several threads run one after another.

    >>> advisor = Advisor(project_parameters("."))                      # doctest: +SKIP
    >>> advisor.analyze_architecture("What breaks if consensus stalls?")  # doctest: +SKIP
    """

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        """Set up the advisor without loading a model.

        Args:
            parameters: All parameters of the project, as returned by ``project_parameters`` or
                a Kedro context.
        """
        self.params = AdvisorParams.model_validate(parameters["advisor"])
        self.registry = ModelRegistry(parameters, self.params)
        self._models = ModelPool(self.params.memory_cap_gib, self.params.adapters_folder / "base")
        self._index: RepositoryIndex | None = None
        self._index_lock = threading.Lock()
        self._model_lock = threading.RLock()

    @property
    def budget(self) -> AdvisorBudget:
        """The token limits for the device."""
        return self.params.budget_for("cuda" if self._models.device.type == "cuda" else "cpu")

    def index(self) -> RepositoryIndex:
        """Return the index of the current tables, building it if they have changed.

        While git_ingest replaces them, this is the index of the tables before.

        Raises:
            TableError: git_ingest has not run, or has not finished its first run.
        """
        tables = (self.params.tables_folder, self.params.repository_file)
        with self._index_lock:
            try:
                current = tables_fingerprint(*tables, self.params.passage_characters)
            except TableReplacedError:
                current = "" if self._index is None else self._index.fingerprint
            if self._index is None or self._index.fingerprint != current:
                self._index = open_index(
                    *tables, self.params.index_folder, self.params.passage_characters
                )
            return self._index

    def load(self, version: ModelVersion) -> None:
        """Load a model in advance of the first request for it."""
        with self._model_lock, self._models.acquire(version.profile, version.adapter):
            pass

    def complete_code(
        self,
        prefix: str,
        suffix: str = "",
        *,
        model: str | None = None,
        adapter: str | None = None,
        options: GenerationOptions | None = None,
        on_text: Callable[[str], None] = _discard,
    ) -> Completion:
        """Generate the code between ``prefix`` and ``suffix``.

        Code beyond the token limit is truncated to the part nearest to the gap.

        Args:
            prefix: Code before the gap.
            suffix: Code after the gap.
            model: Profile with the role completion; by default ``advisor.completion_model``.
            adapter: Version, or ``base``; by default the newest.
            options: Generation options.
            on_text: Called with each piece of text as it is generated.

        Raises:
            RoleError: The model cannot complete code.
            PromptError: Prefix and suffix are both empty.
        """
        options = options or GenerationOptions()
        version = self.registry.resolve("completion", model, adapter)
        check_unicode(prefix, suffix)
        if not prefix and not suffix:
            raise PromptError("There is no code to complete: prefix and suffix are empty.")
        chunks: list[str] = []

        def emit(text: str) -> None:
            chunks.append(text)
            on_text(text)

        with (
            self._model_lock,
            self._models.acquire(version.profile, version.adapter) as (loaded_model, tokenizer),
        ):
            sampling = self._sampling_params(options)
            max_tokens = self._max_prompt_tokens(loaded_model, sampling)
            ids = encode_around_gap(tokenizer, prefix, suffix, version.profile.name, max_tokens)
            result = stream_text(
                loaded_model, tokenizer, ids, sampling, emit,
                stop_strings=options.stop_strings, stop_token_ids=fim_token_ids(tokenizer),
                is_cancelled=options.is_cancelled, deadline=options.deadline,
            )  # fmt: skip
        return Completion(
            text="".join(chunks),
            model=version.name,
            n_prompt_tokens=len(ids),
            n_tokens=result.n_tokens,
            finish_reason=result.finish_reason,
        )

    def analyze_architecture(
        self,
        question: str,
        context: str = "",
        *,
        model: str | None = None,
        adapter: str | None = None,
        retrieval: bool = True,
        options: GenerationOptions | None = None,
        on_part: Callable[[Part], None] = _discard,
    ) -> Answer:
        """Answer a question about the repository.

        Args:
            question: The question; must not be empty.
            context: Code or other text to put before the question.
            model: Profile with the role advisor; by default ``model``.
            adapter: Version, or ``base``; by default the newest.
            retrieval: Search the repository and put the passages found before the question.
            options: Generation options.
            on_part: Called with each part of the answer, its citation already checked.

        Raises:
            RoleError: The model cannot answer questions.
            PromptError: The question is empty or too long.
            TableError: Retrieval is on and git_ingest has not run.
        """
        return self.converse(
            [Message("user", question)], context=context, model=model, adapter=adapter,
            retrieval=retrieval, options=options, on_part=on_part,
        )  # fmt: skip

    def converse(
        self,
        messages: Sequence[Message],
        context: str = "",
        *,
        model: str | None = None,
        adapter: str | None = None,
        retrieval: bool = True,
        options: GenerationOptions | None = None,
        on_part: Callable[[Part], None] = _discard,
    ) -> Answer:
        """Answer the last message of a conversation; see :meth:`analyze_architecture`."""
        options = options or GenerationOptions()
        version = self.registry.resolve("advisor", model, adapter)
        check_unicode(context, *(message.content for message in messages))
        question = last_question(messages)
        index = self._open_index(required=retrieval)
        passages: list[Passage] = []
        if retrieval and index is not None:
            questions = [m.content for m in messages if m.role == "user"][-2:]
            query = "\n".join([*questions, context])[-_QUERY_CHARACTERS:]
            passages = index.search(query, self.budget.passages)
        project = index.project if index else None
        citations = CitationStream(index.known_names if index else None)
        parts: list[Part] = []

        def emit(part: Part) -> None:
            parts.append(part)
            on_part(part)

        def emit_text(text: str) -> None:
            for part in citations.feed(text):
                emit(part)

        with (
            self._model_lock,
            self._models.acquire(version.profile, version.adapter) as (loaded_model, tokenizer),
        ):
            sampling = self._sampling_params(options)
            passages = select_passages(tokenizer, passages, self.budget.passage_tokens)
            last = Message("user", format_question(question, context, passages, project))
            ids, dropped = encode_conversation(
                tokenizer, [*messages[:-1], last], version.profile.name,
                self._max_prompt_tokens(loaded_model, sampling),
            )  # fmt: skip
            result: StreamResult = stream_text(
                loaded_model, tokenizer, ids, sampling, emit_text,
                repetition_penalty=self.params.repetition_penalty,
                stop_strings=options.stop_strings, is_cancelled=options.is_cancelled,
                deadline=options.deadline,
            )  # fmt: skip
        for part in citations.flush():
            emit(part)
        return Answer(
            parts=tuple(parts),
            passages=tuple(passages),
            model=version.name,
            n_prompt_tokens=len(ids),
            n_tokens=result.n_tokens,
            finish_reason=result.finish_reason,
            dropped_turns=dropped,
            citations_checked=index is not None,
        )

    def hybrid_analysis(
        self,
        code: str,
        *,
        completion_model: str | None = None,
        model: str | None = None,
        retrieval: bool = True,
        options: GenerationOptions | None = None,
        on_part: Callable[[Part], None] = _discard,
    ) -> HybridAnalysis:
        """Ask the advisor about the lines of ``code`` that the completion model finds unlikely.

        Args:
            code: Code to analyze; at least one line must have three tokens.
            completion_model: Model that scores the lines; ``profile@base`` for the untuned one.
            model: Model that answers, in the same form.
            retrieval: As in :meth:`analyze_architecture`.
            options: Generation options.
            on_part: Called with each part of the answer.

        Raises:
            PromptError: No line has three tokens or more.
        """
        scorer = self.registry.resolve("completion", completion_model)
        self.registry.resolve("advisor", model)  # fail on a wrong name before the slow scoring
        check_unicode(code)
        with self._model_lock:
            with self._models.acquire(scorer.profile, scorer.adapter) as (loaded_model, tokenizer):
                lines = highest_perplexity_lines(
                    loaded_model, tokenizer, code, self.params.perplexity_lines,
                    scorer.profile.document_start,
                )  # fmt: skip
            if not lines:
                raise PromptError("There is no code to analyze: no line has three tokens or more.")
            answer = self.analyze_architecture(
                _UNLIKELY_LINES_QUESTION, format_excerpts(code, lines), model=model,
                retrieval=retrieval, options=options, on_part=on_part,
            )  # fmt: skip
        return HybridAnalysis(tuple(lines), scorer.name, answer)

    def _open_index(self, *, required: bool) -> RepositoryIndex | None:
        """Return the index, or None if there are no tables and it is not ``required``."""
        try:
            return self.index()
        except TableError:
            if required:
                raise
            return None

    def _sampling_params(self, options: GenerationOptions) -> SamplingParams:
        limit = self.budget.new_tokens
        return SamplingParams(
            max_new_tokens=min(options.max_new_tokens or limit, limit),
            temperature=options.temperature,
            top_p=options.top_p,
            seed=options.seed,
        )

    def _max_prompt_tokens(self, model: Any, sampling: SamplingParams) -> int:
        context_tokens = int(model.config.max_position_embeddings)
        return max(1, min(self.budget.prompt_tokens, context_tokens - sampling.max_new_tokens))
