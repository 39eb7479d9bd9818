"""src/runs/comparison.py: the page of tools/report.py that compares runs."""
import json
import os
import re

import pytest

from src.core.errors import UserError
from src.runs import settings as run_settings
from src.runs.comparison import (
    ComparedRun,
    class_rows,
    differences,
    overview,
    run_names,
    score_rows,
    seed_groups,
    seed_rows,
)
from src.runs.record import TrainingLog, read_scores, read_training_log
from src.tasks.detection import DETECTION
from tests.conftest import assert_user_error, call_script, lines_with, step_results
from tests.runs.test_report import Page

DESCRIPTION = {
    "dataset": "coco", "classes": ["disc"], "category_ids": [1], "mean": [0.1, 0.2, 0.3], "std": [1, 1, 1],
    "input_res_train": [96, 96],
    "net_config": {"head_conv": 64, "wh_weight": 0.1}, "evaluation": {"eval_config.K": 100},
    "training": {"seed": 1, "train_config.batch_size": 4,
                 "train_config.MultiDecay": {"learning_rate": 0.1, "multi_epochs": [90, 120]},
                 "dataset_config.input_res_train": [96, 96], "dataset_config.mean": [0.1, 0.2, 0.3]},
    "epoch": 1, "step": 10, "written": 1,
}
METRICS = {**dict.fromkeys(DETECTION.metrics, 0.5), "AP_per_class": {"disc": 0.5}, "AP50_per_class": {"disc": 0.5}}


