"""Ranking: like with like, failures count, and published numbers only under their own protocol."""

import json
import math
from dataclasses import replace

import pytest

from worldline.cli.bench import run as bench
from worldline.errors import FormatError, InputError
from worldline.evaluate import published
from worldline.evaluate.protocols import PROTOCOLS
from worldline.evaluate.ranking import rank
from worldline.evaluate.report import Report

RULES = PROTOCOLS["worldtrack-median"]


def report(truth, protocol=RULES, frames=64, **metrics):
    return Report("scene", truth, {"coverage": 1.0, **metrics}, protocol, {"points": "none"}, tuple(range(frames)))


def test_shares_rank_from_the_top_and_errors_from_the_bottom():
    results = {
        "a": [report("x", apd=0.5, epe_m=0.4), report("y", apd=0.7, epe_m=0.2)],
        "b": [report("y", apd=0.9, epe_m=0.4), report("x", apd=0.5, epe_m=0.6)],
    }
    best, last = rank(results, by="apd").rows
    assert (best.method, best.rank, best.sequences) == ("b", 1, 2) and best.value == pytest.approx(0.7)
    assert last.value == pytest.approx(0.6)
    assert [row.method for row in rank(results, by="epe_m").rows] == ["a", "b"]
    assert "worldtrack-median, mean over 2 sequences" in rank(results, by="apd").as_text()


@pytest.mark.parametrize("change", [{"alignment": "sim3"}, {"seed": 1}, {"max_frames": 50}, {"match_px": 4.0}])
def test_protocols_that_differ_in_anything_are_not_ranked_together(change):
    other = {"a": [report("x", apd=0.5)], "b": [report("x", replace(RULES, **change), apd=0.9)]}
    (name, value), *_ = change.items()
    with pytest.raises(InputError, match=f"{name} {value}.*measure all under one protocol"):
        rank(other, by="apd")


def test_different_sequences_frames_and_metrics_are_refused():
    for other in (report("y", apd=0.9), report("x", frames=50, apd=0.9)):
        with pytest.raises(InputError, match="sequences and frames"):
            rank({"a": [report("x", apd=0.5)], "b": [other]}, by="apd")
    with pytest.raises(InputError, match="has no inlier"):
        rank({"a": [report("x", apd=0.5)]}, by="inlier")
    with pytest.raises(InputError, match="nothing to rank"):
        rank({"a": []}, by="apd")


def test_a_mean_error_over_fewer_answers_is_not_better():
    results = {"a": [report("x", epe_m=0.5)], "b": [report("x", coverage=0.4, epe_m=0.1)]}
    with pytest.raises(InputError, match="40% for one method and 100% for another"):
        rank(results, by="epe_m")


def test_a_failure_counts_and_what_is_defined_for_nobody_does_not():
    results = {
        "works": [report("x", apd=0.4, epe_m=1.0), report("y", apd=math.nan, epe_m=1.0)],
        "fails": [report("x", apd=math.nan, epe_m=math.nan), report("y", apd=math.nan, epe_m=0.1)],
    }
    assert [(row.method, row.value) for row in rank(results, by="apd").rows] == [("works", 0.4), ("fails", 0.0)]
    assert rank(results, by="epe_m").rows[1].value == math.inf


def test_published_numbers_are_shares_with_a_source_and_a_protocol():
    assert len(published.rows()) > 30
    for row in published.rows():
        assert row.metrics and row.source.startswith(("Ngo", "Karhade"))
        assert row.protocol in PROTOCOLS or row.protocol == published.NOT_STATED
        assert all(0 <= v <= 1 for k, v in row.metrics.items() if k != "epe_m")


def test_published_numbers_stand_beside_only_under_their_protocol():
    tapvid = {"ours": [report("x", PROTOCOLS["tapvid3d-median"], apd=0.2)]}
    found = rank(tapvid, by="apd", beside="pstudio")
    assert {row.method for row in found.published} >= {"DELTA + UniDepth"} and found.rows[0].rank == 1
    assert "not ranked among these" in found.as_text() and "arXiv 2410.24211" in found.as_text()
    with pytest.raises(InputError, match="other protocols .not stated, tapvid3d-median. than worldtrack-median"):
        rank({"ours": [report("x", apd=0.2)]}, by="apd", beside="pstudio")
    with pytest.raises(InputError, match="not stated"):
        rank({"ours": [report("x", apd=0.2)]}, by="apd", beside="dynamic_replica")
    with pytest.raises(InputError, match="choose .*pstudio"):
        published.comparable("sintel", RULES)


@pytest.mark.parametrize("name", ["default", "worldtrack-sim3-ransac"])
def test_a_report_comes_back_from_json(name):
    kept = report("x", PROTOCOLS[name], apd=0.5)
    assert Report.from_json(json.loads(json.dumps(kept.as_json()))) == kept
    with pytest.raises(FormatError, match="no report"):
        Report.from_json({"scene": "a"})


def test_the_command_ranks_folders_of_reports(tmp_path, capsys):
    for method, apd in (("uni4d", 0.3), ("any4d", 0.6)):
        (tmp_path / method).mkdir()
        (tmp_path / method / "x.json").write_text(json.dumps(report("x", apd=apd).as_json()))
    bench((tmp_path / "uni4d", tmp_path / "any4d"))
    assert capsys.readouterr().out.index("any4d") < 80
    bench((tmp_path / "uni4d",), as_json=True)
    assert json.loads(capsys.readouterr().out)["rows"][0]["value"] == 0.3
    (tmp_path / "uni4d" / "y.json").write_text("{}")
    with pytest.raises(FormatError, match="y.json is no report"):
        bench((tmp_path / "uni4d",))
    with pytest.raises(InputError, match="holds no reports"):
        bench((tmp_path / "none",))
