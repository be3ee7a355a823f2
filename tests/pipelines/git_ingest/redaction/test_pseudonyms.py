"""The key of the pseudonyms, when several processes need it first."""

import stat
from pathlib import Path

from tests.builders.processes import Script, running

LOAD = """
    import sys
    from pathlib import Path
    from the_block_llm.pipelines.git_ingest.redaction.pseudonyms import load_pseudonymizer
    print("ready", flush=True)
    sys.stdin.readline()
    for n in range(100):
        print(load_pseudonymizer(True, Path(sys.argv[1]) / str(n)).key.hex())
"""


def test_processes_that_create_the_key_at_once_get_the_same(tmp_path: Path) -> None:
    loaders = [Script(LOAD, tmp_path) for _ in range(4)]
    with running(*loaders):
        for loader in loaders:
            loader.wait_for("ready")
        for loader in loaders:
            loader.send("go")
        assert len({loader.finish().partition("ready")[2] for loader in loaders}) == 1
    assert len(list(tmp_path.iterdir())) == 100, "nothing is left beside the keys"
    assert {stat.S_IMODE(key.stat().st_mode) for key in tmp_path.iterdir()} == {0o600}
