"""The report: complete, self-contained, the same twice, readable on a screen, a phone and paper."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import fixture_table
import pandas as pd
import pytest

from tokenlaw.analysis.frontiers.compare import compare
from tokenlaw.analysis.report import interactive, laws
from tokenlaw.analysis.report import sections as report
from tokenlaw.analysis.report import tables as report_tables
from tokenlaw.analysis.report.page import Html, html, interval, number, table
from tokenlaw.analysis.request import FrontierRequest, ReportRequest

BROWSER = next(
    (p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None
)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")
ONLY = ("loss_vs_flops", "crt_vs_baseline")


class Page(HTMLParser):
    """What a page refers to, its texts by section, and whether its tags match."""

    VOID = {"meta", "img", "br", "hr", "input", "link"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.open: list[str] = []
        self.section = ""
        self.texts: dict[str, str] = {}
        self.ids: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.references += [v for k, v in attrs if k in ("src", "href", "action", "srcset") and v]
        if found.get("id"):
            self.ids.append(str(found["id"]))
        if tag == "section":
            self.section = str(found["id"])
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts[self.section] = self.texts.get(self.section, "") + data


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with few draws and two figures of the made-up study, with zoom."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    df = fixture_table.table()
    return report.write(
        df, path, ReportRequest(title="A <study> & more", bootstrap=40, only=ONLY, zoom=True)
    )


@pytest.fixture(scope="module")
def page(written: Path) -> Page:
    return Page(written.read_text())


# ------------------------------------------------------------------------------------ what it says


def test_every_section_is_there_and_every_tag_is_closed(page: Page) -> None:
    assert not page.open
    sections = {
        *("summary", "fits", "figures", "tables", "left-out", "checklist", "provenance"),
        "reproduce",
    }
    assert sections <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)


def test_it_needs_no_network(written: Path, page: Page) -> None:
    outside = [r for r in page.references if not r.startswith(("data:", "#"))]
    assert not outside
    # The embedded plotting library names hosts in its own code; nothing of ours does.
    ours = re.sub(r"<script>.*?</script>", "", written.read_text(), flags=re.S)
    assert "http://" not in ours and "https://" not in ours
    assert "@import" not in ours and "url(" not in ours


def test_the_summary_has_the_best_value_of_every_arm(page: Page) -> None:
    df = fixture_table.table()
    summary = page.texts["summary"]
    for arm, mine in df[df["status"] == "done"].groupby("arm"):
        assert arm in summary
        assert f"{mine['val_loss'].min():.3f}" in summary
        best = mine.loc[mine["gfcd"].idxmin()]
        assert f"{best['gfcd']:.3f} \u00b1 {best['gfcd_std']:.2g}" in summary


def test_fits_come_with_intervals_forms_and_warnings(page: Page) -> None:
    fits = page.texts["fits"]
    assert fits.count("power law with floor") == 6  # three arms, two metrics
    assert re.search(r"0\.0\d+ \[0\.0\d+, 0\.\d+\]", fits)
    assert "Compute gain over vq" in fits
    assert "W-DIVERGED" in fits


def test_a_warning_of_a_fit_is_told_once() -> None:
    df = fixture_table.table()
    df = df[df["iterations"] == df["iterations"].min()]
    comparison = compare(df, FrontierRequest(bootstrap=0))
    messages = {
        warning.message
        for frontier in comparison.frontiers.values()
        for one in frontier.fits.values()
        for warning in one.warnings
    }
    text = laws._warnings(comparison)
    assert messages and all(text.count(html(one)) == 1 for one in messages)


def test_words_among_numbers_leave_a_column_flush_right() -> None:
    cells = [[Html("1.5&times;<span>[0.1, unbounded]</span>")], [Html("not reachable*")]]
    assert table(["gain"], cells).count("class=n>") == 3
    assert "class=n>" not in table(["gain"], [*cells, ["none of them"]])


def test_what_was_left_out_is_named(page: Page) -> None:
    df = fixture_table.table()
    lost = df[df["status"] == "diverged"].iloc[0]
    assert lost["run_id"] in page.texts["left-out"]
    assert lost["reason"] in page.texts["left-out"]


def test_provenance_names_every_run_the_commit_and_the_versions(page: Page) -> None:
    df = fixture_table.table()
    text = page.texts["provenance"]
    assert all(identity in text for identity in df["run_id"])
    assert df["commit"].iloc[0] in text
    assert "scipy" in text and "matplotlib" in text


def test_the_checklist_and_the_commands_are_there(page: Page) -> None:
    assert "uncertainty" in page.texts["checklist"]
    assert "tokenlaw figures" in page.texts["reproduce"]


def test_names_from_the_table_cannot_become_markup(tmp_path: Path) -> None:
    df = fixture_table.table()
    df["arm"] = df["arm"].replace({"fsq": "<script>alert(1)</script>"})
    text = report.write(
        df,
        tmp_path / "r.html",
        ReportRequest(title="</title><b>", bootstrap=0, only=("loss_vs_flops",), zoom=True),
    ).read_text()
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert not Page(text).open


def test_the_same_table_gives_the_same_page(tmp_path: Path) -> None:
    df = fixture_table.table()
    options = {"bootstrap": 20, "only": ("loss_vs_flops",), "zoom": False}
    first = report.write(df, tmp_path / "a.html", ReportRequest(**options))  # type: ignore[arg-type]
    shuffled = df.sample(frac=1.0, random_state=4)
    second = report.write(shuffled, tmp_path / "b.html", ReportRequest(**options))  # type: ignore[arg-type]
    assert first.read_bytes() == second.read_bytes()


def test_without_plotly_the_printed_figures_remain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interactive, "find_spec", lambda name: None)
    df = fixture_table.table()
    options = {"bootstrap": 0, "only": ("loss_vs_flops",)}
    text = report.write(df, tmp_path / "r.html", ReportRequest(**options)).read_text()  # type: ignore[arg-type]
    assert "data:image/svg+xml;base64," in text
    assert "Zoom and hover" not in Page(text).texts["figures"]
    assert len(text) < 600_000
    with pytest.raises(ValueError, match="plotly"):
        report.write(df, tmp_path / "r.html", ReportRequest(zoom=True, **options))  # type: ignore[arg-type]


def test_figures_that_cannot_be_drawn_say_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report.index, "names", lambda: ("system_table", "tokens_per_image"))
    path = report.write(
        fixture_table.table(), tmp_path / "r.html", ReportRequest(bootstrap=0, zoom=False)
    )
    figures = Page(path.read_text()).texts["figures"]
    assert "2 figures this table does not allow" in figures
    assert "the table has no column gfid" in figures
    assert "needs values of tokens_per_image a factor of 1.25 apart; the table has 64" in figures


def test_a_poor_table_still_gives_a_page(tmp_path: Path) -> None:
    df = fixture_table.table()
    bare = df.loc[df["status"] == "done", ["arm", "flops_train", "val_loss"]].head(3)
    path = report.write(
        bare, tmp_path / "bare.html", ReportRequest(bootstrap=0, zoom=False, only=())
    )
    assert not Page(path.read_text()).open
    with pytest.raises(ValueError, match="no rows"):
        report.write(df.iloc[:0], tmp_path / "none.html")
    with pytest.raises(ValueError, match="no_such_figure"):
        report.write(
            df, tmp_path / "none.html", ReportRequest(bootstrap=0, only=("no_such_figure",))
        )


# ---------------------------------------------------------------------------- tables of the papers


def test_table_2_puts_published_rows_beside_ours_only_for_fid() -> None:
    ours = report_tables.by_size(fixture_table.table("system"))
    assert ours is not None
    assert ours.heads == ("arm", "size", "rFID", "gFID", "Inception score", "precision", "recall")
    published = [ours.rows[index] for index in ours.marked]
    assert len(published) == 10 and len(ours.rows) == 10 + 2 * len(fixture_table.SIZES)
    # The row of the paper's largest generator on CRT codes, every column.
    assert published[-1] == ("CRT (CRT paper)", "740M", 2.36, 2.35, 259.12, 0.81, 0.59)
    assert published[0] == ("VQ baseline (CRT paper)", "111M", 2.21, 4.90, 180.65, 0.82, 0.51)
    assert ours.rows[0][4:] == ("180", "0.800", "0.550")
    made_with_our_classifier = report_tables.by_size(fixture_table.table())
    assert made_with_our_classifier is not None
    assert not made_with_our_classifier.marked
    assert len(made_with_our_classifier.heads) == 4
    assert len(made_with_our_classifier.rows) == 3 * len(fixture_table.SIZES)


def test_table_3_has_ours_and_the_papers_rows_of_each_data_set() -> None:
    found = report_tables.by_dataset(fixture_table.table("lsun"))
    assert found is not None
    assert found.heads[:4] == ("data set", "arm", "size", "rFID")
    assert found.heads[-2:] == ("precision", "recall")
    assert len(found.rows) == 3 * (4 + 6) and len(found.marked) == 3 * 6
    by_set = [row[0] for row in found.rows]
    assert by_set == sorted(by_set)
    bedroom = dict(zip(found.heads, found.rows[9], strict=True))
    assert bedroom["arm"] == "CRT (CRT paper)" and bedroom["size"] == "740M"
    assert (bedroom["rFID"], bedroom["gFID"], bedroom["gFID on CLIP features"]) == (1.39, 2.22, 8.5)
    assert (bedroom["precision"], bedroom["recall"]) == (0.58, 0.57)
    only_cats = fixture_table.table("lsun").replace({"dataset": {"horse": "a", "bedroom": "b"}})
    table = report_tables.by_dataset(only_cats)
    assert table is not None and {table.rows[index][0] for index in table.marked} == {"cat"}
    ours_alone = report_tables.by_dataset(fixture_table.table("lsun").drop(columns="gfid"))
    assert ours_alone is not None and not ours_alone.marked
    assert report_tables.by_dataset(fixture_table.table()) is None


# ------------------------------------------------------------------------------ pieces of the page


def test_numbers_intervals_and_gaps_in_html() -> None:
    assert number(2.44e15, 3) == "2.4&times;10<sup>15</sup>"
    assert number(0.081234) == "0.08123"
    assert number(-3.5) == "&minus;3.500"
    assert html(float("nan")) == html(None) == "&ndash;"
    assert html("<b>") == "&lt;b&gt;"
    assert html(Html("<b>")) == "<b>"
    assert interval(1.0, None) == "[1.00, unbounded]"
    assert interval(None, None) == "&ndash;"


def test_columns_of_numbers_are_set_flush_right_and_sort_as_numbers() -> None:
    text = table(["a", "b"], [["x", 10.0], ["y", 9.0], ["z", None]], sortable=True)
    assert text.count("<td class=n") == 3
    assert 'data-v="10.0"' in text and 'data-v=""' in text


def test_the_interactive_form_has_every_run_and_plain_json() -> None:
    df = fixture_table.table()
    picture = report.index.make(df, "loss_vs_flops", options={"bootstrap": 0})
    assert picture.table is not None
    text = interactive.specification(picture.table)
    assert text is not None and "NaN" not in text
    done = df[df["status"] == "done"]
    assert all(identity in text for identity in done["run_id"])
    assert interactive.specification(pd.DataFrame({"x": [1.0]})) is None


# ------------------------------------------------------------------------------------ in a browser


def browse(tmp_path: Path, *arguments: str, timeout: int = 120) -> str:
    """Runs headless Chromium without network on a fresh profile; its standard output."""
    assert BROWSER is not None
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=6000", *arguments,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=True)
    return done.stdout


# Runs after the page's own script and leaves what it saw in the title.
PROBE = """<script>
window.addEventListener("load", function () {
  var wide = document.documentElement.scrollWidth - window.innerWidth;
  var broken = Array.from(document.images).filter(function (i) { return !i.naturalWidth; }).length;
  var head = document.querySelectorAll("table.sortable thead th")[4];
  head.click();
  var first = head.closest("table").tBodies[0].rows[0].cells[0].textContent;
  var plots = document.querySelectorAll(".plot .main-svg").length;
  var seen = getComputedStyle(document.querySelector(".still")).display;
  document.title = JSON.stringify({wide: wide, broken: broken, first: first, plots: plots, seen:
  seen}); });
