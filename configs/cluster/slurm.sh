#!/bin/bash
# Runs a command on the GPUs of several nodes under SLURM:
#
#   sbatch configs/cluster/slurm.sh fit --config mnist.yaml
#   sbatch --nodes=1 --time=2:00:00 configs/cluster/slurm.sh fit --config mnist.yaml --model.optimizer.lr 0.002
#   sbatch --array=0-4 configs/cluster/slurm.sh fit --config mnist.yaml     # five runs; a task's number is its seed
#   sbatch configs/cluster/slurm.sh fit --resume runs/mnist/slurm-1234      # goes on with the run of another job
#
# When its time is up, when it is preempted or when a node is lost, the job is queued again and the run goes on.
# Options of sbatch win over the lines below. Submit it where `python` finds capsule_lightning, from the folder that
# holds `runs` and `data`; all nodes must see both.

#SBATCH --job-name=capsules
#SBATCH --nodes=2
# One task for each GPU. Every task sees all GPUs of its node and takes its own, so --gpus-per-task would be wrong.
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=4
#SBATCH --time=24:00:00
# 90 seconds before its time is up, the run saves its state and puts the job into the queue again.
#SBATCH --signal=SIGUSR1@90
#SBATCH --requeue
#SBATCH --open-mode=append

export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK" # which srun does not take over from sbatch
export OMP_NUM_THREADS="$SLURM_CPUS_PER_TASK"

srun --kill-on-bad-exit=1 python -m capsule_lightning "$1" \
    --config trainer/slurm.yaml \
    --trainer.num_nodes="$SLURM_NNODES" \
    --trainer.devices="$SLURM_NTASKS_PER_NODE" \
    ${SLURM_ARRAY_TASK_ID:+--seed_everything="$SLURM_ARRAY_TASK_ID"} \
    "${@:2}"
