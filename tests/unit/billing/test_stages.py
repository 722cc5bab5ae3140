import pytest
from prometheus_client import REGISTRY

from services.billing import stages
from services.billing.stages import STAGES, stage


def seconds() -> dict[str, float]:
    return {
        name: REGISTRY.get_sample_value("opentoken_ledger_stage_seconds_total", {"stage": name}) or 0 for name in STAGES
    }


def test_the_time_of_a_stage_within_another_is_counted_once_where_it_was_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(stages, "perf_counter", lambda: now)
    before = seconds()
    with stage("usage_record"):
        now += 1
        for _ in range(2):
            with stage("tree"):
                now += 10
        now += 2
    with stage("commit"):
        now += 5
    spent = {name: after - before[name] for name, after in seconds().items() if after != before[name]}
    assert spent == pytest.approx({"usage_record": 3, "tree": 20, "commit": 5})
