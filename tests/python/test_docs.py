"""The snippets of docs/python.md run, in their order."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


def test_every_snippet_of_the_page_runs(needs, own_folder):
    needs("sklearn")
    snippets = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(snippets) > 8
    names = {"__name__": "page"}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for snippet in snippets:
            exec(compile(snippet, str(PAGE), "exec"), names)
    assert len(names["losses"]) == 2
    assert (own_folder / "until-95").is_dir() and (own_folder / "runs").is_dir()
    assert names["model"].score(names["X_new"], names["y_new"]) > 0.5
