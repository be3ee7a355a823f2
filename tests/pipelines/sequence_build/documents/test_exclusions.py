import pytest

from the_block_llm.pipelines.sequence_build.documents.exclusions import exclusion_reason


@pytest.mark.parametrize(
    ("path", "text", "reason"),
    [
        ("src/app.py", "x = 1\n", None),
        ("docs/guide.md", "# Guide\n", None),
        ("tests/fixtures.py", "def fixtures(): ...\n", None),
        ("tests/fixtures/advisory/a.md", "# Someone else's\n", "fixture"),
        ("node/tests/vectors/fees.txt", "fee\n", "fixture"),
        ("docs/fonts/icons.svg", "<svg/>", "data_file"),
        ("run.log", "ok\n", "data_file"),
        ("target_tmp/debug/app.txt", "lib: a b\n", "data_file"),
        ("src/target.rs", "fn f() {}\n", None),
        ("book/index.html", "<!-- Book generated using mdBook -->", "rendered_page"),
        ("web/index.html", "<html><body>Ours</body></html>", None),
        ("package.json", '{"name": "small"}', None),
        ("dashboards/node.json", '{"panel": "row"}' * 2000, "data_file"),
        ("src/table.rs", "0x1f, 0x2c, 0x77, 0x08,\n" * 100, "data_file"),
    ],
)
def test_exclusion_reason(path: str, text: str, reason: str | None) -> None:
    assert exclusion_reason(path, text) == reason
