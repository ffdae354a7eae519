"""Checks in a real browser that HTML pages are drawn correctly and can be read by everybody.

    pip install playwright axe-playwright-python     # and a Chromium: apt-get install chromium
    python3 tests/browser/check.py runs/quick-1/report.html both.html --shots shots

Each page is opened in windows of three widths, in the dark and the light colour scheme, without a network.
All figures and images must be visible, nothing may overflow horizontally, no text may be tiny, leave its
figure or overlap another, nothing but the file itself may be requested, and axe-core may find nothing that it
calls serious or critical. Only the page of a run that is training may reload itself (`--training`). `--has TEXT`
names what must be there to read. `--shots` saves screenshots.
"""

import argparse
import importlib.util
import pathlib
import shutil
import sys

from playwright.sync_api import sync_playwright

SIZES = {360: 780, 800: 900, 1600: 1000}
SCHEMES = ("light", "dark")
AXE = pathlib.Path(importlib.util.find_spec("axe_playwright_python").origin).with_name("axe.min.js")

# JavaScript that returns the problems of a page, each as a sentence.
PROBLEMS = """() => {
  const problems = [];
  const name = (node) => `${node.tagName} ${node.className.baseVal ?? node.className}`
      + ` "${(node.textContent || '').trim().slice(0, 30)}"`;
  const width = document.documentElement.clientWidth;
  const scrolled = (node) => node.closest('.scroll, pre') !== null;
  const folded = (node) => node.closest('details:not([open]) > :not(summary)') !== null;
  if (document.documentElement.scrollWidth > width)
    problems.push(`the page is ${document.documentElement.scrollWidth} wide, the window ${width}`);
  // The box of a line of text is a little higher than its glyphs.
  const overlap = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
      && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4;
  for (const svg of document.querySelectorAll('svg')) {
    // A forest plot is there twice, for wide and for narrow windows.
    const twin = [...svg.parentElement.children].find((other) => other !== svg && other.tagName === 'svg');
    if (folded(svg) || (twin?.checkVisibility() && !svg.checkVisibility())) continue;
    const box = svg.getBoundingClientRect();
    if (box.width < 100 || box.height < 80 || !svg.checkVisibility())
      problems.push(`${name(svg)} is ${box.width} x ${box.height}`);
    if (!scrolled(svg) && (box.left < -1 || box.right > width + 1))
      problems.push(`${name(svg)} overflows horizontally`);
    for (const line of svg.querySelectorAll('.line')) {
      const { stroke, strokeWidth } = getComputedStyle(line);
      if (stroke === 'none' || parseFloat(strokeWidth) < 1) problems.push(`${name(line)} is not drawn`);
    }
    const labels = [...svg.querySelectorAll('text')].filter((text) => text.checkVisibility());
    const boxes = labels.map((text) => text.getBoundingClientRect());
    for (const [i, text] of labels.entries()) {
      const a = boxes[i];
      if (a.left < box.left - 1 || a.right > box.right + 1 || a.top < box.top - 2 || a.bottom > box.bottom + 2)
        problems.push(`${name(text)} leaves its figure`);
      // As it is drawn: a figure may be scaled.
      const size = parseFloat(getComputedStyle(text).fontSize) * (text.getScreenCTM()?.a ?? 1);
      if (size < 9) problems.push(`${name(text)} in a figure has ${size.toFixed(1)} px`);
      for (let j = i + 1; j < labels.length; j++)
        if (overlap(a, boxes[j])) problems.push(`${name(text)} overlaps ${name(labels[j])} in a figure`);
    }
  }
  for (const image of document.images) {
    if (!image.complete || image.naturalWidth === 0) problems.push(`${image.alt} is not a valid image`);
    const box = image.getBoundingClientRect();
    if (!folded(image) && (box.width < 8 || box.height < 8))
      problems.push(`${image.alt} is ${box.width} x ${box.height}`);
  }
  const texts = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());) {
    const parent = node.parentElement;
    if (!node.data.trim() || parent.closest('svg') || folded(parent)) continue;
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
      if (node !== other && overlap(a, b)) problems.push(`${name(node)} overlaps ${name(other)}`);
  return problems;
}"""

# What axe-core finds serious or critical, each as a sentence.
FINDINGS = """async () => {
  // Without a script a page can reload itself in no other way; that it does so is checked apart.
  const { violations } = await axe.run({ rules: { 'meta-refresh': { enabled: false } } });
  const serious = violations.filter(({ impact }) => impact === 'serious' || impact === 'critical');
  return serious.map(({ id, nodes: [{ html, failureSummary }, ...more] }) =>
      `axe: ${id}: ${html.slice(0, 120)} and ${more.length} more: ${failureSummary.replace(/\\s+/g, ' ').slice(0, 240)}`);
}"""


def check(browser, path, width, scheme, args):
    """Opens a page and returns its number of figures and its problems."""
    context = browser.new_context(
        viewport={"width": width, "height": SIZES[width]},
        color_scheme=scheme,
        offline=True,
        is_mobile=width < 500,
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
    # With the texts of figures, which are not part of a page's inner text.
    text = page.evaluate("document.body.innerText + [...document.querySelectorAll('svg')].map((svg) => svg.textContent)")
    problems += [f"does not say {words!r}" for words in args.has if words.lower() not in text.lower()]
    scripts = page.locator("script").count()
    if scripts:
        problems.append(f"has {scripts} scripts")
    reloads = page.locator("meta[http-equiv=refresh]").count() > 0
    if reloads != args.training:
        problems.append("reloads itself" if reloads else "does not reload itself")
    figures = page.locator("svg").count()
    if figures < args.figures:
        problems.append(f"has {figures} figures, not {args.figures}")
    if args.shots:
        args.shots.mkdir(parents=True, exist_ok=True)
        name = f"{path.parent.name}-{path.stem}-{width}-{scheme}.png"
        page.screenshot(path=args.shots / name, full_page=True)
    page.evaluate(AXE.read_text())
    problems += page.evaluate(FINDINGS)
    context.close()
    return figures, problems


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="+", type=pathlib.Path)
    parser.add_argument("--figures", type=int, default=1, help="the least number of figures in each page")
    parser.add_argument("--has", action="append", default=[], metavar="TEXT", help="what each page must say")
    parser.add_argument("--training", action="store_true", help="the pages are of runs that are training")
    parser.add_argument("--shots", type=pathlib.Path, help="a folder for screenshots")
    args = parser.parse_args()
    failed = 0
    with sync_playwright() as playwright:
        found = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        for path in args.pages:
            for width in SIZES:
                for scheme in SCHEMES:
                    figures, problems = check(browser, path, width, scheme, args)
                    print(f"{path} {width} {scheme}: {figures} figures, {len(problems)} problems")
                    for problem in problems:
                        print(f"  {problem}")
                    failed += bool(problems)
        browser.close()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
