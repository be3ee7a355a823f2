"""Inject faults into runs of a small project, and compare what comes out with an undisturbed run.

    python benchmarks/fault_injection.py [--minutes 5] [--seed 0] [--folder DIR] [--kinds KIND …]

A project with a generated repository and a tiny model runs once undisturbed, from git_ingest to
behavioral_eval. Then, until the time is up, one random fault after another:

- ``kill``: a run is killed with SIGKILL at random moments, then completed.
- ``damage``: files below ``data/`` are truncated, emptied, deleted, zeroed in part or changed by
  one bit, and a random command that may read them is run.
- ``full disk``: the file system of ``data/`` fills up at a random moment of a run. Needs root, for
  a tmpfs.
- ``two runs``: two runs are started at about the same time.

After each fault the command must either give the undisturbed result (*repaired*) or say in one
sentence what is wrong (*reported*); then ``kedro run``, after the remedy that the sentence names,
must give the undisturbed result. Anything else is a defect: a traceback, a result that cannot be
reached any more (*lost*), another result (*mixed*), no sentence (*silent*), or no end (*hung*).
Exits with 1 on any defect. Outcomes are appended to ``outcomes.jsonl`` in the folder, with the seed
of each fault, and counted by the next call with the same folder; ``--only SEED`` repeats one fault
and leaves the project as it ends.
"""

import argparse
import contextlib
import hashlib
import importlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]
os.environ |= {
    "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE", "TORCHDYNAMO_DISABLE": "1", "KEDRO_ENV": "test",
    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),  # for processes that a command starts
    "COLUMNS": "5000",  # so that no sentence is wrapped
}  # fmt: skip

TIMEOUT_SECONDS = 600
KINDS = ("kill", "damage", "full disk", "two runs")
DEFECTS = ("traceback", "lost", "mixed", "silent", "hung")
TABLES = {
    "git_ingest": ("02_intermediate/commits", "02_intermediate/file_changes",
                   "02_intermediate/snapshot_files"),
    "sequence_build": ("04_feature/documents/tiny", "05_model_input/train/tiny",
                       "05_model_input/validation/tiny", "05_model_input/held_out/tiny"),
    "qlora_train": (),
    "behavioral_eval": ("07_model_output/completions/tiny", "07_model_output/item_scores/tiny"),
}  # fmt: skip
COMMANDS: dict[str, list[str]] = {
    "run": ["run"],
    **{f"run {name}": ["run", f"--pipeline={name}"] for name in TABLES},
    "run export": ["run", "--pipeline=export"],
    "resume": ["run", "--pipeline=qlora_train"],
    "ask": ["ask", "What does the ledger do?"],
    "rows": ["rows"],
    "audit": ["audit"],
    "adapters": ["adapters", "list"],
}
# The same table is 5 MB; a run needs half a gigabyte to start.
DISK_MIB = 640


class Ended(NamedTuple):
    """A finished command."""

    code: int
    output: str
    errors: str

    @property
    def sentence(self) -> str:
        """What the command says is wrong."""
        lines = [line for line in self.errors.splitlines() if line.startswith("Error: ")]
        return lines[0].removeprefix("Error: ").strip() if len(lines) == 1 else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", type=int, default=10**9, help="at most so many")
    parser.add_argument("--folder", type=Path, help="by default a temporary one")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=KINDS)
    parser.add_argument("--only", metavar="SEED", help="repeat the fault with this seed")
    options = parser.parse_args()
    deadline = time.monotonic() + 60 * options.minutes
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        laboratory = Laboratory(folder.resolve())
        laboratory.prepare()
        kinds = [kind for kind in options.kinds if kind != "full disk" or can_mount(folder)]
        log = folder / "outcomes.jsonl"
        if options.only:
            print(json.dumps(laboratory.inject(options.only, kinds), indent=1))
            return
        start = len(read_outcomes(log))
        for number in range(start, start + options.faults):
            if time.monotonic() > deadline:
                break
            outcome = laboratory.inject(f"{options.seed}.{number}", kinds)
            with log.open("a") as file:
                file.write(json.dumps(outcome) + "\n")
            if outcome["outcome"] in DEFECTS:
                print(json.dumps(outcome, indent=1), flush=True)
        outcomes = read_outcomes(log)
    print_table(outcomes)
    sys.exit(any(outcome["outcome"] in DEFECTS for outcome in outcomes))


