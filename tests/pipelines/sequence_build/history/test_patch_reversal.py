import difflib
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from the_block_llm.pipelines.sequence_build.history.patch_reversal import (
    revert_patches,
    split_patch,
)

_LINES = st.lists(
    st.sampled_from(["alpha", "bravo", "  charlie", "}", "", "delta = 1"]), max_size=8
)


def patch_of(before: str, after: str) -> str:
    diff = difflib.unified_diff(before.split("\n"), after.split("\n"), lineterm="", n=3)
    return "\n".join([*list(diff)[2:], ""])


@given(texts=st.lists(_LINES.map("\n".join), min_size=1, max_size=5))
def test_patches_are_undone_one_after_the_other(texts: list[str]) -> None:
    patches = [patch_of(*pair) for pair in pairwise(texts)]
    assert revert_patches(texts[-1], patches, frozenset()) == texts[0]


@given(before=_LINES, at=st.integers(0, 8), later=_LINES)
def test_added_lines_are_gone_whatever_later_commits_did(
    before: list[str], at: int, later: list[str]
) -> None:
    after = [*before[:at], "import secret", *before[at:]]
    patch = patch_of("\n".join(before), "\n".join(after))
    text = "\n".join([*later, *after[::-1]])  # so that the hunk does not apply
    assert "import secret" not in revert_patches(text, [patch], {"import secret"})


def test_a_hunk_is_found_where_earlier_lines_were_inserted() -> None:
    patch = "@@ -1,2 +1,3 @@\n one\n+added\n two\n"
    assert revert_patches("zero\nnew\none\nadded\ntwo\n", [patch], frozenset()) == (
        "zero\nnew\none\ntwo\n"
    )


def test_lines_of_a_patch_by_origin() -> None:
    patch = "@@ -1,3 +1,3 @@ def f():\n one\n-two\n+2\n three\n\\ No newline at end of file\n"
    assert split_patch(patch) == (["2"], ["one", "two", "three"])
