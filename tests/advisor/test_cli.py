import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from tests.builders.advised_repository import build_advised_repository

from the_block_llm.advisor import cli
from the_block_llm.errors import AdapterError, RoleError

ROOT = Path(__file__).resolve().parents[2]
QUESTION = "Who tallies votes?"


def run(parameters, *arguments, stdin="", **options):
    command = click.Command(
        "ask",
        params=cli.OPTIONS,
        callback=lambda **values: cli.ask(lambda env: parameters, **values),
    )
    return CliRunner().invoke(command, list(arguments), input=stdin, **options)


def test_only_the_answer_is_written_to_standard_output(parameters):
    result = run(parameters, QUESTION, "--new-tokens", "6")
    assert result.exit_code == 0, result.output
    assert 1 <= len(result.stdout) < 20
    assert "\x1b" not in result.stdout, "no colors in a pipe"
    assert "tiny@2026-01-01T00.00.00Z · passages: [src/" in result.stderr.replace("\n", " ")
    assert "truncated at 6 tokens" in result.stderr.replace("\n", " ")


def test_question_is_read_from_standard_input(parameters):
    assert run(parameters, stdin=QUESTION).stdout == run(parameters, QUESTION).stdout


def test_json_output_is_one_object_on_one_line(parameters):
    result = run(parameters, QUESTION, "--json", "--base")
    answer = json.loads(result.stdout)
    assert result.stdout.count("\n") == 1
    assert answer["model"] == "tiny@base"
    assert answer["question"] == QUESTION
    assert answer["passages"][0]["first_line"] is not None
    assert answer["citations_checked"] is True
    assert run(parameters, QUESTION, "--base").stdout.strip("\n") == cli.sanitize_text(
        answer["answer"]
    )


def test_options_select_adapter_model_and_context(parameters, tmp_path):
    def answer(*options):
        return json.loads(run(parameters, QUESTION, "--json", *options).stdout)

    assert answer("--no-retrieval")["passages"] == []
    assert answer("--adapter", "2026-01-01T00.00.00Z")["model"] == "tiny@2026-01-01T00.00.00Z"
    assert answer("--model", "tiny@base")["model"] == "tiny@base"
    context = tmp_path / "context.txt"
    context.write_text("An odd thing. " * 10)
    with_context = answer("--no-retrieval", "--context", str(context))
    assert with_context["prompt_tokens"] > answer("--no-retrieval")["prompt_tokens"] + 100


def test_context_is_read_from_standard_input(parameters):
    result = run(parameters, QUESTION, "--context", "-", "--json", stdin="given here " * 9)
    assert json.loads(result.stdout)["question"] == QUESTION


@pytest.mark.parametrize(
    ("arguments", "error"),
    [(["x", "--adapter", "1999"], AdapterError), (["x", "--model", "tiny-coder@base"], RoleError)],
)
def test_unknown_adapter_or_wrong_role_is_an_error(parameters, arguments, error):
    assert isinstance(run(parameters, *arguments).exception, error)


def test_base_and_adapter_exclude_each_other(parameters):
    result = run(parameters, "x", "--base", "--adapter", "1")
    assert result.exit_code == 2
    assert "exclude" in result.stderr


def test_conversation_keeps_messages_until_new(parameters, monkeypatch):
    lines = iter(["Who?", "", "And why?", "/new", "Who?"])

    def read_line(prompt):
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    conversations = []
    from the_block_llm.advisor.advisor import Advisor

    original = Advisor.converse

    def converse(self, messages, *rest, **options):
        conversations.append([m.content for m in messages])
        return original(self, messages, *rest, **options)

    monkeypatch.setattr(Advisor, "converse", converse)
    monkeypatch.setattr("builtins.input", read_line)
    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": lambda self: True})())
    cli.ask(
        lambda env: parameters, question=None, model=None, adapter=None, base=False,
        no_retrieval=True, context=None, new_tokens=4, as_json=False, env=None,
    )  # fmt: skip
    assert [len(messages) for messages in conversations] == [1, 3, 1]
    assert conversations[1][0] == "Who?"
    assert conversations[1][2] == "And why?"


SCRIPT = """
import signal, sys
# Background jobs of a shell ignore SIGINT, and their child processes inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
from tests.builders.advised_repository import advisor_parameters
from pathlib import Path
from the_block_llm.advisor import cli
budget = {"passages": 1, "passage_tokens": 100, "prompt_tokens": 1500, "new_tokens": 1500}
cli.ask(lambda env: advisor_parameters(Path(sys.argv[1]), cpu=budget), question="Who?", model=None,
        adapter=None, base=True, no_retrieval=True, context=None, new_tokens=None, as_json=False,
        env=None)
"""


@pytest.mark.slow
def test_closed_pipe_and_interrupt_exit_without_traceback(tmp_path):
    folder = build_advised_repository(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def start(**options):
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(folder)], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, **options,
        )  # fmt: skip

    with start() as closed, start() as interrupted:
        # As `| head` does: the reader closes the pipe after the first byte.
        assert closed.stdout.read(1)
        closed.stdout.close()
        assert interrupted.stdout.read(1)
        interrupted.send_signal(signal.SIGINT)
        started = time.monotonic()
        assert closed.wait(30) == 1
        assert interrupted.wait(30) == 130
        assert time.monotonic() - started < 30
        assert b"Traceback" not in closed.stderr.read() + interrupted.stderr.read()


def test_citations_are_colored_on_a_terminal(parameters, monkeypatch):
    from the_block_llm.advisor import advisor as advisor_module
    from the_block_llm.advisor.output.streaming import StreamResult

    def stream(model, tokenizer, prompt, sampling, on_text, **_):
        on_text("in src/ledger.rs:3, not src/none.rs \x1b[5mhere")
        return StreamResult(9, "stop")

    monkeypatch.setattr(advisor_module, "stream_text", stream)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    output = run(parameters, QUESTION, color=True).stdout
    assert "\x1b[1;36msrc/ledger.rs:3\x1b[0m" in output
    assert "\x1b[1;31msrc/none.rs (not found)\x1b[0m" in output
    assert "�[5mhere" in output, "control characters of the answer are replaced"
