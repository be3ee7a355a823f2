from tests.pipelines.behavioral_eval import toy_history


def test_history_is_split_at_the_cutoff(history):
    assert history.project == "chain"
    assert len(history.held_out_commits) == toy_history.N_LATER
    assert history.change_counts["src/ledger/mod.rs"] == 4
    assert "src/ledger/new_25.rs" not in history.paths_at_cutoff
    assert "Cargo.lock" not in history.paths_at_cutoff
    assert "part 3" not in history.documentation_at_cutoff["docs/ledger.md"]
    assert "part 3" in history.documentation_at_head["docs/ledger.md"]
