"""Draws the pictures of this folder from the tables in docs/comparisons and docs/runs.

    python3 docs/pictures/draw.py
"""

import csv
import re
from math import ceil, log2
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent
CURVES = ["fast94", "fast95", "report-fast"]
COMPARISONS = ["grow-or-decay", "beyond-1000", "activations", "head", "width", "depth"]

STYLE = """<style>
  svg { background: #fff; font: 13px system-ui, sans-serif; }
  text { fill: #1f2328; stroke: none; } .quiet { fill: #59636e; }
  .grid { stroke: #d1d9e0; } .axis { stroke: #59636e; }
  .a { stroke: #0969da; fill: #0969da; } .b { stroke: #bc4c00; fill: #bc4c00; }
  .c { stroke: #1a7f37; fill: #1a7f37; } polyline { stroke-width: 2; fill: none !important; }
  @media (prefers-color-scheme: dark) {
    svg { background: #0d1117; }
    text { fill: #f0f6fc; } .quiet { fill: #9198a1; }
    .grid { stroke: #3d444d; } .axis { stroke: #9198a1; }
    .a { stroke: #4493f8; fill: #4493f8; } .b { stroke: #f0883e; fill: #f0883e; }
    .c { stroke: #3fb950; fill: #3fb950; }
  }
</style>"""


def svg(name, width, height, title, parts):
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img"><title>{title}</title>'
    )
    path = DOCS / "pictures" / f"{name}.svg"
    path.write_text("\n".join([head, STYLE, *parts, "</svg>"]) + "\n")


def text(x, y, words, anchor="start", kind=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{words}</text>'


def line(x1, y1, x2, y2, kind):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def differences(name):
    """The arms of a table, each with its differences to the base: (mean, margin) in points."""
    lines = (DOCS / "comparisons" / name / "table.md").read_text().splitlines()
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in lines if row.startswith("|")]
    pattern = re.compile(r"([+-][\d.]+) ± ([\d.]+)")
    arms = [
        (row[0], [tuple(map(float, pattern.match(row[column]).groups())) for column in (3, 5)])
        for row in rows[3:]
    ]
    return rows[2][0], arms


def comparisons():
    """Every arm's difference to its base, with its 95 % confidence interval."""
    tables = [(name, *differences(name)) for name in COMPARISONS]
    ends = [mean + sign * margin for _, _, arms in tables for _, pair in arms for mean, margin in pair
            for sign in (-1, 1)]
    low, high = int(min(ends)) - 1, int(max(ends)) + 1
    left, width = 190, 760
    at = lambda value: left + (value - low) / (high - low) * (width - left - 20)
    parts = [
        text(left, 22, "● running", kind="a"), text(left + 90, 22, "■ precise BatchNorm statistics", kind="b"),
        text(width - 20, 22, "points of test accuracy above the base", "end", "quiet"),
    ]
    y = 46
    for name, base, arms in tables:
        parts.append(text(10, y, f"{name} (base: {base})"))
        y += 12
        bottom = y + 26 * len(arms)
        for tick in range(low, high + 1):
            parts.append(line(at(tick), y, at(tick), bottom, "axis" if tick == 0 else "grid"))
        for arm, pair in arms:
            y += 26
            parts.append(text(left - 10, y - 8, arm, "end", "quiet"))
            for kind, (mean, margin), middle in zip("ab", pair, (y - 17, y - 8)):
                parts.append(line(at(mean - margin), middle, at(mean + margin), middle, kind))
                x = at(mean)
                parts.append(
                    f'<circle cx="{x:.1f}" cy="{middle}" r="3.5" class="{kind}"/>' if kind == "a"
                    else f'<rect x="{x - 3:.1f}" y="{middle - 3}" width="6" height="6" class="{kind}"/>'
                )
        y += 28
    step = 1 if high - low <= 12 else 2
    parts += [text(at(tick), y - 8, f"{tick:+d}" if tick else "0", "middle", "quiet")
              for tick in range(low, high + 1) if tick % step == 0]
    svg("comparisons", width, y + 6, "Differences of test accuracy with their 95 % intervals", parts)


def time_to_accuracy():
    """Test accuracy after each epoch over minutes of training, from a run's curve.csv."""
    runs = []
    for name in CURVES:
        with (DOCS / "runs" / name / "curve.csv").open() as file:
            rows = list(csv.DictReader(file))
        points = [(float(row["seconds"]) / 60, 100 * float(row["test_accuracy"])) for row in rows]
        runs.append((name, points))
    width, height, left, right, top, bottom = 760, 380, 56, 120, 40, 336
    low, high = 70, 96
    doublings = ceil(log2(max(points[-1][0] for _, points in runs)))
    across = lambda minutes: left + log2(minutes) / doublings * (width - left - right)
    up = lambda accuracy: bottom - (accuracy - low) / (high - low) * (bottom - top)
    parts = [text(left, 22, "test accuracy, %, by one view of each image", kind="quiet")]
    for tick in (*range(low, 91, 5), 92, 94, 95, 96):
        parts.append(line(left, up(tick), width - right, up(tick), "axis" if tick == low else "grid"))
        parts.append(text(left - 8, up(tick) + 4, f"{tick}", "end", "quiet"))
    for tick in (2**doubling for doubling in range(doublings + 1)):
        parts.append(text(across(tick), bottom + 20, f"{tick}", "middle", "quiet"))
    parts.append(text((left + width - right) / 2, bottom + 38, "minutes of training on two cores", "middle", "quiet"))
    for kind, (name, points) in zip("abc", runs):
        shown = [(across(minutes), up(accuracy)) for minutes, accuracy in points if accuracy >= low]
        parts.append(f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in shown)}" class="{kind}"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" class="{kind}"/>' for x, y in shown]
        x, y = shown[-1]
        parts.append(text(x + 8, y + 4, f"{name} {points[-1][1]:.1f}", kind=kind))
    svg("time-to-accuracy", width, height, "Test accuracy over minutes of training", parts)


if __name__ == "__main__":
    time_to_accuracy()
    comparisons()
