"""A Ray cluster for one task: joined, or started on this machine, and left again. Private Ray is touched here alone."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from lrp_tf.files.errors import LoadError, optional

_STORE = 400_000_000  # bytes of shared memory, of a cluster that is started here: rows and names travel, no pictures
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # a library sends nothing
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # workers without a GPU see what the driver sees; asking for it warns
    "RAY_worker_niceness": "0",  # workers are what the machine is there for; Ray would let all others go first
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # of the console; what a worker writes is below /tmp/ray
}


def ray_module() -> Any:
    """Ray with its Data library.

    Raises:
        ExtraError: it is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optional("ray.data", extra="ray", what="which spreads work over processes and machines")
        return optional("ray", extra="ray", what="which spreads work over processes and machines")


@contextlib.contextmanager
def session(address: str | None, cpus: float) -> Iterator[None]:
    """Ray is there inside. One that the caller has started already is used, and stays.

    Args:
        address: of a running cluster, "auto" or "host:6379"; None: start one on this machine.
        cpus: how many it has then.

    Raises:
        ExtraError: Ray is not installed. LoadError: no cluster answers at the address.
    """
    ray = ray_module()
    if ray.is_initialized():
        with quiet():
            yield
        return
    with quiet():
        _start(ray, address, cpus)
        try:
            yield
        finally:
            ray.shutdown()


def _start(ray: Any, address: str | None, cpus: float) -> None:
    here = {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": _STORE} if address is None else {}
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update({name: value for name, value in _ENVIRONMENT.items() if before[name] is None})
    try:
        with _silent(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **here)
    except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError, ray.exceptions.RayError) as error:
        raise LoadError(_why_not(error, address), "address") from error
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)


def _why_not(error: Exception, address: str | None) -> str:
    """Why there is no cluster. Ray says "failed to connect" where it was refused; its cause holds the reason."""
    what = "Ray cannot be started" if address is None else f"no Ray cluster can be joined at {address}"
    if "authentication" in f"{error} {error.__cause__}".lower():
        return (
            f"{what}: it asks for a token. Expected RAY_AUTH_MODE=token in the environment, and the cluster's token in "
            "~/.ray/auth_token or RAY_AUTH_TOKEN. Remedy: `ray get-auth-token`, on the machine where it was started, "
            "prints the token"
        )
    return (
        f"{what}: {' '.join(str(error).split())}. Expected the address of one that runs, with the same versions of "
        "Python and Ray. Remedy: `address` as `ray status` shows it, or none for processes on this machine"
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Ray Data says nothing of its progress, and gives every result as soon as it is there."""
    import ray.data

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Ray about its own settings
        context = ray.data.DataContext.get_current()
    wanted: dict[str, int] = {
        "enable_progress_bars": False,
        "print_on_execution_start": False,
        "enable_auto_log_stats": False,
    }
    wanted["target_max_block_size"] = 1
    before = {name: getattr(context, name) for name in wanted if hasattr(context, name)}
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        for name in before:
            setattr(context, name, wanted[name])
        with _without_lines_of_lost_processes():
            yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            setattr(context, name, value)


@contextlib.contextmanager
def _without_lines_of_lost_processes() -> Iterator[None]:
    """Ray prints a paragraph on standard output for each process that ends; the driver tells it in a line."""
    from ray._private import worker

    name = "print_to_stdstream"
    before = getattr(worker, name, None)
    if before is not None:
        setattr(worker, name, lambda *args, **more: None)
    try:
        yield
    finally:
        if before is not None:
            setattr(worker, name, before)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Nothing is written to standard error, by C++ neither."""
    sys.stderr.flush()
    before, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
