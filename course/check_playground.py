"""Drive course/playground.html in headless Chromium, as a student would, and check it.

    python course/check_playground.py [PAGE]

It says what it measured or, in one line, what failed: then the exit status is 1. The page's
self-check is read from the DOM that Chromium dumps. The rest is asked over the DevTools protocol.
At the end playground.py makes a page of a checkpoint elsewhere, which takes half a minute.
"""
import argparse
import json
import os
import re
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROLES = {"button", "radio", "slider", "spinbutton", "link", "DisclosureTriangle"}  # of controls
NEXT_FRAME = "new Promise((done) => requestAnimationFrame(() => setTimeout(done)))"
SHUFFLES = """["line", "sinusoid", "half"].flatMap((kind) => [1, 2, 3].map((number) => {
  form.kind.value = kind; form.number.value = number; form.examples.value = 10; update();
  const {model, bayes} = curves, far = (u, v) => Math.max(...u.map((y, i) => Math.abs(y - v[i])));
  $("shuffle").click();
  return [far(bayes, curves.bayes), far(model, curves.model)];
}))"""
# Scrolls a control to the window's lower edge: is the whole figure in sight above it?
IN_SIGHT = """((control) => {
  control.scrollIntoView({block: "end"});
  const box = document.querySelector("figure").getBoundingClientRect();
  return box.top >= 0 && box.bottom <= control.getBoundingClientRect().top + 1;
})"""
# After a shuffle and a label dragged away, does "Set up" bring back the prompt as it was drawn?
SET_UP = """(() => {
  const button = document.querySelector("li button"), state = () => JSON.stringify(points);
  button.click();
  const fresh = state();
  form.examples.value = 9; form.drag.value = "free"; points[2].y = 7; update();
  $("shuffle").click();
  const changed = state();
  button.click();
  return changed != fresh && state() == fresh;
})()"""
measured = []


def check(holds, what):
    """Note what was measured; end with one line and exit status 1 if it does not hold."""
    if not holds:
        sys.exit(f"check_playground.py: failed: {what}")
    measured.append(what)


