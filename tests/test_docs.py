"""The pages in Markdown: links lead somewhere, and numbers are those of the kept studies."""

import re
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import ROOT

PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("reports/*.md"), *ROOT.glob("benchmarks/*.md")]
)


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]+))?\)", page.read_text()):
        to = page.parent / target if target else page
        assert to.exists(), target
        assert not anchor or anchor in anchors(to), f"{target}#{anchor}"


def test_the_readme_says_what_five_seeds_gave() -> None:
    rows = pd.read_csv(ROOT / "reports/motion/results.csv").query("frames >= 6")
    assert rows["seeds"].eq(5).all()
    said = re.search(r"Five seeds gave (.*?)\. CI", (ROOT / "README.md").read_text(), flags=re.DOTALL)[1]
    numbers = [float(number) for number in re.findall(r"\d+\.\d", said)]
    gave = [round(100 * value, 1) for row in rows.itertuples() for value in (row.accuracy, row.accuracy_std)]
    assert numbers == gave
