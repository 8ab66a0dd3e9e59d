"""Ray: the connection, where tasks run, fan-out of tasks, isolated processes, submitted jobs, and errors explained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctplatform.lazy import attach

if TYPE_CHECKING:
    from ctplatform.compute.failures import explained
    from ctplatform.compute.isolation import in_this_process, isolated
    from ctplatform.compute.job_log import FollowOptions, follow_job
    from ctplatform.compute.placement import ray_options
    from ctplatform.compute.ray_internals import dashboard_address
    from ctplatform.compute.session import ray_session
    from ctplatform.compute.submission import submit

__all__ = [
    "FollowOptions",
    "dashboard_address",
    "explained",
    "follow_job",
    "in_this_process",
    "isolated",
    "ray_options",
    "ray_session",
    "submit",
]

__getattr__, __dir__ = attach(
    __name__,
    {
        "FollowOptions": "job_log",
        "dashboard_address": "ray_internals",
        "explained": "failures",
        "follow_job": "job_log",
        "in_this_process": "isolation",
        "isolated": "isolation",
        "ray_options": "placement",
        "ray_session": "session",
        "submit": "submission",
    },
)