class Laboratory:
    """A project whose data can be put back into the state after an undisturbed run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.project = folder / "project"
        self.data = self.project / "data"
        self.expected: dict[str, Any] = {}
        self.random = random.Random(0)

    def prepare(self) -> None:
        """Build the project, run it undisturbed, and keep its data and its results."""
        import_everything()
        if (self.folder / "expected.json").exists():
            self.expected = json.loads((self.folder / "expected.json").read_text())
            return
        for name in ("repository", "project", "finished", "used", "interrupted"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        in_child(lambda: build_project(self.project, self.folder / "repository"))
        self.require("run")
        self.keep("finished")
        self.expected["results"] = in_child(lambda: results(self.data))
        self.require("run")
        self.compare()  # otherwise a difference would mean nothing
        self.remember()

    def prepare_damage(self) -> None:
        """Also run the commands that only read, and keep what they print and store."""
        if (self.folder / "interrupted").exists():
            return
        self.restore("finished")
        for command in ("run export", "ask", "rows", "audit", "adapters"):
            self.expected[command] = self.require(command).output
        self.remember()
        self.keep("used")
        self.interrupt_training()
        self.keep("interrupted")

    def remember(self) -> None:
        (self.folder / "expected.json").write_text(json.dumps(self.expected))

    def keep(self, name: str) -> None:
        shutil.rmtree(self.folder / name, ignore_errors=True)
        # `cp -a` keeps hard links: a part of a table and a cached shard are one file.
        subprocess.run(["cp", "-a", self.data, self.folder / name], check=True)

    def restore(self, name: str) -> None:
        for path in self.data.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()  # a lock
        subprocess.run(["cp", "-a", f"{self.folder / name}/.", self.data], check=True)

    def require(self, command: str) -> Ended:
        ended = self.run(command)
        assert ended.code == 0, f"{command}: {ended.code}\n{ended.output}\n{ended.errors}"
        return ended

    def run(self, command: str, *extra: str, stop_after: float | None = None) -> Ended:
        return start_command(self.project, [*COMMANDS[command], *extra]).wait(stop_after)

    def interrupt_training(self) -> None:
        """Kill a training run once it has written a checkpoint."""
        running = start_command(self.project, COMMANDS["resume"])
        unfinished = self.data / "06_models/tiny/.unfinished"
        while not list(unfinished.glob("checkpoint-*/complete.json")):
            assert running.is_alive(), "the run ended before it was killed"
            time.sleep(0.002)
        running.wait(0.0)

    def inject(self, seed: str, kinds: Sequence[str]) -> dict[str, Any]:
        """Inject one fault, complete the run, and return what happened."""
        self.random = random.Random(seed)
        kind = self.random.choice(kinds)
        start = time.monotonic()
        note: dict[str, Any] = {"seed": seed, "kind": kind}
        try:
            {
                "kill": self.kill, "damage": self.damage, "full disk": self.full_disk,
                "two runs": self.two_runs,
            }[kind](note)  # fmt: skip
        except DefectError as defect:
            note["outcome"], note["detail"] = defect.outcome, defect.detail[-4000:]
        note["seconds"] = round(time.monotonic() - start, 1)
        return note

    def kill(self, note: dict[str, Any]) -> None:
        self.start_somewhere(note)
        note["after"] = [
            round(self.random.uniform(0, 6), 3) for _ in range(self.random.randint(1, 3))
        ]
        for seconds in note["after"]:
            self.run("run", stop_after=seconds)
        self.complete(note)
        note["outcome"] = "repaired"

    def damage(self, note: dict[str, Any]) -> None:
        self.prepare_damage()
        command = note["command"] = self.random.choice(list(COMMANDS))
        self.restore("interrupted" if command == "resume" else "used")
        from tests.builders.damage import FAULTS, damage_file

        paths = sorted(
            p
            for p in self.data.rglob("*")
            if p.is_file() and p.stat().st_size and p.suffix != ".lock"
        )
        n_files = self.random.choice((1, 1, 1, 2, 5))
        note["files"] = []
        for path in self.random.sample(paths, n_files):
            fault = self.random.choice(FAULTS)
            note["files"].append(f"{fault} {path.relative_to(self.data)}")
            damage_file(path, fault, self.random)
        ended = self.run(command)
        if self.is_reported(note, ended):
            self.complete(note, note["sentence"])
            return
        if command in ("ask", "rows", "audit", "adapters"):
            # A damaged adapter is named, and missing in the list.
            is_named = re.search("damaged|cannot be read|not a complete", ended.errors)
            if ended.output != self.expected[command] and not is_named:
                raise DefectError("mixed", f"{ended.output}\n{ended.errors}")
        elif command != "run export":
            pipeline = "qlora_train" if command == "resume" else command.partition(" ")[2]
            self.compare(pipeline)
        note["outcome"] = "repaired"
        self.complete(note)

    def full_disk(self, note: dict[str, Any]) -> None:
        with mounted(self.data, DISK_MIB):
            self.start_somewhere(note)
            note["after"], note["free_kib"] = self.random.uniform(0, 5), self.random.randint(0, 900)
            running = start_command(self.project, COMMANDS["run"])
            time.sleep(note["after"])
            ballast = self.data / ".ballast"
            fill(ballast, keep_free=note["free_kib"] * 1024)
            ended = running.wait()
            ballast.unlink()
            if not self.is_reported(note, ended):
                note["outcome"] = "repaired"
            self.complete(note)

    def two_runs(self, note: dict[str, Any]) -> None:
        self.start_somewhere(note)
        note["after"] = self.random.uniform(0, 4)
        first = start_command(self.project, COMMANDS["run"])
        time.sleep(note["after"])
        second = start_command(self.project, COMMANDS["run"])
        reported = [self.is_reported(note, running.wait()) for running in (second, first)]
        if not any(reported):
            note["outcome"] = "repaired"
        if all(reported):
            raise DefectError("lost", f"neither run came to its end: {note['sentence']}")
        self.compare()
        self.complete(note)

    def start_somewhere(self, note: dict[str, Any]) -> None:
        """Put back the data, without the output of the later stages."""
        folders = sorted(p.name for p in (self.folder / "finished").iterdir() if p.is_dir())
        note["from"] = self.random.choice(folders)
        self.restore("finished")
        for name in folders[folders.index(note["from"]) :]:
            shutil.rmtree(self.data / name)

    def is_reported(self, note: dict[str, Any], ended: Ended) -> bool:
        """Return whether the command ended with one sentence.

        Raises:
            DefectError: It failed in any other way.
        """
        text = f"{ended.output}\n{ended.errors}"
        if "Traceback" in text:
            raise DefectError("traceback", text)
        if ended.code == -signal.SIGKILL:
            raise DefectError("hung", text)
        if ended.code == 0:
            return False
        if not ended.sentence:
            raise DefectError("silent", text)
        note["outcome"], note["sentence"] = "reported", ended.sentence
        return True

    def complete(self, note: dict[str, Any], sentence: str = "") -> None:
        """Run to the end, after the remedies that a sentence names, and compare the results."""
        for _ in range(4):
            extra = self.apply_remedy(sentence)
            ended = self.run("run", *extra)
            if not self.is_reported({}, ended):
                self.compare()
                return
            sentence = ended.sentence
            note.setdefault("then", []).append(sentence)
        raise DefectError("lost", sentence)

    def apply_remedy(self, sentence: str) -> list[str]:
        adapter = re.search(r"(/\S+/06_models/tiny/[^\s/:]+)", sentence)
        if "delete the folder" in sentence and adapter:
            shutil.rmtree(adapter[1].rstrip(".,"), ignore_errors=True)
        if "Delete the file" in sentence:
            file = re.search(r"(/\S+\.json)", sentence)
            if file:
                Path(file[1]).unlink(missing_ok=True)
        restart = "qlora_train.restart_training=true"
        return [f"--params={restart}"] if restart in sentence else []

    def compare(self, pipeline: str = "") -> None:
        """Compare the results of one pipeline, or of all, with the undisturbed ones."""
        found = in_child(lambda: results(self.data, pipeline))
        expected = self.expected["results"]
        wrong = differences({name: expected[name] for name in found}, found)
        if wrong:
            raise DefectError("mixed", wrong)


class DefectError(Exception):
    """The program has not kept its promise."""

    def __init__(self, outcome: str, detail: str) -> None:
        super().__init__(outcome)
        self.outcome, self.detail = outcome, detail


def build_project(project: Path, repository: Path) -> None:
    import yaml
    from tests.builders.project import copy_project
    from tests.builders.tiny_llama import save_tiny_llama
    from tests.builders.toy_ledger import build_toy_ledger

    build_toy_ledger(repository)
    copy_project(project)
    settings = project / "conf/test/parameters.yml"
    values = yaml.safe_load(settings.read_text(encoding="utf-8"))
    values["repository"] = str(repository)
    values["models"]["tiny"]["folder"] = str(save_tiny_llama(project / "tiny"))
    values["export"] = {"max_nll_difference": 10.0, "min_token_agreement": 0.01, "probes": 2}
    values["advisor"] = {"cpu": {"new_tokens": 16}}
    settings.write_text(yaml.safe_dump(values), encoding="utf-8")


def import_everything() -> None:
    """Import what commands use, so that each is a fork of this process and starts at once."""
    for name in (
        "kedro.framework.cli.cli", "kedro.framework.session", "kedro.runner", "matplotlib.pyplot",
        "pandas", "pyarrow.parquet", "torch", "transformers", "peft", "bitsandbytes", "bm25s",
        "accelerate", "detect_secrets", "re2", "the_block_llm.cli", "the_block_llm.hooks",
        "the_block_llm.advisor.advisor", "the_block_llm.datasets.parquet_table_dataset",
        "the_block_llm.pipelines.qlora_train.launch.launcher",
        "the_block_llm.pipelines.behavioral_eval.runner.runner",
        "the_block_llm.pipelines.export.exporting",
        *(f"the_block_llm.pipelines.{name}.nodes" for name in TABLES),
    ):  # fmt: skip
        importlib.import_module(name)


class Running:
    """A command in a forked process, the leader of its own group."""

    def __init__(self, pid: int, output: Path, errors: Path) -> None:
        self.pid, self._output, self._errors = pid, output, errors
        self._code: int | None = None

    def is_alive(self) -> bool:
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code is None

    def wait(self, stop_after: float | None = None) -> Ended:
        """Wait for the end; kill the process and its children after ``stop_after`` seconds."""
        end = time.monotonic() + (TIMEOUT_SECONDS if stop_after is None else stop_after)
        while self.is_alive() and time.monotonic() < end:
            time.sleep(0.002)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        while self.is_alive():
            time.sleep(0.002)
        assert self._code is not None
        texts = [path.read_text("utf-8", "replace") for path in (self._output, self._errors)]
        for path in (self._output, self._errors):
            path.unlink()
        return Ended(self._code, *texts)


def start_command(project: Path, arguments: Sequence[str]) -> Running:
    """Start ``kedro`` with ``arguments`` in a fork of this process."""
    sys.stdout.flush()
    handles, paths = zip(*(tempfile.mkstemp(dir=project.parent) for _ in range(2)), strict=True)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setpgid(0, 0)
            os.dup2(handles[0], 1)
            os.dup2(handles[1], 2)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.chdir(project)
            sys.argv = ["kedro", *arguments]
            from kedro.framework.cli.cli import main as kedro

            kedro()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
    for handle in handles:
        os.close(handle)
    # Also here: a kill may come before the child has called it.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.setpgid(pid, pid)
    return Running(pid, *map(Path, paths))


def in_child(function: Callable[[], Any]) -> Any:
    """Return the result of ``function``, computed in a fork: this process must have no threads."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            result = {"result": function()}
        except Exception:
            result = {"failure": traceback.format_exc()}
        with os.fdopen(write_end, "w") as pipe:
            pipe.write(json.dumps(result))
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        answer = json.loads(pipe.read())
    os.waitpid(pid, 0)
    if "failure" in answer:
        raise DefectError("lost", answer["failure"])
    return answer["result"]


