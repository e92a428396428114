"""What a run leaves on disk, and how it is read back.

`folder` names the files, `config` decides whether two runs are the same, `log` and `arrays` hold
what was recorded and measured, `run` reads runs back; `checkpoints` and `resuming`, which alone
need torch, read the weights, and find where a run goes on.
"""

from runs.arrays import TEST_FLAGS, TRAIN_FLAGS, Metrics, write_arrays
from runs.config import (
    OFFICIAL,
    branch_folder,
    check_same_images,
    check_same_run,
    code_version,
    differing_options,
    read_config,
    write_config,
)
from runs.folder import (
    CONFIG,
    DIVERGED_STATUS,
    LATEST,
    LOCK,
    LOG,
    METRICS,
    STATE,
    check_no_branches,
    checkpoint_path,
    checkpoints_in,
    has_come_to,
    is_saved,
    is_whole,
    prune,
    remove_run,
    trial_folder,
    whole_epochs,
)
from runs.log import (
    append_log,
    diverged_at,
    read_log,
    read_state,
    read_trace,
    write_log,
    write_state,
    write_trace,
)
from runs.run import Curve, Run, all_runs, at_common_epochs, find_experiments, find_runs, read_run