class Browser:
    """Chromium with one page. Messages are JSON, ended by a zero byte: descriptor 3 in, 4 out."""
    def __init__(self, command):
        (its_in, self.to), (self.back, its_out) = os.pipe(), os.pipe()

        def connect():  # in the new process; by way of 8 and 9, as 3 and 4 may be among the four
            for old, new in ((its_in, 8), (its_out, 9), (8, 3), (9, 4)):
                os.dup2(old, new)

        subprocess.Popen([*command, "--remote-debugging-pipe"], preexec_fn=connect, close_fds=False,
                         stderr=subprocess.DEVNULL)
        os.close(its_out)
        self.buffer, self.number, self.session = b"", 0, {}
        target = self("Target.createTarget", url="about:blank")["targetId"]
        session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.session = {"sessionId": session}

    def __call__(self, method, **params):
        """The result of a command."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params, **self.session}
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.buffer:
                if not select.select([self.back], [], [], 60)[0]:
                    check(False, f"no answer to {method} within a minute")
                self.buffer += os.read(self.back, 1 << 16)
            answer, _, self.buffer = self.buffer.partition(b"\0")
            if json.loads(answer).get("id") == self.number:
                return json.loads(answer)["result"]

    def js(self, code):
        """The value of an expression in the page, awaited if it is a promise."""
        result = self("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            check(False, f"the page cannot evaluate {code}")
        return result["result"].get("value")


def size(browser, width, height):
    """A window of this size, of a phone if it is narrow."""
    browser("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
            mobile=width < 500)


def write_beside_a_checkpoint():
    """playground.py CHECKPOINT, run elsewhere: the page is beside it, the tracked one unchanged."""
    here = Path(__file__).resolve().parent
    before = (here / "playground.html").read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(here.parent / "results/small/sine/mixture.npz", Path(folder, "mine.npz"))
        subprocess.run([sys.executable, here / "playground.py", "mine.npz"], cwd=folder,
                       stdout=subprocess.DEVNULL)
        check(Path(folder, "mine.html").exists(), "playground.py mine.npz wrote mine.html")
    check((here / "playground.html").read_bytes() == before, "it left the tracked page alone")


def mouse(browser, kind, x, y):
    """Send a mouse event of that kind, such as "mousePressed", at (x, y) in the window."""
    browser("Input.dispatchMouseEvent", type=kind, x=x + 5, y=y + 5, button="left", buttons=1,
            clickCount=1)


def drag(browser):
    """Drag an example, press a key on it, miss one, and check what follows."""
    browser.js("form.kind.value = 'sinusoid'; form.examples.value = 99; update()")  # all
    last = browser.js("count() - 1")  # drawn on top of all others
    x, y = browser.js(f"(({{x, y}}) => [x, y])(handles[{last}].lastChild.getBoundingClientRect())")
    before, times = browser.js(f"points[{last}].x"), []
    mouse(browser, "mousePressed", x, y)
    for step in range(1, 31):
        mouse(browser, "mouseMoved", x - 3 * step, y)
        browser.js(NEXT_FRAME)
        times.append(int(re.search(r"\d+", browser.js("$('latency').textContent"))[0]))
    mouse(browser, "mouseReleased", x - 90, y)
    after = browser.js(f"points[{last}].x")
    check(after < before, f"a drag moved example {last + 1} from x {before:.2f} to {after:.2f}; a "
          f"move was answered in {statistics.median(times):.0f} ms (median; longest {max(times)})")
    browser.js(f"handles[{last}].focus()")
    browser("Input.dispatchKeyEvent", type="keyDown", key="ArrowLeft")
    check(browser.js(f"points[{last}].x") < after, "an arrow key moved it further")

    corner = "(({left, bottom}) => [left + 20, bottom - 5])($('plot').getBoundingClientRect())"
    x, y = browser.js(corner)  # beside the tick labels, where no handle is
    mouse(browser, "mousePressed", x, y)
    mouse(browser, "mouseMoved", x + 300, y)
    mouse(browser, "mouseReleased", x + 300, y)
    check(browser.js("getSelection().toString()") == "", "a missed grab selects no text")


def drive(browser, url):
    """Open the page, shuffle, drag and press keys as a student would, and check what follows."""
    browser("Page.navigate", url=url)
    while not browser.js("document.readyState == 'complete' && location.href != 'about:blank'"):
        pass
    check(browser.js("performance.getEntriesByType('resource').length") == 0, "no request was made")
    apart = browser.js("dot(LAW, curves.model.map((y, i) => (y - curves.bayes[i]) ** 2)) ** 0.5")
    check(apart > 0.2, f"it opens where the curves are {apart:.2f} apart (bound 0.2)")
    period = browser.js("2 * Math.PI / 5 / (QUERIES[1] - QUERIES[0])")
    check(period > 40, f"{period:.0f} points a period at frequency 5 (bound 40)")
    cells = browser.js("[...document.querySelectorAll('td')].map((cell) => cell.textContent)")
    check(len(cells) == 12 and all(re.fullmatch(r"\d+\.\d{4}", cell) for cell in cells),
          f"{len(cells)} errors stand in tables")
    links = "[...document.links].every((a) => document.querySelector(a.getAttribute('href')))"
    check(browser.js(links), "every link leads to a place in the page")
    for width, height in ((1280, 800), (375, 667)):
        size(browser, width, height)
        for name in ("form.noise", "form.frequency"):
            check(browser.js(f"{IN_SIGHT}({name})"),
                  f"{width} x {height}: the figure is in sight at {name}")
    check(browser.js(f"{IN_SIGHT}([...document.querySelectorAll('li button')].pop())"),
          "on a phone it is in sight at the last question")
    browser("Emulation.clearDeviceMetricsOverride")
    browser.js("scrollTo(0, 0)")
    check(browser.js(SET_UP), "'Set up' restores order and labels")
    bayes, model = zip(*browser.js(SHUFFLES))
    check(max(bayes) < 1e-9 and min(model) > 1e-6, f"9 shuffles moved Bayes by at most "
          f"{max(bayes):.0e} (bound 1e-9), and the model by at least {min(model):.0e}")

    drag(browser)
    nodes = browser("Accessibility.getFullAXTree")["nodes"]
    names = [node["name"]["value"] for node in nodes if node.get("role", {}).get("value") in ROLES]
    check(len(names) > 20 and all(names), f"{len(names)} controls, all with accessible names")
    size(browser, 360, 800)
    check(browser.js("document.documentElement.scrollWidth") == 360, "360 pixels are wide enough")
    browser("Browser.close")


def main():
    """Check the page; the first failure ends it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("page", nargs="?", type=Path,
                        default=Path(__file__).with_name("playground.html"))
    page = parser.parse_args().page
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    check(chromium and page.exists(), f"Chromium shows {page}")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [chromium, "--headless", "--no-sandbox", f"--user-data-dir={profile}"]
        url = page.resolve().as_uri()
        dump = subprocess.run([*command, "--dump-dom", url], capture_output=True, text=True).stdout
        off = dict(re.findall('data-(model|posterior)="(.*?)"', dump))
        for name, bound in (("model", 2e-3), ("posterior", 1e-6)):
            value = float(off.get(name, "nan"))
            check(value <= bound, f"{name}: off by at most {value:.0e} (bound {bound:g})")
        drive(Browser(command), url)
    write_beside_a_checkpoint()
    print("\n".join(measured))


if __name__ == "__main__":
    main()
