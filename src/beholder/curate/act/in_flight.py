"""The journal of a run that was killed in; what it had done, and the pictures of which something is still to be done, out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from beholder.curate.act import files, journal
from beholder.curate.act.entries import Intent, Told
from beholder.curate.act.fetching import fetch, pieces
from beholder.curate.act.files import Refused
from beholder.curate.act.journal import Journal
from beholder.curate.act.plan import Planned
from beholder.curate.act.run import Job
from beholder.curate.act.shared_files import SharedFiles
from beholder.locate.place import nowhere


def settle(job: Job, told: Told, log: Journal | None) -> list[Planned]:
    """Take into `told`, and write into `log`, what was done of all that a killed run had in flight, and what cannot be done.

    Args:
        job: the act.
        told: what its journal says.
        log: the journal; without one everything is only looked at.

    Returns:
        Pictures that are still to be done, with the files that are; `found_anew` finds them.
    """
    for some in pieces(_pictures(told)):
        said = _looked_at(job, told, some, act=log is not None)
        if log is not None and (said["results"] or said["failed"]):
            log.write(said)
        for _ in told.take(said):
            pass
    left = _pictures(told)
    for picture in left:
        if picture.intents[0].is_picture:  # of a finished act it was being tried once more
            told.left_out.settle(picture.sample)
    return left


def found_anew(job: Job, left: Sequence[Planned]) -> Iterator[Sequence[Planned]]:
    """The same pictures, few at a time, with the places of those whose bytes are to be read."""
    for some in pieces(left):
        wanted = [picture.sample for picture in some if any(intent.part is not None for intent in picture.intents)]
        places = iter(job.finder.locate(wanted, with_belongings=job.options.sidecars) if wanted else ())
        yield [
            replace(picture, place=next(places)) if any(intent.part is not None for intent in picture.intents) else picture
            for picture in some
        ]


def _pictures(told: Told) -> list[Planned]:
    """Intents of which it is not said what became of them, by picture."""
    found: list[Planned] = []
    for intent in told.unsettled.values():
        if intent.is_picture or not found or found[-1].sample != intent.sample:
            found.append(Planned(intent.sample, nowhere(intent.sample, "")))
        found[-1].intents.append(intent)
    return found


def _looked_at(job: Job, told: Told, some: Sequence[Planned], *, act: bool) -> dict[str, Any]:
    """A line of what became of some pictures; of files that are not there yet, and can be made, it says nothing."""
    run, sums = str(told.header.get("id")), told.sums | _sums_now(job, told, some)
    done: list[int] = []
    said: dict[str, Any] = {"results": [], "copies": [], "failed": []}
    for picture in some:
        is_lost = not picture.intents[0].is_picture and picture.sample in told.left_out  # noted, and then killed
        for intent in picture.intents:
            try:
                if is_lost and not intent.is_shared:
                    raise Refused("missing", f"{intent.source}: its picture was left out")
                if not files.is_there(intent.target):
                    if intent.size >= 0:
                        files.check_source(intent, follow=job.action != "move")
                    if stays(job.action, told.shared, intent):
                        raise Refused("missing", stays_text(intent))
                    continue
                sha256 = sums.get(intent.number)
                if isinstance(sha256, Refused):
                    raise sha256
                made = files.finish(job.action, intent, run, sha256) if act else files.made_before(job.action, intent, sha256)
            except Refused as refused:
                said["failed"].append([intent.number, refused.reason, refused.text])
                if intent.is_picture:
                    is_lost = True
                    told.shared.note(intent, is_done=False)
                continue
            done.append(intent.number)
            if made is not None:
                said["copies"].append([intent.number, *made])
    said["results"] = journal.ranges(done)
    return said


def stays(action: str, shared: SharedFiles, intent: Intent) -> bool:
    """Whether a file is not to be moved, as a picture stays that it belongs to."""
    return action == "move" and intent.is_shared and not shared.may_go(intent)


def stays_text(intent: Intent) -> str:
    """Why it is not."""
    return f"{intent.source}, as a picture stays to which it belongs, too"


def _sums_now(job: Job, told: Told, some: Sequence[Planned]) -> dict[int, str | Refused]:
    """sha256 of what is to be in files that are there, where the bytes have no place of their own and the journal is silent."""

    def is_unknown(intent: Intent) -> bool:
        return intent.part is not None and intent.number not in told.sums and os.path.lexists(intent.target)

    wanted = [replace(picture, intents=[i for i in picture.intents if is_unknown(i)]) for picture in some]
    found: dict[int, str | Refused] = {}
    for few in found_anew(job, [picture for picture in wanted if picture.intents]):
        for number, held in fetch(job.finder, few).items():
            found[number] = held if isinstance(held, Refused) else hashlib.sha256(held).hexdigest()
    return found
