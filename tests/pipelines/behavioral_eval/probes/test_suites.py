from pathlib import Path

import pytest

from the_block_llm.errors import SuiteError
from the_block_llm.pipelines.behavioral_eval.probes.suites import parse_suite, read_suites

SUITES = Path(__file__).parents[4] / "conf/base/suites"
GOOD = """\
version: 1
role: advisor
about: A test.
probes:
  - id: one
    category: architecture
    prompt: What keeps the nodes together?
    concepts:
      - concept: agreement
        any_of: [consensus, agree*]
    why: Because.
"""


@pytest.mark.parametrize("path", sorted(SUITES.glob("*.yml")), ids=lambda path: path.stem)
def test_the_bundled_suites_are_valid(path):
    assert parse_suite(path.stem, path.read_text(encoding="utf-8")).probes


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("version: 1", "version: 2", "suites/x.yml, line 1, version: Input should be 1."),
        ("why: Because.", "wy: Because.", "line 5, probes[0].why: Field required."),
        ("why: Because.", "wy: Because.", "line 11, probes[0].wy: Extra inputs"),
        ("id: one", "id: One!", "line 5, probes[0].id: String should match"),
        ("[consensus, agree*]", "[]", "line 10, probes[0].concepts[0].any_of: Tuple should have"),
        ("agree*]", "a*gree]", "line 10, probes[0].concepts[0].any_of: 'a*gree' is not a valid"),
        ("[consensus", "['{main_langauge}'", "line 10, probes[0].concepts[0].any_of: '{main_"),
        ("[consensus", "[nodes", "line 5, probes[0]: the question itself names ['agreement']"),
        ("[consensus, agree*]", "yes", "line 10, probes[0].concepts[0].any_of: Input should be"),
        ("probes:", "probes: [", "invalid YAML"),
        ("role: advisor", "role: [advisor", "suites/x.yml, line"),
    ],
)
def test_an_error_has_file_line_and_field(old, new, message):
    assert old in GOOD
    with pytest.raises(SuiteError) as error:
        parse_suite("x", GOOD.replace(old, new))
    assert message in str(error.value)


def test_all_errors_of_a_file_are_reported_together():
    with pytest.raises(SuiteError) as error:
        parse_suite("x", GOOD.replace("version: 1", "version: 3").replace("id: one", "id: 1a"))
    assert len(str(error.value).splitlines()) == 2


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words"])
def test_a_file_must_be_a_mapping(text):
    with pytest.raises(SuiteError, match="a suite must be a mapping"):
        parse_suite("x", text)


def test_repeated_ids_are_an_error():
    again = GOOD + GOOD[GOOD.index("  - id: one") :]
    with pytest.raises(SuiteError, match=r"repeated: \['one'\]"):
        parse_suite("x", again)


def test_an_unknown_suite_is_an_error_that_lists_the_available_ones():
    with pytest.raises(SuiteError, match=r"no suite 'genral'.*Available: general, mine"):
        read_suites({"mine": lambda: GOOD, "general": lambda: GOOD}, ["genral"])


def test_the_hash_depends_on_the_text():
    assert parse_suite("x", GOOD).text_hash != parse_suite("x", GOOD + "# note\n").text_hash
