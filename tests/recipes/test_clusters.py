"""Files for clusters: what can be known of them without one, and two nodes on this machine that do as they say."""

import itertools
import re
import shlex
import signal
import socket
import subprocess
import time

import pytest
import torch
import yaml
from torch.distributed.run import get_args_parser

from tests.docs.shell_blocks import ROOT
from tests.docs.stand_ins import lay_out
from tests.docs.test_commands import check_visalign
from tests.programs import Program
from tests.trainers.commands import ENVIRONMENT, UNMEASURED, rows, run, weights
from visalign.config.recipes import recipes

CLUSTERS = ROOT / "configs" / "clusters"
SLURM = (CLUSTERS / "slurm.sh").read_text()
KUBERNETES = list(yaml.safe_load_all((CLUSTERS / "kubernetes.yaml").read_text()))
DIRECTIVES = {
    "job-name": r"[\w.-]+", "nodes": r"[1-9]\d*(-[1-9]\d*)?", "ntasks-per-node": r"[1-9]\d*",
    "gpus-per-node": r"(\w+:)?[1-9]\d*", "cpus-per-task": r"[1-9]\d*", "time": r"(\d+-)?\d{1,2}:\d\d:\d\d",
    "signal": r"(R|B|RB):(USR1|TERM)@[1-9]\d*", "requeue": "", "open-mode": r"append|truncate",
    "output": r"([\w./-]|%[jxNAa])+", "partition": r"[\w,-]+", "mem": r"\d+[KMGT]?", "exclusive": "(user|mcs)?"}
"""Options of sbatch that a file here may use, and what each takes."""


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("desk")
    lay_out(folder)
    return folder


def script() -> str:
    """The script of SLURM with continued lines joined."""
    return SLURM.replace("\\\n", " ")


def torchruns() -> list[list[str]]:
    """The words of every torchrun in the files, with SLURM's variables as on two nodes."""
    [line] = re.findall(r"^srun .*?(torchrun .*)$", script(), re.MULTILINE)
    for variable, value in (("$SLURM_NNODES", "2"), ("$SLURM_JOB_ID", "7"), ("$head", "node1")):
        line = line.replace(f'"{variable}"', value)
    line = re.sub(r'"\$?\w+:\$\(\(.*?\)\)"', "node1:29500", line).replace('"$@"', "sdxl_dpo data.path=pairs.jsonl")
    return [shlex.split(line.rstrip("& ")), job()["containers"][0]["command"]]


def job() -> dict:
    """What each pod of the Kubernetes job is."""
    return KUBERNETES[-1]["spec"]["template"]["spec"]


def test_the_script_is_bash_and_every_directive_is_one_of_sbatch():
    subprocess.run(["bash", "-n", CLUSTERS / "slurm.sh"], check=True)
    lines = SLURM.splitlines()
    directives = [line for line in lines if line.startswith("#SBATCH")]
    for line in directives:
        found = re.fullmatch(r"#SBATCH --([a-z-]+)(?:=(\S+))?", line)
        assert found and re.fullmatch(DIRECTIVES[found[1]], found[2] or ""), line
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert all(lines.index(line) < first_command for line in directives), "sbatch reads none after a command"


def test_a_warning_reaches_the_processes_with_time_enough():
    [warned] = re.findall(r"#SBATCH --signal=B:USR1@(\d+)", SLURM)
    slurm, kubernetes = (get_args_parser().parse_args(words[1:]) for words in torchruns())
    assert "SIGUSR1" in slurm.signals_to_handle.split(",") and slurm.shutdown_timeout < int(warned)
    assert "SIGTERM" in kubernetes.signals_to_handle
    assert kubernetes.shutdown_timeout < job()["terminationGracePeriodSeconds"]


def test_the_script_hands_usr1_on_and_queues_the_job_again(tmp_path):
    """bash runs it with stand-ins for srun and scontrol."""
    (tmp_path / "srun").write_text("#!/bin/bash\ntrap 'echo told >> said; exit 1' USR1\necho \"$@\" > ready\n"
                                   "for i in {1..200}; do sleep 0.05; done\n")
    (tmp_path / "scontrol").write_text('#!/bin/bash\n[ "$1" = show ] && echo node1 || echo "$@" >> said\n')
    for name in ("srun", "scontrol"):
        (tmp_path / name).chmod(0o755)
    variables = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "1", "SLURM_JOB_NODELIST": "node1", "SLURM_CPUS_PER_TASK": "1"}
    process = subprocess.Popen(["bash", CLUSTERS / "slurm.sh", "sdxl_dpo"], cwd=tmp_path,
                               env=ENVIRONMENT | variables | {"PATH": f"{tmp_path}:{ENVIRONMENT['PATH']}"})
    while not (tmp_path / "ready").exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(20) == 1
    assert (tmp_path / "said").read_text().splitlines() == ["told", "requeue 7"]
    assert "--rdzv_endpoint node1:20007" in (tmp_path / "ready").read_text()


