"""Jobs that one pass of an encoder does for: other layers of the same model, on the same audio."""

from __future__ import annotations

from collections.abc import Iterable

from aape_bench.addresses import entry_of, recorded
from aape_bench.planning import Job, Options

#: Layers of one pass where embeddings are of moments: a shard of all of them is in memory at once.
_MOST_OF_MOMENTS = 4


def in_one_pass(job: Job, jobs: Iterable[Job], options: Options) -> list[Job]:
    """Of `jobs` those whose embeddings are as far as the job's own, and read from the same; one of each layer."""
    if job.model.reads_from is None or job.data.unread():
        return []
    prints = job.data.fingerprints()
    own = entry_of(job.model, job.data, job.protocol, prints, options)
    missing, begun = own.missing(), own.begun()
    seen, found = {own.address}, list[Job]()
    for other in jobs:
        if len(found) + 1 == _MOST_OF_MOMENTS and own.moments:
            break
        if other.data is not job.data or other.model.reads_from != job.model.reads_from:
            continue
        if other.protocol.trains_encoder:
            continue
        entry = entry_of(other.model, other.data, other.protocol, prints, options)
        if (
            entry.address not in seen
            and entry.treatment == own.treatment
            and recorded(other.model, other.data, other.protocol, prints, options) is None
        ):
            seen.add(entry.address)
            if entry.missing() == missing and entry.begun() == begun:
                found.append(other)
    return found
