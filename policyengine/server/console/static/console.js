// Draws the live traffic of the overview. Every other page works without a script.
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