def test_kubernetes_files_hold_together():
    service, claim, work = KUBERNETES
    assert [each["kind"] for each in KUBERNETES] == ["Service", "PersistentVolumeClaim", "Job"]
    assert all(each["apiVersion"] and each["metadata"]["name"] for each in KUBERNETES)
    spec, pod = work["spec"], job()
    assert spec["completionMode"] == "Indexed" and spec["completions"] == spec["parallelism"]
    assert pod["restartPolicy"] == "Never", "a pod failure policy demands it"
    assert pod["subdomain"] == service["metadata"]["name"] and service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": work["metadata"]["name"]}
    assert {"persistentVolumeClaim": {"claimName": claim["metadata"]["name"]}, "name": "runs"} in pod["volumes"]
    [container] = pod["containers"]
    assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in pod["volumes"]}
    options = get_args_parser().parse_args(container["command"][1:])
    assert int(options.nnodes) == spec["parallelism"]
    assert int(options.nproc_per_node) == container["resources"]["limits"]["nvidia.com/gpu"]
    host, port = options.rdzv_endpoint.split(":")
    assert host == f"{work['metadata']['name']}-0.{pod['subdomain']}"
    assert int(port) == service["spec"]["ports"][0]["port"]
    [folder] = [word for word in container["command"] if word.startswith("output.folder=")]
    assert any(folder.removeprefix("output.folder=").startswith(each["mountPath"])
               for each in container["volumeMounts"] if each["name"] == "runs"), "a run outlives its pods"


def test_the_ray_job_asks_for_what_its_workers_are(desk, pipelines, monkeypatch):
    from visalign.jobs.on_ray import RaySettings, share_of

    job = yaml.safe_load((CLUSTERS / "rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    assert f"ray=={cluster['rayVersion']}\n" in (ROOT / "constraints.txt").read_text()
    head, [group] = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    [first], [worker] = head["template"]["spec"]["containers"], group["template"]["spec"]["containers"]
    assert first["image"] == worker["image"] and worker["resources"]["limits"] == worker["resources"]["requests"]
    program, *words = shlex.split(job["spec"]["entrypoint"])
    monkeypatch.chdir(desk)
    check_visalign(words, pipelines)
    wanted = int(words[words.index("--ray-workers") + 1])
    limits = worker["resources"]["limits"]
    nodes = [{"CPU": 0.0}] + [{"CPU": float(limits["cpu"]), "GPU": float(limits["nvidia.com/gpu"])}] * group["replicas"]
    assert program == "visalign" and share_of(RaySettings(workers=wanted), nodes, "auto").gpus == 1


def test_every_command_of_visalign_is_one(desk, pipelines, monkeypatch):
    monkeypatch.chdir(desk)
    given = re.findall(r"^#   sbatch(?: --\S+)* configs/clusters/slurm\.sh (.*)$", SLURM, re.MULTILINE)
    assert len(given) == 2
    commands = [["train", *shlex.split(each), "--auto-resume"] for each in given]
    for words in torchruns():
        options = get_args_parser().parse_args(words[1:])
        assert options.module and options.training_script == "visalign"
        commands.append([word.replace("/runs/prompts.txt", "prompts.txt") for word in options.training_script_args])
    for words in commands:
        assert words[-1] == "--auto-resume"
        check_visalign(words, pipelines)


def test_no_file_of_a_cluster_is_a_recipe():
    assert not [name for name in recipes() if name.startswith("clusters/")]


NODE = """
import os, signal, sys
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from visalign.cli import main
from visalign.trainers.base import Trainer

def work(words, warned):
    step = Trainer.optimizer_step
    def optimizer_step(trainer, *arguments):
        if trainer.state.step == 1 and os.environ["RANK"] == warned:
            os.kill(os.getpid(), signal.SIGUSR1)
        return step(trainer, *arguments)
    Trainer.optimizer_step = optimizer_step
    main(words, standalone_mode=False)

port, warned, *words = sys.argv[1:]
nodes = LaunchConfig(min_nodes=2, max_nodes=2, nproc_per_node=1, rdzv_backend="c10d", run_id="nodes", max_restarts=0,
                     rdzv_endpoint=f"127.0.0.1:{port}", start_method="fork", monitor_interval=0.1)
elastic_launch(nodes, work)(words, warned)
"""


def two_nodes(folder, number: int, warned: str, *words) -> list[tuple[int, str]]:
    """Two agents of torchrun that meet on loopback, one process each; exit codes and what was said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = [Program(NODE, port, warned, *words, output=folder / f"{number}-{node}",
                     environment={"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}) for node in range(2)]
    return [(node.wait(120), node.text()) for node in nodes]


def test_two_nodes_that_are_preempted_and_queued_again_learn_what_one_process_does(recipe, tmp_path):
    one = recipe("sd3", name="one.yaml", output={"folder": str(tmp_path / "one")}, train={"batch_size": 2},
                 eval=UNMEASURED)
    two = recipe("sd3", name="two.yaml", output={"folder": str(tmp_path / "two"), "checkpoint_every": 0},
                 train={"batch_size": 1}, eval=UNMEASURED, data={"cache": str(tmp_path / "cache2")})
    words = ("train", two, "--auto-resume")
    for code, said in two_nodes(tmp_path, 1, "1", *words):
        assert code and "step 2 is kept" in said and "138" in said, said[-3000:]
    assert [each.name for each in (tmp_path / "two" / "checkpoints").iterdir()] == ["step-00000002"]
    for code, said in two_nodes(tmp_path, 2, "none", *words):
        assert code == 0, said[-3000:]
    run(one)
    assert [row["processes"] for row in rows(tmp_path / "two", "start")] == [2, 2]
    a, b = weights(tmp_path / "one", 4), weights(tmp_path / "two", 4)
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=2e-5, rtol=1e-3)
    for mine, theirs in itertools.zip_longest(rows(tmp_path / "one"), rows(tmp_path / "two")):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
