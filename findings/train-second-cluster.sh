#!/usr/bin/env bash
# Ray Train ends a training that runs, as soon as the same user starts another Ray cluster on the machine.
#
# Versions: Ray 2.60.0 with Train, Python 3.11, Linux.
# Input: a training function of one worker, in a local Ray of its own as on a shared workstation or a compute node, that
# waits until the other cluster is up and 10 s longer. The other one is made by `ray start --head` once training has begun;
# in the first run there is none.
# Behaviour: alone it finishes. With the other cluster it is ended within a second or two: "Destroying worker since its
# placement group was removed". A process of Ray Train's, which frees what a lost controller leaves, asks the state API
# every second whether the controller is alive. It gives no address, so that the other cluster's dashboard is asked as
# soon as there is one; it has no such actor, which counts as dead. With RAY_API_SERVER_ADDRESS set, for the whole session,
# to a port where nobody answers, training finishes.
# Output seen:
#   alone: finished
#   another cluster comes: ended, placement group removed
#   another cluster comes, RAY_API_SERVER_ADDRESS=http://127.0.0.1:9: finished
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder/packages" "ray[default,train]==2.60.0"
cd "$folder"
export PYTHONPATH="$folder/packages" RAY_TMPDIR="$folder" RAY_AUTH_MODE=disabled RAY_USAGE_STATS_ENABLED=0
export RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0
cat > training.py <<'PYTHON'
import sys
import time
from functools import partial
from pathlib import Path

import ray
import ray.train
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer


def loop(folder):
    Path(folder, "training").touch()
    while not Path(folder, "up").exists():
        time.sleep(0.1)
    time.sleep(10)


ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
trainer = DataParallelTrainer(
    partial(loop, sys.argv[1]),
    scaling_config=ray.train.ScalingConfig(num_workers=1),
    run_config=ray.train.RunConfig(storage_path=sys.argv[1], failure_config=ray.train.FailureConfig(max_failures=0)),
)
try:
    trainer.fit()
    print("finished")
except Exception as error:
    removed = "placement group was removed" in str(error)
    print("ended, placement group removed" if removed else f"another error: {error}")
PYTHON
port=$(python3 -c "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); print(s.getsockname()[1])")
other() { # until it is killed
    until [ -e training ]; do sleep 0.1; done
    exec python3 -c "from ray.scripts.scripts import main; main()" start --head --block --num-cpus=1 --port="$port" \
        --include-dashboard=true --dashboard-host=127.0.0.1 > ray.log 2>&1
}
beside_other() {
    rm -f training up ray.log
    other &
    cluster=$!
    { until grep -q "Ray runtime started" ray.log; do sleep 0.1; done 2> grep.log; touch up; } &
    training
    kill "$cluster"
    wait
}
training() {
    python3 training.py "$folder" 2> "$folder/log" | tail -1
}
touch up
alone=$(training)
beside=$(beside_other)
elsewhere=$(RAY_API_SERVER_ADDRESS=http://127.0.0.1:9 beside_other)
echo "alone: $alone"
echo "another cluster comes: $beside"
echo "another cluster comes, RAY_API_SERVER_ADDRESS=http://127.0.0.1:9: $elsewhere"
[ "$alone" = finished ]
[ "$beside" = "ended, placement group removed" ]
[ "$elsewhere" = finished ]
