// Draws figures when they come into view and answers when they are chosen. Texts of models enter by textContent only.
// Stands behind questions.js in one script.
(() => {
  const read = (section, name) => JSON.parse(section.querySelector(`script.${name}`).textContent);
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
        key.append(swatch(this.runs[index].colour, this.runs[index].dash), element("span", "", this.runs[index].name));
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
