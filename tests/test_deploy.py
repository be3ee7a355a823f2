"""The launch files, run with stub programs that record how they are called."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
TORCHRUN = (
    "torchrun --nnodes=2 --nproc-per-node=4 --rdzv-backend=c10d --rdzv-id=the-block-{name} "
    "--rdzv-endpoint={host}:29500 --max-restarts=0 "
    "--module the_block_llm.pipelines.qlora_train.launch.worker {folder}"
)
TRAIN = "kedro run --pipelines=qlora_train"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project folder with stub programs that record their arguments."""
    folder = tmp_path / "project"
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "activate").write_text(f'PATH="{programs}:$PATH"\n')
    (folder / "deploy").symlink_to(DEPLOY)
    record = 'echo "$(basename "$0") $*" >> "$CALLS"\n'
    writes_job = '[ "$1" = training-job ] && mkdir -p "$2" && touch "$2/job.json"; true\n'
    for name, body in {
        "torchrun": record,
        "kedro": record + writes_job,
        "srun": '"$@"\n',
        "scontrol": "echo node7; echo node8\n",
    }.items():
        (programs / name).write_text(f"#!/usr/bin/env bash\n{body}")
        (programs / name).chmod(0o755)
    return folder


def calls(project: Path, *command: str, **variables: str) -> list[str]:
    """Run the command as the batch system would; return the recorded calls."""
    record = project / "calls"
    programs = project / ".venv" / "bin"
    environment = {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "CALLS": str(record), **variables,
    }  # fmt: skip
    subprocess.run(command, cwd=project, env=environment, check=True, timeout=30)
    return record.read_text().splitlines()


def test_slurm_writes_the_job_trains_and_registers_the_adapter(project: Path) -> None:
    script = str(DEPLOY / "slurm" / "train.sbatch")
    variables = {"SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "4", "SLURM_JOB_ID": "77",
                 "SLURM_JOB_NODELIST": "node[7-8]"}  # fmt: skip
    folder = "data/06_models/.job-77"
    assert calls(project, "bash", script, **variables) == [
        f"kedro training-job {folder} --processes=8",
        TORCHRUN.format(name=".job-77", host="node7", folder=folder),
        TRAIN,
    ]


def test_slurm_requests_one_task_per_node() -> None:
    text = (DEPLOY / "slurm" / "train.sbatch").read_text()
    directives = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", text, re.MULTILINE))
    assert directives["ntasks-per-node"] == "1", "torchrun starts the processes of a node itself"
    assert {"nodes", "gpus-per-node", "requeue", "signal"} <= directives.keys()


@pytest.mark.parametrize("rank", ["0", "1"])
def test_skypilot_writes_the_job_on_the_first_node(project: Path, rank: str) -> None:
    task = yaml.safe_load((DEPLOY / "skypilot" / "train.yaml").read_text())
    known = {"name", "num_nodes", "workdir", "resources", "file_mounts", "setup", "run"}
    assert task.keys() == known
    assert re.fullmatch(r"[\w.-]+:\d+", task["resources"]["accelerators"])
    subprocess.run(["bash", "-n"], input=task["setup"], text=True, check=True)
    folder = "data/06_models/.job-sky-1"
    if rank == "1":
        (project / folder).mkdir(parents=True)
        (project / folder / "job.json").touch()
    variables = {"SKYPILOT_NUM_NODES": "2", "SKYPILOT_NUM_GPUS_PER_NODE": "4",
                 "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NODE_RANK": rank,
                 "SKYPILOT_TASK_ID": "sky-1"}  # fmt: skip
    recorded = calls(project, "bash", "-c", task["run"], **variables)
    torchrun = TORCHRUN.format(name=".job-sky-1", host="10.0.0.1", folder=folder)
    first = [f"kedro training-job {folder} --processes=8", torchrun, TRAIN]
    assert recorded == (first if rank == "0" else [torchrun])


def documents(name: str) -> list[dict[str, Any]]:
    text = (DEPLOY / "kubernetes" / name).read_text()
    return [document for document in yaml.safe_load_all(text) if document]


def test_kubernetes_runs_one_pod_per_node(project: Path) -> None:
    service, job = documents("training-job.yaml")
    validate = pytest.importorskip("kubernetes_validate")
    for document in (service, job):
        validate.validate(document, "1.30", strict=True)
    spec = job["spec"]
    pod = spec["template"]["spec"]
    [container] = pod["containers"]
    variables = {entry["name"]: entry["value"] for entry in container["env"]}
    assert spec["completions"] == spec["parallelism"] == int(variables["MACHINES"])
    assert str(container["resources"]["limits"]["nvidia.com/gpu"]) == variables["GPUS"]
    # The first pod of an indexed job is found by this name, through the headless service.
    host = f"{job['metadata']['name']}-0.{pod['subdomain']}"
    assert pod["subdomain"] == service["metadata"]["name"]
    assert variables["MEET_AT"] == f"{host}:29500"
    variables["GPUS"] = "4"
    [called] = calls(project, *container["command"], **variables)
    assert called == TORCHRUN.format(name=".job", host=host, folder="data/06_models/.job")


def test_kuberay_starts_the_data_pipelines() -> None:
    [job] = documents("ray-data.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    assert spec["entrypoint"].split() == [
        "kedro", "run", "--pipelines=git_ingest,sequence_build",
        "--params=execution.engine=ray,execution.address=auto",
    ]  # fmt: skip
    cluster = spec["rayClusterSpec"]
    assert cluster.keys() == {"rayVersion", "headGroupSpec", "workerGroupSpecs"}
    locked = (ROOT / "requirements.lock").read_text()
    assert f"ray=={cluster['rayVersion']}" in locked
    validate = pytest.importorskip("kubernetes_validate")
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        # The KubeRay fields contain ordinary pod templates.
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}}
        validate.validate({**pod, **group["template"]}, "1.30", strict=True)
