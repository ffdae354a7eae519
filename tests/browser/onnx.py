"""Drops a picture on the example page `examples/browser.html`, in Chromium, and prints what the page answers.

    python3 tests/browser/onnx.py model.onnx cat.png --runtime node_modules/onnxruntime-web/dist
"""

import argparse
import base64
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

PAGE = Path(__file__).parents[2] / "examples" / "browser.html"
TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"}
# As a user's drop from the desktop.
DROP = """(picture) => {
    const bytes = Uint8Array.from(atob(picture), (one) => one.charCodeAt(0));
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([bytes], "picture"));
    document.dispatchEvent(new DragEvent("drop", { dataTransfer }));
}"""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--runtime", type=Path, required=True, help="the files that npm installs")
    arguments = parser.parse_args()

    def serve(route):
        name = route.request.url.split("?")[0].rsplit("/", 1)[1]
        if "onnxruntime-web" in route.request.url:
            path = arguments.runtime / name
        else:
            path = {"model.onnx": arguments.model, "": PAGE}.get(name)
        if path is None:
            route.fulfill(status=404)
        else:
            route.fulfill(body=path.read_bytes(), content_type=TYPES.get(path.suffix, "text/html"))

    with sync_playwright() as playwright:
        found = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.on("pageerror", lambda error: print(error))
        page.route("**/*", serve)
        page.goto("http://localhost/")
        page.wait_for_function("answer.textContent.startsWith('Drop')")
        page.evaluate(DROP, base64.b64encode(arguments.picture.read_bytes()).decode())
        page.wait_for_function("!answer.textContent.startsWith('Drop')")
        print(page.text_content("#answer"))
        browser.close()


if __name__ == "__main__":
    main()
