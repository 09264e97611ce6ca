"""The checks of `recsys doctor`: facts in, verdict out; gathering the facts is `doctor`'s work."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.version import Version

from recsys.cli.allocator import SETTINGS, SWITCH

Status = Literal["ok", "warn", "fail"]

# The versions that fit one-to-one and that the locks pin; torchrec pins its torchmetrics.
STACK = {"torch": "2.13.0", "fbgemm": "1.8.0", "torchrec": "1.8.0", "torchmetrics": "1.0.3"}
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
DATA_SETS = ("amazon_beauty", "amazon_sports")


@dataclass(frozen=True)
class Check:
    """The verdict of one check; `remedy` is the command or setting that mends it."""

    name: str
    status: Status
    detail: str
    remedy: str = ""


def install_command(cuda: bool, names: Collection[str] = STACK) -> str:
    """The command that installs the pinned versions of `names` (keys of `STACK`)."""
    packages = {"fbgemm": "fbgemm-gpu" if cuda else "fbgemm-gpu-cpu"}
    pins = " ".join(
        f"{packages.get(name, name)}=={STACK[name]}{'+cpu' if name == 'torch' and not cuda else ''}" for name in names
    )
    index = "" if cuda or "torch" not in names else f" --extra-index-url {CPU_INDEX}"
    return f"pip install --no-deps {pins}{index}"


def check_python(version: tuple[int, int], oldest: tuple[int, int] = (3, 11)) -> Check:
    """Whether the interpreter is new enough."""
    text = ".".join(map(str, version))
    if version < oldest:
        wanted = ".".join(map(str, oldest))
        return Check("Python", "fail", f"{text}, {wanted} or newer is needed", f"python{wanted} -m venv .venv")
    return Check("Python", "ok", text)


def is_cuda_build(torch: str | None) -> bool:
    """Whether a version of torch, as its distribution states it, is a CUDA build."""
    return torch is not None and "+cpu" not in torch


def check_triple(versions: Mapping[str, str | None]) -> Check:
    """Whether torch, fbgemm, torchrec and torchmetrics are those that fit one another.

    Args:
        versions: installed version, or None, of `torch`, `fbgemm-gpu`, `fbgemm-gpu-cpu`, `torchrec`, `torchmetrics`.
    """
    name = "torch, fbgemm, torchrec fit"
    cuda = is_cuda_build(versions.get("torch"))
    right, other = ("fbgemm-gpu", "fbgemm-gpu-cpu") if cuda else ("fbgemm-gpu-cpu", "fbgemm-gpu")
    found = {key: versions.get(right if key == "fbgemm" else key) for key in STACK}
    wrong = [key for key, wanted in STACK.items() if not _same_minor(found[key], wanted)]
    shown = ", ".join(f"{right if key == 'fbgemm' else key} {version or 'missing'}" for key, version in found.items())
    if versions.get(other):  # both packages own the module `fbgemm_gpu`: removing one breaks the other
        command = install_command(cuda, sorted({*wrong, "fbgemm"})).replace("--no-deps", "--no-deps --force-reinstall")
        detail = f"{shown}; {other} {versions[other]} does not go with this torch"
        return Check(name, "fail", detail, f"pip uninstall -y {other} && {command}")
    if wrong:
        return Check(name, "fail", f"{shown}; misfit: {', '.join(wrong)}", install_command(cuda, wrong))
    return Check(name, "ok", shown)


def _same_minor(found: str | None, wanted: str) -> bool:
    return found is not None and Version(found).release[:2] == Version(wanted).release[:2]


def check_lookup(lookup: Callable[[], None], cuda: bool) -> Check:
    """Whether a table can really be looked up and updated.

    Args:
        lookup: raises where it cannot.
        cuda: whether torch is a CUDA build (decides which packages the remedy names).
    """
    name = "embedding lookup"
    try:
        lookup()
    except Exception as error:  # whatever a broken installation throws is what has to be reported
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        command = install_command(cuda).replace("--no-deps", "--no-deps --force-reinstall")
        return Check(name, "fail", text, command)
    return Check(name, "ok", "fbgemm and torchrec import, look up and update a table")


def check_requirements(requirements: Iterable[str], installed: Callable[[str], str | None]) -> list[Check]:
    """One check for every requirement that is not met, or one that says all are.

    Args:
        requirements: requirement strings of the package, those of extras included (they are skipped).
        installed: gives the installed version of a distribution, or None.
    """
    parsed = [Requirement(text) for text in requirements]
    wanted = [
        item for item in parsed if item.name not in STACK and (not item.marker or item.marker.evaluate({"extra": ""}))
    ]
    failed = []
    for item in wanted:
        version = installed(item.name)
        if version is None or not item.specifier.contains(version, prereleases=True):
            detail = f"{version or 'missing'}, needed: {item.specifier or 'any version'}"
            failed.append(Check(item.name, "fail", detail, f'pip install "{item.name}{item.specifier}"'))
    main = ("lightning", "mlflow", "implicit", "pandas", "jsonargparse", "duckdb")
    shown = ", ".join(f"{item.name} {installed(item.name)}" for item in wanted if item.name in main)
    return failed or [Check("other packages", "ok", shown)]


def check_text(requirements: Iterable[str], installed: Callable[[str], str | None]) -> Check:
    """Whether features of type `sentence` can be prepared; most logs have none, so that missing packages are no fault.

    Args:
        requirements: requirement strings of the package; those of the extra `text` count.
        installed: gives the installed version of a distribution, or None.
    """
    name = "sentence features"
    parsed = [Requirement(text) for text in requirements]
    extra = [item for item in parsed if item.marker and not item.marker.evaluate({"extra": ""})]
    wanted = [item for item in extra if item.marker and item.marker.evaluate({"extra": "text"})]
    versions = {item.name: installed(item.name) for item in wanted}
    command = "pip install " + " ".join(f'"{item.name}{item.specifier}"' for item in wanted)
    detail = ", ".join(f"{package} {version or 'missing'}" for package, version in versions.items())
    if any((version := versions[item.name]) and not item.specifier.contains(version) for item in wanted):
        return Check(name, "warn", detail, command)
    missing = not all(versions.values())
    return Check(name, "ok", f"{detail}; only features of type `sentence` need them: {command}" if missing else detail)


def check_devices(cpu: str, gpus: list[str], cuda_build: bool) -> Check:
    """Which devices training will find."""
    if cuda_build and not gpus:
        return Check(
            "devices",
            "warn",
            f"{cpu}; a CUDA build of torch that sees no GPU",
            "nvidia-smi (driver), or requirements/cpu.txt",
        )
    return Check("devices", "ok", "; ".join([*gpus, cpu]))


def check_blas(libraries: Iterable[str]) -> Check:
    """Which libraries do the linear algebra."""
    names = sorted(set(libraries))
    if not names:
        return Check("BLAS", "warn", "no optimised library found", "pip install --no-deps -r requirements/cpu.txt")
    return Check("BLAS", "ok", ", ".join(names))


def check_threads(threads: int, cpus: int) -> Check:
    """Whether torch uses as many threads as the process has processors."""
    detail = f"{threads} threads on {cpus} usable processors"
    if threads > cpus:
        return Check("threads", "warn", f"{detail}; they will wait for one another", f"export OMP_NUM_THREADS={cpus}")
    return Check("threads", "ok", detail)


def check_allocator(environ: Mapping[str, str], glibc: bool) -> Check:
    """Whether freed memory stays with the process (matters on a CPU)."""
    if not glibc:
        return Check("allocator", "ok", "not glibc; nothing to set")
    if all(name in environ for name in SETTINGS):
        return Check("allocator", "ok", "freed memory is kept")
    remedy = "export " + " ".join(f"{name}={value}" for name, value in SETTINGS.items())
    reason = f" ({SWITCH}=0)" if environ.get(SWITCH) == "0" else ""
    return Check("allocator", "warn", f"freed memory returns to the kernel{reason}: slower steps on a CPU", remedy)


def check_disk(folder: Path, free_bytes: int, writable: bool, wanted_bytes: int = 2 << 30) -> Check:
    """Whether prepared logs find room."""
    name = "disk for the cache"
    if not writable:
        return Check(name, "fail", f"{folder} cannot be written", "start from a folder of yours")
    detail = f"{folder}: {free_bytes / (1 << 30):.1f} GiB free"
    if free_bytes < wanted_bytes:
        return Check(name, "warn", detail, f"free {wanted_bytes >> 30} GiB there")
    return Check(name, "ok", detail)


def check_memory(available_bytes: int, wanted_bytes: int = 4 << 30) -> Check:
    """Whether the machine has memory left for a small training run."""
    detail = f"{available_bytes / (1 << 30):.1f} GiB available"
    return Check("memory", "ok" if available_bytes >= wanted_bytes else "warn", detail)


def check_data(folder: Path | None, names: Iterable[str], movielens: bool) -> Check:
    """Which data sets are found.

    Args:
        folder: the folder that `RECSYS_DATA` names, or None.
        names: the folders in it.
        movielens: whether MovieLens-100K is installed (it travels inside the package `recbole`).
    """
    found = sorted({*names, *(["movielens_100k"] if movielens else [])})
    where = f" in {folder}" if folder else ""
    if not movielens and "movielens_100k" not in found:
        return Check("data", "warn", f"{', '.join(found) or 'none'}{where}", "pip install --no-deps recbole==1.2.1")
    missing = [name for name in DATA_SETS if name not in found]
    if missing:
        detail = f"{', '.join(found)}{where}; not found: {', '.join(missing)}"
        return Check("data", "warn", detail, "export RECSYS_DATA=/folder/of/the/data/sets")
    return Check("data", "ok", f"{', '.join(found)}{where}")


def check_tracking(uri: str, problem: str | None) -> Check:
    """Whether MLflow can be written to.

    Args:
        uri: the tracking URI.
        problem: what went wrong when it was tried, or None.
    """
    if problem is None:
        return Check("MLflow", "ok", uri)
    remedy = "recsys server" if uri.startswith("http") else "export MLFLOW_TRACKING_URI=sqlite:///mlflow.db"
    return Check("MLflow", "fail", f"{uri}: {problem}", remedy)


def check_account(status: int, user: str | None) -> Check:
    """Whether a tracking server that is up lets this account in.

    Args:
        status: of its answer, 0 for none.
        user: name of the account, None for none.
    """
    name = "MLflow account"
    if status == 200:
        return Check(name, "ok", user or "none is asked for")
    if status == 401:
        detail = "one is asked for" if user is None else f"`{user}` is unknown, or the password is wrong"
        return Check(name, "fail", detail, "export MLFLOW_TRACKING_USERNAME=... MLFLOW_TRACKING_PASSWORD=...")
    return Check(
        name, "fail", f"{user or 'none'}: the server answers {status or 'nothing'}", "look into the server's log"
    )
