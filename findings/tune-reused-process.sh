#!/usr/bin/env bash
# Ray Tune with reuse_actors: a process that is lost between two trials costs the next one, whatever max_failures says.
#
# Versions: Ray 2.60.0 with Tune, Python 3.11, Linux.
# Input: four trials of three steps, one at a time, reuse_actors=True, max_failures=3, as for a sweep on spot nodes. The
# process is killed once, as a lost node would end it: in a trial, or right after one.
# Behaviour: killed in a trial, the trial is started again and all four have a result. Killed after a trial, the next one ends
# as an error that was never tried again and reported nothing: its reset on the dead process fails while Tune still has
# it as pending, and only running trials are retried. The others go on, so that a sweep is short of a trial.
# Output seen:
#   killed in a trial: [3, 3, 3, 3], errors 0
#   killed after a trial: [3, None, 3, 3], errors 1 (ActorDiedError)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder/packages" "ray[tune]==2.60.0"
cd "$folder"
PYTHONPATH="$folder/packages" RAY_USAGE_STATS_ENABLED=0 RAY_AIR_NEW_OUTPUT=0 RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0 python3 - "$folder" <<'PYTHON'
import os
import signal
import sys
import time

import ray
from ray import tune


class Counting(tune.Trainable):
    def setup(self, config):
        self.steps = 0

    def reset_config(self, config):
        self.steps = 0
        return True

    def step(self):
        self.steps += 1
        return {"steps": self.steps, "done": self.steps == 3}

    def save_checkpoint(self, folder):
        pass

    def load_checkpoint(self, checkpoint):
        pass


class Kill(tune.Callback):
    def __init__(self, within):
        self.within, self.pid = within, None

    def on_trial_result(self, iteration, trials, trial, result, **info):
        if self.within and result["steps"] == 2:
            self.kill(result["pid"])

    def on_trial_complete(self, iteration, trials, trial, **info):
        if not self.within:
            self.kill(trial.last_result["pid"])

    def kill(self, pid):
        if self.pid is None:
            self.pid = pid
            os.kill(pid, signal.SIGKILL)
            while os.path.exists(f"/proc/{pid}") and open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] != "Z":
                time.sleep(0.01)


def run(within):
    tuner = tune.Tuner(
        Counting,
        param_space={"number": tune.grid_search([0, 1, 2, 3])},
        tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=1),
        run_config=tune.RunConfig(
            storage_path=sys.argv[1],
            failure_config=tune.FailureConfig(max_failures=3),
            callbacks=[Kill(within)],
            verbose=0,
        ),
    )
    results = tuner.fit()
    found = [(results[i].metrics or {}).get("steps") for i in range(4)]
    return found, sorted(type(error).__name__ for error in results.errors)


ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, _temp_dir=sys.argv[1] + "/ray")
within, after = run(True), run(False)
print(f"killed in a trial: {within[0]}, errors {len(within[1])}")
print(f"killed after a trial: {after[0]}, errors {len(after[1])} ({', '.join(after[1])})")
assert within == ([3, 3, 3, 3], []), within
assert after == ([3, None, 3, 3], ["ActorDiedError"]), after
PYTHON