</script>"""


@needs_browser
@pytest.mark.parametrize("width", [1440, 500])
def test_it_fits_the_screen_sorts_and_zooms(written: Path, tmp_path: Path, width: int) -> None:
    probed = tmp_path / "probed.html"
    probed.write_text(written.read_text().replace("</body>", PROBE + "</body>"))
    out = browse(
        tmp_path,
        f"--window-size={width},900",
        "--dump-dom",
        f"file://{probed}#explore=loss_vs_flops",
    )
    found = re.search(r"<title>(\{.*?\})</title>", out)
    assert found is not None
    seen = dict(re.findall(r'"(\w+)":"?(-?\w+)', found[1].replace("&quot;", '"')))
    assert int(seen["wide"]) <= 0, "the page scrolls sideways"
    assert seen["broken"] == "0"
    assert seen["first"] == "crt", "sorted by loss, the best arm comes first"
    assert int(seen["plots"]) >= 1, "the interactive figure did not draw"
    assert seen["seen"] == "none"


@needs_browser
def test_it_prints_on_paper(written: Path, tmp_path: Path) -> None:
    paper = tmp_path / "report.pdf"
    browse(tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={paper}", f"file://{written}")
    content = paper.read_bytes()
    pages = len(re.findall(rb"/Type\s*/Page\b", content))
    assert 3 <= pages <= 12
    assert b"/MediaBox [0 0 594" in content or b"/MediaBox [0 0 595" in content, "not A4"
