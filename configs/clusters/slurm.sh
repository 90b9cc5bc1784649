#!/bin/bash
# One node or several. Arguments are those of `visalign train`; output.folder lies on a disk that all nodes share:
#
#   sbatch configs/clusters/slurm.sh online/sd35_flow_grpo rollout.prompts=prompts.txt output.folder=runs/sd35
#   sbatch --nodes=4 configs/clusters/slurm.sh sdxl_dpo data.path=pairs.jsonl output.folder=runs/sdxl
#
# One torchrun on each node meets the others at the first node. USR1 comes 300 s before the time limit and goes to this
# script, which hands it on: the unit that runs is finished and kept, and the job is queued again with the same
# arguments. It continues where it was (--auto-resume).
#SBATCH --job-name=visalign
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=visalign-%j.out

set -u
export OMP_NUM_THREADS=8 SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"
stopped=0
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

srun --kill-on-bad-exit=1 torchrun --nnodes "$SLURM_NNODES" --nproc_per_node gpu \
    --rdzv_backend c10d --rdzv_id "$SLURM_JOB_ID" --rdzv_endpoint "$head:$((20000 + SLURM_JOB_ID % 20000))" \
    --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 --shutdown-timeout 240 \
    -m visalign train "$@" --auto-resume &
run=$!
trap 'stopped=1; kill -USR1 "$run"' USR1

wait "$run"
code=$?
while kill -0 "$run" 2>/dev/null; do # a trap ends `wait` before the run has ended
    wait "$run"
    code=$?
done

if [ "$stopped" = 1 ] && [ "$code" -ne 0 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
