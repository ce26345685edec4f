// Draws figures when they come into view and answers when they are chosen. Texts of models enter by textContent only.
"use strict";
(() => {
  const read = (section, name) => JSON.parse(section.querySelector(`script.${name}`).textContent);
  // Deflated JSON in base64: a tenth of the room that thousands of answers would take as markup.
  const unpack = async (section, name) => {
    const bytes = Uint8Array.from(atob(section.querySelector(`script.${name}`).textContent), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return JSON.parse(await new Response(stream).text());
  };
  const element = (tag, name, text) => {
    const made = document.createElement(tag);
    if (name) made.className = name;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const drawn = new Set(); // every plot on the page, to restyle and resize

  // Colours

  const inks = () => {
    const style = getComputedStyle(document.documentElement);
    return { ink: style.getPropertyValue("--ink").trim(), line: style.getPropertyValue("--line").trim() };
  };
  const themed = (layout) => {
    const { ink, line } = inks();
    const axis = (own) => ({ gridcolor: line, linecolor: line, zerolinecolor: ink, zerolinewidth: 1, zeroline: false, ...own });
    return {
      ...layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: ink, size: 12, family: "system-ui, sans-serif" },
      xaxis: axis(layout.xaxis), yaxis: axis(layout.yaxis), hoverlabel: { namelength: -1 },
    };
  };
  const repaint = (own) => drawn.forEach((plot) => {
    const { ink, line } = own ?? inks();
    const change = { "font.color": ink };
    for (const axis of ["xaxis", "yaxis"]) Object.assign(change, { [`${axis}.gridcolor`]: line, [`${axis}.linecolor`]: line, [`${axis}.zerolinecolor`]: ink });
    Plotly.relayout(plot, change);
  });
  const theme = document.getElementById("theme");
  theme.addEventListener("change", () => {
    if (theme.value) document.documentElement.dataset.theme = theme.value;
    else delete document.documentElement.dataset.theme;
    repaint();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => repaint());

  // Figures

  const hovers = matchMedia("(hover: hover)").matches; // on touch a drag must scroll, not zoom
  const config = { responsive: true, displaylogo: false, displayModeBar: hovers ? "hover" : false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };

  const DASHES = { solid: "", dash: "9 6", dot: "3 3", dashdot: "9 4 3 4", longdash: "15 5", longdashdot: "15 4 3 4" };
  const swatch = (colour, dash) => {
    const image = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const line = image.appendChild(document.createElementNS(image.namespaceURI, "path"));
    image.setAttribute("class", "swatch");
    image.setAttribute("aria-hidden", "true");
    for (const [name, value] of Object.entries({ d: "M0 5H32", stroke: colour, "stroke-width": 3, "stroke-dasharray": DASHES[dash] })) line.setAttribute(name, value);
    return image;
  };

  class Group {
    constructor(section) {
      this.section = section;
      const data = read(section, "figure-data");
      this.runs = data.runs;
      this.figures = data.figures;
    }

    draw(figure) {
      const variants = this.figures[figure.dataset.figure];
      const select = figure.querySelector("select.variant");
      figure.hiding = new Set();
      if ("hides" in figure.dataset) this.runs.forEach((run, i) => { if (run.repeats) figure.hiding.add(i); });
      this.panels(figure, variants[0]);
      this.makeKeys(figure, variants[0].panels.flatMap((panel) => panel.data).filter((trace) => trace.meta).map((trace) => trace.meta));
      select?.addEventListener("change", () => this.panels(figure, variants[Number(select.value)]));
      for (const button of figure.querySelectorAll("[data-format]")) button.addEventListener("click", () => this.save(figure, button.dataset.format));
    }

    // Every panel as a file of its own, dark on white whatever the screen is.
    async save(figure, format) {
      const { ink, line } = { ink: "#000000", line: "#bbbbbb" };
      const plots = [...figure.querySelectorAll(".plot")];
      for (const [i, plot] of plots.entries()) {
        const axis = { color: ink, gridcolor: line, linecolor: line };
        const layout = { ...plot.layout, paper_bgcolor: "#ffffff", plot_bgcolor: "#ffffff", font: { ...plot.layout.font, color: ink },
          title: { text: plot.getAttribute("aria-label").split(":")[0] }, showlegend: figure.querySelectorAll(".keys button").length > 1,
          xaxis: { ...plot.layout.xaxis, ...axis }, yaxis: { ...plot.layout.yaxis, ...axis } };
        const name = `${figure.dataset.figure}${plots.length > 1 ? `-${i + 1}` : ""}`;
        await Plotly.downloadImage({ data: plot.data, layout }, { format, width: 800, height: 500, scale: 2, filename: name });
      }
    }

    panels(figure, variant) {
      const room = figure.querySelector(".panels");
      room.querySelectorAll(".plot").forEach((plot) => { drawn.delete(plot); Plotly.purge(plot); });
      room.replaceChildren();
      const plots = variant.panels.map(({ title, data }) => { // all before any is drawn: a plot takes its width from the grid
        const panel = room.appendChild(element("div", "panel"));
        if (title && (variant.panels.length > 1 || data[0].type === "heatmap")) panel.append(element("h5", "", title));
        const plot = panel.appendChild(element("div", "plot"));
        plot.setAttribute("role", "figure"); // not img: its buttons can be reached
        plot.setAttribute("aria-label", `${title}: ${figure.querySelector("figcaption").textContent}`);
        return plot;
      });
      variant.panels.forEach(({ data, layout }, i) => {
        const heat = data[0].type === "heatmap";
        const traces = data.map((trace) => ({ ...trace, ...(trace.meta && { visible: this.visible(figure, trace.meta) }) }));
        const frame = {
          ...layout, height: layout.height ?? (heat ? Math.max(260, 12 * data[0].z.length + 110) : 320), margin: { l: 56, r: 12, t: 28, b: 54 },
          showlegend: false, hovermode: heat ? "closest" : "x", hoverdistance: 60, dragmode: hovers ? "zoom" : false,
        };
        Plotly.newPlot(plots[i], traces, themed(frame), config);
        drawn.add(plots[i]);
      });
    }

    visible(figure, [run, band]) { return !figure.hiding.has(run) && !(band && figure.hiding.has("bands")); }

    // Buttons that are legend and switch at once.
    makeKeys(figure, metas) {
      const room = figure.querySelector(".keys");
      for (const index of [...new Set(metas.map((meta) => meta[0]))].sort((a, b) => a - b)) {
        const key = this.addKey(figure, index);
        key.append(swatch(this.runs[index].colour, this.runs[index].dash), this.runs[index].name);
        room.append(key);
      }
      if (metas.some((meta) => meta[1])) {
        const key = this.addKey(figure, "bands");
        key.append("bands");
        room.append(key);
      }
    }

    addKey(figure, what) {
      const key = element("button");
      key.type = "button";
      key.setAttribute("aria-pressed", String(!figure.hiding.has(what)));
      key.addEventListener("click", () => {
        if (!figure.hiding.delete(what)) figure.hiding.add(what);
        key.setAttribute("aria-pressed", String(!figure.hiding.has(what)));
        for (const plot of figure.querySelectorAll(".plot")) {
          Plotly.restyle(plot, { visible: plot.data.map((trace) => this.visible(figure, trace.meta)) });
        }
      });
      return key;
    }
  }

  // Questions

  class Browser {
    constructor(section, data) {
      this.data = data;
      this.find = (name) => section.querySelector(name);
      this.find(".hot").textContent = `${(this.data.hot / 100).toFixed(2)} nat and more`;
      this.fill();
      for (const name of [".search", ".category", ".outcome", ".differ"]) this.find(name)?.addEventListener("input", () => this.filter());
      this.filter();
      this.choose(0);
    }

    tokens(run, question) {
      const own = this.data.runs[run].answers[question][0];
      return own === 0 ? this.data.runs[0].answers[question][0] : own;
    }

    text(run, question) {
      const answer = this.data.runs[run].answers[question];
      return answer[6] === 0 ? this.tokens(run, question).map((token) => this.data.vocabulary[token]).join("") : answer[6];
    }

    fill() {
      const categories = [...new Set(this.data.questions.map((question) => question[2]))].filter(Boolean).sort();
      for (const category of categories) this.find(".category").append(new Option(category, category));
      this.items = this.data.questions.map(([index, question, category], at) => {
        const item = this.find(".list").appendChild(element("li"));
        const button = item.appendChild(element("button"));
        button.type = "button";
        button.append(element("span", "", question));
        button.append(element("small", "", `${index + 1}${category ? ` · ${category}` : ""}`));
        button.addEventListener("click", () => this.choose(at));
        const differs = this.data.runs.some((run) => !run.forced && run !== this.data.runs[0] && run.answers[at][0] !== 0);
        const outcome = (this.data.outcomes[0] && this.data.outcomes[0][at]) || "-";
        return { item, button, category, outcome, differs: differs ? "1" : "0", words: question.toLowerCase() };
      });
    }

    filter() {
      const words = this.find(".search").value.trim().toLowerCase();
      const category = this.find(".category").value;
      const differ = this.find(".differ")?.value ?? "";
      const outcome = this.find(".outcome")?.value ?? "";
      let count = 0;
      this.items.forEach((it, at) => {
        let kept = (!category || it.category === category) && (!differ || it.differs === differ) && (!outcome || it.outcome === outcome);
        if (kept && words && !it.words.includes(words)) {
          it.answers ??= this.data.runs.map((run, i) => (run.forced ? "" : this.text(i, at))).join("\n").toLowerCase();
          kept = it.answers.includes(words);
        }
        it.item.hidden = !kept;
        count += kept;
      });
      this.find(".count").textContent = `${count} of ${this.items.length} questions`;
    }

    choose(at) {
      if (this.current !== undefined) this.items[this.current].button.removeAttribute("aria-current");
      this.current = at;
      this.items[at].button.setAttribute("aria-current", "true");
      const [index, question, category] = this.data.questions[at];
      const heading = element("p", "question", question);
      const answers = this.data.runs.map((run, i) => this.answer(run, i, at));
      this.find(".answers").replaceChildren(heading, element("p", "small", `Question ${index + 1}${category ? `, ${category}` : ""}`), ...answers);
      this.find(".reading").textContent = "No token chosen.";
    }

    answer(run, i, at) {
      const [own, entropies, surprisals, top1, kl, reason, plain] = run.answers[at];
      const tokens = this.tokens(i, at);
      const box = element("section", "answer");
      box.append(element("h4", "", run.name));
      if (tokens.length === 0) {
        box.append(element("p", "note", `This question did not fit the context of ${this.data.context} positions, so there is no answer.`));
        return box;
      }
      const mean = entropies.reduce((a, b) => a + b, 0) / entropies.length / 100;
      const first = i === 0 || run.forced || own === 0 ? -1 : this.firstDifference(at, tokens);
      let summary = `${tokens.length} tokens, mean entropy ${mean.toFixed(2)} nat, ended by ${this.data.reasons[reason].replace("_", " ")}`;
      if (run.forced) summary += "; the reference’s tokens, coloured by this model’s entropy";
      else if (first >= 0) summary += `; first differs from ${this.data.runs[0].name} at token ${first + 1} (◆)`;
      else if (i > 0) summary += `; the same tokens as ${this.data.runs[0].name}`;
      const judged = this.data.outcomes[i] && this.data.outcomes[i][at];
      if (judged) summary += `; judged ${judged.replace("_", " ")}`;
      box.append(element("p", "small", summary));
      const line = box.appendChild(element("p", "tokens"));
      tokens.forEach((token, step) => {
        const text = this.data.vocabulary[token];
        const chance = top1 === 0 ? Math.exp(-surprisals[step] / 100) : top1[step] / 100;
        let about = `token ${step + 1} ${JSON.stringify(text)}: entropy ${(entropies[step] / 100).toFixed(2)} nat, top-1 probability `
          + `${chance.toFixed(2)}, surprisal ${(surprisals[step] / 100).toFixed(2)} nat`;
        if (kl !== 0) about += `, KL ${(kl[step] / 1000).toFixed(3)} nat`;
        if (step === first) about += "; first difference";
        const span = element("span", `token e${Math.min(10, Math.round((10 * entropies[step]) / this.data.hot))}`);
        span.textContent = /^\s*$/.test(text) ? text.replaceAll("\n", "⏎\n") || "∅" : text;
        if (step === first) span.classList.add("first-difference");
        span.title = about;
        span.tabIndex = step === 0 ? 0 : -1;
        line.append(span);
      });
      const tell = (event) => { if (event.target.title) this.find(".reading").textContent = `${run.name}, ${event.target.title}`; };
      line.addEventListener("focusin", tell);
      line.addEventListener("mouseover", tell);
      line.addEventListener("click", tell);
      line.addEventListener("keydown", (event) => this.move(event));
      if (first >= 0 && first >= tokens.length) box.append(element("p", "small", "This answer ends where the other goes on."));
      if (plain !== 0) box.append(element("p", "plain", `As text: ${plain}`));
      return box;
    }

    firstDifference(at, tokens) {
      const reference = this.tokens(0, at);
      const length = Math.min(reference.length, tokens.length);
      for (let step = 0; step < length; step++) if (reference[step] !== tokens[step]) return step;
      return length;
    }

    // One stop for the tab key in each answer; arrows, Home and End go from token to token.
    move(event) {
      const goals = { ArrowRight: (t) => t.nextElementSibling, ArrowLeft: (t) => t.previousElementSibling,
        Home: (t) => t.parentElement.firstElementChild, End: (t) => t.parentElement.lastElementChild };
      const goal = goals[event.key]?.(event.target);
      if (!goal) return;
      event.preventDefault();
      event.target.tabIndex = -1;
      goal.tabIndex = 0;
      goal.focus();
    }
  }

  // When the page is there: plotly.js stands behind this script, so that the text shows first.

  const waiting = new Map(); // element -> what to do when it comes near
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) start(entry.target);
  }, { rootMargin: "400px" });
  const start = (target) => {
    const job = waiting.get(target);
    if (!job) return;
    waiting.delete(target);
    near.unobserve(target);
    job();
  };
  document.addEventListener("DOMContentLoaded", () => {
    for (const section of document.querySelectorAll("[data-group]")) {
      const group = new Group(section);
      section.querySelectorAll("[data-figure]").forEach((figure) => waiting.set(figure, () => group.draw(figure)));
      waiting.set(section.querySelector(".browser"), async () => new Browser(section, await unpack(section, "browser-data")));
    }
    waiting.forEach((_, target) => near.observe(target));
  });
  addEventListener("beforeprint", () => {
    [...waiting.keys()].forEach(start);
    repaint({ ink: "#000000", line: "#bbbbbb" }); // paper is light whatever the screen is
    drawn.forEach((plot) => Plotly.relayout(plot, { width: 640 }));
  });
  addEventListener("afterprint", () => {
    repaint();
    drawn.forEach((plot) => Plotly.relayout(plot, { width: null, autosize: true }));
  });
})();