def results(data: Path, pipeline: str = "") -> dict[str, str]:
    """Return digests of what must not depend on faults: rows, weights, losses, measures."""
    from the_block_llm.datasets.parquet_table import ParquetTable
    from the_block_llm.datasets.report_files import read_report
    from the_block_llm.files.checksums import file_checksum
    from the_block_llm.models.adapter.manifest import newest_adapter

    found: dict[str, str] = {}
    pipelines = [pipeline] if pipeline else list(TABLES)
    for name in pipelines:
        for table in TABLES[name]:
            rows = ParquetTable(data / table).table().to_pylist()
            found[table] = digest(rows)
    reporting = data / "08_reporting"
    if "git_ingest" in pipelines:
        found["repository"] = digest(without_times(read_report(data / "01_raw/repository.json")))
        report = read_report(reporting / "ingest_report.json")
        for history in report["history"]:
            history.pop("commits_read_now")
        found["ingest_report"] = digest(without_times(report))
    if "sequence_build" in pipelines:
        found["sequence_report"] = digest(read_report(reporting / "sequence_report.json"))
        found["row_facts"] = digest(read_report(data / "05_model_input/row_facts/tiny.json"))
        found["screening"] = digest(read_report(data / "04_feature/screening/tiny.json"))
    if "qlora_train" in pipelines:
        adapter = newest_adapter(data / "06_models/tiny")
        assert adapter is not None
        found["weights"] = file_checksum(adapter.path / "adapter_model.safetensors")
        metrics = read_report(reporting / "training_metrics.json")
        steps = [(step["step"], step["loss"]) for step in metrics["train_history"]]
        found["losses"] = digest([steps, metrics["validation_history"]])
        found["answers"] = digest(read_report(reporting / "training_answers.json"))
    if "behavioral_eval" in pipelines:
        report = read_report(reporting / "behavioral_report.json")
        found["measures"] = digest([report["measures"], report["verdict"]["outcome"]])
        read_report(reporting / "behavioral_report.html")
    return found


