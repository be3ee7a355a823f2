import json
import re
from html.parser import HTMLParser

import pytest

from the_block_llm.errors import StaleDataError
from the_block_llm.pipelines.behavioral_eval.report.html_report import (
    mark_citations,
    render,
    trend_rows,
)
from the_block_llm.pipelines.behavioral_eval.report.report import build_report, summary_lines
from the_block_llm.retrieval.citations import known_names

KNOWN = known_names([{"path": "src/cache.rs", "text": "fn evict() {}"}], [{"sha": "ab12" * 10}])
HOSTILE = "stale </pre><script>alert(1)</script> <img src=x onerror=alert(2)> {{ 7 * 7 }} [INST]"


PROMPTS = {
    "stale": "<|user|>What can go wrong with a cache in chain?<|end|>",
    "tests": "<|user|>What makes a change safe?<|end|>",
}


def completion(probe_id, arm, text, finish="stop"):
    return {
        "prompt": PROMPTS[probe_id],
        "suite": "own",
        "probe_id": probe_id,
        "arm": arm,
        "seed": 0,
        "completion": text,
        "finish": finish,
        "retrieved": [],
    }


COMPLETIONS = [
    completion("stale", "base", "See src/cache.rs and src/cash.rs: it is never wrong."),
    completion("tests", "base", "Luck"),
    completion("stale", "tuned", HOSTILE),
    completion("tests", "tuned", "tests tests tests tests"),
]


def held_out_scores(tuned_bits):
    return [
        {
            "task": "held_out",
            "item_id": f"i{number}",
            "cluster": f"c{number}",
            "arm": arm,
            "value": (1000.0 + number) * (1 if arm == "base" else tuned_bits),
            "weight": 1000.0,
            "detail": json.dumps({"kind": "file" if number % 2 else "commit", "familiar": 0.2}),
        }
        for number in range(20)
        for arm in ("base", "tuned")
    ]


@pytest.fixture
def report(plan, params):
    return build_report(
        plan, COMPLETIONS, held_out_scores(0.9), KNOWN, params, provenance={"profile": "tiny"}
    )


def test_the_report_has_the_verdict_and_its_metrics(report):
    assert report["verdict"]["outcome"] == "better"
    assert "10.0 % fewer bits" in report["verdict"]["sentence"]
    names = [m["name"] for m in report["measures"]]
    assert names == ["held_out", "held_out_commit", "held_out_file", "concepts"]
    held_out = report["measures"][0]
    assert held_out["base"] == pytest.approx(1.0095)
    assert held_out["tuned"] == pytest.approx(0.9 * 1.0095)
    assert held_out["n_clusters"] == 20
    # Two questions are too few for an outcome.
    assert report["measures"][3]["outcome"] == "too little data"


def test_text_of_new_lines_is_a_separate_metric(plan, params):
    scores = held_out_scores(0.9)
    for row in scores:
        number = int(row["item_id"][1:])
        row["detail"] = json.dumps({"kind": "file", "familiar": 0.05 if number < 10 else 0.5})
        if row["arm"] == "tuned" and number < 10:
            row["value"] *= 0.95 / 0.9
    report = build_report(plan, COMPLETIONS, scores, KNOWN, params, {})
    new = next(m for m in report["measures"] if m["name"] == "held_out_new")
    assert (new["n_items"], new["weight"]) == (10, "part")
    assert new["tuned"] / new["base"] == pytest.approx(0.95)


def test_answers_are_scored_and_grouped_by_probe(report):
    stale = report["answers"][0]
    assert [a["arm"] for a in stale["arms"]] == ["base", "tuned"]
    assert stale["arms"][0]["scores"]["false_claims"] == ("never wrong",)
    assert stale["arms"][1]["scores"]["concepts"] == ("staleness",)
    rows = {(r["category"], r["arm"]): r["concept_share"] for r in report["categories"]}
    assert rows["architecture", "tuned"] == 0.5
    assert rows["overall", "base"] == 0
    assert rows["overall", "tuned"] == 0.75


def test_citations_are_checked(report):
    cited = report["answers"][0]["arms"][0]["citations"]
    assert [(c["text"], c["exists"]) for c in cited] == [
        ("src/cache.rs", True),
        ("src/cash.rs", False),
    ]
    overall = next(r for r in report["categories"] if r["arm"] == "base")
    assert (overall["citations"], overall["citations_that_exist"]) == (2, 1)


def test_a_contaminated_document_is_reported_and_excluded(plan, params):
    scores = held_out_scores(1.0)
    for row in scores:
        if row["cluster"] == "c3":
            row["detail"] = json.dumps({"kind": "file", "familiar": 0.95})
            row["value"] *= 0.1 if row["arm"] == "tuned" else 1
    report = build_report(plan, COMPLETIONS, scores, KNOWN, params, {})
    assert report["left_out_as_seen_in_training"] == ["c3"]
    assert report["measures"][0]["n_clusters"] == 19
    assert report["measures"][0]["difference"] == 0
    assert "tasks are excluded: c3" in render(json.loads(json.dumps(report)))


