// The actions of tests/render/test_html.py on a page in a browser. Each check writes what the page shows into `seen`.
const all = (selector) => [...document.querySelectorAll(selector)];
const text = (selector) => all(selector).map((node) => node.textContent);
const pointer = (type, x, y) =>
  new PointerEvent(type, { clientX: x, clientY: y, bubbles: type !== "pointerleave", pointerId: 1 });
const send = (target, type, x, y) => target.dispatchEvent(pointer(type, x, y));
const press = (target, key) =>
  target.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
const box = (node) => node.getBoundingClientRect();
const middle = (node) => [box(node).left + box(node).width / 2, box(node).top + box(node).height / 2];
const hover = (node) => send(node, "pointermove", ...middle(node));
const numbers = (node, ...names) => names.map((name) => Number(node.getAttribute(name)));
const events = () => new Promise((done) => setTimeout(done, 50)); // wait for the events that the browser sends itself

const CHECKS = {
  async report(seen) {
    const drawing = (title) =>
      all("h4")
        .filter((node) => node.textContent === title)
        .map((node) => node.parentElement.querySelector(".drawing"))
        .pop();
    const correct = drawing("rollouts that are correct"),
      bands = () => correct.querySelectorAll(".band").length;
    seen.drawn = all(".drawing svg").filter((node) => node.querySelector("path, rect, circle")).length;
    seen.bands = bands();
    const { right, top } = box(correct.querySelector("svg"));
    send(correct.querySelector("svg"), "pointermove", right - 20, top + 60);
    seen.tip = text("#tip b, #tip dt, #tip dd");
    const svg = correct.querySelector("svg");
    press(svg, "Home");
    seen.first = text("#tip b");
    press(svg, "End");
    seen.last = text("#tip b, #tip dt, #tip dd");
    seen.stops = all(".drawing svg").map((node) => node.getAttribute("tabindex"));
    const key = correct.closest("figure").querySelector(".keys button");
    key.click();
    seen.without = bands();
    key.click();
    seen.again = bands();
    key.focus();
    correct.querySelector("svg").focus(); // the key loses the focus, which draws the figure anew
    seen.focused = [document.activeElement.tagName];
    for (const node of all(".drawing .tipped")) hover(node);
    const style = getComputedStyle(document.body);
    seen.paper = getComputedStyle(document.documentElement).backgroundColor;
    seen.ink = style.color;
  },

  async numbers(seen) {
    seen.numbers = text("#numbers td:last-child");
  },

  async terms(seen) {
    seen.terms = text("dl.terms dt");
    seen.meanings = text("dl.terms dd");
    seen.rows = text("#descent tbody td:first-child");
    seen.predicted = all("#prediction tbody tr").map((row) => [...row.cells].map((cell) => cell.textContent));
    seen.options = all("fieldset input").filter((node) => node.closest("#filters")).map((node) => node.value);
  },

  async curve(seen) {
    const svg = document.querySelector("#curve svg"),
      circle = document.querySelector("#cross circle");
    const look = () => ({
      said: text("#readout > *"),
      at: all("#text b").map((node) => node.classList.contains("at")),
      place: numbers(circle, "cx", "cy"),
      visible: circle.getAttribute("visibility"),
    });
    seen.text = text("#text b");
    seen.signs = text("#text .sign");
    seen.tints = all("#text b").map((node) => node.className.replace("at", "").trim());
    seen.scripts = all("#text script, #list script, #question b").length;
    const ticks = all("#curve text[text-anchor=end]").filter((node) => /^[\d.]+$/.test(node.textContent));
    seen.grid = ticks.map((node) => [Number(node.textContent), numbers(node, "y")[0] - 4]);
    seen.curve = [];
    for (let x = box(svg).left; x <= box(svg).right; x += 4) {
      send(svg, "pointermove", x, box(svg).top + 40);
      seen.curve.push({ ...look(), pointer: x - box(svg).left });
    }
    seen.back = all("#text b").map((node) => {
      send(node, "pointerover");
      return look();
    });
    seen.keys = ["Home", "ArrowRight", "ArrowRight", "ArrowLeft", "End"].map((key) => {
      press(document.getElementById("curve"), key);
      return text("#readout > *")[1];
    });
    document.querySelector("input[value=wrong]").click();
    seen.wrong = [text("#list button .mark"), text("#question")];
    document.querySelector("input[value=no_thinking]").click();
    seen.neither = [text("#list"), all("#list button").length];
  },

  async long(seen) {
    const path = document.querySelector("#curve path").getAttribute("d");
    seen.points = path.match(/[\d.]+,[\d.]+/g).map((point) => point.split(",").map(Number));
    send(document.querySelector("#curve svg"), "pointermove", box(document.getElementById("curve")).right, 0);
    seen.end = text("#readout > *")[1];
    const at = document.querySelector("#text .at"),
      host = document.getElementById("text");
    seen.scrolled = [box(at).top > box(host).top, box(at).bottom < box(host).bottom];
  },

  async nothing(seen) {
    for (const node of all("[tabindex]")) for (const key of ["ArrowRight", "ArrowUp"]) press(node, key);
    for (const node of all("svg, canvas")) hover(node);
    for (const node of all("input, .legend button")) node.click();
    seen.says = document.body.innerText.replace(/\s+/g, " ");
  },

  async groups(seen) {
    const tip = () => text("#tip b, #tip dt, #tip dd");
    const bands = () => {
      hover(document.querySelector("#bands svg"));
      return tip();
    };
    seen.tokens = bands();
    document.querySelector("#axis input[value=share]").click();
    seen.shares = bands();
    const legend = () => document.querySelector("#legend button");
    legend().focus();
    legend().click();
    seen.focused = document.activeElement === legend();
    seen.without = [bands(), all("#bands path").length, document.querySelector("#legend button").ariaPressed];
    seen.effects = all("#effects .effect").map((node) => {
      hover(node);
      return tip();
    });
    seen.tables = text("#descent td, #effect-table td");
  },

  async plane(seen) {
    const surface = document.getElementById("surface"),
      map = document.getElementById("map"),
      [x, y] = middle(surface);
    const pixels = () => surface.toDataURL(),
      view = () => [Number(surface.dataset.yaw), Number(surface.dataset.pitch)];
    const drag = (dx, dy) => {
      send(surface, "pointerdown", x, y);
      send(surface, "pointermove", x + dx, y + dy);
      send(surface, "pointerup", x + dx, y + dy);
      return view();
    };
    const { data } = surface.getContext("2d").getImageData(0, 0, surface.width, surface.height);
    seen.filled = data.filter((value, index) => index % 4 === 3 && value === 255).length / (data.length / 4);
    const first = pixels();
    seen.views = [view(), drag(60, 0), drag(0, 40), drag(0, 4000)];
    seen.turned = pixels() !== first;
    send(surface, "pointermove", x + 200, y + 90);
    seen.let_go = view();
    surface.dispatchEvent(new MouseEvent("dblclick"));
    press(surface, "ArrowRight");
    seen.key = view();
    press(surface, "ArrowLeft");

    const canvas = document.querySelector("#map canvas"),
      svg = document.querySelector("#map svg"),
      pen = canvas.getContext("2d");
    const { left, top, width, height } = box(canvas),
      at = (share) => Math.min(239, Math.floor(share * 240));
    const colour = (u, v) => [...pen.getImageData(at(u), at(v), 1, 1).data];
    seen.map = [];
    for (let i = 0; i < 5; i++)
      for (let j = 0; j < 4; j++) {
        send(svg, "pointermove", left + (i / 4) * width, top + (1 - j / 3) * height);
        seen.map.push([i, j, text("#readout > *"), colour(i / 4, 1 - j / 3)]);
      }
    send(svg, "pointermove", left, top + height);
    const ring = () => middle(document.getElementById("ring")).map(Math.round),
      low = ring();
    seen.keys = ["ArrowRight", "ArrowUp", "ArrowLeft", "ArrowLeft"].map((key) => {
      press(map, key);
      return text("#readout b").slice(0, 2);
    });
    seen.ring = [low, ring()]; // on the surface, at the cursor of the map
    seen.marks = text("#map .mark-name");
    seen.mark = all("#map .dot")
      .map(middle)
      .map(([x, y]) => [(x - left) / width, (y - top) / height]);
    const plain = pixels(),
      tint = String(colour(0.5, 0.5));
    document.getElementById("log").click();
    const again = document.querySelector("#map canvas").getContext("2d").getImageData(120, 120, 1, 1).data;
    seen.log = [pixels() !== plain, String([...again]) !== tint, text("#readout > *").at(-1)];
    seen.tables = text("#numbers td, #marks td, #marks th");
  },

  async line(seen) {
    const points = () => all("#line circle[r='2.4']"),
      heights = () => points().map((node) => numbers(node, "cy")[0]);
    seen.read = points().map((node) => {
      hover(node);
      return text("#readout > *");
    });
    seen.keys = ["Home", "ArrowRight", "End", "ArrowRight"].map((key) => {
      press(document.getElementById("line"), key);
      return text("#readout b")[0];
    });
    seen.heights = [heights()];
    document.getElementById("log").click();
    seen.heights.push(heights());
    seen.paper = getComputedStyle(document.documentElement).backgroundColor;
    seen.ink = getComputedStyle(document.body).color;
  },

  async pruning(seen) {
    const places = () => all("#scatter .dot circle").map((node) => numbers(node, "cx", "cy"));
    seen.tips = all("#scatter .dot").map((node) => {
      hover(node);
      const shown = [text("#tip b, #tip dt, #tip dd"), text("#methods tr.lit td")];
      send(node, "pointerleave");
      return shown;
    });
    seen.gone = [document.getElementById("tip").hidden, all("tr.lit").length];
    seen.frontier = document.getElementById("frontier").getAttribute("d");
    seen.names = text("#scatter text.name");
    seen.places = [places()];
    document.getElementById("log").click();
    seen.places.push(places());
    seen.sorted = [1, 2].map(() => {
      all("#methods th button")[2].click();
      return text("#methods tbody td:first-child");
    });
    all("#legend button")
      .find((node) => node.textContent === "budget")
      .click();
    seen.left = places().length;
    const last = () => all("#legend button").at(-1);
    last().focus();
    last().click();
    last().click();
    seen.focused = document.activeElement === last();
    await events();
    seen.example = text("#examples details[open] pre, #examples .cut, #examples h3");
    seen.made = all("#examples script, #examples b, #scatter img, #methods img").length;
    seen.leaks = all("#examples details").map((node) => [
      node.querySelector(".mark").textContent,
      node.querySelector(".leak") !== null,
    ]);
    document.querySelector("input[value=leaked]").click();
    seen.leaked = text("#examples .mark");
  },
};

async function check(name) {
  const seen = {};
  try {
    await CHECKS[name](seen);
  } catch (error) {
    failures.push(String(error.stack));
  }
  const { scrollWidth, clientWidth } = document.documentElement;
  seen.hidden_columns = scrollWidth - clientWidth;
  document.getElementById("seen").textContent = JSON.stringify({ ...seen, failures });
}
