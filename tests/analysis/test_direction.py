"""The direction of a metric: who decides, what words say, and what is done with it."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest
from fixture_table import table as study_table

from tokenlaw.analysis import command, direction, vocabulary
from tokenlaw.analysis.drawing import index, panels
from tokenlaw.analysis.fitting.fit import fit
from tokenlaw.analysis.frontiers.compare import compare
from tokenlaw.analysis.metric_words import read_words
from tokenlaw.analysis.report import sections as report
from tokenlaw.analysis.request import FitRequest, FrontierRequest, ReportRequest
from tokenlaw.results_db.columns import WIDE_PREFIXES
from tokenlaw.sweeps.cli.app import main

HIGHER = """
acc|accuracy|acc1|acc@1|ACC|top-1|top1|top5|top-5|Top-1 Acc|top-1 accuracy (%)|imagenet_top1|
recall|recall@k|recall@5|Recall@10|R@1|P@1|precision|precision@10|score|clip score|val_score|
psnr|PSNR (dB)|PSNRdB|val_psnr|ssim|ms_ssim|MS-SSIM|IS|val_IS|test/IS|IS (50k)|val_is|
inception score|Inception Score|InceptionScore|MMLU|MMLU-5shot|mmlu_0shot|hellaswag|ARC-c|F1|
f1_score|F1-score|macro F1|AUC|AP|AP50|mAP|mAP50|map@50|mIoU|BLEU|BLEU-4|bleu4|ROUGE|rougeL|
ROUGE-L|rouge1|exact match|exact_match|EM|win rate|win_rate|reward|train/reward_mean|usage|
codebook usage|codebook_perplexity|codebook perplexity|test/acc|test.acc|testAcc|valacc|NDCG@10|
pass@1|pass@k|R^2|r2|log_likelihood|neg_mse|-val_loss|loss_reduction|eval/accuracies|scores|
hits@10|true positive rate
"""
LOWER = """
loss|losses|Loss|val/loss|valLoss|train loss|test.loss|err|error|error_rate|top-1 error|
top1_err|word error rate|WER|fid|FID|FID-50k|rFID|gFID@50k|sFID|FVD|kid|nll|NLL|
negative log likelihood|bpb|bits|bits_per_dim|mse|rmse|MAE|lpips|LPIPS|perplexity|ppl|val_ppl|
test perplexity|cross_entropy|cross-entropy|CE|log loss|loss_per_score|loss_per_token|
error at recall 95|number of errors|loss of accuracy|false_positive_rate|mmlu_loss|
hellaswag_bpb
"""
# word that decides, word that is overruled
BOTH = {
    "accuracy_loss": ("lower", "loss", "accuracy"),
    "score_loss": ("lower", "loss", "score"),
    "loss_accuracy": ("higher", "accuracy", "loss"),
    "fid_score": ("lower", "fid", "score"),
    "perplexity score": ("lower", "perplexity", "score"),
    "1-acc": ("lower", "acc", "1- acc"),
    "1 - accuracy": ("lower", "accuracy", "1 - accuracy"),
    "100 - val_acc": ("lower", "acc", "100 - acc"),
    "one minus SSIM": ("lower", "SSIM", "one minus SSIM"),
    "neg_accuracy": ("lower", "accuracy", "neg accuracy"),
    "acc_std": ("lower", "std", "acc"),
    "accuracy drop": ("lower", "drop", "accuracy"),
    "error_reduction": ("higher", "reduction", "error"),
    "gpu_usage": ("lower", "gpu", "usage"),
}
NOTHING = (
    "is_primary|IS_PRIMARY|is_best_run|discrepancy|tokens|flops|description|1-shot|history|mapping|"
    "basis|capacity|emphasis|grad_norm|quantity|vals|arch|recap|acceleration|errand"
)


def split(text: str) -> list[str]:
    return text.replace("\n", "").split("|")


@pytest.mark.parametrize("name", split(HIGHER))
def test_words_of_metrics_that_are_better_higher(name: str) -> None:
    assert direction.resolve(name).better == "higher"


@pytest.mark.parametrize("name", split(LOWER))
def test_words_of_metrics_that_are_better_lower(name: str) -> None:
    found = direction.resolve(name)
    assert found.better == "lower" and not found.assumed, found


@pytest.mark.parametrize("name", split(NOTHING))
def test_words_that_only_look_like_metrics(name: str) -> None:
    assert read_words(name) is None and direction.resolve(name).assumed


@pytest.mark.parametrize("name", BOTH)
def test_words_of_both_directions_are_said_and_decided(name: str) -> None:
    better, word, against = BOTH[name]
    found = read_words(name)
    assert found is not None and (found.better, found.word, found.against) == (
        better,
        word,
        against,
    )
    frame = falling(name)
    (said,) = warned(compare(frame, FrontierRequest(x="C", y=name, bootstrap=0)).warnings)
    assert f"{word!r}" in said and f"{against!r}" in said and f"{better} is taken" in said


def falling(y: str, sign: float = -1.0, arms: tuple[str, ...] = ("a", "b")) -> pd.DataFrame:
    """A metric that moves with compute, with run ids by row."""
    rows = [
        {"arm": arm, "run_id": f"{arm}{n}", "C": x, y: 3.0 * (x / 1e15) ** (0.1 * sign)}
        for arm in arms
        for n, x in enumerate(np.geomspace(1e15, 1e18, 6))
    ]
    return pd.DataFrame(rows)


def warned(notices: object) -> list[str]:
    return [one.message for one in notices if one.code == "W-DIRECTION"]  # type: ignore[attr-defined]


def test_the_order_of_who_decides() -> None:
    """The user, the table, the part, the words, an assumption."""
    frame = falling("psnr")
    assert direction.resolve("psnr", frame).reason == "declared by the part"
    frame.attrs["better"] = {"psnr": "lower"}
    assert direction.resolve("psnr", frame).better == "lower"
    assert direction.resolve("psnr", frame, "higher") == direction.Direction(
        better="higher", reason="as asked"
    )
    assert direction.resolve("val_psnr", frame).reason == "by the word 'psnr'"
    assert direction.resolve("thing", frame).assumed


def test_a_declaration_that_its_name_contradicts_is_said() -> None:
    (said,) = warned(compare(falling("train_perplexity", 1), x="C", y="train_perplexity").warnings)
    assert said.startswith("train_perplexity: higher is better as the part declares it")


def test_a_long_table_brings_its_own() -> None:
    frame = falling("value", 1).assign(metric="rbrightness", better="higher")
    assert compare(frame, FrontierRequest(x="C", y="value", bootstrap=0)).direction == "higher"
    frame = falling("value", 1).assign(metric="classifier_score")  # made before there was `better`
    assert compare(frame, FrontierRequest(x="C", y="value", bootstrap=0)).direction == "higher"
    mixed = pd.concat([frame, falling("value", arms=("c",)).assign(metric="rfcd")])
    with pytest.raises(ValueError, match="both directions .classifier_score, rfcd.; pick one"):
        compare(mixed, FrontierRequest(x="C", y="value", bootstrap=0))
    found = compare(mixed, FrontierRequest(x="C", y="value", where="metric == 'rfcd'", bootstrap=0))
    assert found.direction == "lower"


def test_an_assumption_is_said_where_the_metric_rises_with_compute() -> None:
    """Per arm: an arm of higher values and less compute must not hide, nor make, a rise."""
    said = warned(
        compare(
            falling("thing", 1), FrontierRequest(x="C", y="thing", group="arm", bootstrap=0)
        ).warnings
    )
    assert said == [
        "lower is assumed to be better, but thing rises with compute (rank correlation +1.00 in a, "
        "+1.00 in b); --direction higher if more is better"
    ]
    assert not warned(
        compare(falling("thing"), FrontierRequest(x="C", y="thing", bootstrap=0)).warnings
    )
    apart = falling("thing")
    apart.loc[apart["arm"] == "b", ["C", "thing"]] *= [1e6, 1e3]
    assert not warned(
        compare(apart, FrontierRequest(x="C", y="thing", group="arm", bootstrap=0)).warnings
    )
    rising = compare(
        falling("thing", 1), FrontierRequest(x="C", y="thing", direction="higher", bootstrap=0)
    )
    assert rising.direction == "higher" and not warned(rising.warnings)
    pooled = fit(
        falling("thing", 1),
        FitRequest(law="power_law", x="C", y="thing", group="none", bootstrap=0),
    )
    assert warned(pooled.warnings)
    flat = falling("thing", 0).assign(thing=1.0)
    assert not warned(compare(flat, FrontierRequest(x="C", y="thing", bootstrap=0)).warnings)


def test_it_is_in_text_json_note_and_report(tmp_path, monkeypatch) -> None:
    frame = falling("thing", 1)
    with pytest.raises(ValueError, match="a: 1 rows.*thing rises with compute.*--direction higher"):
        command.frontier(frame, FrontierRequest(group="arm", x="C", y="thing", bootstrap=0))
    frame["thing"] *= np.tile([1.0, 0.9, 0.7, 0.8, 0.5, 0.6], 2)
    frame.loc[[5, 11], "thing"] = 9.0
    answer = command.frontier(frame, FrontierRequest(group="arm", x="C", y="thing", bootstrap=0))
    assert (answer["direction"], answer["direction_reason"]) == ("lower", "assumed")
    text = command.render_text(answer)
    assert text.startswith("thing (lower is better, assumed) against C:") and "W-DIRECTION" in text
    answer = command.fit(falling("thing", 1), FitRequest(x="C", y="thing", bootstrap=0))
    assert "thing: lower is better, assumed" in command.render_text(answer)
    assert {one["code"] for one in answer["warnings"]} >= {"W-DIRECTION"}
    frame = falling("thing", 1).rename(columns={"C": "flops_train"})
    rows, comparison = panels.scaling_rows(
        frame, FrontierRequest(x="flops_train", y="thing", group="arm", bootstrap=0)
    )
    assert "thing rises with compute" in panels.provenance_note(comparison, frame, "thing")
    monkeypatch.setattr(panels, "DISTANCES", ("thing",))
    frame["val_loss"] = 3.0 * frame["flops_train"] ** -0.05
    page = report.write(
        frame, tmp_path / "r.html", ReportRequest(bootstrap=0, zoom=False, only=())
    ).read_text()
    assert "thing rises with compute" in page and "(lower is better)" in page


@pytest.mark.parametrize("verb", ["fit", "frontier"])
def test_an_unknown_direction_is_one_line_and_2(verb: str, tmp_path, capsys) -> None:
    path = tmp_path / "t.csv"
    falling("loss").to_csv(path, index=False)
    assert main([verb, str(path), "--x", "C", "--y", "loss", "--direction", "up"]) == 2
    said = capsys.readouterr().err
    assert said == "error: --direction: 'up' is not allowed; lower or higher\n"


# --------------------------------------------------------------------------------- used by the laws


def parabolas(better: str) -> pd.DataFrame:
    """Budgets with the best size at C^0.5; the metric is 5% worse at the edges."""
    sign = 1.0 if better == "lower" else -1.0
    rows = []
    for x in np.geomspace(1e18, 1e21, 5):
        for u in np.linspace(-1.2, 1.2, 9):
            n = 0.1 * x**0.5 * np.exp(u)
            y = 20.0 * (x**-0.05 * (1 + 0.05 * u**2)) ** sign
            rows.append({"C": x, "N": n, "D": x / (6 * n), "y": y})
    return pd.DataFrame(rows)


@pytest.mark.parametrize("law", ["isoflop", "chinchilla_approach1"])
@pytest.mark.parametrize("better", ["lower", "higher"])
def test_laws_that_choose_choose_the_best(law: str, better: str) -> None:
    """For a score they took the minimum: none inside a budget, or the worst run of each."""
    options = {"interior": False} if law == "chinchilla_approach1" else {}
    request = FitRequest(law=law, x="C", n="N", d="D", y="y", bootstrap=0, options=options)
    found = fit(parabolas(better), dataclasses.replace(request, direction=better))
    assert found.status == "ok", found.reason
    assert found.params["a"] == pytest.approx(0.5, abs=1e-3)
    slope = -0.05 if better == "lower" else 0.05
    assert -found.params["loss_b"] == pytest.approx(slope, abs=2e-3)
    assert (found.direction, found.direction_reason) == (better, "as asked")


def test_a_law_that_only_falls_says_so_of_a_score() -> None:
    frame = parabolas("higher").rename(columns={"y": "accuracy"})
    found = fit(frame, FitRequest(law="chinchilla", x="C", n="N", d="D", y="accuracy", bootstrap=0))
    assert any("this law falls with compute" in said for said in warned(found.warnings))


def test_a_parameter_at_its_bound_has_no_interval() -> None:
    """A steep law ends at the edge of the search box in every draw: an interval of no width."""
    rng = np.random.default_rng(0)
    x = np.geomspace(1, 30, 24)
    frame = pd.DataFrame({"C": x, "loss": x**-6.0 * np.exp(rng.normal(0, 0.02, len(x)))})
    found = fit(frame, FitRequest(law="power_law", x="C", y="loss", bootstrap=100, by="run"))
    assert found.at_bound == ("b",) and found.params["b"] == 4.0
    assert "b" not in found.ci95 and "b" not in found.se and "a" in found.ci95
    answer = command.fit(frame, FitRequest(x="C", y="loss", bootstrap=100, by="run"))
    assert re.search(
        r"b +4 +at the edge of its search box: no interval", command.render_text(answer)
    )
    frontier = compare(frame, FrontierRequest(x="C", y="loss", bootstrap=100, by="run")).frontiers[
        "all"
    ]
    for one in frontier.fits.values():
        assert one.at_bound and not set(one.at_bound) & set(one.ci95)
    assert not {"E", "b"} & set(frontier.fits["floor"].se)  # and E is 0 in every draw
    scores = parabolas("higher")
    found = fit(
        scores, FitRequest(law="chinchilla", x="C", n="N", d="D", y="y", bootstrap=60, by="run")
    )
    assert found.at_bound and not set(found.at_bound) & set(found.ci95)
    assert not set(found.derived) & set(found.ci95)  # a = beta / (alpha + beta) knows no more


# ------------------------------------------------------------------------------ figures, vocabulary


@pytest.mark.parametrize(("metric", "end"), [("gfid", "lowest"), ("inception_score", "highest")])
def test_the_ringed_guidance_scale_is_the_best(metric: str, end: str) -> None:
    rows = [
        {"arm": "vq", "run_id": f"r{at}", "cfg_scale": 1.0 + at, metric: value, "status": "done"}
        for at, value in enumerate((4.0, 2.0, 3.0, 5.0))
    ]
    picture = index.make(pd.DataFrame(rows), "cfg_sweep", options={"distance": metric})
    assert picture.table is not None
    assert f"the scale with the {end} value" in picture.table.attrs["note"]
    rings = [line for line in picture.figure.axes[0].lines if line.get_markerfacecolor() == "none"]
    assert [tuple(line.get_ydata()) for line in rings] == [(2.0 if end == "lowest" else 5.0,)]


def test_the_cost_of_an_image_has_the_best_runs_on_its_frontier() -> None:
    runs = [{"group": "8", "x": float(x), "y": y} for x, y in enumerate((1.0, 3.0, 2.0), 1)]
    for better, expected in (("lower", [1.0]), ("higher", [1.0, 3.0])):
        assert [row["y"] for row in panels._best_rows(runs, better)] == expected


def test_a_remembered_comparison_knows_the_tables_direction() -> None:
    frame = falling("thing", 1)
    frame.attrs["better"] = {"thing": "lower"}
    request = {"x": "C", "y": "thing", "group": "arm", "bootstrap": 0}
    assert panels.compared(frame, FrontierRequest(**request)).direction == "lower"
    frame.attrs["better"] = {"thing": "higher"}
    assert panels.compared(frame, FrontierRequest(**request)).direction == "higher"


def test_the_prefixes_are_those_of_the_wide_table() -> None:
    for prefix in WIDE_PREFIXES:
        assert direction.SOURCE.fullmatch(prefix), prefix


@pytest.mark.parametrize(
    ("arms", "first"),
    [
        (("crt", "vqgan"), "vqgan"),
        (("constant", "cosine"), "constant"),
        (("vq", "baseline"), "baseline"),
        (("reference", "vq"), "reference"),
        (("vqgan", "vq"), "vq"),
        (("VQ", "crt"), "VQ"),
        (("arm-10", "arm-2"), "arm-2"),
    ],
)
def test_gains_and_figures_take_the_same_arm_as_reference(
    arms: tuple[str, str], first: str
) -> None:
    from tokenlaw.analysis.drawing import style
    from tokenlaw.analysis.figures import crt_vs_baseline

    frame = falling("loss", arms=arms)
    assert (
        compare(frame, FrontierRequest(x="C", y="loss", group="arm", bootstrap=0)).reference
        == first
    )
    assert style.arm_order(frame["arm"])[0] == first
    assert crt_vs_baseline.pair(frame, crt_vs_baseline.Config())[1] == first


def test_the_rules_of_flops_have_one_home() -> None:
    from tokenlaw.analysis.drawing import style

    frame = study_table()
    found = compare(
        frame, FrontierRequest(x="flops_train", y="val_bits_per_image", group="arm", bootstrap=0)
    )
    known = vocabulary.FLOPS_RULES["flops_train"]
    assert found.flops_rule == known.rule and style.name_of("flops_train") == known.label
