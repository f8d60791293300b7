"""Jobs from submission to their end, with real workers on the built-in base."""

from __future__ import annotations

import pytest
from job_helpers import Desk, rows


@pytest.fixture
def desk(tmp_path):
    with Desk(tmp_path / "state") as made:
        yield made


def test_a_job_is_validated_trained_and_succeeds(desk):
    job = desk.job(valid=rows(30)[24:])
    done = desk.wait(job)
    assert done.status == "succeeded", (done.error, desk.messages(job))
