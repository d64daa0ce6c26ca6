from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from slimtask.bench.report.gallery import scene
from slimtask.bench.report.html import page, write_report
from slimtask.bench.report.schema import Report
from slimtask.errors import InputError
from slimtask.tasks import TaskSpec

SEGMENTATION = TaskSpec(name="segmentation", kind="segmentation", channels=3, classes=("wall", "<floor>", "sky"))
ROOM = TaskSpec(name="room", kind="classification", channels=2, classes=("kitchen", "of<fice"))
DEPTH = TaskSpec(name="depth", kind="depth", channels=1)


class Reader(HTMLParser):
    """Collects text, links and tags, and checks that every element is closed in order."""

    VOID = frozenset({"meta", "img", "br", "link", "input", "hr"})

    def __init__(self, text: str):
        super().__init__()
        self.open, self.tags, self.links, self.text = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href", "data", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def scenes():
    rng = np.random.default_rng(0)
    truth = {"segmentation": rng.integers(0, 2, (12, 16)), "room": np.array(1), "depth": rng.uniform(1, 4, (12, 16))}
    dense = truth | {"room": np.array([0.25, 0.75])}
    image = rng.integers(0, 255, (12, 16, 3)).astype(np.uint8)
    return [scene(image, (SEGMENTATION, DEPTH, ROOM), {"truth": truth, "dense <1>": dense})]


def test_page_needs_nothing_from_outside(report_dict, scenes):
    text = page(Report.parse(report_dict), scenes)
    assert all(link.startswith(("data:image/", "#")) for link in Reader(text).links)
    without_namespaces = re.sub(r'xmlns(:\w+)?="[^"]*"', "", text)
    assert not re.search(r"https?:|//www|@import|@font-face", without_namespaces)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", without_namespaces))


def test_no_name_can_become_markup(report_dict, scenes):
    reader = Reader(page(Report.parse(report_dict), scenes))
    assert "script" not in reader.tags
    assert "scenes" not in reader.tags
    shown = " ".join(reader.text)
    for name in ("<script>alert", "A <report>", "fused<1>.engine", "Trained on <scenes>.", "--set a=<b> && true"):
        assert name in shown
    for name in ("<floor>", "of<fice", "dense <1>", "Some <CPU> & more"):
        assert name in shown


def test_every_level_and_figure_is_there(report_dict, scenes):
    report = Report.parse(report_dict)
    text = page(report, scenes)
    shown = " ".join(Reader(text).text)
    for level in report.levels:
        assert shown.count(level.name) >= 3
    assert text.count('<svg class="chart"') == 4
    for words in ("FLOP ratio", "speed-up", "miou ↑", "abs_rel ↓", "holds", "3.0e-07", "2.3 MB", "sm_80, sm_120"):
        assert words in shown
    assert "verdict about 90 %" in shown
    assert "if time followed FLOPs" in shown
    assert "prefers-color-scheme: dark" in text
    assert text.count("data:image/") == 5
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_unsteady_and_failed_figures_are_marked(report_dict):
    report_dict["levels"][1]["latency_ms"]["onnxruntime-cpu"]["steady"] = False
    report_dict["levels"][1]["certificate"]["holds"] = False
    text = page(Report.parse(report_dict))
    assert '<span class="bad">not steady</span>' in text
    assert '<span class="bad">does not hold</span>' in text


def test_the_fixed_keys_alone_give_a_page(tmp_path):
    level = {"name": "dense", "sparsity": 0.0, "params": 10, "flops": 20, "metrics": {}, "delta_m": 0.0}
    level |= {"latency_ms": {"onnxruntime-cpu": {"median": 1.0, "p10": 0.9, "p90": 1.1, "n": 3}}, "certificate": None}
    slim = level | {"name": "slim", "sparsity": 0.5, "params": 5, "flops": 0, "delta_m": None, "latency_ms": {}}
    report = {"levels": [level, slim], "engines": [], "environment": {}}
    write_report(report, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    Reader(text)
    assert all(name in text for name in ("dense", "slim"))


def test_a_wrong_report_writes_nothing(tmp_path):
    with pytest.raises(InputError, match="levels"):
        write_report({"levels": []}, tmp_path / "report.html")
    assert not list(tmp_path.iterdir())
