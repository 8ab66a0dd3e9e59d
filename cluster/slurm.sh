#!/usr/bin/env bash
# Ray inside one SLURM allocation, and the chain on it: sbatch cluster/slurm.sh --recipe fast --cohort ... --workspace ...
# The arguments are those of jobs/pipeline.py. Two minutes before its time limit, or when it is preempted, the job stores
# its work and requeues itself; the same command resumes.
#SBATCH --job-name=drasclr
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --mem=128G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120
set -euo pipefail

TREE=${DRASCLR_TREE:-$SLURM_SUBMIT_DIR}
VENV=${DRASCLR_VENV:-$TREE/.venv}
# Where nodes are shared, another job's Ray may have Ray's usual ports.
PORT=${DRASCLR_PORT:-6379}
DASHBOARD_PORT=${DRASCLR_DASHBOARD_PORT:-8265}
# Socket paths must stay short; a node's own disk, not the shared one.
SCRATCH=${DRASCLR_SCRATCH:-/tmp/ray-$SLURM_JOB_ID}
GPUS=${SLURM_GPUS_ON_NODE:-0}

# Other users share these machines: nothing talks to our cluster without the token.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN OMP_NUM_THREADS=1
RAY_AUTH_TOKEN=$(od -An -tx1 -N32 /dev/urandom | tr -d ' \n')

# Sent TERM, the chain stops after its step, with a checkpoint, and requests a restart by its exit status.
RESTART=75
chain='' terminated=''
terminate() {
    terminated=1 again=1
    [[ -z $chain ]] || kill -TERM "$chain" 2>/dev/null || true
}
trap terminate TERM

mapfile -t NODES < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
HEAD=${NODES[0]}
HEAD_IP=$(srun --nodes=1 --ntasks=1 --nodelist="$HEAD" hostname --ip-address | awk '{print $1}')

start() { # node, then what `ray start` gets
    local node=$1
    shift
    srun --overlap --nodes=1 --ntasks=1 --nodelist="$node" --export=ALL \
        "$VENV/bin/ray" start --block --disable-usage-stats --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="$GPUS" "$@" &
}

start "$HEAD" --head --node-ip-address="$HEAD_IP" --port="$PORT" --temp-dir="$SCRATCH" \
    --include-dashboard=true --dashboard-port="$DASHBOARD_PORT"
head=$! ready=''
for _ in $(seq 60); do
    if "$VENV/bin/ray" health-check --address="$HEAD_IP:$PORT"; then
        ready=1
        break
    fi
    kill -0 "$head" 2>/dev/null || break
    sleep 2
done
if [[ -z $ready ]]; then
    echo "Ray did not start on $HEAD. If its ports are taken, set DRASCLR_PORT and DRASCLR_DASHBOARD_PORT." >&2
    exit 1
fi
for node in "${NODES[@]:1}"; do
    start "$node" --address="$HEAD_IP:$PORT"
done

cd "$TREE"
RAY_ADDRESS="$HEAD_IP:$PORT" srun --overlap --nodes=1 --ntasks=1 --nodelist="$HEAD" --export=ALL \
    "$VENV/bin/python" jobs/pipeline.py --take-over "$@" &
chain=$!
[[ -z $terminated ]] || terminate

# A signal ends `wait` at once: wait again until it is the chain that has ended.
again=1
while [[ -n $again ]]; do
    again='' status=0
    wait "$chain" || status=$?
done

if [[ $status -eq $RESTART || ( -n $terminated && $status -ne 0 ) ]]; then
    echo "the chain ended with status $status: job $SLURM_JOB_ID is requeued"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
