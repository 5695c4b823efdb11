"""Ranks that Open MPI's mpirun started: they bear its numbers, and a run's name has to be given to them."""

from __future__ import annotations

import shutil
import sys

from tests.clusters.jobs import BARE, Job, by_file, records, run_ids
from tests.needs import need

RANK = """
import rollspan
with rollspan.session(), rollspan.phase("generate"):
    pass
"""
# Root may be who runs the tests, and the machine may have fewer cores than there are ranks.
MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}


def mpirun(job: Job, **environ: str) -> str:
    """Run three ranks with a session each; what they say."""
    need(shutil.which("mpirun", path=BARE["PATH"]), "no mpirun: pip install 'rollspan[clusters]'")
    return job.run(
        "mpirun", "-n", "3", sys.executable, job.program(RANK), ROLLSPAN_ENABLED="1", **MPI, **environ
    )


def check_three_ranks(job: Job) -> None:
    """Each rank's session is in its own file."""
    ranks = {name: [row["rank"] for row in rows] for name, rows in by_file(job.data).items()}
    assert ranks == {f"sessions-r{rank}.jsonl": [rank] for rank in range(3)}


def test_ranks_of_mpirun_are_one_run_under_a_given_name(job: Job) -> None:
    """With ROLLSPAN_RUN_ID the ranks of mpirun are one run, a file for each."""
    output = mpirun(job, ROLLSPAN_RUN_ID="by-hand")
    check_three_ranks(job)
    assert run_ids(records(job.data)) == {"by-hand"}
    assert "rollspan:" not in output


def test_ranks_of_mpirun_without_a_name_are_told(job: Job) -> None:
    """Without one each rank is a run of its own, and one of them says so, once."""
    output = mpirun(job)
    check_three_ranks(job)
    assert len(run_ids(records(job.data))) == 3
    assert output.count("rollspan:") == output.count("rollspan: ROLLSPAN_RUN_ID=") == 1