def test_a_contaminated_task_is_reported_and_excluded(plan, params):
    tasks = [
        {
            "task": "also_changed",
            "item_id": f"t{number}",
            "cluster": f"c{number}",
            "arm": arm,
            "value": float(arm == "tuned" and number == 3),
            "weight": 1.0,
            "detail": json.dumps(
                {"choices": ["a", "b"], "tricks": {"longest": 0.5}, "familiar": number == 3}
            ),
        }
        for number in range(12)
        for arm in ("base", "tuned")
    ]
    report = build_report(plan, COMPLETIONS, [*held_out_scores(0.9), *tasks], KNOWN, params, {})
    assert report["left_out_as_seen_in_training"] == ["c3"]
    [task] = report["tasks"]
    assert (task["n_items"], task["right"]) == (11, {"base": 0, "tuned": 0})
    assert {m["name"]: m["n_items"] for m in report["measures"]}["also_changed"] == 11


def test_criteria_are_strict(report):
    met = {c["category"]: c["met"] for c in report["criteria"]}
    assert met == {"overall": True, "architecture": False}


def test_more_degenerate_answers_after_tuning_get_advice(report, plan, params):
    assert report["coherence"]["advice"]
    swapped = [
        {**row, "arm": {"base": "tuned", "tuned": "base"}[row["arm"]]} for row in COMPLETIONS
    ]
    report_of_swapped = build_report(plan, swapped, held_out_scores(0.9), KNOWN, params, {})
    assert report_of_swapped["coherence"]["warnings"]
    assert report_of_swapped["coherence"]["advice"] == []


def test_the_report_is_json_and_reproducible(report, plan, params):
    again = build_report(
        plan, COMPLETIONS, held_out_scores(0.9), KNOWN, params, provenance={"profile": "tiny"}
    )
    assert json.dumps(report, allow_nan=False) == json.dumps(again, allow_nan=False)


def test_missing_answers_are_an_error(plan, params):
    with pytest.raises(StaleDataError, match="own/tests"):
        build_report(plan, COMPLETIONS[::2], held_out_scores(1), KNOWN, params, {})


def test_answers_to_another_version_of_a_prompt_are_an_error(plan, params):
    outdated = [{**row, "prompt": "What can go wrong?"} for row in COMPLETIONS]
    with pytest.raises(StaleDataError, match="own/stale"):
        build_report(plan, outdated, held_out_scores(1), KNOWN, params, {})


class ElementCollector(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.open, self.links = set(), set(), [], []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [value for name, value in attrs if name == "href"]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_makes_no_network_requests(report):
    page = render(json.loads(json.dumps(report)))
    parser = ElementCollector()
    parser.feed(page)
    assert parser.open == []
    assert not parser.tags & {"script", "img", "link", "iframe"}
    assert not parser.attributes & {"src", "onerror", "onclick"}
    # Links to files in the same folder only.
    assert all(re.fullmatch(r"[a-z_]+\.(json|png)", link) for link in parser.links)
    assert "http://" not in page
    assert "https://" not in page
    assert "{{ 7 * 7 }}" in page
    assert "&lt;script&gt;" in page
    assert "Better" in page


def test_the_summary_is_short(report):
    lines = summary_lines(report)
    assert lines[0].startswith("Better: The tuned model knows")
    assert len(lines) == 2


def test_the_trend_lists_all_adapters_and_plots_those_of_the_same_text(report):
    measure = next(m for m in report["measures"] if m["name"] == "held_out")
    trend = [
        {"adapter": name, "trained_at": name, "material": text, "verdict": "better",
         "measures": {"held_out": measure}}
        for name, text in (("first", "other"), ("second", "this"), ("third", "this"))
    ]  # fmt: skip
    shown = {**json.loads(json.dumps(report)), "material": "this", "trend": trend}
    assert [row["title"] for row in trend_rows(shown, same_text=True)] == ["second", "third"]
    page = render(shown)
    assert "<h2>Trend</h2>" in page
    assert page.count("other held-out text") == 1
    assert "<h2>Trend</h2>" not in render({**shown, "trend": trend[:1]})


def test_citations_are_marked_in_the_answer():
    cited = [{"text": "src/a.rs", "exists": True}, {"text": "src/a.rs.bak", "exists": False}]
    answer = {"completion": "<b> src/a.rs, src/a.rs.bak", "citations": cited}
    assert mark_citations(answer) == (
        '&lt;b&gt; <mark class="ok">src/a.rs</mark>, <mark class="warn">src/a.rs.bak</mark>'
    )
    assert mark_citations({"completion": "a < b", "citations": []}) == "a &lt; b"


def test_the_report_has_every_item_with_the_values_of_both_arms(report):
    assert len(report["items"]) == 20
    assert report["items"][0] == {
        "task": "held_out", "item_id": "i0", "cluster": "c0", "weight": 1000.0,
        "left_out": False, "values": {"base": 1000.0, "tuned": 900.0},
    }  # fmt: skip
