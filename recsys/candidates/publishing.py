"""From complete lists to lists that are read: the contract first, then the pointer."""

from __future__ import annotations

import warnings
from pathlib import Path

from recsys.candidates.data_contract import REPORT, DataContract, Finding, level_of, write_report
from recsys.candidates.files import JobError
from recsys.candidates.job import JOB, MANIFEST, Job
from recsys.candidates.publication import current, publish
from recsys.candidates.summary import Summary


class RefusedError(JobError):
    """Lists that break the contract; the message says how. What was published before stays."""


def check_and_publish(
    folder: Path, contract: DataContract, keep: int | None = None, memory_gib: float = 1.0
) -> list[Finding]:
    """Publishes a complete job, unless its lists break the contract.

    Args:
        folder: of the job.
        contract: that its lists must hold, compared with what is published.
        keep: published jobs that are kept, see `publish`.
        memory_gib: for counting.

    Returns:
        What the rules found; nothing where the job is published already.

    Raises:
        RefusedError: a rule refuses.
        PublicationError: a file of the job is missing or altered.
    """
    out, name = folder.parent, folder.name
    published = current(out)
    if published == name:
        publish(out, name, keep)
        return []
    before = None
    if published is not None and (out / published / MANIFEST).is_file():
        before = Summary.of(out / published, memory_gib)
    elif published is not None:
        warnings.warn(f"{out / published}: is published and gone; there is nothing to compare with", stacklevel=2)
    findings = contract.check(Summary.of(folder, memory_gib), before)
    write_report(folder, findings, published)
    if level_of(findings) == "refuse":
        broken = "; ".join(f"{finding.name}: {finding.sentence}" for finding in findings if finding.level == "refuse")
        stays = "nothing is published" if published is None else f"`{published}` stays published"
        raise RefusedError(
            f"{folder}: complete, but not published: {broken}. {folder / REPORT} has all findings; {stays}. Mend the "
            "inputs and run another --name, or change the limits with --contract"
        )
    publish(out, name, keep)
    return findings


def published_before(out: Path, name: str) -> str:
    """The job whose lists a job keeps where nothing has changed: that which it was begun with, else the published one.

    Raises:
        JobError: nothing was published yet.
    """
    job = out / name / JOB
    if job.is_file() and (previous := Job.read(job).config.previous) is not None:
        return previous
    published = current(out)
    if published is None:
        raise JobError(f"incremental: nothing is published in {out}; make and --publish all lists once")
    return published
