"""Checks in a real browser that HTML reports are drawn correctly.

    pip install playwright             # and a Chromium: apt-get install chromium
    python3 tests/browser/check.py runs/quick-1/report.html both.html --shots shots

Each report is opened in a wide and a narrow window, in the dark and the light colour scheme, without a
network. All figures must be visible, nothing may overflow horizontally, no text may be tiny or overlap
another, and nothing but the file itself may be requested. `--shots` saves screenshots.
"""

import argparse
import pathlib
import shutil
import sys

from playwright.sync_api import sync_playwright

SIZES = {"wide": (1280, 900), "narrow": (375, 800)}
SCHEMES = ("light", "dark")

# JavaScript that returns the problems of a page, each as a sentence.
PROBLEMS = """() => {
  const problems = [];
  const name = (node) => `${node.tagName} ${node.className.baseVal ?? node.className}`
      + ` "${(node.textContent || '').trim().slice(0, 30)}"`;
  const width = document.documentElement.clientWidth;
  const scrolled = (node) => node.closest('.scroll, pre') !== null;
  if (document.documentElement.scrollWidth > width)
    problems.push(`the report is ${document.documentElement.scrollWidth} wide, the window ${width}`);
  for (const svg of document.querySelectorAll('svg')) {
    const box = svg.getBoundingClientRect();
    if (box.width < width / 2 || box.height < 80 || !svg.checkVisibility())
      problems.push(`${name(svg)} is ${box.width} x ${box.height}`);
    for (const line of svg.querySelectorAll('.line')) {
      const { stroke, strokeWidth } = getComputedStyle(line);
      if (stroke === 'none' || parseFloat(strokeWidth) < 1) problems.push(`${name(line)} is not drawn`);
    }
  }
  for (const image of document.images)
    if (!image.complete || image.naturalWidth !== 32) problems.push(`${image.alt} is not a valid image`);
  const texts = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());) {
    const parent = node.parentElement;
    if (!node.data.trim() || parent.closest('svg, details:not([open]) > :not(summary)')) continue;
    const size = parseFloat(getComputedStyle(parent).fontSize);
    if (size < 11) problems.push(`${name(parent)} has text of ${size} px`);
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const box of range.getClientRects()) {
      if (!scrolled(parent)) {
        if (box.left < 0 || box.right > width + 1) problems.push(`${name(parent)} overflows horizontally`);
        texts.push([parent, box]);
      }
    }
  }
  for (const [i, [node, a]] of texts.entries())
    for (const [other, b] of texts.slice(i + 1))
      // The box of a line of text is a little higher than its glyphs.
      if (node !== other && Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
          && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4)
        problems.push(`${name(node)} overlaps ${name(other)}`);
  return problems;
}"""


def check(browser, path, size, scheme, shots):
    """Opens a page and returns its number of figures and its problems."""
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=scheme,
        offline=True,
        is_mobile=size == "narrow",
    )
    page = context.new_page()
    requests, messages = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    url = path.resolve().as_uri()
    page.goto(url)
    problems = page.evaluate(PROBLEMS)
    others = [one for one in requests if one != url and not one.startswith("data:")]
    problems += [f"requests {one}" for one in others] + [f"logs: {text}" for text in messages]
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    dark = sum(int(part) for part in ground.strip("rgb()").split(",")) < 3 * 128
    if dark != (scheme == "dark"):
        problems.append(f"has the background {ground} in the {scheme} colour scheme")
    figures = page.locator("svg").count()
    if shots:
        shots.mkdir(parents=True, exist_ok=True)
        name = f"{path.parent.name}-{path.stem}-{size}-{scheme}.png"
        page.screenshot(path=shots / name, full_page=True)
    context.close()
    return figures, problems


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reports", nargs="+", type=pathlib.Path)
    parser.add_argument("--figures", type=int, default=1, help="the least number of figures in each report")
    parser.add_argument("--shots", type=pathlib.Path)
    args = parser.parse_args()
    failed = 0
    with sync_playwright() as playwright:
        found = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        for path in args.reports:
            for size in SIZES:
                for scheme in SCHEMES:
                    figures, problems = check(browser, path, size, scheme, args.shots)
                    if figures < args.figures:
                        problems.append(f"has {figures} figures, not {args.figures}")
                    print(f"{path} {size} {scheme}: {figures} figures, {len(problems)} problems")
                    for problem in problems:
                        print(f"  {problem}")
                    failed += bool(problems)
        browser.close()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
