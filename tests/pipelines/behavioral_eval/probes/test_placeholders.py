from the_block_llm.pipelines.behavioral_eval.probes.placeholders import (
    fill_placeholders,
    placeholder_values,
    select_probes,
)
from the_block_llm.pipelines.behavioral_eval.probes.suites import parse_suite

SUITE = parse_suite(
    "own",
    """\
version: 1
role: advisor
about: A test.
probes:
  - id: language
    category: architecture
    prompt: What is {project} written in?
    concepts: [{concept: "{main_language}", any_of: ["{main_language}"]}]
    why: A fact.
  - id: parts
    category: architecture
    prompt: What are its parts?
    concepts: [{concept: "{folder_1}", any_of: ["{folder_1}"]}]
    why: A fact.
  - id: braces
    category: code
    prompt: What does this print?
    context: 'print(f"{value}")'
    concepts: [{concept: number, any_of: [number]}]
    why: Braces of code stay.
""",
)


def file(path, language="Rust", size=100, kept=True):
    return {"path": path, "language": language, "size_bytes": size, "kept": kept}


def test_values_come_from_kept_source_files():
    values = placeholder_values(
        "chain",
        [
            file("src/chain/consensus/a.rs"),
            file("src/chain/consensus/b.rs"),
            file("src/chain/market/a.rs"),
            file("src/chain/dkg/a.rs"),
            file("tests/market/a.rs"),
            file("docs/guide.md", "Markdown", 9000),
            file("gen.py", "Python", 9000, kept=False),
        ],
    )
    assert values["main_language"] == "Rust"
    assert values["folder_1"] == "consensus"
    assert {values["folder_2"], values["folder_3"]} == {"market", "dkg"}


def test_a_repository_without_source_files_has_only_a_name():
    assert placeholder_values("notes", [file("a.md", "Markdown")]) == {"project": "notes"}


def test_probes_with_missing_values_are_left_out_with_a_reason():
    filled, left_out = fill_placeholders(SUITE, {"project": "chain", "main_language": "Rust"})
    assert [probe.id for probe in filled.probes] == ["language", "braces"]
    assert filled.probes[0].prompt == "What is chain written in?"
    assert filled.probes[0].concepts[0].any_of == ("Rust",)
    assert filled.probes[1].context == 'print(f"{value}")'
    assert left_out == {"parts": "the repository has no folder 1"}


def test_a_probe_whose_filled_question_contains_the_answer_is_left_out():
    _, left_out = fill_placeholders(SUITE, {"project": "rust-chain", "main_language": "Rust"})
    assert "contains its answer" in left_out["language"]


def test_probes_are_selected_round_robin_over_categories():
    selected = select_probes([SUITE], 2)
    assert [probe.id for _, probe in selected] == ["language", "braces"]
    assert len(select_probes([SUITE], 99)) == 3
