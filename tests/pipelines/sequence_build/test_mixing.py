import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from the_block_llm.pipelines.sequence_build.mixing import kept_shares
from the_block_llm.pipelines.sequence_build.params import Mix

HALF_COMMITS = {"file": 1.0, "commit": 0.5, "chat": 1.0}


@pytest.mark.parametrize(
    ("tokens", "caps", "kept"),
    [
        ({"file": 50, "commit": 300, "chat": 50}, HALF_COMMITS, [50, 100, 50]),
        ({"file": 50, "commit": 30, "chat": 50}, HALF_COMMITS, [50, 30, 50]),
        ({"file": 0, "commit": 300, "chat": 0}, HALF_COMMITS, [0, 300, 0]),  # or nothing is left
        (
            {"file": 100, "commit": 100, "chat": 100},
            {"file": 1, "commit": 0, "chat": 1},
            [100, 0, 100],
        ),
    ],
)
def test_no_kind_takes_more_than_its_share_of_what_stays(
    tokens: dict[str, int], caps: dict[str, float], kept: list[int]
) -> None:
    shares = kept_shares(tokens, caps)
    assert [round(shares[kind] * count) for kind, count in tokens.items()] == kept


@given(
    st.tuples(*[st.integers(0, 10**6)] * 3),
    st.tuples(*[st.floats(0.2, 1)] * 3).filter(lambda caps: sum(caps) >= 1),
)
def test_something_always_stays(tokens: tuple[int, ...], caps: tuple[float, ...]) -> None:
    kinds = ("file", "commit", "chat")
    shares = kept_shares(dict(zip(kinds, tokens, strict=True)), dict(zip(kinds, caps, strict=True)))
    kept = [shares[kind] * count for kind, count in zip(kinds, tokens, strict=True)]
    assert sum(kept) > 0 or sum(tokens) == 0
    assert all(0 <= share <= 1 for share in shares.values())


def test_shares_that_leave_room_for_nothing_are_refused() -> None:
    with pytest.raises(ValidationError, match="must add up to 1 or more"):
        Mix(file=0.2, commit=0.2, chat=0.2)
