"""``kedro ask``: one question on the command line, or a conversation."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Final

import click
from rich import reconfigure
from rich.console import Console
from rich.text import Text

from the_block_llm.advisor.models.registry import check_model
from the_block_llm.advisor.output.sanitize import sanitize_text

HELP: Final = """Ask the tuned model about the repository.

QUESTION is read from standard input if it is not given; on a terminal a conversation starts
instead. The answer is written to standard output, everything else to standard error.

\b
Examples:
  kedro ask "What does the sequence_build pipeline do?"
  kedro ask --base "What breaks if consensus stalls?"    without the adapter, to compare
  git diff | kedro ask "Is this safe?" --context -
  kedro ask --json "Where are secrets masked?" < /dev/null | jq .citations
"""
OPTIONS: Final[list[click.Parameter]] = [
    click.Argument(["question"], required=False),
    click.Option(["--model"], metavar="NAME", help="Model profile; by default `model`."),
    click.Option(
        ["--adapter"], metavar="VERSION", help="Adapter version; by default the newest."
    ),
    click.Option(["--base"], is_flag=True, help="Use the base model, without an adapter."),
    click.Option(["--no-retrieval"], is_flag=True, help="Do not search the repository."),
    click.Option(
        ["--context"], type=click.File(encoding="utf-8", errors="replace"), metavar="FILE",
        help="File whose text is put before the question; - is standard input.",
    ),
    click.Option(
        ["--new-tokens"], type=click.IntRange(min=1), metavar="N",
        help="Maximum number of tokens in the answer; the parameters set the upper limit.",
    ),
    click.Option(
        ["--json", "as_json"], is_flag=True,
        help="Print the complete answer as one JSON object.",
    ),
    click.Option(["--env", "-e"], metavar="ENV", help="Configuration environment."),
]  # fmt: skip
_FOUND_STYLE: Final = "bold cyan"
_NOT_FOUND_STYLE: Final = "bold red"


def ask(
    load_parameters: Callable[[str | None], Mapping[str, Any]],
    *,
    question: str | None,
    model: str | None,
    adapter: str | None,
    base: bool,
    no_retrieval: bool,
    context: Any,
    new_tokens: int | None,
    as_json: bool,
    env: str | None,
) -> None:
    """Answer one question, or run a conversation.

    Args:
        load_parameters: Returns the project's parameters for an environment.
        question: None to read it from standard input, or to run a conversation on a terminal.
        model: Model profile.
        adapter: Adapter version.
        base: Use the base model, without an adapter.
        no_retrieval: Do not search the repository.
        context: An open file whose text is put before the question, or None.
        new_tokens: Token limit of the answer.
        as_json: Print a JSON object.
        env: Configuration environment.

    Raises:
        BlockError: An error that the user can fix.
    """
    if base and adapter:
        raise click.UsageError("--base and --adapter exclude each other.")
    # Logs and progress bars go to standard error, so that they do not mix with the answer.
    reconfigure(stderr=True)
    context_text = context.read() if context is not None else ""
    if question is None and not sys.stdin.isatty():
        question = sys.stdin.read().strip()
    try:
        _answer(load_parameters(env), question, context_text, model, "base" if base else adapter,
                retrieval=not no_retrieval, new_tokens=new_tokens, as_json=as_json)  # fmt: skip
    except BrokenPipeError:
        # The reader closed the pipe (kedro ask … | head). Redirecting standard output prevents a
        # second error at exit; Rich does the same.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _answer(
    parameters: Mapping[str, Any],
    question: str | None,
    context: str,
    model: str | None,
    adapter: str | None,
    *,
    retrieval: bool,
    new_tokens: int | None,
    as_json: bool,
) -> None:
    check_model(parameters, model, adapter)
    # Imported here, so that --help does not import torch.
    from the_block_llm.advisor.advisor import Advisor  # noqa: PLC0415
    from the_block_llm.advisor.output.citation_stream import Part  # noqa: PLC0415
    from the_block_llm.advisor.output.results import Answer, GenerationOptions  # noqa: PLC0415
    from the_block_llm.advisor.prompt.prompts import Message, passage_heading  # noqa: PLC0415

    advisor = Advisor(parameters)
    console = Console(highlight=False, soft_wrap=True)
    status = Console(stderr=True, highlight=False)

    def print_part(part: Part) -> None:
        style = ""
        if part.citation is not None:
            style = _FOUND_STYLE if part.citation.exists else _NOT_FOUND_STYLE
        console.print(Text(sanitize_text(part.annotated_text()), style=style), end="")
        console.file.flush()

    def reply(messages: list[Message]) -> Answer:
        answer = advisor.converse(
            messages, context, model=model, adapter=adapter, retrieval=retrieval,
            options=GenerationOptions(max_new_tokens=new_tokens),
            on_part=(lambda part: None) if as_json else print_part,  # noqa: ARG005
        )  # fmt: skip
        if as_json:
            console.file.write(json.dumps(answer_to_json(messages[-1].content, answer)) + "\n")
            return answer
        console.print()
        headings = ", ".join(passage_heading(p) for p in answer.passages) or "none"
        summary = [answer.model, *([f"passages: {headings}"] if retrieval else [])]
        if answer.finish_reason == "length":
            summary.append(f"truncated at {answer.n_tokens} tokens (--new-tokens)")
        if answer.dropped_turns:
            summary.append(
                f"the first {answer.dropped_turns} messages did not fit and were left out"
            )
        if not answer.citations_checked:
            summary.append("citations not checked: run `kedro run --pipeline=git_ingest` first")
        status.print(Text(sanitize_text(" · ".join(summary)), style="dim"))
        return answer

    if question is not None:
        reply([Message("user", question)])
        return
    _run_conversation(reply, status)


def _run_conversation(reply: Callable[[list[Any]], Any], status: Console) -> None:
    """Read and answer questions until the input ends."""
    from the_block_llm.advisor.prompt.prompts import Message  # noqa: PLC0415
    from the_block_llm.errors import PromptError  # noqa: PLC0415

    with contextlib.suppress(ImportError):
        # Enables line editing and history in input().
        import readline  # noqa: F401, PLC0415
    status.print("Ask about the repository. /new starts a new conversation, Ctrl-D exits.")
    messages: list[Message] = []
    while True:
        try:
            line = input("\n> ").strip()
        except EOFError:
            status.print()
            return
        if line == "/new":
            messages = []
            status.print("New conversation.")
        elif line:
            with_question = [*messages, Message("user", line)]
            try:
                messages = [*with_question, Message("assistant", reply(with_question).text)]
            except KeyboardInterrupt:
                status.print("\nStopped.")
            except PromptError as error:
                status.print(Text(str(error), style=_NOT_FOUND_STYLE))


def answer_to_json(question: str, answer: Any) -> dict[str, Any]:
    """Return the JSON object of an answer."""
    return {
        "question": question,
        "answer": answer.text,
        "model": answer.model,
        "citations": [asdict(citation) for citation in answer.citations],
        "citations_checked": answer.citations_checked,
        "passages": [
            {"source": p.source, "first_line": p.first_line, "last_line": p.last_line}
            for p in answer.passages
        ],
        "finish": answer.finish_reason,
        "dropped_turns": answer.dropped_turns,
        "prompt_tokens": answer.n_prompt_tokens,
        "new_tokens": answer.n_tokens,
    }