def without_times(value: Any) -> Any:
    """Return a report without the time at which its run began."""
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key != "pinned_at"}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, default=str).encode()).hexdigest()[:16]


def differences(expected: dict[str, str], found: dict[str, str]) -> str:
    return ", ".join(name for name in expected if expected[name] != found.get(name))


def can_mount(folder: Path) -> bool:
    try:
        with mounted(folder / "mount", 1):
            return True
    except (OSError, subprocess.CalledProcessError):
        print("full disk: left out, since no tmpfs can be mounted here", flush=True)
        return False


@contextlib.contextmanager
def mounted(folder: Path, mib: int) -> Any:
    """Mount an empty tmpfs of ``mib`` MiB over ``folder``."""
    folder.mkdir(exist_ok=True)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", folder],
        check=True, capture_output=True,
    )  # fmt: skip
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(path: Path, keep_free: int) -> None:
    free = shutil.disk_usage(path.parent).free
    with path.open("wb") as file, contextlib.suppress(OSError):
        os.posix_fallocate(file.fileno(), 0, max(1, free - keep_free))


def read_outcomes(log: Path) -> list[dict[str, Any]]:
    if not log.exists():
        return []
    lines = log.read_text().splitlines()
    outcomes = []
    for line in lines:
        with contextlib.suppress(ValueError):  # a call that was killed while it wrote
            outcomes.append(json.loads(line))
    return outcomes


def print_table(outcomes: Sequence[dict[str, Any]]) -> None:
    columns = ("repaired", "reported", *DEFECTS)
    print(f"{'fault':24}" + "".join(f"{name:>10}" for name in ("faults", *columns)))
    groups = sorted({(o["kind"], o.get("command", "")) for o in outcomes})
    for kind, command in groups:
        counts = Counter(
            o["outcome"] for o in outcomes if (o["kind"], o.get("command", "")) == (kind, command)
        )
        name = f"{kind}: {command}" if command else kind
        numbers = (counts.total(), *(counts[column] for column in columns))
        print(f"{name:24}" + "".join(f"{number:>10}" for number in numbers))
    totals = Counter(o["outcome"] for o in outcomes)
    print(
        f"{len(outcomes)} faults injected: {totals['repaired']} repaired, {totals['reported']} "
        f"reported in one sentence, {totals['traceback']} tracebacks, {totals['lost']} lost, "
        f"{totals['mixed']} mixed, {totals['silent']} silent, {totals['hung']} hung"
    )


if __name__ == "__main__":
    main()
