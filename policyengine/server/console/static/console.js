// Draws the chart of the overview, renews tables, and sends a form once. Without it, every page works but the chart.
"use strict";
{
  const SVG = "http://www.w3.org/2000/svg";
  const OUTCOMES = ["deny", "throttle", "confirm", "allow"];
  const INTERVAL = 2000, POINTS = 60, WIDTH = 600, HEIGHT = 140;
  const chart = document.getElementById("traffic");
  const rates = [];
  let before = null, timer = 0;

  const number = (value) => value.toLocaleString("en-US", { maximumFractionDigits: value < 10 ? 1 : 0 });

  const draw = () => {
    const plot = chart.querySelector("svg");
    const most = Math.max(1, ...rates.map((one) => OUTCOMES.reduce((sum, name) => sum + one[name], 0)));
    const step = WIDTH / (POINTS - 1), first = POINTS - rates.length;
    let below = rates.map(() => 0);
    const paths = OUTCOMES.map((name) => {
      const above = rates.map((one, at) => below[at] + one[name]);
      const point = (values) => (at) => `${((first + at) * step).toFixed(1)} ${(HEIGHT - (values[at] / most) * (HEIGHT - 8)).toFixed(1)}`;
      const forth = [...rates.keys()].map(point(above)), back = [...rates.keys()].reverse().map(point(below));
      below = above;
      const path = document.createElementNS(SVG, "path");
      path.setAttribute("class", name);
      path.setAttribute("d", forth.length > 1 ? `M${forth.join("L")}L${back.join("L")}Z` : "");
      return path;
    });
    plot.replaceChildren(...paths);
  };

  const show = (now) => {
    let total = 0;
    for (const name of OUTCOMES) {
      total += now.outcomes[name];
      document.querySelector(`[data-count="${name}"]`).textContent = now.outcomes[name].toLocaleString("en-US");
    }
    document.getElementById("total").textContent = total.toLocaleString("en-US");
    if (before !== null && now.time > before.time) {
      const rate = {};
      for (const name of OUTCOMES) {
        // A server that was restarted counts from zero.
        rate[name] = Math.max(0, now.outcomes[name] - before.outcomes[name]) / (now.time - before.time);
        chart.querySelector(`[data-rate="${name}"]`).textContent = number(rate[name]);
      }
      rates.push(rate);
      if (rates.length > POINTS) rates.shift();
      draw();
    }
    before = now;
  };

  const poll = async () => {
    const state = document.getElementById("traffic-state");
    try {
      const answer = await fetch(chart.dataset.source, { redirect: "error", cache: "no-store" });
      if (!answer.ok) throw new Error(answer.status);
      show(await answer.json());
      if (state.textContent) state.textContent = "";
    } catch {
      state.textContent = "No new numbers: the server does not answer, or your session has ended.";
    }
    if (!document.hidden) timer = setTimeout(poll, INTERVAL);
  };

  if (chart !== null) {
    chart.hidden = false;
    document.addEventListener("visibilitychange", () => {
      clearTimeout(timer);
      if (!document.hidden) poll();
    });
    poll();
  }
}

// Tables with `data-live` get new rows from there. Rows that stay are not touched, so that the focus stays in them.
{
  const INTERVAL = 5000;
  const live = document.querySelector("[data-live]");
  let timer = 0, paused = false;

  const makeText = (parts) => {
    const found = document.createDocumentFragment();
    for (const [text, odd] of parts) {
      if (!odd) {
        found.append(text);
        continue;
      }
      const mark = document.createElement("span");
      mark.className = "odd";
      mark.textContent = text;
      found.append(mark);
    }
    return found;
  };

  const makeCell = (cell, at) => {
    const found = document.createElement(at === 0 ? "th" : "td");
    if (at === 0) found.scope = "row";
    if (cell.label) found.dataset.label = cell.label;
    let inside = found;
    if (cell.href !== null || cell.badge !== null) {
      inside = document.createElement(cell.href !== null ? "a" : "span");
      if (cell.href !== null) inside.setAttribute("href", cell.href);
      else inside.className = `badge ${["allow", "deny", "confirm", "throttle"].includes(cell.badge) ? cell.badge : "plain"}`;
      found.append(inside);
    }
    inside.append(makeText(cell.parts));
    return found;
  };

  const makeRow = (row) => {
    const found = document.createElement("tr");
    found.dataset.key = row.key;
    found.append(...row.cells.map(makeCell));
    return found;
  };

  const renew = (body, rows) => {
    const known = new Map([...body.children].map((one) => [one.dataset.key, one]));
    let next = body.firstElementChild;
    for (const row of rows) {
      const found = known.get(row.key) ?? makeRow(row);
      if (found === next) next = next.nextElementSibling;
      else body.insertBefore(found, next);
    }
    while (next !== null) {
      const gone = next;
      next = next.nextElementSibling;
      gone.remove();
    }
  };

  const show = (answer) => {
    for (const [name, rows] of Object.entries(answer.tables)) {
      const body = live.querySelector(`[data-rows="${name}"]`);
      if (body === null) continue;
      renew(body, rows);
      live.querySelector(`[data-filled="${name}"]`).hidden = rows.length === 0;
      live.querySelector(`[data-empty="${name}"]`).hidden = rows.length > 0;
    }
    tell(answer.status);
    if (answer.waiting === undefined) return;
    const link = document.querySelector('nav a[href="/approvals"]');
    let count = link?.querySelector(".count") ?? null;
    if (answer.waiting === 0) count?.remove();
    else if (link !== null) {
      if (count === null) {
        count = document.createElement("span");
        count.className = "count";
        link.append(" ", count);
      }
      count.textContent = answer.waiting;
    }
  };

  const tell = (text) => {
    const status = live.querySelector("[data-status]");
    if (status.textContent !== text) status.textContent = text;
  };

  const poll = async () => {
    try {
      const answer = await fetch(live.dataset.live, { redirect: "error", cache: "no-store" });
      if (!answer.ok) throw new Error(answer.status);
      const found = await answer.json();
      if (!paused) show(found);
    } catch {
      tell("Nothing new is shown: the server does not answer, or your session has ended.");
    }
    plan();
  };

  const plan = () => {
    clearTimeout(timer);
    if (!document.hidden && !paused) timer = setTimeout(poll, Number(live.dataset.interval ?? INTERVAL));
  };

  if (live !== null) {
    const pause = live.querySelector("[data-pause]");
    document.addEventListener("visibilitychange", plan);
    if (pause !== null) {
      pause.hidden = false;
      pause.addEventListener("click", () => {
        paused = !paused;
        pause.setAttribute("aria-pressed", String(paused));
        pause.textContent = paused ? "Resume" : "Pause";
        if (paused) clearTimeout(timer);
        else poll();
      });
    }
    plan();
  }
}

// A form is sent once, however often its button is pressed. A page that the browser shows again can send it again.
{
  const sent = new Set();
  document.addEventListener("submit", (event) => {
    if (event.target.method !== "post") return;
    if (sent.has(event.target)) event.preventDefault();
    sent.add(event.target);
  });
  window.addEventListener("pageshow", () => sent.clear());
}