def make_run(folder, loss=2.0, scores=(0.1, 0.3), metrics=None, description=None):
    """Write a run's folder with a record of 10 steps, 5 per epoch; None leaves a file out."""
    folder.mkdir(parents=True)
    if loss is not None:
        log = TrainingLog(str(folder / "train_record.jsonl"), 0, interval=100)
        for step in range(1, 11):
            log.step(step, 5, step_results(loss, 1.0, 5.0, 0.5, False, 1.0, 1e-4), 8.0)
            if step % 5 == 0 and scores:
                log.scores(step, 5, {"AP": scores[step // 5 - 1]})
        log.close()
    if metrics:
        (folder / "val").mkdir()
        (folder / "val" / "metrics.json").write_text(json.dumps(metrics))
    if description:
        (folder / "ckpt_0").mkdir()
        (folder / "ckpt_0" / "centernet-2_10.ckpt").touch()
        (folder / "ckpt_0" / "centernet-2_10.json").write_text(json.dumps(description))
    return folder


def compared(folder=None, metrics=None):
    record = str(folder / "train_record.jsonl") if folder else None
    steps, scores = (read_training_log(record), read_scores(record)) if record else ([], [])
    return ComparedRun("run", "run", steps, scores, metrics, None, [])


@pytest.mark.parametrize("folders, names", [
    (["exp/a", "exp/b/"], ["a", "b"]), (["/x/one/run", "/x/two/run"], ["one/run", "two/run"]),
    (["/run", "/x/run"], ["/run", "x/run"]), (["/x/a", "/y/a", "/y/b"], ["x/a", "y/a", "y/b"]),
])
def test_run_names_are_unique(folders, names):
    assert run_names(folders) == names


@pytest.fixture
def settings(tmp_path):
    """A function that returns the settings of a side file with given content."""
    def read(content):
        path = tmp_path / "side.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return run_settings.read_settings(str(path))

    return read


def test_only_differences_are_shown(settings):
    other = json.loads(json.dumps(DESCRIPTION))
    other["training"]["train_config.MultiDecay"]["learning_rate"] = 0.2
    other["training"]["dataset_config.input_res_train"] = other["input_res_train"] = [128, 96]
    other["net_config"]["wh_weight"] = ""
    del other["evaluation"]
    other.update(step=20, written=9)
    one = settings(DESCRIPTION)
    assert differences([one, settings(other), None]) == [
        ("dataset_config.input_res_train", ["[96, 96]", "[128, 96]", None]), ("eval_config.K", ["100", None, None]),
        ("net_config.wh_weight", ["0.1", '""', None]), ("train_config.MultiDecay.learning_rate", ["0.1", "0.2", None])]
    assert differences([one, one, None]) == differences([one]) == differences([None, None]) == []


@pytest.mark.parametrize("section", [None, [], "text", {"a": {"b": [{"c": None}]}}, {"": {}}])
def test_side_files_with_other_content(section, settings):
    """Any JSON is shown as text."""
    rows = differences([settings(DESCRIPTION), settings({"training": section, "classes": section}), settings({})])
    assert rows and all(value is None or isinstance(value, str) for _, values in rows for value in values)


@pytest.mark.parametrize("content", ["[]", "{", '{"training": ' + '{"a": ' * 100_000 + "1" + "}" * 100_000 + "}"])
def test_damaged_side_files_are_named(content, settings):
    with pytest.raises(UserError, match="side.json: "):
        settings(content)


def test_side_files_that_only_json_can_read(settings, monkeypatch):
    def too_deep(section, prefix):
        raise RecursionError

    monkeypatch.setattr(run_settings, "flatten", too_deep)
    with pytest.raises(UserError, match="side.json: .* deep"):
        settings(DESCRIPTION)


def test_scores_side_by_side(tmp_path):
    run = compared(make_run(tmp_path / "a"))
    metrics = {**METRICS, "AP": 0.25, "AP_small": -1.0, "VOC_mAP_07": 0.75,
               "AP_per_class": {"disc": None, "square": 0.5}}
    rows = dict(score_rows([run, compared(metrics=metrics), compared(metrics=METRICS)]))
    assert rows["AP"] == [None, 0.25, 0.5] and rows["AP_small"] == [None, None, 0.5]
    assert rows["VOC_mAP_07"] == [None, 0.75, None] and list(rows)[:3] == ["AP", "AP50", "AP75"]
    assert [values for name, values in rows.items() if "best" in name] == [[0.3, None, None]]
    assert class_rows([run, compared(metrics=metrics), compared(metrics=METRICS)]) == [
        ("disc", [None, None, 0.5], 0), ("square", [None, 0.5, None], 0)]
    other = {**METRICS, "AP_per_class": {"disc": 0.5, "square": 0.75}}
    assert class_rows([compared(metrics=other), compared(metrics=metrics)]) == [
        ("square", [0.75, 0.5], 0.25), ("disc", [0.5, None], 0)]
    assert score_rows([compared()]) == [] and overview(compared())["steps"] is None
    assert overview(run) == {"steps": 10, "epochs": 2, "loss": 2, "rate": 8, "best": {"AP": 0.3, "epochs": 2}}


def test_runs_that_differ_only_in_their_seed_are_a_group():
    base = {"seed": "1", "train_config.batch_size": "4", "epoch_size": "2"}
    runs = [base, {**base, "seed": "2"}, {**base, "epoch_size": "3"}, None, {**base, "epoch_size": "3", "seed": "7"},
            {**base, "seed": "3"}, {**base, "train_config.batch_size": "8"}, {"epoch_size": "2"}, {}]
    assert seed_groups(runs) == [[0, 1, 5], [2, 4]]
    assert seed_groups([base, base, None]) == seed_groups([base]) == seed_groups([]) == []
    assert seed_groups([base, base, {**base, "seed": "2"}]) == [[0, 2]]  # a seed counts once


def test_mean_and_spread_by_hand():
    """Of 0.2, 0.4 and 0.9: mean 0.5, sample variance (0.09 + 0.01 + 0.16) / 2 = 0.13."""
    table = [("AP", [0.2, 0.4, 0.8, 0.9]), ("AP50", [None, 0.6, 0.1, None]), ("F1", [None, None, 1.0, None])]
    assert seed_rows(table, [[0, 1, 3]]) == [("AP", [pytest.approx((0.5, 0.13**0.5, 3))]), ("AP50", [(0.6, None, 1)]),
                                             ("F1", [None])]
    assert seed_rows(table, []) == [("AP", []), ("AP50", []), ("F1", [])]


@pytest.mark.slow
def test_several_seeds_are_summarized(tmp_path):
    """Three seeds and a run with another setting, whose score does not count."""
    for seed, score in ((1, 0.2), (2, 0.4), (3, 0.9)):
        description = {**DESCRIPTION, "training": {**DESCRIPTION["training"], "seed": seed}}
        make_run(tmp_path / f"s{seed}", loss=None, metrics={**METRICS, "AP": score, "F1": 0.5}, description=description)
    other = {**DESCRIPTION, "training": {**DESCRIPTION["training"], "seed": 4, "epoch_size": 7}}
    make_run(tmp_path / "other", loss=None, metrics={**METRICS, "AP": 0.1}, description=other)
    call_script("tools/report.py", *(tmp_path / name for name in ("s1", "other", "s2", "s3")), cwd=tmp_path)
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert page.open == [] and lines_with(page.text, "s1, s2, s3") and lines_with(page.text, "seeds 1, 2, 3")
    rows = [re.sub(r"<[^>]*>", " ", row).split() for row in re.findall(r"<tr>(.*?)</tr>", text, re.S)]
    assert ["AP", "0.500", "±", "0.361", "(3)"] in rows and ["F1", "0.500", "±", "0.000", "(3)"] in rows
    assert ["F1", "0.500", "–", "0.500", "0.500"] in rows
    call_script("tools/report.py", tmp_path / "s1", tmp_path / "other", "--output", "two.html", cwd=tmp_path)
    assert "Several seeds" not in (tmp_path / "two.html").read_text()


@pytest.mark.slow
def test_one_page_about_several_runs(tmp_path):
    """Names with any characters; missing values are dashes, and missing files are named."""
    other = {**DESCRIPTION, "classes": ["<script>alert(1)</script>"]}
    make_run(tmp_path / "$a_$b", metrics=METRICS, description=DESCRIPTION)
    make_run(tmp_path / "<i>", loss=3.0, scores=None, metrics={**METRICS, "AP": 0.625}, description=other)
    make_run(tmp_path / "_bare run")
    folders = [tmp_path / name for name in ("$a_$b", "<i>", "_bare run")]
    done = call_script("tools/report.py", *folders, cwd=tmp_path)
    for name in ("metrics.json", "ckpt_0"):
        assert lines_with(done.stdout, "without ", f"{tmp_path}/_bare run/{name}")
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert page.open == [] and "<script" not in text and "url(http" not in text
    assert all(reference.startswith(("data:", "#")) for reference in page.references)
    assert text.count("<svg") == 4 + 1 and "$a_$b, <i>, _bare run" in page.text
    rows = [re.sub(r"<[^>]*>", " ", row).split() for row in re.findall(r"<tr>(.*?)</tr>", text, re.S)]
    assert ["AP", "0.500", "0.625", "–"] in rows
    assert [row[-3:] for row in rows if {"best", "AP"} <= set(row) and "–" in row] == [["0.300", "–", "0.300"]]
    escaped = "[&#34;&lt;script&gt;alert(1)&lt;/script&gt;&#34;]"
    assert [row for row in rows if row[0] == "classes"] == [["classes", "[&#34;disc&#34;]", escaped, "–"]]
    assert lines_with(page.text, "metrics.json", "ckpt_0") and "head_conv" not in text
    others = [make_run(tmp_path / name, loss=None, metrics=METRICS) for name in "cd"]
    call_script("tools/report.py", *others, "--title", "again", cwd=tmp_path)
    assert (tmp_path / "report.1.html").exists() and "again" in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_more_runs_than_colors(tmp_path):
    """One has no record, none has a configuration to compare."""
    folders = [make_run(tmp_path / f"run{number}", loss=None if number == 3 else 2.0, metrics=METRICS)
               for number in range(20)]
    call_script("tools/report.py", *folders, "--output", tmp_path / "r.html")
    page = Page((tmp_path / "r.html").read_text())
    assert "20 runs" in page.text


def test_mistakes(tmp_path):
    one, two = make_run(tmp_path / "one"), make_run(tmp_path / "two", metrics=METRICS)
    (tmp_path / "empty").mkdir()
    for args, parts in [
        ([one, tmp_path / "empty"], [f"{tmp_path}/empty ", "train_record.jsonl", "val/"]),
        ([one, "no/where"], ["no/where"]),
        ([one, two, f"{one}/../one/"], ["/one/ "]), ([one, two, "--data_dir", tmp_path], ["--data_dir"]),
    ]:
        assert_user_error(call_script("tools/report.py", *args, cwd=tmp_path, check=False), *parts)
    for number in (1, 2):
        (tmp_path / "empty" / f"{number}").mkdir()
        (tmp_path / "empty" / f"{number}" / "train_record.jsonl").touch()
    done = call_script("tools/report.py", tmp_path / "empty" / "1", tmp_path / "empty" / "2", cwd=tmp_path, check=False)
    assert_user_error(done, " 2 runs ")
    (two / "val" / "metrics.json").write_text("{}")
    assert_user_error(call_script("tools/report.py", one, two, cwd=tmp_path, check=False), f"{two}/val/metrics.json: ")
    assert sorted(os.listdir(tmp_path)) == ["empty", "one", "two"]
