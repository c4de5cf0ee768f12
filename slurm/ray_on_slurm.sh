#!/bin/bash
# Ray inside a SLURM allocation, and a study launched on it:
#   sbatch --nodes=2 --gpus-per-node=8 --cpus-per-task=64 --time=12:00:00 slurm/ray_on_slurm.sh my_study.py --data parquet:/data/imagenet
# What follows the script's name goes to `tokenlaw launch`. Ten minutes before the time limit, and when
# the job is preempted, the runs save and the job queues itself again; the launch then goes on from there.
#SBATCH --job-name=tokenlaw-ray
#SBATCH --ntasks-per-node=1
#SBATCH --signal=B:USR2@600
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail

# One head for each job: ports of their own, outside 10002-19999, which Ray gives to its workers.
PORT=${RAY_PORT:-$((20000 + SLURM_JOB_ID % 5000))}
TEMPORARY=${RAY_TEMPORARY:-/tmp/tlray-$SLURM_JOB_ID} # short: sockets below it have at most 107 characters
export RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=disabled
CPUS=${SLURM_CPUS_PER_TASK:-1}
GPUS=${SLURM_GPUS_ON_NODE:-0}

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
address=${RAY_NODE_ADDRESS:-$(srun --overlap --nodes=1 --ntasks=1 -w "$head" hostname -I | awk '{print $1}')}
common=(--num-cpus="$CPUS" --num-gpus="$GPUS" --temp-dir="$TEMPORARY" --disable-usage-stats --block)

srun --overlap --nodes=1 --ntasks=1 -w "$head" \
  ray start --head --node-ip-address="$address" --port="$PORT" --include-dashboard=false "${common[@]}" &
started=($!)
for _ in $(seq 120); do
  (exec 3<>"/dev/tcp/$address/$PORT") 2>/dev/null && break
  sleep 1
done
if [ "${#nodes[@]}" -gt 1 ]; then
  others=$((${#nodes[@]} - 1))
  srun --overlap --nodes="$others" --ntasks="$others" --exclude="$head" \
    ray start --address="$address:$PORT" "${common[@]}" &
  started+=($!)
fi

again=0
tokenlaw launch "$@" --on ray --address "$address:$PORT" --yes &
launch=$!
# The first signal makes the launch save and end. A batch script hears it only between two commands,
# hence the `wait` below.
save() { again=1; kill -INT "$launch" 2>/dev/null; }
trap save USR2 TERM
code=75
while kill -0 "$launch" 2>/dev/null; do
  wait "$launch"
  code=$?
done

for step in "${started[@]}"; do kill "$step" 2>/dev/null; done
wait
rm -rf "$TEMPORARY" # this script runs where the head ran
if [ "$again" = 1 ] && [ "$code" != 0 ]; then
  # Not after `scancel`: then the job is being ended, and comes back no more.
  [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" -o %T)" = RUNNING ] && scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
