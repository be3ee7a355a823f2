"""``kedro ask``: a question on the command line, or a conversation."""

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

from the_block_llm.advisor.output.sanitize import printable

HELP: Final = """Ask the tuned model about the repository.

QUESTION may also come from standard input; with neither, a conversation begins.
The answer goes to standard output, everything else to standard error.

\b
Examples:
  kedro ask "What does the sequence_build pipeline do?"
  kedro ask --base "What breaks if consensus stalls?"    without the adapter, to compare
  git diff | kedro ask "Is this safe?" --context -
  kedro ask --json "Where are secrets masked?" < /dev/null | jq .citations
"""
OPTIONS: Final[list[click.Parameter]] = [
    click.Argument(["question"], required=False),
    click.Option(["--model"], metavar="NAME", help="A profile; by default the chosen one."),
    click.Option(
        ["--adapter"], metavar="VERSION", help="A trained version; by default the newest."
    ),
    click.Option(["--base"], is_flag=True, help="Ask the base model, without an adapter."),
    click.Option(["--no-retrieval"], is_flag=True, help="Do not search the repository."),
    click.Option(
        ["--context"], type=click.File(encoding="utf-8", errors="replace"), metavar="FILE",
        help="Text to put before the question; - is standard input.",
    ),
    click.Option(
        ["--new-tokens"], type=click.IntRange(min=1), metavar="N",
        help="Longest answer; at most what the parameters allow.",
    ),
    click.Option(["--json", "as_json"], is_flag=True, help="One JSON object, once it is whole."),
    click.Option(["--env", "-e"], metavar="ENV", help="Configuration environment."),
]  # fmt: skip
_EXISTS: Final = "bold cyan"
_MISSING: Final = "bold red"


def ask(
    parameters: Callable[[str | None], Mapping[str, Any]],
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
    """Answer one question, or hold a conversation.

    Args:
        parameters: Gives the project's parameters of an environment.
        question: None: from standard input, or a conversation where that is a terminal.
        model: Profile.
        adapter: Version.
        base: Without the adapter.
        no_retrieval: Without passages of the repository.
        context: An open file, or none.
        new_tokens: Longest answer.
        as_json: Print a JSON object.
        env: Configuration environment.

    Raises:
        BlockError: Something that the user can mend.
    """
    if base and adapter:
        raise click.UsageError("--base and --adapter exclude each other.")
    # Logs and bars of everything below go where they do not mix with the answer.
    reconfigure(stderr=True)
    given = context.read() if context is not None else ""
    if question is None and not sys.stdin.isatty():
        question = sys.stdin.read().strip()
    try:
        _answer(parameters(env), question, given, model, "base" if base else adapter,
                retrieval=not no_retrieval, new_tokens=new_tokens, as_json=as_json)  # fmt: skip
    except BrokenPipeError:
        # The reader has seen enough (kedro ask … | head); Rich ends the same way.
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
    # Here, so that --help need not wait for torch.
    from the_block_llm.advisor.advisor import Advisor  # noqa: PLC0415
    from the_block_llm.advisor.output.citation_stream import Part  # noqa: PLC0415
    from the_block_llm.advisor.output.results import Answer, Wish  # noqa: PLC0415
    from the_block_llm.advisor.prompt.prompts import Message, passage_heading  # noqa: PLC0415

    advisor = Advisor(parameters)
    console = Console(highlight=False, soft_wrap=True)
    notes = Console(stderr=True, highlight=False)

    def show(part: Part) -> None:
        style = "" if part.citation is None else _EXISTS if part.citation.exists else _MISSING
        console.print(Text(printable(part.marked()), style=style), end="")
        console.file.flush()

    def reply(messages: list[Message]) -> Answer:
        answer = advisor.converse(
            messages, context, model=model, adapter=adapter, retrieval=retrieval,
            wish=Wish(new_tokens=new_tokens),
            on_part=(lambda part: None) if as_json else show,  # noqa: ARG005
        )  # fmt: skip
        if as_json:
            console.file.write(json.dumps(as_object(messages[-1].content, answer)) + "\n")
            return answer
        console.print()
        found = ", ".join(passage_heading(p) for p in answer.passages) or "nothing"
        told = [answer.model, *([f"read {found}"] if retrieval else [])]
        if answer.finish == "length":
            told.append(f"cut off after {answer.n_tokens} tokens (--new-tokens)")
        if answer.dropped_turns:
            told.append(f"the first {answer.dropped_turns} turns no longer fit and were left out")
        if not answer.is_checked:
            told.append("citations not checked: `kedro run --pipeline=git_ingest` has not run")
        notes.print(Text(printable(" · ".join(told)), style="dim"))
        return answer

    if question is not None:
        reply([Message("user", question)])
        return
    _converse(reply, notes)


def _converse(reply: Callable[[list[Any]], Any], notes: Console) -> None:
    """Ask and answer until the input ends."""
    from the_block_llm.advisor.prompt.prompts import Message  # noqa: PLC0415
    from the_block_llm.errors import PromptError  # noqa: PLC0415

    with contextlib.suppress(ImportError):
        # input() then edits lines and recalls earlier ones.
        import readline  # noqa: F401, PLC0415
    notes.print("A conversation about the repository. /new forgets it, Ctrl-D ends it.")
    messages: list[Message] = []
    while True:
        try:
            line = input("\n> ").strip()
        except EOFError:
            notes.print()
            return
        if line == "/new":
            messages = []
            notes.print("Forgotten.")
        elif line:
            asked = [*messages, Message("user", line)]
            try:
                messages = [*asked, Message("assistant", reply(asked).text)]
            except KeyboardInterrupt:
                notes.print("\nStopped.")
            except PromptError as error:
                notes.print(Text(str(error), style=_MISSING))


def as_object(question: str, answer: Any) -> dict[str, Any]:
    """An answer as JSON values."""
    return {
        "question": question,
        "answer": answer.text,
        "model": answer.model,
        "citations": [asdict(citation) for citation in answer.citations],
        "citations_checked": answer.is_checked,
        "passages": [
            {"source": p.source, "first_line": p.first_line, "last_line": p.last_line}
            for p in answer.passages
        ],
        "finish": answer.finish,
        "dropped_turns": answer.dropped_turns,
        "prompt_tokens": answer.n_prompt_tokens,
        "new_tokens": answer.n_tokens,
    }
