"""Jobs that one pass of an encoder does for: other layers of the same model, on the same audio."""

from __future__ import annotations

from collections.abc import Iterable

from aape_bench.addresses import entry_of, recorded
from aape_bench.planning import Job, Options


def in_one_pass(job: Job, jobs: Iterable[Job], options: Options) -> list[Job]:
    """Of `jobs` those whose embeddings are missing as the job's own are, and read from the same; one of each layer."""
    if job.model.reads_from is None or job.data.unread():
        return []
    prints = job.data.fingerprints()
    own = entry_of(job.model, job.data, job.protocol, prints, options)
    missing = own.missing()
    found = {own.address: job}
    for other in jobs:
        if (
            other.data is job.data
            and other.model.reads_from == job.model.reads_from
            and not other.protocol.trains_encoder
            and recorded(other.model, other.data, other.protocol, prints, options) is None
        ):
            entry = entry_of(other.model, other.data, other.protocol, prints, options)
            if entry.treatment == own.treatment and entry.missing() == missing:
                found.setdefault(entry.address, other)
    return list(found.values())[1:]
